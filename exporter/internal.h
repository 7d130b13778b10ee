/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * dmabridge.ko's own structures.
 *
 * Locks, outermost first:
 *
 *   dmabridge_buffer.place_lock	mutex: whoever changes the placement or the set of
 *					users. Held over copies and over waits for I/O,
 *					for which there is a limit (IO_PATIENCE).
 *   dma_resv of the buffer		as in dma-buf's locking convention. May be taken
 *					under mmap_lock, so no user memory is touched
 *					and no place_lock is taken under it.
 *   dmabridge_region.entry		rwsem: held for reading while a buffer is made, so
 *				that unregistering finds every buffer on the list.
 *   dmabridge_region.lock		mutex: the list of buffers.
 *   dmabridge_watched.lock		spinlock: what watches are told.
 *
 * Fields marked [place+resv] are written with both locks held, so that either
 * is enough to read them.
 *
 * The gate. Block I/O of our own takes no dma_resv: it holds a per-CPU reference
 * on dmabridge_buffer.gate instead, from dmabridge_io_begin() until its DMA has
 * ended. Whoever changes the backing closes the gate and waits for it to drain
 * first, before taking dma_resv: nothing waits for I/O under dma_resv. I/O on a file
 * system that never answers does not end: a move is refused then, and a revoke leaves
 * RAM to it.
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

struct dmabridge_run;
struct dmabridge_stolen;
struct gen_pool;
struct mem_cgroup;

/* --- region.c ------------------------------------------------------------- */

/*
 * How the device memory of a region is handed out: bar.c, stolen.c. A region of
 * system memory has none.
 */
struct dmabridge_memory_ops {
	/* Before anything else. What it did is undone by close() or free(). */
	int (*open)(struct dmabridge_region *region);
	/*
	 * @run->length contiguous bytes, not cleared: fill in phys and page.
	 * Return: 0; -ENOSPC: try with less.
	 */
	int (*take)(struct dmabridge_region *region, struct dmabridge_run *run);
	/*
	 * Pages may be pinned by others still. May be called under dma_resv. Return:
	 * how many bytes may be handed out again; the rest is uncharged later.
	 */
	u64 (*give)(struct dmabridge_region *region, const struct dmabridge_run *run);
	/*
	 * Every buffer is revoked. Return: false: memory is in use still. Then
	 * dmabridge_region_forget() is called when it no longer is.
	 */
	bool (*close)(struct dmabridge_region *region);
	/* The region is freed. */
	void (*free)(struct dmabridge_region *region);
};

/*
 * Memory of one device. Lives as long as its struct device is referenced: by the
 * driver until it unregisters, by buffers, and by opened nodes.
 */
#define STOP_SUSPENDED	BIT(0)
#define STOP_LOST	BIT(1)	/* until the driver says that the device has recovered */
#define STOP_REVOKED	BIT(2)	/* until everybody has let go of what was lost */

struct dmabridge_region {
	struct device dev;
	struct cdev cdev;
	u32 id;
	u32 kind;
	const struct dmabridge_memory_ops *memory;	/* NULL: a system region */
	struct pci_dev *pdev;		/* referenced, or NULL; do not touch its BARs once dead */
	struct p2pdma_provider *provider;	/* BAR: valid until dead */
	int bar;
	bool has_pages;
	u64 address;			/* of the function, or 0 */
	phys_addr_t start;		/* never leaves the kernel */
	phys_addr_t in_bar;		/* the same memory by its BAR */
	u64 size;
	u64 limit;
	u64 move_limit;
	bool take_unrevocable;
	/*
	 * The driver's; not to be looked at once dead. Never NULL. Moves may: they
	 * end before that.
	 */
	const struct dmabridge_region_ops *ops;
	void *priv;
	bool has_engine;		/* ops->copy */
	bool has_veto;			/* ops->veto */
	char name[DMABRIDGE_NAME_MAX];
	char driver[DMABRIDGE_NAME_MAX];
	atomic64_t used;		/* bytes handed out */

	struct gen_pool *pool;		/* of physical addresses; not for a BAR with pages */
	void __iomem *io;		/* BAR without pages: valid until dead */
	struct dmabridge_stolen *stolen;	/* of a stolen region */

	struct dentry *debugfs;
	struct mutex lock;		/* of what names it below */
	struct list_head buffers;	/* lock */
	u64 sweep;			/* lock: the last walk over all buffers */
	struct rw_semaphore entry;	/* read: a buffer is being made */
	unsigned int stops;		/* entry; STOP_*: no device memory to be had */
	bool dead;			/* entry */
	struct mutex driver_lock;	/* outermost; suspend and resume */
	struct work_struct recovery;	/* after dmabridge_revoke_all() */
};

