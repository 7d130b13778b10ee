/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * dmabridge.ko's own structures.
 *
 * Locks, outermost first:
 *
 *   dmabridge_buffer.place_lock	mutex: whoever changes the placement or the set of
 *					users. Held over copies and over waits for I/O.
 *   dma_resv of the buffer		as in dma-buf's locking convention. May be taken
 *					under mmap_lock, so no user memory is touched
 *					and no place_lock is taken under it.
 *   dmabridge_region.entry		rwsem: held for reading while a buffer is made, so
 *				that unregistering finds every buffer on the list.
 *   dmabridge_region.lock		mutex: the list of buffers.
 *
 * Fields marked [place+resv] are written with both locks held, so that either
 * is enough to read them.
 *
 * The gate. Block I/O of our own takes no dma_resv: it holds a per-CPU reference
 * on dmabridge_buffer.gate instead, from dmabridge_io_begin() until its DMA has
 * ended. Whoever changes the backing closes the gate and waits for it to drain
 * first, before taking dma_resv: nothing waits for I/O under dma_resv.
 */
#ifndef _DMABRIDGE_INTERNAL_H
#define _DMABRIDGE_INTERNAL_H

#include <linux/atomic.h>
#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/kref.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/percpu-refcount.h>
#include <linux/rwsem.h>
#include <linux/wait.h>

#include "dmabridge_exporter.h"
#include "dmabridge_importer.h"
#include "verdict.h"

struct mem_cgroup;

/* --- region.c ------------------------------------------------------------- */

/*
 * Memory of one device. Lives as long as its struct device is referenced: by the
 * driver until it unregisters, by buffers, and by opened nodes.
 */
struct dmabridge_region {
	struct device dev;
	struct cdev cdev;
	u32 id;
	u32 kind;
	struct pci_dev *pdev;		/* referenced; do not touch its BARs once dead */
	struct p2pdma_provider *provider;	/* valid until dead */
	int bar;
	u64 size;
	u64 limit;
	u64 move_limit;
	bool take_unrevocable;
	phys_addr_t start;		/* of the region; never leaves the kernel */
	char name[DMABRIDGE_NAME_MAX];
	char driver[DMABRIDGE_NAME_MAX];
	atomic64_t used;		/* bytes handed out */

	struct mutex lock;
	struct list_head buffers;	/* lock */
	struct rw_semaphore entry;	/* read: a buffer is being made; write: the region dies */
	bool dead;			/* entry */
};

int dmabridge_region_init(void);
void dmabridge_region_exit(void);
u32 dmabridge_region_count(void);
/* Fill in @info for the first region whose id is @info->id or higher. */
int dmabridge_region_describe(struct dmabridge_region_info *info);
int dmabridge_region_charge(struct dmabridge_region *region, u64 size);
void dmabridge_region_uncharge(struct dmabridge_region *region, u64 size);

/* --- backing.c ------------------------------------------------------------ */

/* Contiguous pages that hold the buffer's bytes from @start on. */
struct dmabridge_run {
	u64 start;
	u64 length;
	struct page *page;
};

/*
 * The pages that hold a buffer's bytes. Referenced by the buffer while it is
 * current, and by every DMA mapping of it: a backing that was replaced goes when
 * its last mapping does. Pages pinned through user mappings have references of
 * their own and outlive it.
 */
struct dmabridge_backing {
	struct kref ref;
	u32 placement;
	u32 nr_runs;
	u64 size;
	struct dmabridge_region *region;	/* referenced */
	struct dmabridge_run *runs;		/* ascending, without gaps */
};

/* Cleared pages, @size a multiple of PAGE_SIZE. @memcg pays for system memory. */
struct dmabridge_backing *dmabridge_backing_alloc(struct dmabridge_region *region, u32 placement,
						  u64 size, struct mem_cgroup *memcg);
void dmabridge_backing_put(struct dmabridge_backing *backing);
const struct dmabridge_run *dmabridge_backing_find(const struct dmabridge_backing *backing,
						   u64 offset);
/* Page references beyond our own: mappings and pins. */
u64 dmabridge_backing_pins(const struct dmabridge_backing *backing);
/* Return: 0; -EINTR: fatal signal; -ENODEV: @stop became true. */
int dmabridge_backing_copy(const struct dmabridge_backing *to,
			   const struct dmabridge_backing *from, const bool *stop);

/* --- user.c --------------------------------------------------------------- */

/* Somebody who uses a buffer. On the buffer's list from join to leave. */
struct dmabridge_user_state {
	struct list_head node;			/* [place+resv] */
	struct dmabridge_buffer *buffer;
	struct dma_buf_attachment *attach;	/* or NULL */
	u32 kind;
	u32 flags;				/* DMABRIDGE_USER_*; [place+resv] but PINNED: resv */
	u32 nr_pins;				/* resv */
	u64 device;
	u32 policy;
	u32 path_route;				/* once reaches_device */
	bool reaches_device;
	char name[DMABRIDGE_NAME_MAX];
	char driver[DMABRIDGE_NAME_MAX];
	struct dmabridge_verdict verdict;
};

/*
 * Judge @user, whose description stands in @facts' importer half, move the buffer
 * if need be, and put it on the list. @verdict is filled in also on refusal.
 */
