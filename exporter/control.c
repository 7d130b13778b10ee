// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/dmabridge: what anyone may do with buffers of which they hold the fd.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/nospec.h>
#include <linux/uaccess.h>

#include "internal.h"

int dmabridge_copy_in(void *to, size_t size, unsigned int cmd, const void __user *from)
{
	return copy_struct_from_user(to, size, from, _IOC_SIZE(cmd));
}
EXPORT_SYMBOL_GPL(dmabridge_copy_in);

int dmabridge_copy_out(void __user *to, unsigned int cmd, const void *from, size_t size)
{
	return copy_struct_to_user(to, _IOC_SIZE(cmd), from, size, NULL);
}
EXPORT_SYMBOL_GPL(dmabridge_copy_out);

/*
 * Each of these has its argument, as the caller knows it, copied in by control_ioctl().
 * One with a verdict explains an error by it, and so copies out all the same.
 */
static long info_ioctl(void *data, unsigned int cmd, void __user *user_arg)
{
	struct dmabridge_info *arg = data;

	if (arg->abi_version || arg->nr_regions || arg->importers)
		return -EINVAL;
	arg->abi_version = DMABRIDGE_ABI_VERSION;
	arg->nr_regions = dmabridge_region_count();
	arg->importers = dmabridge_importer_mask();
	return dmabridge_copy_out(user_arg, cmd, arg, sizeof(*arg));
}

static long region_info_ioctl(void *data, unsigned int cmd, void __user *user_arg)
{
	struct dmabridge_region_info *arg = data;
	int ret;

	if (arg->flags)
		return -EINVAL;
	ret = dmabridge_region_describe(arg);
	return ret ?: dmabridge_copy_out(user_arg, cmd, arg, sizeof(*arg));
}

static long query_ioctl(void *data, unsigned int cmd, void __user *user_arg)
{
	struct dmabridge_query *arg = data;
	struct dmabridge_buffer *buffer;
	int ret;

	if (arg->flags)
		return -EINVAL;
	buffer = dmabridge_buffer_get(arg->fd);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	ret = dmabridge_buffer_query(buffer, arg);
	dmabridge_buffer_put(buffer);
	return ret ?: dmabridge_copy_out(user_arg, cmd, arg, sizeof(*arg));
}

static bool is_placement(u32 placement)
{
	return placement == DMABRIDGE_PLACEMENT_DEVICE || placement == DMABRIDGE_PLACEMENT_SYSTEM;
}

static void clear_verdict(struct dmabridge_verdict *verdict)
{
	*verdict = (struct dmabridge_verdict){ .distance = -1 };
}

/* The result of what has a verdict: that goes out with it. */
static int give_verdict(int result, const void *arg, size_t size, unsigned int cmd,
			void __user *user_arg)
{
	int copied = dmabridge_copy_out(user_arg, cmd, arg, size);

	return copied ?: result;
}

static long move_ioctl(void *data, unsigned int cmd, void __user *user_arg)
{
	struct dmabridge_move *arg = data;
	struct dmabridge_buffer *buffer;
	int ret;

	if (arg->flags || arg->__reserved || !is_placement(arg->placement))
		return -EINVAL;
	buffer = dmabridge_buffer_get(arg->fd);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	clear_verdict(&arg->verdict);
	ret = dmabridge_move(buffer, arg);
	dmabridge_buffer_put(buffer);
	return give_verdict(ret, arg, sizeof(*arg), cmd, user_arg);
}

/*
 * Give the caller an fd for @file, whose number is at @number in @arg, and @arg
 * itself. Takes over the reference on @file. The fd is installed last, so that
 * nobody can use it before all else is done.
 */
static int publish_fd(struct file *file, s32 *number, void *arg, size_t size, unsigned int cmd,
		      void __user *user_arg)
{
	int fd, ret;

	/* A caller whose structure ends before the number would leak the fd. */
	if ((void *)(number + 1) - arg > _IOC_SIZE(cmd)) {
		fput(file);
		return -EINVAL;
	}
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		fput(file);
		return fd;
	}
	*number = fd;
	ret = dmabridge_copy_out(user_arg, cmd, arg, size);
	if (ret) {
		put_unused_fd(fd);
		fput(file);
		return ret;
	}
	fd_install(fd, file);
	return 0;
}

static long hold_ioctl(void *data, unsigned int cmd, void __user *user_arg)
{
	struct dmabridge_hold *arg = data;
	struct dmabridge_buffer *buffer;
	struct file *file;
	int ret;

	if (arg->flags || !is_placement(arg->placement))
		return -EINVAL;
	buffer = dmabridge_buffer_get(arg->fd);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	clear_verdict(&arg->verdict);
	arg->hold_fd = -1;
	ret = dmabridge_hold_create(buffer, arg, &file);
	dmabridge_buffer_put(buffer);
	if (ret)
		return give_verdict(ret, arg, sizeof(*arg), cmd, user_arg);
	return publish_fd(file, &arg->hold_fd, arg, sizeof(*arg), cmd, user_arg);
}