int dmabridge_region_init(void);
void dmabridge_region_exit(void);
/*
 * A region of @dev that nobody can see yet, for the caller to fill in and to
 * register. @suffix completes its default name. Dropped by put_device().
 */
struct dmabridge_region *dmabridge_region_alloc(struct device *dev,
						const struct dmabridge_region_desc *desc,
						const char *suffix);
/* Takes the region over, also on error. Return: the region, or why not. */
struct dmabridge_region *dmabridge_region_register(struct dmabridge_region *region);
/* The last that is done with a region that was registered. Drops the reference. */
void dmabridge_region_forget(struct dmabridge_region *region);
/* The PCI function of a region, for people; 0: it has none. */
u64 dmabridge_region_address(const struct dmabridge_region *region);
/* Whether its device memory is behind a BAR, and not RAM. */
static inline bool dmabridge_region_is_io(const struct dmabridge_region *region)
{
	return region->kind == DMABRIDGE_REGION_BAR;
}

/* Referenced, or NULL: there is none with that id. */
struct dmabridge_region *dmabridge_region_get(u32 id);
/* Whether it makes buffers now: 0; -ENODEV: it is gone; -EBUSY: stopped. entry held. */
int dmabridge_region_open(const struct dmabridge_region *region);
/* Asks its driver. Return: whether @importer must not reach device memory. */
bool dmabridge_region_vetoes(struct dmabridge_region *region, struct device *importer, u64 *value);
u32 dmabridge_region_count(void);
/* Fill in @info for the first region whose id is @info->id or higher. */
int dmabridge_region_describe(struct dmabridge_region_info *info);
int dmabridge_region_charge(struct dmabridge_region *region, u64 size);
void dmabridge_region_uncharge(struct dmabridge_region *region, u64 size);

/* --- backing.c ------------------------------------------------------------ */

/* Contiguous memory that holds the buffer's bytes from @start on. */
struct dmabridge_run {
	u64 start;
	u64 length;
	phys_addr_t phys;
	struct page *page;		/* the first; NULL: a BAR without pages */
};

/*
 * The memory that holds a buffer's bytes. Referenced by the buffer while it is
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
/* Drop our own reference on each. */
void dmabridge_put_pages(struct page *page, u64 length);
const struct dmabridge_run *dmabridge_backing_find(const struct dmabridge_backing *backing,
						   u64 offset);
/* Pages that others than we have references on: mappings and pins. */
u64 dmabridge_backing_pins(const struct dmabridge_backing *backing);
/* Memory behind a BAR. Else it is RAM: it has pages, and is cached. */
static inline bool dmabridge_backing_is_io(const struct dmabridge_backing *backing)
{
	return backing->placement == DMABRIDGE_PLACEMENT_DEVICE &&
	       dmabridge_region_is_io(backing->region);
}

/* Where the CPU finds it. For a BAR it is to be accessed as I/O memory. */
void *dmabridge_run_address(const struct dmabridge_backing *backing,
			    const struct dmabridge_run *run);

/* --- copy.c --------------------------------------------------------------- */

/*
 * Copy @length bytes of @from, from @from_offset on, to @to_offset of @to. One of
 * the two at least is system memory. Return: 0; -EINTR: fatal signal; -ENODEV:
 * @stop became true, or the device is gone; other: the device's engine failed.
 */
int dmabridge_copy_backing(const struct dmabridge_backing *to, u64 to_offset,
			   const struct dmabridge_backing *from, u64 from_offset, u64 length,
			   const bool *stop);
/* --- pool.c --------------------------------------------------------------- */

/* Memory that is ours alone to hand out: region->pool. */
int dmabridge_pool_create(struct dmabridge_region *region);
void dmabridge_pool_destroy(struct dmabridge_region *region);
int dmabridge_pool_take(struct dmabridge_region *region, struct dmabridge_run *run);
u64 dmabridge_pool_give(struct dmabridge_region *region, const struct dmabridge_run *run);

/* --- stolen.c ------------------------------------------------------------- */

int dmabridge_stolen_init(void);
void dmabridge_stolen_exit(void);
/* Bytes that were given back, but are pinned. */
u64 dmabridge_stolen_quarantined(struct dmabridge_region *region);

/* --- user.c --------------------------------------------------------------- */

