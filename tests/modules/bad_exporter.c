// SPDX-License-Identifier: GPL-2.0-only
/*
 * An exporter of ordinary memory that is right in all but one thing.
 *
 * Its mappings are for devices without IOMMU, where a DMA address is the memory's
 * own; a faulty address goes into the table behind the DMA API's back, and is put
 * right before that is to unmap it. Nobody transfers anything.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/iosys-map.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "bad_exporter.h"

#define ORDER	get_order(BAD_EXPORTER_SIZE)

struct buffer {
	enum bad_exporter_fault fault;
	struct page *memory[2];		/* the second for BAD_EXPORTER_MOVES_SILENTLY */
	struct table *shared;		/* under resv, for BAD_EXPORTER_SHARES_TABLE */
	unsigned int nr_maps;		/* under resv */
};

/* A mapping: one piece, and what the DMA API knows of it. */
struct table {
	struct sg_table sgt;
	dma_addr_t address;
	unsigned int length;
	unsigned int users;		/* under resv */
};

/* An address of device memory, or 0. */
static dma_addr_t bar_of(struct device *dev)
{
	return dev_is_pci(dev) ? pci_resource_start(to_pci_dev(dev), 0) : 0;
}

static void spoil(const struct buffer *buffer, struct device *dev, struct scatterlist *sg)
{
	switch (buffer->fault) {
	case BAD_EXPORTER_SHORT_TABLE:
		sg_dma_len(sg) -= PAGE_SIZE;
		break;
	case BAD_EXPORTER_MISALIGNED:
		sg_dma_address(sg) += 64;
		break;
	case BAD_EXPORTER_PAGES_ON_P2P:
		if (bar_of(dev))
			sg_dma_address(sg) = bar_of(dev);
		break;
	default:
		break;
	}
}

static int bad_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	const struct buffer *buffer = dmabuf->priv;

	if (buffer->fault == BAD_EXPORTER_FORCES_P2P)
		attach->peer2peer = true;
	return 0;
}

static int bad_pin(struct dma_buf_attachment *attach)
{
	return 0;
}

static void bad_unpin(struct dma_buf_attachment *attach)
{
}

static struct table *make_table(const struct buffer *buffer, struct device *dev,
				enum dma_data_direction dir)
{
	bool second = buffer->fault == BAD_EXPORTER_MOVES_SILENTLY && buffer->nr_maps & 1;
	struct table *table;
	int ret;

	table = kzalloc_obj(*table);
	if (!table)
		return ERR_PTR(-ENOMEM);
	ret = sg_alloc_table(&table->sgt, 1, GFP_KERNEL);
	if (ret)
		goto free;
	sg_set_page(table->sgt.sgl, buffer->memory[second], BAD_EXPORTER_SIZE, 0);
	ret = dma_map_sgtable(dev, &table->sgt, dir, DMA_ATTR_SKIP_CPU_SYNC);
	if (ret)
		goto free_sgt;
	table->address = sg_dma_address(table->sgt.sgl);
	table->length = sg_dma_len(table->sgt.sgl);
	spoil(buffer, dev, table->sgt.sgl);
	return table;

free_sgt:
	sg_free_table(&table->sgt);
free:
	kfree(table);
	return ERR_PTR(ret);
}

static struct sg_table *bad_map(struct dma_buf_attachment *attach, enum dma_data_direction dir)
{
	struct buffer *buffer = attach->dmabuf->priv;
	struct table *table;

	dma_resv_assert_held(attach->dmabuf->resv);
	if (buffer->fault == BAD_EXPORTER_REFUSES_MAP && !attach->peer2peer)
		return ERR_PTR(-EPERM);
	table = buffer->shared ?: make_table(buffer, attach->dev, dir);
	if (IS_ERR(table))
		return ERR_CAST(table);
	table->users++;
	buffer->nr_maps++;
	if (buffer->fault == BAD_EXPORTER_SHARES_TABLE)
		buffer->shared = table;
	if (buffer->fault == BAD_EXPORTER_LEAKS)
		get_dma_buf(attach->dmabuf);
	return &table->sgt;
}

static void bad_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		      enum dma_data_direction dir)
{
	struct table *table = container_of(sgt, struct table, sgt);
	struct buffer *buffer = attach->dmabuf->priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	if (--table->users)
		return;
	buffer->shared = NULL;
	sg_dma_address(sgt->sgl) = table->address;
	sg_dma_len(sgt->sgl) = table->length;
	dma_unmap_sgtable(attach->dev, sgt, dir, DMA_ATTR_SKIP_CPU_SYNC);
	sg_free_table(sgt);
	kfree(table);
}

static void free_buffer(struct buffer *buffer)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(buffer->memory); i++)
		if (buffer->memory[i])
			__free_pages(buffer->memory[i], ORDER);
	kfree(buffer);
}

static void bad_release(struct dma_buf *dmabuf)
{
	free_buffer(dmabuf->priv);
}

static int bad_begin(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	const struct buffer *buffer = dmabuf->priv;

	return buffer->fault == BAD_EXPORTER_NO_CPU_ACCESS ? -EIO : 0;
}

static int bad_end(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	const struct buffer *buffer = dmabuf->priv;

	return buffer->fault == BAD_EXPORTER_ENDLESS_ACCESS ? -EIO : 0;
}