static long bind_ioctl(void *data, unsigned int cmd, void __user *user_arg)
{
	struct dmabridge_bind *arg = data;
	struct dma_buf *dmabuf;
	struct file *file;
	int ret;

	if (!arg->flags || arg->flags & ~(DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE) ||
	    !dmabridge_combine_policies(arg->policy, arg->policy))
		return -EINVAL;
	clear_verdict(&arg->verdict);
	arg->binding_fd = -1;

	dmabuf = dma_buf_get(arg->fd);
	if (IS_ERR(dmabuf)) {
		ret = PTR_ERR(dmabuf);
	} else {
		ret = dmabridge_importer_bind(dmabuf, arg, &file);
		dma_buf_put(dmabuf);
	}
	if (ret)
		return give_verdict(ret, arg, sizeof(*arg), cmd, user_arg);
	return publish_fd(file, &arg->binding_fd, arg, sizeof(*arg), cmd, user_arg);
}

static long watch_ioctl(void *data, unsigned int cmd, void __user *user_arg)
{
	struct dmabridge_watch *arg = data;
	struct dmabridge_buffer *buffer;
	struct file *file;
	int ret;

	if (arg->flags)
		return -EINVAL;
	buffer = dmabridge_buffer_get(arg->fd);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	ret = dmabridge_watch_create(buffer, arg, &file);
	dmabridge_buffer_put(buffer);
	return ret ?: publish_fd(file, &arg->watch_fd, arg, sizeof(*arg), cmd, user_arg);
}

static long negotiate_ioctl(void *data, unsigned int cmd, void __user *user_arg)
{
	struct dmabridge_negotiate *arg = data;
	int ret;

	if (!dmabridge_negotiate_valid(arg))
		return -EINVAL;
	clear_verdict(&arg->verdict);
	arg->placement = DMABRIDGE_PLACEMENT_NONE;
	ret = dmabridge_negotiate(arg);
	return give_verdict(ret, arg, sizeof(*arg), cmd, user_arg);
}

static const struct {
	size_t size;			/* of the argument as we know it */
	long (*run)(void *arg, unsigned int cmd, void __user *user_arg);
} calls[] = {
	[_IOC_NR(DMABRIDGE_IOCTL_INFO)] = { sizeof(struct dmabridge_info), info_ioctl },
	[_IOC_NR(DMABRIDGE_IOCTL_REGION)] = { sizeof(struct dmabridge_region_info),
					      region_info_ioctl },
	[_IOC_NR(DMABRIDGE_IOCTL_QUERY)] = { sizeof(struct dmabridge_query), query_ioctl },
	[_IOC_NR(DMABRIDGE_IOCTL_HOLD)] = { sizeof(struct dmabridge_hold), hold_ioctl },
	[_IOC_NR(DMABRIDGE_IOCTL_MOVE)] = { sizeof(struct dmabridge_move), move_ioctl },
	[_IOC_NR(DMABRIDGE_IOCTL_BIND)] = { sizeof(struct dmabridge_bind), bind_ioctl },
	[_IOC_NR(DMABRIDGE_IOCTL_WATCH)] = { sizeof(struct dmabridge_watch), watch_ioctl },
	[_IOC_NR(DMABRIDGE_IOCTL_NEGOTIATE)] = { sizeof(struct dmabridge_negotiate),
						 negotiate_ioctl },
};

static long control_ioctl(struct file *file, unsigned int cmd, unsigned long user_arg)
{
	unsigned int nr = _IOC_NR(cmd);
	union {
		struct dmabridge_info info;
		struct dmabridge_region_info region;
		struct dmabridge_query query;
		struct dmabridge_hold hold;
		struct dmabridge_move move;
		struct dmabridge_bind bind;
		struct dmabridge_watch watch;
		struct dmabridge_negotiate negotiate;
	} arg;
	int ret;

	if (_IOC_TYPE(cmd) != DMABRIDGE_IOC || nr >= ARRAY_SIZE(calls))
		return -ENOTTY;
	nr = array_index_nospec(nr, ARRAY_SIZE(calls));
	ret = dmabridge_copy_in(&arg, calls[nr].size, cmd, (void __user *)user_arg);
	return ret ?: calls[nr].run(&arg, cmd, (void __user *)user_arg);
}

static const struct file_operations control_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = control_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice control_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dmabridge",
	.fops = &control_fops,
	.mode = 0666,
};

struct device *dmabridge_device(void)
{
	return control_device.this_device;
}
EXPORT_SYMBOL_GPL(dmabridge_device);

static int __init dmabridge_init(void)
{
	int ret;

	ret = dmabridge_region_init();
	if (ret)
		return ret;
	dmabridge_debugfs_init();
	ret = misc_register(&control_device);
	if (ret) {
		dmabridge_debugfs_exit();
		dmabridge_region_exit();
	}
	return ret;
}

static void __exit dmabridge_exit(void)
{
	misc_deregister(&control_device);
	dmabridge_debugfs_exit();
	dmabridge_region_exit();
	/* Buffers are freed by RCU callbacks of this module. */
	rcu_barrier();
}

module_init(dmabridge_init);
module_exit(dmabridge_exit);

MODULE_DESCRIPTION("dma-buf exporter for device memory");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("DMA_BUF");
