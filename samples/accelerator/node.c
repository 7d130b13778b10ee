// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/accelerator-FUNCTION: what programs tell the device to do. See
 * accelerator_ioctl.h.
 */
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "accelerator.h"
#include "accelerator_ioctl.h"

struct client {
	struct accelerator *accelerator;	/* referenced */
	struct xarray buffers;			/* by handle; each is a reference */
};

/* Return: referenced; NULL: no such handle. */
static struct accelerator_buffer *find_buffer(struct client *client, u32 handle)
{
	struct accelerator_buffer *buffer;

	xa_lock(&client->buffers);
	buffer = xa_load(&client->buffers, handle);
	if (buffer)
		kref_get(&buffer->ref);
	xa_unlock(&client->buffers);
	return buffer;
}

static long create(struct client *client, void __user *user_arg)
{
	struct accelerator *accelerator = client->accelerator;
	struct accelerator_buffer *buffer;
	struct accelerator_create arg;
	struct dmabridge_region *region;
	int ret;

	if (copy_from_user(&arg, user_arg, sizeof(arg)))
		return -EFAULT;
	if (arg.__reserved || arg.memory > ACCELERATOR_MEMORY_SYSTEM)
		return -EINVAL;
	region = arg.memory == ACCELERATOR_MEMORY_SYSTEM ? accelerator->system :
							   accelerator->region;
	if (!region)
		return -ENOSPC;
	buffer = buffer_create(accelerator, region, arg.size, arg.policy);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	ret = xa_alloc(&client->buffers, &arg.handle, buffer, xa_limit_31b, GFP_KERNEL_ACCOUNT);
	if (ret) {
		buffer_put(buffer);
		return ret;
	}
	if (copy_to_user(user_arg, &arg, sizeof(arg))) {
		/* Another thread may have guessed and destroyed it. */
		buffer = xa_erase(&client->buffers, arg.handle);
		if (buffer)
			buffer_put(buffer);
		return -EFAULT;
	}
	return 0;
}

static long export(struct accelerator_buffer *buffer)
{
	struct dma_buf *dmabuf = buffer_dma_buf(buffer);
	int fd;

	get_dma_buf(dmabuf);
	fd = dma_buf_fd(dmabuf, O_CLOEXEC);
	if (fd < 0)
		dma_buf_put(dmabuf);
	return fd;
}

static long by_handle(struct client *client, unsigned int cmd, void __user *user_arg)
{
	struct accelerator_buffer *buffer;
	struct accelerator_handle arg;
	long ret = 0;

	if (copy_from_user(&arg, user_arg, sizeof(arg)))
		return -EFAULT;
	if (arg.__reserved)
		return -EINVAL;
	buffer = cmd == ACCELERATOR_IOCTL_DESTROY ? xa_erase(&client->buffers, arg.handle) :
						    find_buffer(client, arg.handle);
	if (!buffer)
		return -ENOENT;
	if (cmd == ACCELERATOR_IOCTL_EXPORT)
		ret = export(buffer);
	else if (cmd == ACCELERATOR_IOCTL_EVICT)
		ret = dmabridge_evict(buffer->buffer);
	buffer_put(buffer);
	return ret;
}

static long run(struct client *client, void __user *user_arg)
{
	struct accelerator_buffer *buffer;
	struct accelerator_run arg;
	long ret;

	if (copy_from_user(&arg, user_arg, sizeof(arg)))
		return -EFAULT;
	buffer = find_buffer(client, arg.handle);
	if (!buffer)
		return -ENOENT;
	ret = compute_run(buffer, &arg);
	buffer_put(buffer);
	return ret;
}

static long look_up(struct accelerator_buffer *buffer, struct accelerator_lookup *arg)
{
	struct dma_resv *resv = buffer_dma_buf(buffer)->resv;
	u64 pte;
	int ret;

	if (arg->page >= buffer->nr_pages)
		return -EINVAL;
	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;
	pte = buffer->table[arg->page];
	arg->updates = buffer->updates;
	dma_resv_unlock(resv);

	arg->placement = !(pte & PTE_VALID) ? DMABRIDGE_PLACEMENT_NONE :
			 pte & PTE_SYSTEM ? DMABRIDGE_PLACEMENT_SYSTEM :
					    DMABRIDGE_PLACEMENT_DEVICE;
	/* No address of the kernel's goes out. */
	arg->offset = arg->placement == DMABRIDGE_PLACEMENT_DEVICE ? pte & PAGE_MASK : 0;
	return 0;
}

static long lookup(struct client *client, void __user *user_arg)
{
	struct accelerator_buffer *buffer;
	struct accelerator_lookup arg;
	long ret;

	if (copy_from_user(&arg, user_arg, sizeof(arg)))
		return -EFAULT;
	buffer = find_buffer(client, arg.handle);
	if (!buffer)
		return -ENOENT;
	ret = look_up(buffer, &arg);
	buffer_put(buffer);
	if (!ret && copy_to_user(user_arg, &arg, sizeof(arg)))
		ret = -EFAULT;
	return ret;
}

static long dispatch(struct client *client, unsigned int cmd, void __user *arg)
{
	switch (cmd) {
	case ACCELERATOR_IOCTL_CREATE:
		return create(client, arg);
	case ACCELERATOR_IOCTL_DESTROY:
	case ACCELERATOR_IOCTL_EXPORT:
	case ACCELERATOR_IOCTL_EVICT:
		return by_handle(client, cmd, arg);
	case ACCELERATOR_IOCTL_RUN:
		return run(client, arg);
	case ACCELERATOR_IOCTL_LOOKUP:
		return lookup(client, arg);
	default:
		return -ENOTTY;
	}
}

/* The regions live while this runs. */
static long node_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct client *client = file->private_data;
	struct accelerator *accelerator = client->accelerator;
	long ret = -ENODEV;

	if (down_read_killable(&accelerator->alive))
		return -EINTR;
	if (!accelerator->gone)
		ret = dispatch(client, cmd, (void __user *)arg);
	up_read(&accelerator->alive);
	return ret;
}

static int node_open(struct inode *inode, struct file *file)
{
	struct accelerator *accelerator = container_of(file->private_data, struct accelerator,
						       node);
	struct client *client = kzalloc_obj(*client, GFP_KERNEL_ACCOUNT);

	if (!client)
		return -ENOMEM;
	/* misc_deregister() waits for us. */
	kref_get(&accelerator->ref);
	client->accelerator = accelerator;
	xa_init_flags(&client->buffers, XA_FLAGS_ALLOC1);
	file->private_data = client;
	return 0;
}

static int node_release(struct inode *inode, struct file *file)
{
	struct client *client = file->private_data;
	struct accelerator_buffer *buffer;
	unsigned long handle;

	xa_for_each(&client->buffers, handle, buffer)
		buffer_put(buffer);
	xa_destroy(&client->buffers);
	accelerator_put(client->accelerator);
	kfree(client);
	return 0;
}

static const struct file_operations node_fops = {
	.owner = THIS_MODULE,
	.open = node_open,
	.release = node_release,
	.unlocked_ioctl = node_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

int node_register(struct accelerator *accelerator)
{
	accelerator->node = (struct miscdevice){
		.minor = MISC_DYNAMIC_MINOR,
		.name = accelerator->name,
		.fops = &node_fops,
		.parent = &accelerator->pdev->dev,
		.mode = 0660,
	};
	return misc_register(&accelerator->node);
}

void node_unregister(struct accelerator *accelerator)
{
	misc_deregister(&accelerator->node);
	down_write(&accelerator->alive);
	accelerator->gone = true;
	up_write(&accelerator->alive);
}
