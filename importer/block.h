/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * dmabridge_block.ko's own structures: block devices and files as importers.
 *
 * Lifetime. A binding is the private data of its file. io_uring holds that file
 * for every command in flight, so the binding, its target and its memory outlive
 * each command, and release() runs when none is left. Nothing is cancelable, as
 * read(2) and write(2) of a file are not.
 *
 * A command holds the buffer in place from memory_begin() until its DMA has ended,
 * and lets go right there, in interrupt context if need be: memory_release(). The
 * submitting task, which posts the CQE, may itself be waiting for the buffer. What
 * is to be done for the memory by a task, memory_end(), it does before it posts. One
 * that bounces holds it for its copies alone (bounce.c).
 *
 * No lock is shared between commands on a buffer of ours. A binding's counters are
 * per CPU.
 */
#ifndef _DMABRIDGE_BLOCK_H
#define _DMABRIDGE_BLOCK_H

#include <linux/atomic.h>
#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/io_uring/cmd.h>
#include <linux/iosys-map.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/seqlock.h>
#include <linux/uio.h>
#include <linux/workqueue.h>

#include "../exporter/dmabridge_importer.h"

/* Bounds the work of one command; io_uring results end at INT_MAX anyway. */
#define COMMAND_MAX_LENGTH	SZ_16M

/* For what must not be done in interrupt context, nor wait for the submitter. */
extern struct workqueue_struct *block_workqueue;

/* --- target.c: what bytes are moved from or to ------------------------------ */

#define TARGET_DATA_RUNS	32

struct data_run {
	loff_t start;
	loff_t end;
};

struct block_target {
	struct file *file;		/* the caller's, referenced */
	u32 flags;			/* DMABRIDGE_BIND_* */
	bool raw;			/* block device: own bios */
	bool listed;			/* ext4 or xfs: known what they do with a direct I/O */
	bool direct;			/* no page cache asked for */
	struct block_device *bdev;	/* whose DMA it is; NULL: not known */
	struct file *claim;		/* keeps others from a raw device we write; or NULL */
	struct file *probe;		/* an open of our own, to ask for holes; or NULL */
	u32 offset_align;		/* of file offset and length, a power of two */
	u32 memory_align;		/* of buffer offset, a power of two */
	/*
	 * A file's change time, in ns, when it was last found fit for P2P; 0: never.
	 * It was asked for, so that every change since gives it another one
	 * (multigrain timestamps).
	 */
	atomic64_t fit_since;

	/*
	 * Where a file was seen to be without holes when last asked. Hints only:
	 * there may be some by now.
	 */
	seqlock_t runs_lock;
	struct data_run runs[TARGET_DATA_RUNS];	/* runs_lock */
	unsigned int next_run;		/* runs_lock; to be overwritten next */
};

struct reason_list {
	u32 nr;
	struct dmabridge_reason reasons[DMABRIDGE_MAX_REASONS];
};

/*
 * Return: 0; else why @file is no target for @flags, with a reason in @verdict:
 * -EBADF: not opened for that; -EINVAL: opened O_APPEND; -EOPNOTSUPP: not a block
 * device or file.
 */
int target_init(struct block_target *target, struct file *file, u32 flags,
		struct dmabridge_verdict *verdict);
/*
 * Keep others from a raw device that is to be written, until target_exit(). Return:
 * 0; else why not, with a reason in @verdict: -EROFS; -EBUSY: it is in use.
 */
int target_claim(struct block_target *target, struct dmabridge_verdict *verdict);
/* Whether it could be claimed now, as far as can be seen without a claim. */
int target_check_claim(const struct block_target *target, struct dmabridge_verdict *verdict);
void target_exit(struct block_target *target);
/* All reasons why DMA to a peer cannot be used now, apart from the PCI path. */
void target_p2p_reasons(const struct block_target *target, struct reason_list *list);
/* The same question, asked by each command. May wait for an inode's lock unless @target is raw. */
bool target_can_p2p(struct block_target *target);
/* The device whose DMA it is, with a PCI function above it; or NULL. */
struct device *target_device(const struct block_target *target);
/* For people: the disk's name, else the file system type's. */
const char *target_name(const struct block_target *target);
/* Whether [@pos, @end) was data when last asked. */
bool target_known_data(struct block_target *target, loff_t pos, loff_t end);
/* How many bytes of [@pos, @end) are data now. Sleeps. */
u64 target_find_data(struct block_target *target, loff_t pos, loff_t end);

/* --- foreign.c: memory of another exporter --------------------------------- */

struct block_foreign {
	struct dma_buf_attachment *attach;	/* keeps it in place, and is never mapped */
	struct iosys_map map;			/* all of it, for the kernel */
	struct mutex begin_lock;		/* one begin_cpu_access() at a time */
};

struct block_command;

/*
 * @fill: it is going to be written. Return: 0; -EOPNOTSUPP, -EREMOTEIO: it is not
 * mapped for the kernel, or is no system memory; else the exporter's error.
 */
int foreign_open(struct block_foreign *foreign, struct dma_buf *dmabuf, bool fill);
void foreign_close(struct block_foreign *foreign, struct dma_buf *dmabuf);
/* As memory_begin(), memory_end(), memory_segment(), memory_vec(). */
int foreign_begin(struct block_foreign *foreign, struct dma_buf *dmabuf,
		  const struct block_command *command, bool nowait);
int foreign_end(struct block_foreign *foreign, struct dma_buf *dmabuf,
		const struct block_command *command);
struct dmabridge_segment foreign_segment(const struct block_foreign *foreign, u64 offset,
					 size_t length);
