// SPDX-License-Identifier: GPL-2.0-only
/*
 * Raw block devices: bios of our own, which bio_add_page() marks as not to be
 * merged where they carry a peer's memory. They do to the page cache, and check,
 * what read(2) and write(2) on the device do.
 */
#include <linux/bio.h>
#include <linux/blk-cgroup.h>
#include <linux/cgroup.h>
#include <linux/pagemap.h>
#include <linux/task_io_accounting_ops.h>

#include "block.h"

/*
 * One bio of a command. It is kept after its end, as the work item, where there
 * is something left to do that can sleep.
 */
struct raw_bio {
	struct io_uring_cmd *cmd;
	struct cgroup_subsys_state *css;	/* block cgroup that pays, referenced; or NULL */
	u32 from;			/* of the command's bytes */
	u32 length;
	struct work_struct work;
	struct bio bio;			/* last: its vectors follow */
};

static struct bio_set raw_bios;

static struct raw_bio *to_raw(struct bio *bio)
{
	return container_of(bio, struct raw_bio, bio);
}

static void raw_put(struct raw_bio *raw)
{
	if (raw->css)
		css_put(raw->css);
	bio_put(&raw->bio);
}

/* --- the end ------------------------------------------------------------------ */

static void forget_cache(struct work_struct *work)
{
	struct raw_bio *raw = container_of(work, struct raw_bio, work);
	struct io_uring_cmd *cmd = raw->cmd;
	struct block_command *command = to_command(cmd);
	loff_t end = command->file_offset + command->length - 1;

	/* A page that was read or mapped meanwhile and cannot go stays, as after write(2). */
	invalidate_inode_pages2_range(to_binding(cmd)->target.file->f_mapping,
				      command->file_offset >> PAGE_SHIFT, end >> PAGE_SHIFT);
	raw_put(raw);
	command_post(cmd);
}

static void raw_done(struct raw_bio *raw)
{
	struct io_uring_cmd *cmd = raw->cmd;
	struct block_command *command = to_command(cmd);
	blk_status_t status = READ_ONCE(command->status);
	int error = blk_status_to_errno(status);

	command_dma_done(cmd, status ? error : command->length, 0);
	if (command->write && to_binding(cmd)->target.file->f_mapping->nrpages) {
		INIT_WORK(&raw->work, forget_cache);
		queue_work(block_workqueue, &raw->work);
		return;
	}
	/* The bio first: with the command goes all that keeps this module loaded. */
	raw_put(raw);
	command_post(cmd);
}

/* As whom bios are submitted, where that is not the current task. */
struct origin {
	struct cgroup_subsys_state *css;
	unsigned short ioprio;
};

static void raw_submit(struct io_uring_cmd *cmd, u32 from, u32 length, bool nowait,
		       const struct origin *origin);

static void raw_submit_again(struct work_struct *work)
{
	struct raw_bio *raw = container_of(work, struct raw_bio, work);
	struct origin origin = { .css = raw->css, .ioprio = raw->bio.bi_ioprio };
	struct io_uring_cmd *cmd = raw->cmd;
	u32 from = raw->from, length = raw->length;

	/* Its bio goes back before another is taken: the pool may be down to its reserve. */
	bio_put(&raw->bio);
	command_count_reissue(cmd);
	raw_submit(cmd, from, length, false, &origin);
	if (origin.css)
		css_put(origin.css);
}

static void raw_end_io(struct bio *bio)
{
	struct raw_bio *raw = to_raw(bio);
	struct block_command *command = to_command(raw->cmd);

	if (unlikely(bio->bi_status)) {
		if (bio->bi_status == BLK_STS_AGAIN && bio->bi_opf & REQ_NOWAIT) {
			INIT_WORK(&raw->work, raw_submit_again);
			queue_work(block_workqueue, &raw->work);
			return;
		}
		/* Any of several errors will do. AGAIN would be taken for a promise to retry. */
		WRITE_ONCE(command->status, bio->bi_status == BLK_STS_AGAIN ? BLK_STS_IOERR :
									      bio->bi_status);
	}
	if (atomic_dec_and_test(&command->pending))
		raw_done(raw);
	else
		raw_put(raw);
}

/* --- the beginning ---------------------------------------------------------------- */

static blk_opf_t raw_opf(const struct block_command *command, struct file *file, bool nowait)
{
	blk_opf_t opf = REQ_OP_READ;

	if (command->write) {
		opf = REQ_OP_WRITE | REQ_SYNC | REQ_IDLE;
		if (file->f_flags & O_DSYNC || IS_SYNC(file->f_mapping->host))
			opf |= REQ_FUA;
	}
	if (nowait)
		opf |= REQ_NOWAIT;
	return opf;
}

/* As much as one bio can take without being split: a split cannot be NOWAIT. */
static u32 raw_limit(struct block_device *bdev, sector_t sector, u32 length)
{
	const struct queue_limits *limits = bdev_limits(bdev);
	unsigned int sectors = limits->max_sectors;

	if (limits->chunk_sectors)
		sectors = min(sectors, blk_boundary_sectors_left(bdev->bd_start_sect + sector,
								 limits->chunk_sectors));
	sectors = round_down(sectors, limits->logical_block_size >> SECTOR_SHIFT);
	return min_t(u64, length, (u64)sectors << SECTOR_SHIFT);
}