int dmabridge_user_join(struct dmabridge_user_state *user, struct dmabridge_facts *facts);
/* Off the list; the buffer may go back to its device. */
void dmabridge_user_leave(struct dmabridge_user_state *user);
/* First user with @flag, or NULL. Under place_lock or dma_resv. */
struct dmabridge_user_state *dmabridge_user_find(struct dmabridge_buffer *buffer, u32 flag);
/* "@user keeps the buffer where it is" as a reason. */
struct dmabridge_reason dmabridge_user_reason(const struct dmabridge_user_state *user, u32 code,
					      u64 value);
/* As user space sees it. */
void dmabridge_user_describe(struct dmabridge_user *to, const struct dmabridge_user_state *from);
void dmabridge_user_describe_device(struct dmabridge_user_state *user, struct device *dev);

int dmabridge_hold_create(struct dmabridge_buffer *buffer, struct dmabridge_hold *arg,
			  struct file **file);

/* --- buffer.c ------------------------------------------------------------- */

struct dmabridge_buffer {
	struct dma_buf *dmabuf;
	struct dmabridge_region *region;	/* referenced */
	struct list_head region_node;		/* region->lock */
	u64 size;
	u32 policy;
	struct mem_cgroup *memcg;		/* of the creator, referenced; pays for system pages */

	struct mutex place_lock;
	u32 placement;				/* [place+resv]; NONE: revoked */
	struct dmabridge_backing *backing;	/* [place+resv], and fixed while the gate is held */
	struct list_head users;			/* [place+resv] */
	struct dmabridge_reason last_move;	/* [place+resv] */
	u64 generation;				/* [place+resv]; read anywhere */
	u64 moves;				/* [place+resv] */
	bool redirected;			/* [place+resv]: in system memory because of users */
	bool revoked;				/* set once, before the gate closes for good */
	bool touched;				/* set once: somebody could have written a byte */
	struct list_head mappings;		/* resv: live DMA mappings */
	u32 nr_device_mappings;			/* resv: of those, of device memory, also replaced one */
	wait_queue_head_t unmap_wait;		/* nr_device_mappings became 0 */
	struct dmabridge_user last_refused;	/* resv */

	struct percpu_ref gate;
	wait_queue_head_t gate_wait;		/* gate opened, drained, or buffer revoked */
	struct rcu_head rcu;
};

extern const struct dma_buf_ops dmabridge_dma_buf_ops;

/* Return: a new dma-buf's buffer, its only reference the caller's. */
struct dmabridge_buffer *dmabridge_buffer_create(struct dmabridge_region *region, u64 size,
						 u32 policy);
int dmabridge_buffer_query(struct dmabridge_buffer *buffer, struct dmabridge_query *query);

/* --- placement.c ---------------------------------------------------------- */

/*
 * Move a buffer. place_lock held. @why is put on record. Reasons for a failure
 * are added to @verdict.
 */
int dmabridge_move_locked(struct dmabridge_buffer *buffer, u32 placement,
			  const struct dmabridge_reason *why, struct dmabridge_verdict *verdict);
/* Take place_lock. Return: 0; -EINTR: a fatal signal, which is added to @verdict. */
int dmabridge_place_lock(struct dmabridge_buffer *buffer, struct dmabridge_verdict *verdict);
/*
 * Whether a buffer can be asked into @placement: it is not revoked, its policy
 * allows that, and nobody needs it elsewhere. Else the reason is added to
 * @verdict. place_lock held.
 */
int dmabridge_check_request(struct dmabridge_buffer *buffer, u32 placement,
			    struct dmabridge_verdict *verdict);
/* Move on request. */
int dmabridge_move(struct dmabridge_buffer *buffer, struct dmabridge_move *arg);
void dmabridge_revoke(struct dmabridge_buffer *buffer);
void dmabridge_gate_released(struct percpu_ref *gate);

/* Return: 0; -EINTR: a fatal signal. */
int dmabridge_wait_fences(struct dma_resv *resv, enum dma_resv_usage usage);

/* --- mapping.c ------------------------------------------------------------ */

struct sg_table *dmabridge_map(struct dma_buf_attachment *attach, enum dma_data_direction dir);
void dmabridge_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		     enum dma_data_direction dir);
/* Whether device memory is mapped by somebody who cannot be told to let go. resv held. */
bool dmabridge_mapped_for_good(struct dmabridge_buffer *buffer);
/* Before the CPU reads the pages, or after it wrote them. resv held. */
void dmabridge_sync_for_cpu(struct dmabridge_buffer *buffer);
void dmabridge_sync_for_device(struct dmabridge_buffer *buffer);
int dmabridge_begin_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction dir);
int dmabridge_end_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction dir);

/* --- mmap.c --------------------------------------------------------------- */

int dmabridge_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma);

/* --- path.c --------------------------------------------------------------- */

/* How @client reaches memory of @provider: fills in distance, path_route and blockers. */
void dmabridge_path_facts(struct dmabridge_facts *facts, struct pci_dev *provider,
			  struct device *client);
/* The PCI function that @dev is, or is below of; NULL. No reference. */
struct pci_dev *dmabridge_pci_parent(struct device *dev);
u64 dmabridge_pci_address(struct pci_dev *pdev);

/* --- importer.c ----------------------------------------------------------- */

u64 dmabridge_importer_mask(void);
int dmabridge_importer_bind(struct dmabridge_buffer *buffer, struct dmabridge_bind *bind,
			    struct file **file);

/* --- control.c ------------------------------------------------------------ */

static inline void dmabridge_reason_name(struct dmabridge_reason *reason, const char *name)
{
	strscpy_pad(reason->name, name, sizeof(reason->name));
}

#endif /* _DMABRIDGE_INTERNAL_H */
