// SPDX-License-Identifier: GPL-2.0-only
/*
 * Files: vectors over the kernel's mapping of the buffer's pages, handed to the
 * file system as a direct I/O. Vectors of pages (ITER_BVEC) would save work, but
 * then the block layer may merge a peer's memory with somebody else's requests.
 *
 * A file system may serve part of a direct I/O by the CPU and not tell: holes and
 * unwritten extents are zeroed, a write may go through the page cache. So what
 * was done is found out from traces that each leaves:
 *
 *   a read	is counted by submit_bio() for the task that issues it. Bytes that
 *		came by DMA are no more than what was counted meanwhile. Metadata
 *		read meanwhile are counted too, so the file is also asked for holes
 *		first; once known, the same data are not asked for again.
 *   a write	that ended after the call was direct. One that ended within it was,
 *		if neither before nor after it a page was cached there.
 *
 * Bytes without such evidence are "unproved".
 */
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/task_io_accounting_ops.h>
#include <linux/uio.h>

#include "block.h"

#define INLINE_VECS	4

/*
 * A command on a file: one attempt, and perhaps another, that may sleep, for what
 * -EAGAIN left over.
 */
struct file_io {
	struct kiocb iocb;
	struct io_uring_cmd *cmd;
	struct work_struct work;

	/* of this attempt */
	atomic_t refs;			/* its caller's, and its completion's */
	bool nowait;
	bool queued;			/* it ended after the call */
	bool uncached;			/* no page was cached before */
	ssize_t result;			/* once queued */
	u64 submitted;			/* bytes read from disks by the issuing task meanwhile */
	u64 data;			/* bytes of the range that are no hole */

	/* of all attempts */
	u32 length;			/* the command's, or what the submitter may write of it */
	u32 done;
	u32 unproved;

	unsigned int nr_vecs;
	struct kvec *vecs;		/* inline_vecs, or allocated */
	struct kvec inline_vecs[INLINE_VECS];
};

static struct kmem_cache *file_ios;

/* --- the vectors ------------------------------------------------------------------ */

static unsigned int count_vecs(struct block_binding *binding,
			       const struct block_command *command)
{
	unsigned int nr = 0;
	u32 done = 0;

	while (done < command->length) {
		done += memory_vec(&binding->memory, command->buffer_offset + done,
				   command->length - done).iov_len;
		nr++;
	}
	return nr;
}

static int fill_vecs(struct file_io *io)
{
	struct block_binding *binding = to_binding(io->cmd);
	const struct block_command *command = to_command(io->cmd);
	u32 done = 0;
	unsigned int i;

	io->nr_vecs = count_vecs(binding, command);
	io->vecs = io->inline_vecs;
	if (io->nr_vecs > INLINE_VECS) {
		io->vecs = kvmalloc_array(io->nr_vecs, sizeof(*io->vecs), GFP_KERNEL_ACCOUNT);
		if (!io->vecs)
			return -ENOMEM;
	}
	for (i = 0; i < io->nr_vecs; i++) {
		io->vecs[i] = memory_vec(&binding->memory, command->buffer_offset + done,
					 command->length - done);
		done += io->vecs[i].iov_len;
	}
	return 0;
}

static void file_io_free(struct file_io *io)
{
	if (io->vecs != io->inline_vecs)
		kvfree(io->vecs);
	kmem_cache_free(file_ios, io);
}

/* --- evidence ---------------------------------------------------------------------- */

static struct block_target *io_target(struct file_io *io)
{
	return &to_binding(io->cmd)->target;
}

/* Where this attempt begins. */
static loff_t io_pos(struct file_io *io)
{
	return to_command(io->cmd)->file_offset + io->done;
}

static u32 io_left(struct file_io *io)
{
	return io->length - io->done;
}

static bool range_uncached(struct file_io *io)
{
	struct address_space *mapping = io_target(io)->file->f_mapping;

	return !mapping->nrpages ||
	       !filemap_range_has_page(mapping, io_pos(io), io_pos(io) + io_left(io) - 1);
}

/* Direct reads are of whole blocks, beyond the end of the file if need be. */
static u64 read_without_dma(struct file_io *io, u32 bytes)
{
	struct inode *inode = file_inode(io_target(io)->file);
	loff_t pos = io_pos(io);
	u64 expected = round_up(pos + bytes, i_blocksize(inode)) - pos;

	expected = min_t(u64, expected, io_left(io));
	return max(expected - min(expected, io->submitted), bytes - min_t(u64, bytes, io->data));
}

