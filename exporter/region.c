// SPDX-License-Identifier: GPL-2.0-only
/*
 * Regions: a device's memory, its node /dev/dmabridge-NAME, and its end.
 *
 * Who revokes. Only dmabridge_unregister(), called from the driver's remove(),
 * ends a region. It first marks the region dead, so that no buffer joins its
 * list any more, and then revokes each buffer on it (placement.c): after that no
 * importer maps the BAR, no command of ours is in flight and no CPU mapping is
 * left. Pages pinned by O_DIRECT of user space at that moment are waited for by
 * p2pdma's own teardown, which runs after remove(); such pins are short.
 */
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/pci-p2pdma.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "internal.h"

#define MAX_REGIONS		256
#define DEFAULT_MOVE_LIMIT	SZ_256M
#define PAGES_ALIGN		SZ_2M	/* memory hot-plug's subsection */

static dev_t region_devt;
static DEFINE_IDA(region_minors);

/* Registered regions by id. Ids only grow, so that one is never used twice. */
static DEFINE_XARRAY(regions);
static u32 next_id = 1;
static DEFINE_MUTEX(regions_lock);	/* regions, next_id */

static char *region_devnode(const struct device *dev, umode_t *mode)
{
	if (mode)
		*mode = 0660;
	return NULL;
}

static const struct class region_class = {
	.name = "dmabridge",
	.devnode = region_devnode,
};

static struct dmabridge_region *to_region(struct device *dev)
{
	return container_of(dev, struct dmabridge_region, dev);
}

static void region_free(struct device *dev)
{
	struct dmabridge_region *region = to_region(dev);

	ida_free(&region_minors, MINOR(dev->devt));
	pci_dev_put(region->pdev);
	mutex_destroy(&region->lock);
	kfree(region);
}

int dmabridge_region_charge(struct dmabridge_region *region, u64 size)
{
	s64 used = atomic64_read(&region->used);

	do {
		if (size > region->limit - used)
			return -ENOSPC;
	} while (!atomic64_try_cmpxchg(&region->used, &used, used + size));
	return 0;
}

void dmabridge_region_uncharge(struct dmabridge_region *region, u64 size)
{
	atomic64_sub(size, &region->used);
}

u32 dmabridge_region_count(void)
{
	unsigned long id;
	u32 count = 0;
	void *entry;

	mutex_lock(&regions_lock);
	xa_for_each(&regions, id, entry)
		count++;
	mutex_unlock(&regions_lock);
	return count;
}

int dmabridge_region_describe(struct dmabridge_region_info *info)
{
	struct dmabridge_region *region;
	unsigned long id = info->id;

	mutex_lock(&regions_lock);
	region = xa_find(&regions, &id, U32_MAX, XA_PRESENT);
	if (!region) {
		mutex_unlock(&regions_lock);
		return -ENOENT;
	}
	mutex_lock(&region->lock);
	*info = (struct dmabridge_region_info){
		.id = region->id,
		.kind = region->kind,
		.flags = DMABRIDGE_REGION_HAS_PAGES |
			 (region->take_unrevocable ? DMABRIDGE_REGION_TAKES_UNREVOCABLE : 0),
		.device = dmabridge_pci_address(region->pdev),
		.bar = region->bar,
		.nr_buffers = list_count_nodes(&region->buffers),
		.size = region->size,
		.available = region->limit - atomic64_read(&region->used),
		.limit = region->limit,
		.move_limit = region->move_limit,
	};
	strscpy(info->name, region->name, sizeof(info->name));
	strscpy(info->driver, region->driver, sizeof(info->driver));
	mutex_unlock(&region->lock);
	mutex_unlock(&regions_lock);
	return 0;
}

/* --- the node --------------------------------------------------------------- */

static int region_open(struct inode *inode, struct file *file)
{
	/* The open file keeps the cdev, and that the region. */
	file->private_data = container_of(inode->i_cdev, struct dmabridge_region, cdev);
	return 0;
}

