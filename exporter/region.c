// SPDX-License-Identifier: GPL-2.0-only
/*
 * Regions of all kinds: the registry, the node /dev/dmabridge-NAME, and what a
 * driver does to all buffers of one: suspend, revoke, unregister.
 *
 * Who revokes. Only the driver: dmabridge_revoke_all() in a reset, and
 * dmabridge_unregister() in remove(). Both first see to it that no buffer comes
 * to the device any more, and then revoke each one (placement.c): after that no
 * importer maps the BAR, no command of ours is in flight and no CPU mapping is
 * left. Pages pinned by O_DIRECT of user space at that moment are waited for by
 * p2pdma's own teardown, which runs after remove(); such pins are short. Pins of
 * stolen memory can be long: see stolen.c.
 */
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "internal.h"

#define MAX_REGIONS		256
#define DEFAULT_MOVE_LIMIT	SZ_256M

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

	if (region->memory)
		region->memory->free(region);
	ida_free(&region_minors, MINOR(dev->devt));
	pci_dev_put(region->pdev);
	put_device(region->dev.parent);
	mutex_destroy(&region->lock);
	mutex_destroy(&region->driver_lock);
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

u64 dmabridge_region_address(const struct dmabridge_region *region)
{
	return region->address;
}

static u32 region_flags(const struct dmabridge_region *region)
{
	u32 flags = 0;

	if (region->has_pages)
		flags |= DMABRIDGE_REGION_HAS_PAGES;
	if (region->take_unrevocable)
		flags |= DMABRIDGE_REGION_TAKES_UNREVOCABLE;
	if (region->has_engine)
		flags |= DMABRIDGE_REGION_HAS_ENGINE;
	if (READ_ONCE(region->stops))
		flags |= DMABRIDGE_REGION_SUSPENDED;
	if (READ_ONCE(region->dead))
		flags |= DMABRIDGE_REGION_UNREGISTERED;
	if (!region->pdev)
		flags |= DMABRIDGE_REGION_NOT_PCI;
	return flags;
}

static void describe(struct dmabridge_region *region, struct dmabridge_region_info *info)
{
	*info = (struct dmabridge_region_info){
		.id = region->id,
		.kind = region->kind,
		.flags = region_flags(region),
		.device = dmabridge_region_address(region),
		.bar = region->bar,
		.size = region->size,
		.limit = region->limit,
		.move_limit = region->move_limit,
		.quarantined = region->stolen ? dmabridge_stolen_quarantined(region) : 0,
	};
	if (info->flags & DMABRIDGE_REGION_UNREGISTERED && info->quarantined)
		info->flags |= DMABRIDGE_REGION_QUARANTINED;
	info->available = region->limit - atomic64_read(&region->used);
	strscpy(info->name, region->name, sizeof(info->name));
	strscpy(info->driver, region->driver, sizeof(info->driver));
	mutex_lock(&region->lock);
	info->nr_buffers = list_count_nodes(&region->buffers);
	mutex_unlock(&region->lock);
}

int dmabridge_region_describe(struct dmabridge_region_info *info)
{
	struct dmabridge_region *region;
	unsigned long id = info->id;

	mutex_lock(&regions_lock);
	region = xa_find(&regions, &id, U32_MAX, XA_PRESENT);
	if (region)
		describe(region, info);
	mutex_unlock(&regions_lock);
	return region ? 0 : -ENOENT;
}

struct dmabridge_region *dmabridge_region_get(u32 id)
{
	struct dmabridge_region *region;

	mutex_lock(&regions_lock);
	region = xa_load(&regions, id);
	if (region)
		get_device(&region->dev);
	mutex_unlock(&regions_lock);
	return region;
}

int dmabridge_region_open(const struct dmabridge_region *region)
{
	lockdep_assert_held(&region->entry);
	if (region->dead)
		return -ENODEV;
	return region->stops ? -EBUSY : 0;
}