/* A bio for as many of the bytes as fit. */
static struct bio *raw_build(struct io_uring_cmd *cmd, u32 from, u32 length, bool nowait)
{
	struct block_binding *binding = to_binding(cmd);
	const struct block_command *command = to_command(cmd);
	struct block_device *bdev = binding->target.bdev;
	sector_t sector = (command->file_offset + from) >> SECTOR_SHIFT;
	u64 offset = command->buffer_offset + from;
	struct dmabridge_segment segment;
	unsigned int nr_vecs = 1;
	struct raw_bio *raw;
	struct bio *bio;

	length = raw_limit(bdev, sector, length);
	segment = memory_segment(&binding->memory, offset, length);
	if (segment.length < length)
		nr_vecs = min3(DIV_ROUND_UP(offset_in_page(offset) + length, (u32)PAGE_SIZE),
			       (u32)BIO_MAX_VECS, (u32)bdev_max_segments(bdev));

	bio = bio_alloc_bioset(bdev, nr_vecs, raw_opf(command, binding->target.file, nowait),
			       GFP_KERNEL, &raw_bios);
	bio->bi_iter.bi_sector = sector;
	bio->bi_write_hint = file_inode(binding->target.file)->i_write_hint;
	bio->bi_end_io = raw_end_io;
	while (bio_add_page(bio, segment.page, segment.length, segment.offset) &&
	       bio->bi_iter.bi_size < length)
		segment = memory_segment(&binding->memory, offset + bio->bi_iter.bi_size,
					 length - bio->bi_iter.bi_size);
	/* Out of vectors, and perhaps inside a block. */
	bio->bi_iter.bi_size = round_down(bio->bi_iter.bi_size, bdev_logical_block_size(bdev));

	raw = to_raw(bio);
	raw->cmd = cmd;
	raw->css = NULL;
	raw->from = from;
	raw->length = bio->bi_iter.bi_size;
	return bio;
}

static void raw_keep_css(struct bio *bio)
{
	struct cgroup_subsys_state *css = bio_blkcg_css(bio);

	if (css)
		css_get(css);
	to_raw(bio)->css = css;
}

/*
 * Submit part of a command, for which it has one @pending. @origin: as whom, or
 * NULL: as the current task. Nothing may be used after the last bio is submitted.
 */
static void raw_submit(struct io_uring_cmd *cmd, u32 from, u32 length, bool nowait,
		       const struct origin *origin)
{
	struct block_command *command = to_command(cmd);
	struct bio *bio;

	do {
		u32 size;

		bio = raw_build(cmd, from, length, nowait);
		size = bio->bi_iter.bi_size;
		if (unlikely(!size)) {
			/* Blocks have become larger than what is left: it ends the command. */
			bio_io_error(bio);
			break;
		}
		from += size;
		length -= size;
		if (origin) {
			bio->bi_ioprio = origin->ioprio;
			if (origin->css)
				bio_associate_blkg_from_css(bio, origin->css);
		} else if (command->write) {
			task_io_account_write(size);
		}
		/* The end of a bio forgets it, before a retry could ask. */
		if (nowait)
			raw_keep_css(bio);
		if (length)
			atomic_inc(&command->pending);
		submit_bio(bio);
	} while (length);
}

/* What the page cache has of the range goes to the device, and before a write it goes away. */
static int settle_cache(struct file *file, const struct block_command *command, bool nowait)
{
	struct kiocb iocb = {
		.ki_filp = file,
		.ki_pos = command->file_offset,
		.ki_flags = nowait ? IOCB_NOWAIT : 0,
	};

	if (likely(!file->f_mapping->nrpages))
		return 0;
	return command->write ? kiocb_invalidate_pages(&iocb, command->length) :
				kiocb_write_and_wait(&iocb, command->length);
}

/* Return: 0, or the result. */
static int raw_check(const struct block_target *target, struct block_command *command)
{
	loff_t pos = command->file_offset;
	int ret;

	ret = rw_verify_area(command->write ? WRITE : READ, target->file, &pos, command->length);
	if (ret)
		return ret;
	if (command->write && bdev_read_only(target->bdev))
		return -EPERM;
	if ((pos | command->length) & (bdev_logical_block_size(target->bdev) - 1))
		return -EINVAL;
	return 0;
}

int raw_issue(struct io_uring_cmd *cmd, bool nowait)
{
	const struct block_target *target = &to_binding(cmd)->target;
	struct block_command *command = to_command(cmd);
	loff_t size = bdev_nr_bytes(target->bdev);
	int ret;

	ret = raw_check(target, command);
	if (ret)
		return ret;
	if (command->file_offset >= size)
		return command->write ? -ENOSPC : 0;
	command->length = min_t(loff_t, command->length, size - command->file_offset);
	/* A device may end inside a block: a loop device over an odd file. */
	if (command->length & (bdev_logical_block_size(target->bdev) - 1))
		return -EINVAL;

	/* Zones are written in order: nothing of a command may be put off. */
	if (nowait && (!bdev_nowait(target->bdev) ||
		       (command->write && bdev_is_zoned(target->bdev))))
		return -EAGAIN;
	ret = settle_cache(target->file, command, nowait);
	if (ret)
		return ret;
	if (command->write) {
		ret = file_update_time(target->file);
		if (ret)
			return ret;
	} else {
		file_accessed(target->file);
	}

	command->status = BLK_STS_OK;
	atomic_set(&command->pending, 1);
	raw_submit(cmd, 0, command->length, nowait, NULL);
	return -EIOCBQUEUED;
}

int raw_init(void)
{
	return bioset_init(&raw_bios, BIO_POOL_SIZE, offsetof(struct raw_bio, bio),
			   BIOSET_NEED_BVECS | BIOSET_PERCPU_CACHE);
}

void raw_exit(void)
{
	bioset_exit(&raw_bios);
}