static vm_fault_t bad_fault(struct vm_fault *vmf)
{
	const struct buffer *buffer = vmf->vma->vm_private_data;
	pgoff_t page = vmf->pgoff;

	if (buffer->fault == BAD_EXPORTER_MMAP_OFFSET)
		page -= vmf->vma->vm_pgoff;
	if (buffer->fault == BAD_EXPORTER_MMAP_GROWS)
		page %= BAD_EXPORTER_SIZE >> PAGE_SHIFT;
	if (page >= BAD_EXPORTER_SIZE >> PAGE_SHIFT)
		return VM_FAULT_SIGBUS;
	vmf->page = buffer->memory[0] + page;
	get_page(vmf->page);
	return 0;
}

static const struct vm_operations_struct bad_vm_ops = {
	.fault = bad_fault,
};

static int bad_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	const struct buffer *buffer = dmabuf->priv;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	vma->vm_ops = &bad_vm_ops;
	vma->vm_private_data = dmabuf->priv;
	if (buffer->fault != BAD_EXPORTER_MMAP_GROWS)
		vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
	return 0;
}

/* Of any device. Nobody is to touch it. */
static void __iomem *map_device(void)
{
	struct pci_dev *pdev __free(pci_dev_put) =
		pci_get_class(PCI_CLASS_STORAGE_EXPRESS, NULL);

	return pdev ? ioremap(pci_resource_start(pdev, 0), BAD_EXPORTER_SIZE) : NULL;
}

static bool maps_device(const struct buffer *buffer)
{
	return buffer->fault == BAD_EXPORTER_VMAP_IO ||
	       buffer->fault == BAD_EXPORTER_VMAP_IO_UNSAID;
}

static int bad_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	const struct buffer *buffer = dmabuf->priv;
	void *memory = page_address(buffer->memory[0]);

	if (buffer->fault == BAD_EXPORTER_VMAP_COPY)
		memory = kmemdup(memory, BAD_EXPORTER_SIZE, GFP_KERNEL);
	if (maps_device(buffer))
		memory = (void __force *)map_device();
	if (!memory)
		return -ENOMEM;
	if (buffer->fault == BAD_EXPORTER_VMAP_IO)
		iosys_map_set_vaddr_iomem(map, (void __iomem __force *)memory);
	else
		iosys_map_set_vaddr(map, memory);
	return 0;
}

static void bad_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	const struct buffer *buffer = dmabuf->priv;

	if (buffer->fault == BAD_EXPORTER_VMAP_COPY)
		kfree(map->vaddr);
	if (maps_device(buffer))
		iounmap(map->vaddr_iomem);
}

#define COMMON_OPS				\
	.attach = bad_attach,			\
	.map_dma_buf = bad_map,			\
	.unmap_dma_buf = bad_unmap,		\
	.release = bad_release,			\
	.begin_cpu_access = bad_begin,		\
	.end_cpu_access = bad_end,		\
	.mmap = bad_mmap

static const struct dma_buf_ops bad_ops = {
	COMMON_OPS,
	.pin = bad_pin,
	.unpin = bad_unpin,
	.vmap = bad_vmap,
	.vunmap = bad_vunmap,
};

static const struct dma_buf_ops static_ops = {
	COMMON_OPS,
	.vmap = bad_vmap,
	.vunmap = bad_vunmap,
};

static const struct dma_buf_ops unmapped_ops = {
	COMMON_OPS,
};

static const struct dma_buf_ops *choose_ops(enum bad_exporter_fault fault, bool is_static)
{
	if (!is_static)
		return &bad_ops;
	return fault == BAD_EXPORTER_NO_VMAP ? &unmapped_ops : &static_ops;
}

static long export_buffer(enum bad_exporter_fault fault, bool is_static)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct dma_buf *dmabuf;
	struct buffer *buffer;
	unsigned int i;
	int fd;

	buffer = kzalloc_obj(*buffer);
	if (!buffer)
		return -ENOMEM;
	buffer->fault = fault;
	for (i = 0; i < ARRAY_SIZE(buffer->memory); i++) {
		buffer->memory[i] = alloc_pages(GFP_KERNEL | __GFP_COMP | __GFP_ZERO, ORDER);
		if (!buffer->memory[i]) {
			free_buffer(buffer);
			return -ENOMEM;
		}
	}
	info.ops = choose_ops(fault, is_static);
	info.size = BAD_EXPORTER_SIZE;
	info.flags = O_RDWR;
	info.priv = buffer;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		free_buffer(buffer);
		return PTR_ERR(dmabuf);
	}
	fd = dma_buf_fd(dmabuf, O_CLOEXEC);
	if (fd < 0)
		dma_buf_put(dmabuf);
	return fd;
}

static long node_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	unsigned long fault = arg & ~BAD_EXPORTER_STATIC;

	if (cmd != BAD_EXPORTER_IOCTL_EXPORT)
		return -ENOTTY;
	if (fault > BAD_EXPORTER_ENDLESS_ACCESS)
		return -EINVAL;
	return export_buffer(fault, arg & BAD_EXPORTER_STATIC);
}

static const struct file_operations node_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = node_ioctl,
};

static struct miscdevice node = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dmabridge-bad-exporter",
	.fops = &node_fops,
	.mode = 0600,
};

module_misc_device(node);

MODULE_DESCRIPTION("dma-bufs with one fault each, for tests");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("DMA_BUF");