bool dmabridge_region_vetoes(struct dmabridge_region *region, struct device *importer, u64 *value)
{
	bool vetoes = false;

	if (!region->has_veto)
		return false;
	down_read(&region->entry);
	if (!region->dead)
		vetoes = region->ops->veto(region->priv, importer, value);
	up_read(&region->entry);
	return vetoes;
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

static bool intersect(phys_addr_t a, u64 a_size, phys_addr_t b, u64 b_size)
{
	return a < b + b_size && b < a + a_size;
}

/* Stolen memory has two addresses. */
static bool overlap(const struct dmabridge_region *a, const struct dmabridge_region *b)
{
	return a->memory && b->memory &&
	       (intersect(a->start, a->size, b->start, b->size) ||
		intersect(a->in_bar, a->size, b->in_bar, b->size));
}

/* p2pdma's pool is one per function. */
static bool share_pool(const struct dmabridge_region *a, const struct dmabridge_region *b)
{
	return a->kind == DMABRIDGE_REGION_BAR && b->kind == DMABRIDGE_REGION_BAR &&
	       a->has_pages && b->has_pages && a->pdev == b->pdev;
}

static int check_unique(const struct dmabridge_region *region)
{
	struct dmabridge_region *other;
	unsigned long id;

	lockdep_assert_held(&regions_lock);
	xa_for_each(&regions, id, other) {
		if (overlap(other, region) || share_pool(other, region))
			return -EBUSY;
		if (!strcmp(other->name, region->name))
			return -EEXIST;
	}
	return 0;
}

/* Takes name and memory, before anything of the device is touched. */
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

void dmabridge_region_forget(struct dmabridge_region *region)
{
	dmabridge_debugfs_remove(region);
	leave(region);
	put_device(&region->dev);
}

static const struct dmabridge_region_ops no_ops;

static int name_region(struct dmabridge_region *region, const char *name, const char *suffix)
{
	const char *device = dev_name(region->dev.parent);
	int length;

	if (name)
		length = strscpy(region->name, name, sizeof(region->name));
	else
		length = snprintf(region->name, sizeof(region->name), "%s-%s", device, suffix);
	if (length <= 0 || length >= sizeof(region->name) || strchr(region->name, '/'))
		return -EINVAL;
	return dev_set_name(&region->dev, "dmabridge-%s", region->name);
}

struct dmabridge_region *dmabridge_region_alloc(struct device *dev,
						const struct dmabridge_region_desc *desc,
						const char *suffix)
{
	struct dmabridge_region *region;
	int minor, ret;

	minor = ida_alloc_max(&region_minors, MAX_REGIONS - 1, GFP_KERNEL);
	if (minor < 0)
		return ERR_PTR(minor);
	region = kzalloc_obj(*region);
	if (!region) {
		ida_free(&region_minors, minor);
		return ERR_PTR(-ENOMEM);
	}
	region->pdev = pci_dev_get(dmabridge_pci_parent(dev));
	region->address = region->pdev ? dmabridge_pci_address(region->pdev) : 0;
	region->limit = desc->limit ?: U64_MAX;
	region->move_limit = desc->move_limit ?: DEFAULT_MOVE_LIMIT;
	region->take_unrevocable = desc->take_unrevocable;
	region->ops = desc->ops ?: &no_ops;
	region->priv = desc->priv;
	region->has_engine = region->ops->copy;
	region->has_veto = region->ops->veto;
	mutex_init(&region->lock);
	mutex_init(&region->driver_lock);
	init_rwsem(&region->entry);
	INIT_LIST_HEAD(&region->buffers);
	strscpy(region->driver, dev_driver_string(dev), sizeof(region->driver));

	/* From here on the device's last reference frees it all. */
	device_initialize(&region->dev);
	region->dev.class = &region_class;
	/* Also after device_del(), which drops its own reference. */
	region->dev.parent = get_device(dev);
	region->dev.devt = MKDEV(MAJOR(region_devt), minor);
	region->dev.release = region_free;
	ret = name_region(region, desc->name, suffix);
	if (ret) {
		put_device(&region->dev);
		return ERR_PTR(ret);
	}
	return region;
}

/* --- all buffers of a region ------------------------------------------------------ */

static u64 begin_sweep(struct dmabridge_region *region)
{
	u64 sweep;

	mutex_lock(&region->lock);
	sweep = ++region->sweep;
	mutex_unlock(&region->lock);
	return sweep;
}

/* Each marks what it wants, so that it is wanted once. Under region->lock. */
static bool not_swept(struct dmabridge_buffer *buffer, u64 sweep)
{
	if (buffer->sweep >= sweep || READ_ONCE(buffer->revoked))
		return false;
	buffer->sweep = sweep;
	return true;
}

/* dmabridge_revoke_begin() marks it. */
static bool not_revoked(struct dmabridge_buffer *buffer, u64 sweep)
{
	return !READ_ONCE(buffer->revoked);
}

static bool not_finished(struct dmabridge_buffer *buffer, u64 sweep)
{
	if (buffer->finished)
		return false;
	buffer->finished = true;
	return true;
}

/*
 * A buffer that lives and is wanted, with a reference, or NULL. One whose last
 * reference went has no users, and its release takes it off the list.
 */
static struct dmabridge_buffer *
next_buffer(struct dmabridge_region *region,
	    bool (*wanted)(struct dmabridge_buffer *buffer, u64 sweep), u64 sweep)
{
	struct dmabridge_buffer *buffer;

	mutex_lock(&region->lock);
	list_for_each_entry(buffer, &region->buffers, region_node) {
		if (wanted(buffer, sweep) && get_file_active(&buffer->dmabuf->file)) {
			/* Those that are done with gather at the end: no walk is long. */
			list_move_tail(&buffer->region_node, &region->buffers);
			mutex_unlock(&region->lock);
			return buffer;
		}
	}
	mutex_unlock(&region->lock);
	return NULL;
}

static void begin_revokes(struct dmabridge_region *region)
{
	struct dmabridge_buffer *buffer;

	while ((buffer = next_buffer(region, not_revoked, 0))) {
		dmabridge_revoke_begin(buffer);
		dmabridge_buffer_put(buffer);
	}
}

/* Of buffers that were all revoked. */
static void finish_revokes(struct dmabridge_region *region)
{
	/* For all of them together: there may be many, and I/O on none of them ends. */
	unsigned long until = jiffies + IO_PATIENCE;
	struct dmabridge_buffer *buffer;

	while ((buffer = next_buffer(region, not_finished, 0))) {
		dmabridge_revoke_finish(buffer, until);
		dmabridge_buffer_put(buffer);
	}
}

/* Waits for buffers that are being made: they clear memory of the device. */
static void stop(struct dmabridge_region *region, unsigned int why)
{
	down_write(&region->entry);
	WRITE_ONCE(region->stops, region->stops | why);
	up_write(&region->entry);
}

static void go_on(struct dmabridge_region *region, unsigned int why)
{
	down_write(&region->entry);
	WRITE_ONCE(region->stops, region->stops & ~why);
	up_write(&region->entry);
}

/* --- loss and recovery --------------------------------------------------------------- */

void dmabridge_revoke_all(struct dmabridge_region *region)
{
	stop(region, STOP_LOST | STOP_REVOKED);
	begin_revokes(region);
}
EXPORT_SYMBOL_GPL(dmabridge_revoke_all);

static void recover(struct work_struct *work)
{
	struct dmabridge_region *region = container_of(work, struct dmabridge_region, recovery);
	bool revoked;

	/*
	 * Only then were all buffers revoked, and none made since. A run that was
	 * queued while another was at it may find that one's work done, and new
	 * buffers; or a new loss, after which it will be queued again.
	 */
	down_read(&region->entry);
	revoked = (region->stops & (STOP_LOST | STOP_REVOKED)) == STOP_REVOKED;
	up_read(&region->entry);
	if (!revoked)
		return;
	finish_revokes(region);
	down_write(&region->entry);
	/* Lost again while we waited: the next recovery ends it. */
	if (!(region->stops & STOP_LOST))
		WRITE_ONCE(region->stops, region->stops & ~STOP_REVOKED);
	up_write(&region->entry);
}

void dmabridge_recovered(struct dmabridge_region *region)
{
	/* Buffers that were not revoked are in use: there is nothing to wait for. */
	if (!(READ_ONCE(region->stops) & STOP_LOST))
		return;
	go_on(region, STOP_LOST);
	queue_work(system_dfl_wq, &region->recovery);
}
EXPORT_SYMBOL_GPL(dmabridge_recovered);

/* --- suspend and resume ---------------------------------------------------------------- */

static int move_all_away(struct dmabridge_region *region)
{
	u64 sweep = begin_sweep(region);
	struct dmabridge_buffer *buffer;
	int ret = 0;

	while (!ret && (buffer = next_buffer(region, not_swept, sweep))) {
		ret = dmabridge_move_away(buffer, DMABRIDGE_REASON_SUSPENDED);
		/* Revoked meanwhile: nothing of it is left on the device. */
		if (ret == -ENODEV && READ_ONCE(buffer->revoked))
			ret = 0;
		if (!ret)
			dmabridge_wait_unmaps(buffer);
		dmabridge_buffer_put(buffer);
	}
	return ret;
}

int dmabridge_suspend(struct dmabridge_region *region)
{
	int ret;

	/* RAM stays what it is. */
	if (!dmabridge_region_is_io(region))
		return 0;
	mutex_lock(&region->driver_lock);
	stop(region, STOP_SUSPENDED);
	ret = move_all_away(region);
	if (ret)
		go_on(region, STOP_SUSPENDED);
	mutex_unlock(&region->driver_lock);
	return ret;
}
EXPORT_SYMBOL_GPL(dmabridge_suspend);

void dmabridge_resume(struct dmabridge_region *region)
{
	struct dmabridge_buffer *buffer;
	u64 sweep;

	mutex_lock(&region->driver_lock);
	go_on(region, STOP_SUSPENDED);
	sweep = begin_sweep(region);
	while ((buffer = next_buffer(region, not_swept, sweep))) {
		dmabridge_move_home(buffer);
		dmabridge_buffer_put(buffer);
	}
	mutex_unlock(&region->driver_lock);
}
EXPORT_SYMBOL_GPL(dmabridge_resume);

/* --- from registration to the end -------------------------------------------------------- */

/* Nobody finds it any more. The driver's reference goes, at once or after a quarantine. */
static void end(struct dmabridge_region *region)
{
	down_write(&region->entry);
	WRITE_ONCE(region->dead, true);
	up_write(&region->entry);
	begin_revokes(region);
	finish_revokes(region);
	if (!region->memory || region->memory->close(region))
		dmabridge_region_forget(region);
}

struct dmabridge_region *dmabridge_region_register(struct dmabridge_region *region)
{
	int ret;

	INIT_WORK(&region->recovery, recover);
	region->limit = min(region->limit, region->size);
	ret = enter(region);
	if (ret) {
		put_device(&region->dev);
		return ERR_PTR(ret);
	}
	if (region->memory)
		ret = region->memory->open(region);
	if (!ret) {
		cdev_init(&region->cdev, &region_fops);
		region->cdev.owner = THIS_MODULE;
		ret = cdev_device_add(&region->cdev, &region->dev);
	}
	if (ret) {
		/* The node's number may have been known for a moment. */
		end(region);
		return ERR_PTR(ret);
	}
	dmabridge_debugfs_add(region);
	return region;
}

void dmabridge_unregister(struct dmabridge_region *region)
{
	cdev_device_del(&region->cdev, &region->dev);
	cancel_work_sync(&region->recovery);
	end(region);
}
EXPORT_SYMBOL_GPL(dmabridge_unregister);

int dmabridge_region_init(void)
{
	int ret;

	ret = dmabridge_stolen_init();
	if (ret)
		return ret;
	ret = alloc_chrdev_region(&region_devt, 0, MAX_REGIONS, "dmabridge");
	if (ret)
		goto stolen;
	ret = class_register(&region_class);
	if (ret)
		goto chrdev;
	return 0;

chrdev:
	unregister_chrdev_region(region_devt, MAX_REGIONS);
stolen:
	dmabridge_stolen_exit();
	return ret;
}

void dmabridge_region_exit(void)
{
	class_unregister(&region_class);
	unregister_chrdev_region(region_devt, MAX_REGIONS);
	dmabridge_stolen_exit();
}
