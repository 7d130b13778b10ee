/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * dmabridge: what an in-kernel importer of our own, which is no dma-buf
 * attachment, needs from the exporter. Drivers attach through dma-buf as ever
 * and need nothing of this.
 *
 * An importer becomes a *user* of a buffer, which negotiates a route for it and
 * may move the buffer; then it brackets each I/O in begin and end. Between the
 * two the backing cannot change, be moved or be freed: a move or a revoke first
 * waits for all I/O to end. A move gives up after a while, a revoke of a BAR does not.
 */
#ifndef _DMABRIDGE_IMPORTER_H
#define _DMABRIDGE_IMPORTER_H

#include <linux/dma-direction.h>
#include <linux/dma-resv.h>
#include <linux/file.h>
#include <linux/mm_types.h>
#include <linux/module.h>

#include "../uapi/dmabridge.h"

struct device;
struct dma_buf;
struct dmabridge_buffer;
struct dmabridge_user_state;

/* Our buffer that is exported as @dmabuf, and lives as long; NULL: another exporter's. */
struct dmabridge_buffer *dmabridge_buffer_of(struct dma_buf *dmabuf);
void dmabridge_buffer_put(struct dmabridge_buffer *buffer);

u64 dmabridge_buffer_generation(const struct dmabridge_buffer *buffer);

/**
 * struct dmabridge_user_desc - an importer that wants to use a buffer
 * @device: who does the DMA. A PCI function, or a device below one; NULL if there is none
 * @name: for people, the disk's name for example
 * @policy: enum dmabridge_policy
 * @write: it will write to the buffer
 * @may_copy: nobody can vouch that the CPU does not copy what it moves
 * @reasons: why this importer cannot do P2P, as far as it alone knows; each is
 *	taken as DMABRIDGE_REASON_BLOCKS_P2P
 * @nr_reasons: number of @reasons, at most DMABRIDGE_MAX_REASONS
 */
struct dmabridge_user_desc {
	struct device *device;
	const char *name;
	u32 policy;
	bool write;
	bool may_copy;
	const struct dmabridge_reason *reasons;
	u32 nr_reasons;
};

/**
 * dmabridge_user_add() - negotiate a route, moving the buffer if that is called for
 * @buffer: referenced by the caller for as long as the user exists
 * @desc: copied
 * @verdict: filled in on success and on refusal
 *
 * May sleep, copy memory, and wait for other importers; killable. Never call it
 * with locks held that I/O completion needs.
 *
 * Return: the user; -EOPNOTSUPP: refused, see @verdict; -ENODEV: revoked;
 * -EBUSY: the buffer cannot be moved now; -EINTR: killed; -ENOMEM.
 */
struct dmabridge_user_state *dmabridge_user_add(struct dmabridge_buffer *buffer,
						const struct dmabridge_user_desc *desc,
						struct dmabridge_verdict *verdict);

/* A buffer, or one that could be made, about which DMABRIDGE_IOCTL_NEGOTIATE asks. */
struct dmabridge_question;

/* The dma-buf that is asked about, if it is another exporter's; else NULL. */
struct dma_buf *dmabridge_question_foreign(const struct dmabridge_question *question);

/**
 * dmabridge_user_ask() - the answer that dmabridge_user_add() would give now
 * @question: from struct dmabridge_importer.ask
 * @desc: as for dmabridge_user_add()
 * @arg: verdict and placement are filled in, on refusal too
 *
 * Moves nothing, leaves nothing behind, and tells nobody.
 *
 * Return: 0, or the error that dmabridge_user_add() would give, as far as it can be
 * told without a move.
 */
int dmabridge_user_ask(const struct dmabridge_question *question,
		       const struct dmabridge_user_desc *desc, struct dmabridge_negotiate *arg);

/**
 * dmabridge_user_remove() - the end of a user
 *
 * All its I/O has ended. May move the buffer back to its device, and so sleep.
 */
void dmabridge_user_remove(struct dmabridge_user_state *user);

/* Contiguous run of a buffer's bytes. @page is its first page. */
struct dmabridge_segment {
	struct page *page;
	unsigned int offset;	/* of the first byte in @page, < PAGE_SIZE */
	size_t length;
};

/**
 * dmabridge_io_begin() - hold a buffer's backing in place for one I/O
 * @user: decides which placement will do: one that was granted P2P reaches the
 *	device and system memory; one that was not, system memory only
 * @dir: DMA_FROM_DEVICE: the I/O writes to the buffer; DMA_TO_DEVICE: reads it
 * @nowait: return -EAGAIN where it would sleep: while the buffer moves, and
 *	while fences on it are pending
 * @route: the route that this I/O takes, enum dmabridge_route
 *
 * The reference costs a per-CPU counter: no lock is shared between CPUs.
 *
 * Return: 0; -EAGAIN: only with @nowait; -ENODEV: revoked; -EREMOTEIO: the
 * placement is out of this user's reach; -EINTR: a fatal signal.
 *
 * Take whatever an unprivileged task can make others wait for (a frozen file
 * system, say) before this, not after: moves and revokes wait for the end. I/O that
 * may never end (on a file of FUSE) is for the routes SYSTEM and STOLEN only, whose
 * memory the device's driver can leave to it.
 */