static int region_alloc(struct dmabridge_region *region, unsigned int cmd, void __user *user_arg)
{
	struct dmabridge_buffer *buffer;
	struct dmabridge_alloc arg;
	int fd, ret;

	ret = dmabridge_copy_in(&arg, sizeof(arg), cmd, user_arg);
	if (ret)
		return ret;
	if (_IOC_SIZE(cmd) < offsetofend(struct dmabridge_alloc, fd) ||
	    arg.flags || arg.__reserved || !arg.size ||
	    !dmabridge_combine_policies(arg.policy, arg.policy))
		return -EINVAL;
	if (arg.size > region->size)
		return -ENOSPC;
	arg.size = PAGE_ALIGN(arg.size);

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	buffer = dmabridge_buffer_create(region, arg.size, arg.policy);
	if (IS_ERR(buffer)) {
		put_unused_fd(fd);
		return PTR_ERR(buffer);
	}
	arg.fd = fd;
	ret = dmabridge_copy_out(user_arg, cmd, &arg, sizeof(arg));
	if (ret) {
		put_unused_fd(fd);
		dmabridge_buffer_put(buffer);
		return ret;
	}
	/* The fd takes our reference over; the caller may close it at once. */
	dma_buf_fd_install(buffer->dmabuf, fd);
	return 0;
}

static long region_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	if (_IOC_TYPE(cmd) != DMABRIDGE_IOC ||
	    _IOC_NR(cmd) != _IOC_NR(DMABRIDGE_IOCTL_ALLOC))
		return -ENOTTY;
	return region_alloc(file->private_data, cmd, (void __user *)arg);
}

/*
 * An anonymous buffer, for programs that can map a path but know no ioctl. It is
 * cleared under mmap_lock: programs that map much had better use the ioctl.
 */
static int region_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct dmabridge_buffer *buffer;
	int ret;

	if (vma->vm_pgoff || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	buffer = dmabridge_buffer_create(file->private_data, vma->vm_end - vma->vm_start,
					 DMABRIDGE_POLICY_PREFER);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	/* The mapping takes a reference of its own, on the dma-buf. */
	ret = dma_buf_mmap(buffer->dmabuf, vma, 0);
	dmabridge_buffer_put(buffer);
	return ret;
}

static const struct file_operations region_fops = {
	.owner = THIS_MODULE,
	.open = region_open,
	.unlocked_ioctl = region_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = region_mmap,
};

/* --- registration ------------------------------------------------------------ */

static int check_range(struct pci_dev *pdev, const struct dmabridge_bar_desc *desc, u64 *size)
{
	u64 length, end;

	if (desc->bar < 0 || desc->bar >= PCI_STD_NUM_BARS ||
	    !(pci_resource_flags(pdev, desc->bar) & IORESOURCE_MEM))
		return -EINVAL;
	length = pci_resource_len(pdev, desc->bar);
	if (desc->offset >= length)
		return -EINVAL;
	*size = desc->size ?: length - desc->offset;
	if (check_add_overflow(desc->offset, *size, &end) || end > length)
		return -EINVAL;
	if (!IS_ALIGNED(pci_resource_start(pdev, desc->bar) + desc->offset, PAGES_ALIGN) ||
	    !IS_ALIGNED(*size, PAGES_ALIGN))
		return -EINVAL;
	return 0;
}

/* Neither two regions of one name nor two of one function's pool. */
static int check_unique(const struct dmabridge_region *region)
{
	struct dmabridge_region *other;
	unsigned long id;

	lockdep_assert_held(&regions_lock);
	xa_for_each(&regions, id, other) {
		if (other->pdev == region->pdev)
			return -EBUSY;
		if (!strcmp(other->name, region->name))
			return -EEXIST;
	}
	return 0;
}

/* Takes name and function, before anything of the function is touched. */
static int enter(struct dmabridge_region *region)
{
	int ret;

	mutex_lock(&regions_lock);
	ret = check_unique(region);
	if (!ret)
		ret = xa_insert(&regions, next_id, region, GFP_KERNEL);
	if (!ret)
		region->id = next_id++;
	mutex_unlock(&regions_lock);
	return ret;
}

static void leave(struct dmabridge_region *region)
{
	mutex_lock(&regions_lock);
	xa_erase(&regions, region->id);
	mutex_unlock(&regions_lock);
}

static int add_region_pages(struct dmabridge_region *region, u64 offset)
{
	int ret;

	ret = pci_p2pdma_add_resource(region->pdev, region->bar, region->size, offset);
	if (ret)
		return ret;
	region->provider = pcim_p2pdma_provider(region->pdev, region->bar);
	return region->provider ? 0 : -EOPNOTSUPP;
}

