// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/dmabridge-test-importer.
 */
#include <linux/dma-buf.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/iosys-map.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

static long attach_ioctl(void __user *user_arg)
{
	struct test_importer_attach arg;
	struct dma_buf *dmabuf;
	struct file *file;
	int fd;

	if (copy_from_user(&arg, user_arg, sizeof(arg)))
		return -EFAULT;
	dmabuf = dma_buf_get(arg.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	file = attachment_create(dmabuf, &arg);
	if (IS_ERR(file)) {
		dma_buf_put(dmabuf);
		return PTR_ERR(file);
	}
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		fput(file);
		return fd;
	}
	arg.attachment_fd = fd;
	if (copy_to_user(user_arg, &arg, sizeof(arg))) {
		put_unused_fd(fd);
		fput(file);
		return -EFAULT;
	}
	fd_install(fd, file);
	return 0;
}

static int vmap_copy(struct dma_buf *dmabuf, const struct test_importer_cpu *arg)
{
	bool write = arg->operation == TEST_IMPORTER_VMAP_WRITE;
	void __user *data = u64_to_user_ptr(arg->data);
	struct iosys_map map;
	void *bytes;
	u64 end;
	int ret;

	if (arg->length > TEST_IMPORTER_CPU_MAX ||
	    check_add_overflow(arg->offset, (u64)arg->length, &end) || end > dmabuf->size)
		return -EINVAL;
	bytes = write ? memdup_user(data, arg->length) : kzalloc(arg->length, GFP_KERNEL);
	if (IS_ERR_OR_NULL(bytes))
		return bytes ? PTR_ERR(bytes) : -ENOMEM;
	ret = dma_buf_vmap_unlocked(dmabuf, &map);
	if (ret)
		goto free;
	if (write)
		iosys_map_memcpy_to(&map, arg->offset, bytes, arg->length);
	else
		iosys_map_memcpy_from(bytes, &map, arg->offset, arg->length);
	dma_buf_vunmap_unlocked(dmabuf, &map);
	if (!write && copy_to_user(data, bytes, arg->length))
		ret = -EFAULT;
free:
	kfree(bytes);
	return ret;
}

static long cpu_ioctl(const void __user *user_arg)
{
	struct test_importer_cpu arg;
	struct dma_buf *dmabuf;
	int ret;

	if (copy_from_user(&arg, user_arg, sizeof(arg)))
		return -EFAULT;
	if (arg.direction > TEST_IMPORTER_FROM_DEVICE)
		return -EINVAL;
	dmabuf = dma_buf_get(arg.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	switch (arg.operation) {
	case TEST_IMPORTER_BEGIN_CPU_ACCESS:
		ret = dma_buf_begin_cpu_access(dmabuf, arg.direction);
		break;
	case TEST_IMPORTER_END_CPU_ACCESS:
		ret = dma_buf_end_cpu_access(dmabuf, arg.direction);
		break;
	case TEST_IMPORTER_VMAP_READ:
	case TEST_IMPORTER_VMAP_WRITE:
		ret = vmap_copy(dmabuf, &arg);
		break;
	default:
		ret = -EINVAL;
	}
	dma_buf_put(dmabuf);
	return ret;
}

static long node_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *user_arg = (void __user *)arg;

	switch (cmd) {
	case TEST_IMPORTER_IOCTL_ATTACH:
		return attach_ioctl(user_arg);
	case TEST_IMPORTER_IOCTL_CPU:
		return cpu_ioctl(user_arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations node_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = node_ioctl,
};

static struct miscdevice node = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dmabridge-test-importer",
	.fops = &node_fops,
	.mode = 0600,
};

module_misc_device(node);

MODULE_DESCRIPTION("dma-buf importers of every kind, for tests");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("DMA_BUF");