/* Somebody who uses a buffer. On the buffer's list from join to leave. */
struct dmabridge_user_state {
	struct list_head node;			/* [place+resv] */
	struct dmabridge_buffer *buffer;
	struct dma_buf_attachment *attach;	/* or NULL */
	u32 kind;
	u32 flags;				/* DMABRIDGE_USER_*; [place+resv], PINNED: resv */
	u32 nr_pins;				/* resv */
	u64 device;
	u32 policy;
	u32 path_route;				/* once reaches_device */
	bool reaches_device;
	bool bounces;				/* by copies, if it does not reach the device */
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
/* Back to the device, if that is where it belongs by now. place_lock held. */
void dmabridge_go_home(struct dmabridge_buffer *buffer);
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

/* --- facts.c -------------------------------------------------------------- */

/* How a driver attaches. */
struct dmabridge_attacher {
	struct device *dev;
	u32 policy;
	bool is_static;
	bool peer2peer;
	bool revocable;
};

/* The importer's half of @facts, which are zero before: of an attachment... */
void dmabridge_attacher_facts(struct dmabridge_region *region,
			      const struct dmabridge_attacher *attacher,
			      struct dmabridge_facts *facts);
/* ... and of an importer of our own. */
void dmabridge_user_facts(struct dmabridge_region *region, u32 buffer_policy,
			  const struct dmabridge_user_desc *desc, struct dmabridge_facts *facts);
/* All facts about an importer of our own and a dma-buf of another exporter. */
void dmabridge_foreign_facts(const struct dmabridge_reason *foreign, u64 size,
			     const struct dmabridge_user_desc *desc,
			     struct dmabridge_facts *facts);
/* The buffer's half. place_lock held. */
void dmabridge_buffer_facts(struct dmabridge_buffer *buffer, struct dmabridge_facts *facts);
/* The same of a buffer that @region would make. */
void dmabridge_new_buffer_facts(const struct dmabridge_region *region, u64 size, u32 policy,
				struct dmabridge_facts *facts);

/* --- negotiate.c ---------------------------------------------------------- */

bool dmabridge_negotiate_valid(const struct dmabridge_negotiate *arg);
/* Fills in verdict and placement, which are clear before. */
int dmabridge_negotiate(struct dmabridge_negotiate *arg);

/* --- buffer.c ------------------------------------------------------------- */

struct dmabridge_buffer {
	struct dma_buf *dmabuf;
	struct dmabridge_region *region;	/* referenced */
	struct list_head region_node;		/* region->lock */
	u64 sweep;				/* region->lock */
	bool finished;				/* region->lock: somebody has finished its revoke */
	u64 size;
	u32 policy;
	struct mem_cgroup *memcg;		/* the creator's, referenced; pays for RAM */

	struct mutex place_lock;		/* of what is placed, and of moving it */
	u32 placement;				/* [place+resv]; NONE: revoked */
	struct dmabridge_backing *backing;	/* [place+resv], and fixed while the gate is held */
	struct list_head users;			/* [place+resv] */
	struct dmabridge_reason last_move;	/* [place+resv] */
	u64 generation;				/* [place+resv]; read anywhere */
	u64 moves;				/* [place+resv] */
	bool redirected;			/* [place+resv]: in system memory for users */
	bool revoked;				/* set once, before the gate closes for good */
	bool revoked_on_device;			/* [place+resv]: where it was by then */
	bool touched;				/* set once: somebody could have written a byte */
	struct list_head mappings;		/* resv: live DMA mappings */
	u32 nr_io_mappings;			/* resv: of those, of a BAR, also replaced memory */
	wait_queue_head_t unmap_wait;		/* nr_io_mappings became 0 */
	struct dmabridge_user last_refused;	/* resv */
	struct dmabridge_watched *watched;