int dmabridge_io_begin(struct dmabridge_user_state *user, enum dma_data_direction dir,
		       bool nowait, u32 *route);

/**
 * dmabridge_io_end() - the DMA has ended
 *
 * From any context, interrupts included. Must not wait for the submitter's task
 * to run: that task may be the one that waits for the I/O to end.
 */
void dmabridge_io_end(struct dmabridge_user_state *user);

/**
 * dmabridge_io_copy() - copy between a buffer and pages of the importer's own
 * @user: between begin and end
 * @offset: in the buffer
 * @page: first of the contiguous pages
 * @length: in bytes; the range lies inside of the buffer
 * @dir: DMA_FROM_DEVICE: to the buffer; DMA_TO_DEVICE: from it
 *
 * For a user whose route is, or was a moment ago, DMABRIDGE_ROUTE_BOUNCE. By the
 * device's copy engine, if the buffer is on the device and it has one. Sleeps.
 *
 * Return: 0; -EINTR: a fatal signal; -ENODEV: revoked, or the device is gone;
 * other: the engine failed.
 */
int dmabridge_io_copy(struct dmabridge_user_state *user, u64 offset, struct page *page,
		      size_t length, enum dma_data_direction dir);

/**
 * dmabridge_io_segment() - the run of contiguous bytes at @offset
 * @user: between begin and end, whose route was another than DMABRIDGE_ROUTE_BOUNCE
 * @offset: below the buffer's size
 * @length: bytes wanted; the segment has that many or fewer, and one at least
 *
 * Logarithmic in the number of chunks.
 */
struct dmabridge_segment dmabridge_io_segment(struct dmabridge_user_state *user, u64 offset,
					      size_t length);

/**
 * dmabridge_foreign_judge() - the verdict on a dma-buf of another exporter
 * @dmabuf: it
 * @error: 0: it is in system memory, stays there, and the importer gets at its pages;
 *	else why not
 * @desc: the importer
 * @verdict: filled in, on refusal too
 *
 * Return: 0; -EMEDIUMTYPE: it is out of reach; -EOPNOTSUPP: refused by the policy;
 * -ENOMEM.
 */
int dmabridge_foreign_judge(const struct dma_buf *dmabuf, int error,
			    const struct dmabridge_user_desc *desc,
			    struct dmabridge_verdict *verdict);

/* Who attaches to dma-bufs of other exporters in our name. It does no DMA. */
struct device *dmabridge_device(void);

/*
 * Until the fences have signalled. @stop may be NULL. Return: 0; -EINTR: a fatal
 * signal; -ENODEV: @stop became true.
 */
int dmabridge_wait_fences(struct dma_resv *resv, enum dma_resv_usage usage, const bool *stop);

/**
 * struct dmabridge_importer - a module that serves DMABRIDGE_IOCTL_BIND
 * @id: DMABRIDGE_IMPORTER_*
 * @owner: held while @bind or @ask runs
 * @bind: makes a binding of @dmabuf, ours or another exporter's, and fills in
 *	@bind->verdict, on refusal too. Flags, policy and reserved fields have been
 *	checked. Returns the binding's file, whose references keep the binding alive
 *	(it takes its own on the dma-buf), or an ERR_PTR.
 * @ask: what @bind would do with a binding of @target by @arg's policy and flags,
 *	which have been checked: says what speaks against the target itself in
 *	@arg->verdict, and has dmabridge_user_ask(), or of another exporter's dma-buf
 *	dmabridge_foreign_judge(), judge the rest. Claims nothing.
 *	Return: 0, or the error that @bind would give.
 */
struct dmabridge_importer {
	u32 id;
	struct module *owner;
	struct file *(*bind)(struct dma_buf *dmabuf, struct file *target,
			     struct dmabridge_bind *bind);
	int (*ask)(const struct dmabridge_question *question, struct file *target,
		   struct dmabridge_negotiate *arg);
};

/* Return: 0, or -EBUSY if the id is taken. */
int dmabridge_importer_register(const struct dmabridge_importer *importer);
/* From module exit: binds and questions under way hold the module, so there is none. */
void dmabridge_importer_unregister(const struct dmabridge_importer *importer);

/*
 * Copy a structure whose size travels in the ioctl number, by the rules of
 * uapi/dmabridge.h. @cmd: the ioctl's number as it came. Return: 0, -EFAULT,
 * -E2BIG: the caller knows more than we do and uses it.
 */
int dmabridge_copy_in(void *to, size_t size, unsigned int cmd, const void __user *from);
int dmabridge_copy_out(void __user *to, unsigned int cmd, const void *from, size_t size);

/* Append a reason; past DMABRIDGE_MAX_REASONS it is counted, not kept. */
void dmabridge_verdict_add(struct dmabridge_verdict *verdict,
			   const struct dmabridge_reason *reason);

#endif /* _DMABRIDGE_IMPORTER_H */