/* How many of the @bytes that an attempt moved cannot be vouched for. */
static u32 unproved_bytes(struct file_io *io, u32 bytes)
{
	/* Where the page cache is used on purpose the route says so. */
	if (!io_target(io)->direct)
		return 0;
	if (!io_target(io)->listed || !(io->iocb.ki_flags & IOCB_DIRECT))
		return bytes;
	if (to_command(io->cmd)->write)
		return io->queued || (io->uncached && range_uncached(io)) ? 0 : bytes;
	return min_t(u64, read_without_dma(io, bytes), bytes);
}

/*
 * What is to be known before a write. One that may sleep clears the page cache
 * first, as the file system is going to, so as to tell what comes later from
 * what was there.
 */
static void look_for_cache(struct file_io *io)
{
	struct kiocb iocb = {
		.ki_filp = io_target(io)->file,
		.ki_pos = io_pos(io),
	};

	io->uncached = range_uncached(io);
	if (!io->uncached && !io->nowait && io_target(io)->direct &&
	    !kiocb_invalidate_pages(&iocb, io_left(io)))
		io->uncached = range_uncached(io);
}

/*
 * What is to be known before a read. Return: false: one has to sleep for it.
 */
static bool look_for_holes(struct file_io *io)
{
	struct block_target *target = io_target(io);
	loff_t size = i_size_read(file_inode(target->file));
	loff_t end = min_t(loff_t, io_pos(io) + io_left(io), size);

	if (io_pos(io) >= end || target_known_data(target, io_pos(io), end)) {
		io->data = io_left(io);
		return true;
	}
	if (io->nowait)
		return false;
	io->data = target_find_data(target, io_pos(io), end);
	return true;
}

/* --- an attempt ---------------------------------------------------------------------- */

int file_enter_write(struct file *file, loff_t pos, size_t length, bool nowait)
{
	struct super_block *sb = file_inode(file)->i_sb;
	struct kiocb iocb = { .ki_filp = file };
	int ret;

	ret = rw_verify_area(WRITE, file, &pos, length);
	if (ret)
		return ret;
	if (!nowait)
		kiocb_start_write(&iocb);
	else if (sb_start_write_trylock(sb))
		__sb_writers_release(sb, SB_FREEZE_WRITE);
	else
		return -EAGAIN;
	return 0;
}

void file_leave_write(struct file *file)
{
	struct kiocb iocb = { .ki_filp = file };

	kiocb_end_write(&iocb);
}

static void attempt_ended(struct kiocb *iocb, long result);

/* Return: as of read_iter(). */
static ssize_t attempt(struct file_io *io)
{
	const struct block_command *command = to_command(io->cmd);
	struct block_target *target = io_target(io);
	unsigned long before;
	struct iov_iter iter;
	ssize_t ret;

	init_sync_kiocb(&io->iocb, target->file);
	io->iocb.ki_pos = io_pos(io);
	io->iocb.ki_flags &= ~IOCB_DIRECT;
	if (target->direct)
		io->iocb.ki_flags |= IOCB_DIRECT;
	if (io->nowait)
		io->iocb.ki_flags |= IOCB_NOWAIT;
	/* Others may not be used to such vectors that outlive the call. */
	if (target->listed)
		io->iocb.ki_complete = attempt_ended;

	iov_iter_kvec(&iter, command->write ? ITER_SOURCE : ITER_DEST, io->vecs, io->nr_vecs,
		      io->length);
	iov_iter_advance(&iter, io->done);
	atomic_set(&io->refs, 2);
	io->queued = false;

	before = task_io_get_inblock(current);
	/* Not vfs_iocb_iter_write(): what it does before was done in file_enter_write(). */
	if (command->write)
		ret = target->file->f_op->write_iter(&io->iocb, &iter);
	else
		ret = vfs_iocb_iter_read(target->file, &io->iocb, &iter);
	io->submitted = (u64)(task_io_get_inblock(current) - before) << SECTOR_SHIFT;

	if (ret == -EIOCBQUEUED && atomic_dec_and_test(&io->refs))
		return io->result;
	return ret;
}

/* Where it ended too early because it was not to wait. */
static bool wants_again(struct file_io *io, ssize_t result)
{
	if (!io->nowait)
		return false;
	if (result == -EAGAIN)
		return true;
	if (result <= 0 || !io_left(io))
		return false;
	return to_command(io->cmd)->write ||
	       io_pos(io) < i_size_read(file_inode(io_target(io)->file));
}

