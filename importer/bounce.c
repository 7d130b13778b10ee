// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device memory without pages: no bio and no vector can name it. The bytes come
 * into pages of ours, by direct I/O where the target can, and the exporter copies
 * them on. One piece after the other: who wants speed gives the BAR pages.
 *
 * The buffer is held for the copies alone, never while the file is read or written:
 * that can be one of a file system that never answers (FUSE), and the device's
 * driver waits for whoever holds a buffer. So it may move between two pieces, or
 * between a piece and its copy, which goes to where the buffer is by then.
 */
#include <linux/file.h>
#include <linux/gfp.h>
#include <linux/uio.h>

#include "block.h"

#define MAX_ORDER_WANTED	6	/* pieces of 256 KiB */

struct staging {
	struct page *pages;
	unsigned int order;
};

/* Return: false: no memory at all. */
static bool staging_alloc(struct staging *staging, u32 length)
{
	unsigned int order = min(get_order(length), MAX_ORDER_WANTED);

	for (;;) {
		gfp_t gfp = GFP_KERNEL_ACCOUNT | (order ? __GFP_NORETRY | __GFP_NOWARN : 0);

		staging->pages = alloc_pages(gfp, order);
		staging->order = order;
		if (staging->pages || !order)
			return staging->pages;
		order--;
	}
}

/* Return: as of read_iter(). */
static ssize_t move_file(struct io_uring_cmd *cmd, loff_t pos, void *data, size_t length)
{
	const struct block_target *target = &to_binding(cmd)->target;
	bool write = to_command(cmd)->write;
	struct kvec vec = { .iov_base = data, .iov_len = length };
	struct iov_iter iter;
	struct kiocb iocb;
	int ret;

	init_sync_kiocb(&iocb, target->file);
	iocb.ki_pos = pos;
	iocb.ki_flags &= ~IOCB_DIRECT;
	if (target->direct)
		iocb.ki_flags |= IOCB_DIRECT;
	iov_iter_kvec(&iter, write ? ITER_SOURCE : ITER_DEST, &vec, 1, length);
	if (!write)
		return vfs_iocb_iter_read(target->file, &iocb, &iter);
	/*
	 * Not vfs_iocb_iter_write(): for a file file_enter_write() has done what comes
	 * before, and command.c tells of every write.
	 */
	ret = target->raw ? rw_verify_area(WRITE, target->file, &pos, length) : 0;
	return ret ?: target->file->f_op->write_iter(&iocb, &iter);
}

/* Return: bytes moved from end to end, fewer at the end of the file; or -errno. */
static ssize_t bounce_piece(struct io_uring_cmd *cmd, struct page *pages, u32 done, u32 length)
{
	const struct block_command *command = to_command(cmd);
	struct block_memory *memory = &to_binding(cmd)->memory;
	u64 at = command->buffer_offset + done;
	loff_t pos = command->file_offset + done;
	ssize_t moved;
	int ret;

	if (command->write) {
		ret = memory_copy(memory, at, pages, length, DMA_TO_DEVICE);
		return ret ?: move_file(cmd, pos, page_address(pages), length);
	}
	moved = move_file(cmd, pos, page_address(pages), length);
	if (moved <= 0)
		return moved;
	ret = memory_copy(memory, at, pages, moved, DMA_FROM_DEVICE);
	return ret ?: moved;
}

int bounce_issue(struct io_uring_cmd *cmd, bool nowait)
{
	const struct block_command *command = to_command(cmd);
	struct staging staging;
	ssize_t moved = 0;
	u32 done = 0;

	if (nowait)
		return -EAGAIN;
	if (!staging_alloc(&staging, command->length))
		return -ENOMEM;
	while (done < command->length) {
		u32 piece = min_t(u32, PAGE_SIZE << staging.order, command->length - done);

		moved = bounce_piece(cmd, staging.pages, done, piece);
		if (moved <= 0)
			break;
		done += moved;
		if (moved < piece)
			break;
	}
	__free_pages(staging.pages, staging.order);
	if (done)
		return done;
	/* -EAGAIN now would be taken for a promise to try again. */
	return moved == -EAGAIN ? -EIO : moved;
}
