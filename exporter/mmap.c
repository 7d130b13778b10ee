// SPDX-License-Identifier: GPL-2.0-only
/*
 * CPU mappings of a buffer, filled by faults, so that a move or a revoke can
 * take them away and the next touch finds where the bytes are now.
 *
 * The pages are ordinary, counted ones (VM_MIXEDMAP): O_DIRECT of user space
 * works on device memory, and fixed buffers and memory registrations as well on
 * system and stolen memory. A BAR without pages is mapped by its addresses, as
 * its region maps it (write-combined), and nobody can pin it.
 */
#include <linux/mm.h>

#include "internal.h"

/*
 * A move may hold dma_resv for long. Wait for it without mmap_lock if the caller
 * can come again, so that the rest of the process goes on. Return: 0, or what the
 * fault returns.
 */
static vm_fault_t lock_for_fault(struct vm_fault *vmf, struct dma_buf *dmabuf)
{
	if (dma_resv_trylock(dmabuf->resv))
		return 0;
	if (fault_flag_allow_retry_first(vmf->flags)) {
		if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
			return VM_FAULT_RETRY;
		get_dma_buf(dmabuf);
		mmap_read_unlock(vmf->vma->vm_mm);
		if (!dma_resv_lock_interruptible(dmabuf->resv, NULL))
			dma_resv_unlock(dmabuf->resv);
		dma_buf_put(dmabuf);
		return VM_FAULT_RETRY;
	}
	return dma_resv_lock_interruptible(dmabuf->resv, NULL) ? VM_FAULT_NOPAGE : 0;
}

static vm_fault_t insert(struct vm_fault *vmf, const struct dmabridge_run *run, u64 inside)
{
	if (run->page)
		return vmf_insert_page_mkwrite(vmf, run->page + (inside >> PAGE_SHIFT),
					       vmf->flags & FAULT_FLAG_WRITE);
	return vmf_insert_mixed(vmf->vma, vmf->address, PHYS_PFN(run->phys + inside));
}

static vm_fault_t buffer_fault(struct vm_fault *vmf)
{
	struct dmabridge_buffer *buffer = vmf->vma->vm_private_data;
	u64 offset = (u64)vmf->pgoff << PAGE_SHIFT;
	const struct dmabridge_run *run;
	vm_fault_t ret;

	ret = lock_for_fault(vmf, buffer->dmabuf);
	if (ret)
		return ret;
	if (buffer->placement == DMABRIDGE_PLACEMENT_NONE || offset >= buffer->size) {
		ret = VM_FAULT_SIGBUS;
	} else {
		run = dmabridge_backing_find(buffer->backing, offset);
		WRITE_ONCE(buffer->touched, true);
		ret = insert(vmf, run, offset - run->start);
	}
	dma_resv_unlock(buffer->dmabuf->resv);
	return ret;
}

static const struct vm_operations_struct buffer_vm_ops = {
	.fault = buffer_fault,
};

int dmabridge_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct dmabridge_buffer *buffer = dmabuf->priv;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (READ_ONCE(buffer->revoked))
		return -ENODEV;
	/*
	 * Where there are pages the attribute is the mapping's, not the page's, and
	 * must do for both placements, as a driver can move any buffer: all is mapped
	 * as RAM is, and the processor's range registers make the BAR uncached all the
	 * same (p2pdma's own mmap relies on that too).
	 */
	vm_flags_set(vma, VM_MIXEDMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_private_data = buffer;
	vma->vm_ops = &buffer_vm_ops;
	return 0;
}