/*
 * Take in what an attempt did. Return: whether another one is needed; else
 * @result is the command's.
 */
static bool take_result(struct file_io *io, ssize_t *result)
{
	/* io_uring's way to say the same: ext4 cannot do this one without waiting. */
	if (io->nowait && *result == -EOPNOTSUPP)
		*result = -EAGAIN;
	if (*result > 0) {
		io->unproved += unproved_bytes(io, *result);
		io->done += *result;
	}
	if (wants_again(io, *result))
		return true;
	if (io->done)
		*result = io->done;
	else if (*result == -EAGAIN)
		*result = -EIO;		/* it was let wait */
	return false;
}

static void finish(struct file_io *io, ssize_t result)
{
	struct io_uring_cmd *cmd = io->cmd;

	command_dma_done(cmd, result, io->unproved);
	file_io_free(io);
	command_post(cmd);
}

/*
 * The second attempt, from a kernel thread. What depends on the submitting task was
 * decided before: the limit on file size by limit_length(), the right to keep
 * set-id bits by the first attempt, which got as far as its I/O.
 */
static void attempt_again(struct work_struct *work)
{
	struct file_io *io = container_of(work, struct file_io, work);
	ssize_t result;

	command_count_reissue(io->cmd);
	io->nowait = false;
	if (to_command(io->cmd)->write)
		look_for_cache(io);
	else
		look_for_holes(io);
	scoped_with_creds(io_target(io)->file->f_cred)
		result = attempt(io);
	if (result == -EIOCBQUEUED)
		return;
	take_result(io, &result);
	finish(io, result);
}

/* A queued attempt has ended, and its call has returned. Any context. */
static void queued_attempt_done(struct file_io *io)
{
	ssize_t result = io->result;

	if (take_result(io, &result)) {
		INIT_WORK(&io->work, attempt_again);
		queue_work(block_workqueue, &io->work);
		return;
	}
	finish(io, result);
}

static void attempt_ended(struct kiocb *iocb, long result)
{
	struct file_io *io = container_of(iocb, struct file_io, iocb);

	io->result = result;
	io->queued = true;
	if (atomic_dec_and_test(&io->refs))
		queued_attempt_done(io);
}

/* --- a command ------------------------------------------------------------------------- */

/* A kernel thread, which may have to go on, knows nothing of RLIMIT_FSIZE. */
static int limit_length(struct file_io *io)
{
	const struct block_command *command = to_command(io->cmd);
	loff_t count = command->length;
	int ret = 0;

	if (command->write)
		ret = generic_write_check_limits(io_target(io)->file, command->file_offset,
						 &count);
	io->length = count;
	return ret;
}

static int first_attempt(struct file_io *io, u32 *unproved)
{
	ssize_t result;

	if (to_command(io->cmd)->write)
		look_for_cache(io);
	else if (io_target(io)->listed && io_target(io)->direct && !look_for_holes(io))
		return -EAGAIN;

	result = attempt(io);
	if (result == -EIOCBQUEUED)
		return result;
	if (take_result(io, &result)) {
		/* Nothing was done: io_uring has threads for that, with the task's identity. */
		if (!io->done)
			return -EAGAIN;
		INIT_WORK(&io->work, attempt_again);
		queue_work(block_workqueue, &io->work);
		return -EIOCBQUEUED;
	}
	*unproved = io->unproved;
	return result;
}

int file_issue(struct io_uring_cmd *cmd, bool nowait, u32 *unproved)
{
	const struct block_target *target = &to_binding(cmd)->target;
	struct file_io *io;
	int ret;

	if (!target->direct)
		to_command(cmd)->route = DMABRIDGE_ROUTE_BOUNCE;
	if (nowait &&
	    (!target->listed || !target->direct || !(target->file->f_mode & FMODE_NOWAIT)))
		return -EAGAIN;

	io = kmem_cache_alloc(file_ios, GFP_KERNEL);
	if (!io)
		return -ENOMEM;
	io->cmd = cmd;
	io->nowait = nowait;
	io->done = 0;
	io->unproved = 0;
	ret = fill_vecs(io);
	if (!ret)
		ret = limit_length(io);
	if (!ret)
		ret = first_attempt(io, unproved);
	if (ret != -EIOCBQUEUED)
		file_io_free(io);
	return ret;
}

int file_init(void)
{
	file_ios = KMEM_CACHE(file_io, SLAB_HWCACHE_ALIGN);
	return file_ios ? 0 : -ENOMEM;
}

void file_exit(void)
{
	kmem_cache_destroy(file_ios);
}