	struct percpu_ref gate;
	wait_queue_head_t gate_wait;		/* gate opened, drained, or buffer revoked */
	struct rcu_head rcu;
};

extern const struct dma_buf_ops dmabridge_dma_buf_ops;

/*
 * Our buffer behind a dma-buf fd of the current process. Return: with a reference on
 * its dma-buf, to be dropped with dmabridge_buffer_put(); -EBADF: not open; -EINVAL:
 * no dma-buf; -EMEDIUMTYPE: a dma-buf of another exporter.
 */
struct dmabridge_buffer *dmabridge_buffer_get(int fd);
/* Take a reference on the dma-buf of a buffer that the caller has one on. */
struct dmabridge_buffer *dmabridge_buffer_ref(struct dmabridge_buffer *buffer);
/* Where a new buffer's bytes are. */
u32 dmabridge_first_placement(const struct dmabridge_region *region, u32 policy);
int dmabridge_buffer_query(struct dmabridge_buffer *buffer, struct dmabridge_query *query);

/* --- placement.c ---------------------------------------------------------- */

/* With I/O that may never end, before it is left to itself: jiffies. */
#define IO_PATIENCE	(3 * HZ)

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
/*
 * Whether dmabridge_move_locked() can be expected to succeed: what it alone finds
 * out (no memory, pins through user mappings, fences that do not end, an engine
 * that fails, I/O that does not end) is left out. Reasons against it are added to
 * @verdict. place_lock held.
 */
int dmabridge_check_move(struct dmabridge_buffer *buffer, u32 placement,
			 struct dmabridge_verdict *verdict);
/* Move on request. */
int dmabridge_move(struct dmabridge_buffer *buffer, struct dmabridge_move *arg);
/* To system memory, by its driver's will. @code is put on record. */
int dmabridge_move_away(struct dmabridge_buffer *buffer, u32 code);
/* Back to the device, if only users or its driver took it away from there. */
void dmabridge_move_home(struct dmabridge_buffer *buffer);
/* Nobody gets at the buffer from now on. Waits for no I/O, fence or unmap. */
void dmabridge_revoke_begin(struct dmabridge_buffer *buffer);
/*
 * Nobody is at it any more, but that I/O on RAM is waited for until @until (jiffies) only.
 * After the former; may be called again.
 */
void dmabridge_revoke_finish(struct dmabridge_buffer *buffer, unsigned long until);
/* Until no BAR is mapped any more. Who maps one was told to let go. */
void dmabridge_wait_unmaps(struct dmabridge_buffer *buffer);
void dmabridge_gate_released(struct percpu_ref *gate);

/* --- mapping.c ------------------------------------------------------------ */

struct sg_table *dmabridge_map(struct dma_buf_attachment *attach, enum dma_data_direction dir);
void dmabridge_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		     enum dma_data_direction dir);
/* Whether the backing is mapped by somebody who cannot be told to let go. resv held. */
bool dmabridge_mapped_for_good(struct dmabridge_buffer *buffer);
/* Before the CPU reads the pages, or after it wrote them. resv held. */
void dmabridge_sync_for_cpu(struct dmabridge_buffer *buffer);
void dmabridge_sync_for_device(struct dmabridge_buffer *buffer);
int dmabridge_begin_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction dir);
int dmabridge_end_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction dir);

/* --- mmap.c --------------------------------------------------------------- */

int dmabridge_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma);

/* --- path.c --------------------------------------------------------------- */

/* How @client reaches a @region of a BAR: fills in distance, path_route and blockers. */
void dmabridge_path_facts(struct dmabridge_facts *facts, const struct dmabridge_region *region,
			  struct device *client);
/* The PCI function that @dev is, or is below of; NULL. No reference. */
struct pci_dev *dmabridge_pci_parent(struct device *dev);
u64 dmabridge_pci_address(struct pci_dev *pdev);

/* --- deny.c --------------------------------------------------------------- */

/* Whether the administrator keeps the two from P2P. */
bool dmabridge_denied(struct pci_dev *a, struct pci_dev *b);

/* --- importer.c ----------------------------------------------------------- */

u64 dmabridge_importer_mask(void);
int dmabridge_importer_bind(struct dma_buf *dmabuf, struct dmabridge_bind *bind,
			    struct file **file);
int dmabridge_importer_ask(const struct dmabridge_question *question,
			   struct dmabridge_negotiate *arg);

/* --- foreign.c ------------------------------------------------------------ */

/* Nobody can say anything about it. Return: -EMEDIUMTYPE, with the reason in @verdict. */
int dmabridge_foreign_refuse(const struct dma_buf *dmabuf, struct dmabridge_verdict *verdict);

/* --- watch.c -------------------------------------------------------------- */

/* Before anyone else knows of the buffer: sets buffer->watched. */
int dmabridge_watched_create(struct dmabridge_buffer *buffer);
/* After each change of the generation. resv held. */
void dmabridge_watched_changed(struct dmabridge_buffer *buffer);
/* The buffer's last word. Its memory is free by then. */
void dmabridge_watched_released(struct dmabridge_buffer *buffer);
int dmabridge_watch_create(struct dmabridge_buffer *buffer, struct dmabridge_watch *arg,
			   struct file **file);

/* --- debugfs.c ------------------------------------------------------------ */

void dmabridge_debugfs_init(void);
void dmabridge_debugfs_exit(void);
void dmabridge_debugfs_add(struct dmabridge_region *region);
/* Waits for readers: no lock that they take may be held. */
void dmabridge_debugfs_remove(struct dmabridge_region *region);

/* --- names.c -------------------------------------------------------------- */

/* "unknown" for a value that has none. */
const char *dmabridge_region_kind_text(u32 kind);
const char *dmabridge_placement_text(u32 placement);
const char *dmabridge_policy_text(u32 policy);
const char *dmabridge_route_text(u32 route);
const char *dmabridge_user_kind_text(u32 kind);
const char *dmabridge_reason_text(u32 code);
void dmabridge_address_text(char *to, size_t size, u64 device);

/* --- control.c ------------------------------------------------------------ */

static inline void dmabridge_reason_name(struct dmabridge_reason *reason, const char *name)
{
	strscpy_pad(reason->name, name, sizeof(reason->name));
}

#endif /* _DMABRIDGE_INTERNAL_H */