struct dmabridge_region *dmabridge_register_bar(struct pci_dev *pdev,
						const struct dmabridge_bar_desc *desc)
{
	struct dmabridge_region *region;
	int minor, ret;
	u64 size;

	/* User mappings of a BAR rely on x86's range registers; see mmap.c. */
	if (!IS_ENABLED(CONFIG_X86))
		return ERR_PTR(-EOPNOTSUPP);
	ret = check_range(pdev, desc, &size);
	if (ret)
		return ERR_PTR(ret);
	if (desc->name && (strlen(desc->name) >= DMABRIDGE_NAME_MAX || strchr(desc->name, '/')))
		return ERR_PTR(-EINVAL);
	minor = ida_alloc_max(&region_minors, MAX_REGIONS - 1, GFP_KERNEL);
	if (minor < 0)
		return ERR_PTR(minor);
	region = kzalloc_obj(*region);
	if (!region) {
		ida_free(&region_minors, minor);
		return ERR_PTR(-ENOMEM);
	}
	region->kind = DMABRIDGE_REGION_BAR;
	region->pdev = pci_dev_get(pdev);
	region->bar = desc->bar;
	region->size = size;
	region->limit = desc->limit ? min(desc->limit, size) : size;
	region->move_limit = desc->move_limit ?: DEFAULT_MOVE_LIMIT;
	region->take_unrevocable = desc->take_unrevocable;
	region->start = pci_resource_start(pdev, desc->bar) + desc->offset;
	mutex_init(&region->lock);
	init_rwsem(&region->entry);
	INIT_LIST_HEAD(&region->buffers);
	if (desc->name)
		strscpy(region->name, desc->name, sizeof(region->name));
	else
		scnprintf(region->name, sizeof(region->name), "%s-bar%d", pci_name(pdev),
			  desc->bar);
	strscpy(region->driver, dev_driver_string(&pdev->dev), sizeof(region->driver));

	/* From here on the device's last reference frees it all. */
	device_initialize(&region->dev);
	region->dev.class = &region_class;
	region->dev.parent = &pdev->dev;
	region->dev.devt = MKDEV(MAJOR(region_devt), minor);
	region->dev.release = region_free;
	ret = dev_set_name(&region->dev, "dmabridge-%s", region->name);
	if (ret)
		goto put;
	ret = enter(region);
	if (ret)
		goto put;
	ret = add_region_pages(region, desc->offset);
	if (ret)
		goto leave;
	cdev_init(&region->cdev, &region_fops);
	region->cdev.owner = THIS_MODULE;
	ret = cdev_device_add(&region->cdev, &region->dev);
	if (ret)
		goto leave;
	return region;

leave:
	leave(region);
put:
	put_device(&region->dev);
	return ERR_PTR(ret);
}
EXPORT_SYMBOL_GPL(dmabridge_register_bar);

/*
 * Any buffer that still lives, with a reference, or NULL. One whose last
 * reference went has no users, and its release takes it off the list.
 */
static struct dmabridge_buffer *next_live_buffer(struct dmabridge_region *region)
{
	struct dmabridge_buffer *buffer;

	mutex_lock(&region->lock);
	list_for_each_entry(buffer, &region->buffers, region_node) {
		if (!READ_ONCE(buffer->revoked) && get_file_active(&buffer->dmabuf->file)) {
			mutex_unlock(&region->lock);
			return buffer;
		}
	}
	mutex_unlock(&region->lock);
	return NULL;
}

void dmabridge_unregister(struct dmabridge_region *region)
{
	struct dmabridge_buffer *buffer;

	leave(region);
	cdev_device_del(&region->cdev, &region->dev);

	/* Waits for buffers that are being made: they clear memory of the device. */
	down_write(&region->entry);
	region->dead = true;
	up_write(&region->entry);
	while ((buffer = next_live_buffer(region))) {
		dmabridge_revoke(buffer);
		dmabridge_buffer_put(buffer);
	}
	put_device(&region->dev);
}
EXPORT_SYMBOL_GPL(dmabridge_unregister);

int dmabridge_region_init(void)
{
	int ret;

	ret = alloc_chrdev_region(&region_devt, 0, MAX_REGIONS, "dmabridge");
	if (ret)
		return ret;
	ret = class_register(&region_class);
	if (ret)
		unregister_chrdev_region(region_devt, MAX_REGIONS);
	return ret;
}

void dmabridge_region_exit(void)
{
	class_unregister(&region_class);
	unregister_chrdev_region(region_devt, MAX_REGIONS);
}