struct kvec foreign_vec(const struct block_foreign *foreign, u64 offset, size_t length);

/* --- memory.c: where bytes are moved to or from ------------------------------ */

struct block_memory {
	struct dma_buf *dmabuf;			/* referenced */
	struct dmabridge_buffer *buffer;	/* NULL: another exporter's */
	struct dmabridge_user_state *user;	/* of the buffer */
	struct block_foreign foreign;		/* if there is no buffer */
};

/*
 * Negotiate a route to @dmabuf and keep it. Return: 0; as dmabridge_user_add(), or as
 * dmabridge_foreign_judge().
 */
int memory_open(struct block_memory *memory, struct dma_buf *dmabuf,
		const struct dmabridge_user_desc *desc, struct dmabridge_verdict *verdict);
void memory_close(struct block_memory *memory);
/* What memory_open() would say. */
int memory_ask(const struct dmabridge_question *question, const struct dmabridge_user_desc *desc,
	       struct dmabridge_negotiate *arg);
u64 memory_size(const struct block_memory *memory);
/* Of a buffer of ours; else 0. */
u64 memory_generation(const struct block_memory *memory);
/*
 * Hold it for a command, whose route it sets, and wait for its fences. Return: 0;
 * -EAGAIN: only with @nowait, it would have to wait; else as dmabridge_io_begin().
 */
int memory_begin(struct block_memory *memory, struct block_command *command, bool nowait);
/* The DMA has ended. Any context. */
void memory_release(struct block_memory *memory);
/*
 * After memory_release(): show the bytes to others. Sleeps. Return: 0, or why they
 * may not see them.
 */
int memory_end(struct block_memory *memory, const struct block_command *command);
/*
 * Not between begin and release: copy between a buffer of ours, wherever it is now, and
 * contiguous pages. Sleeps. @dir and Return: as dmabridge_io_copy(), or as
 * dmabridge_io_begin().
 */
int memory_copy(struct block_memory *memory, u64 offset, struct page *page, size_t length,
		enum dma_data_direction dir);
/* Between begin and release, on other routes than bounce: a run of pages at @offset. */
struct dmabridge_segment memory_segment(struct block_memory *memory, u64 offset, size_t length);
/* The same as the kernel addresses it. */
struct kvec memory_vec(struct block_memory *memory, u64 offset, size_t length);

/* --- binding.c -------------------------------------------------------------- */

struct binding_counters {
	u64 commands[DMABRIDGE_NR_ROUTES];
	u64 bytes[DMABRIDGE_NR_ROUTES];
	u64 errors;
	u64 reissued;
};

struct block_binding {
	struct block_target target;
	struct block_memory memory;
	struct dmabridge_verdict verdict;	/* as at bind */
	struct binding_counters __percpu *counters;
};

struct file *binding_create(struct dma_buf *dmabuf, struct file *target,
			    struct dmabridge_bind *bind);
/* What binding_create() would say, without a binding. */
int binding_ask(const struct dmabridge_question *question, struct file *target,
		struct dmabridge_negotiate *arg);

/* --- command.c -------------------------------------------------------------- */

/*
 * An io_uring command, in its PDU. Written before the I/O is submitted; from
 * then on @pending and @status belong to its completions, and the rest to the
 * last of these.
 */
struct block_command {
	u64 buffer_offset;
	u64 file_offset;
	u32 length;
	s32 result;
	atomic_t pending;		/* bios that have not ended */
	u8 route;			/* enum dmabridge_route */
	bool write;			/* to the target */
	blk_status_t status;		/* of a bio that failed */
};

static inline struct block_command *to_command(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_to_pdu(cmd, struct block_command);
}

static inline struct block_binding *to_binding(struct io_uring_cmd *cmd)
{
	return cmd->file->private_data;
}

int command_issue(struct io_uring_cmd *cmd, unsigned int issue_flags);
/*
 * The DMA of a command that was queued has ended: count it, and let the buffer
 * go. @unproved: how many of the bytes nobody can vouch for. Any context.
 */
void command_dma_done(struct io_uring_cmd *cmd, s32 result, u32 unproved);
/*
 * Have the submitter end it and post the CQE, after command_dma_done(). Nothing of @cmd
 * may be used after. Any context.
 */
void command_post(struct io_uring_cmd *cmd);
/* It is issued again after -EAGAIN. */
void command_count_reissue(struct io_uring_cmd *cmd);

/* --- raw.c, file.c, bounce.c -------------------------------------------------- */

/*
 * Issue a command between begin and end. With @nowait it does not sleep for
 * long. @unproved is set if there is a result at once.
 *
 * Return: -EIOCBQUEUED: command_dma_done() and command_post() follow, or came
 * already; -EAGAIN: only with @nowait, nothing was done; else the result.
 */
int raw_issue(struct io_uring_cmd *cmd, bool nowait);
int file_issue(struct io_uring_cmd *cmd, bool nowait, u32 *unproved);
/* Issue one that bounces, with the buffer let go. Return: the same, never -EIOCBQUEUED. */
int bounce_issue(struct io_uring_cmd *cmd, bool nowait);

/*
 * Permission to write, and protection from a freeze, from before
 * dmabridge_io_begin() until after dmabridge_io_end(). Return: 0; -EAGAIN: only
 * with @nowait; else why not.
 */
int file_enter_write(struct file *file, loff_t pos, size_t length, bool nowait);
void file_leave_write(struct file *file);

int raw_init(void);
void raw_exit(void);
int file_init(void);
void file_exit(void);

#endif /* _DMABRIDGE_BLOCK_H */
