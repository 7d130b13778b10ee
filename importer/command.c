// SPDX-License-Identifier: GPL-2.0-only
/*
 * io_uring commands on a binding: read, check, begin, issue, end, post.
 *
 * -EAGAIN of an inline issue goes back to io_uring, which calls again from a
 * thread that may sleep. -EAGAIN that arrives later is dealt with in raw.c and
 * file.c. User space sees neither.
 */
#include <linux/fsnotify.h>
#include <linux/overflow.h>

#include "block.h"

static bool is_p2p(u32 route)
{
	return route == DMABRIDGE_ROUTE_P2P_BUS || route == DMABRIDGE_ROUTE_P2P_HOST_BRIDGE;
}

/* The SQE may be user memory still, which can change: each field is read once. */
static int parse(struct io_uring_cmd *cmd, struct block_command *command)
{
	const struct dmabridge_uring_cmd *args = io_uring_sqe_cmd(cmd->sqe,
								  struct dmabridge_uring_cmd);

	switch (cmd->cmd_op) {
	case DMABRIDGE_URING_READ:
		command->write = false;
		break;
	case DMABRIDGE_URING_WRITE:
		command->write = true;
		break;
	default:
		return -ENOTTY;
	}
	if (cmd->flags & IORING_URING_CMD_MASK || READ_ONCE(cmd->sqe->buf_index) ||
	    READ_ONCE(cmd->sqe->splice_fd_in) || READ_ONCE(args->flags) ||
	    READ_ONCE(args->__reserved))
		return -EINVAL;
	command->buffer_offset = READ_ONCE(cmd->sqe->addr);
	command->length = READ_ONCE(cmd->sqe->len);
	command->file_offset = READ_ONCE(args->file_offset);
	return 0;
}

static int check(const struct block_binding *binding, const struct block_command *command)
{
	const struct block_target *target = &binding->target;
	u64 end;

	if (!(target->flags & (command->write ? DMABRIDGE_BIND_WRITE : DMABRIDGE_BIND_READ)))
		return -EBADF;
	if (check_add_overflow(command->buffer_offset, command->length, &end) ||
	    end > memory_size(&binding->memory))
		return -ERANGE;
	if (command->length > COMMAND_MAX_LENGTH ||
	    (command->file_offset | command->length) & (target->offset_align - 1) ||
	    command->buffer_offset & (target->memory_align - 1) ||
	    check_add_overflow(command->file_offset, command->length, &end) || end > LLONG_MAX)
		return -EINVAL;
	/* It can be set on an open file, and would send every write to the end. */
	if (command->write && READ_ONCE(target->file->f_flags) & O_APPEND)
		return -EINVAL;
	return 0;
}

static void count(struct block_binding *binding, const struct block_command *command, s32 result,
		  u32 unproved)
{
	u32 proved;

	if (result < 0) {
		this_cpu_inc(binding->counters->errors);
		return;
	}
	unproved = min_t(u32, unproved, result);
	proved = result - unproved;
	/* A command with a byte in doubt is in doubt; bytes are told apart. */
	this_cpu_inc(binding->counters->commands[unproved ? DMABRIDGE_ROUTE_UNPROVED :
							    command->route]);
	if (proved)
		this_cpu_add(binding->counters->bytes[command->route], proved);
	if (unproved)
		this_cpu_add(binding->counters->bytes[DMABRIDGE_ROUTE_UNPROVED], unproved);
}

/* There is no system call that could be restarted after a signal. */
static s32 without_restart(s32 result)
{
	switch (result) {
	case -ERESTARTSYS:
	case -ERESTARTNOINTR:
	case -ERESTARTNOHAND:
	case -ERESTART_RESTARTBLOCK:
		return -EINTR;
	default:
		return result;
	}
}

/* NVMe, for one, says "invalid" if the PCI core does not let it reach a peer. */
static s32 final_result(const struct block_command *command, s32 result)
{
	if (result == -EINVAL && is_p2p(command->route))
		return -EREMOTEIO;
	return without_restart(result);
}

/*
 * A write to a file may have to wait for a file system to thaw. It does so before
 * the buffer is held: moves and revokes wait for what comes after.
 */
static int begin_write(struct io_uring_cmd *cmd, bool nowait)
{
	const struct block_command *command = to_command(cmd);

	if (!command->write || to_binding(cmd)->target.raw)
		return 0;
	return file_enter_write(to_binding(cmd)->target.file, command->file_offset,
				command->length, nowait);
}

static void end_write(struct io_uring_cmd *cmd)
{
	if (to_command(cmd)->write && !to_binding(cmd)->target.raw)
		file_leave_write(to_binding(cmd)->target.file);
}

void command_dma_done(struct io_uring_cmd *cmd, s32 result, u32 unproved)
{
	struct block_binding *binding = to_binding(cmd);
	struct block_command *command = to_command(cmd);

	command->result = final_result(command, result);
	count(binding, command, command->result, unproved);
	memory_release(&binding->memory);
	end_write(cmd);
}

/* Return: the result, which is an error if what was done is of no use. */
static s32 end_access(struct io_uring_cmd *cmd, s32 result)
{
	int error = memory_end(&to_binding(cmd)->memory, to_command(cmd));

	return result < 0 ? result : without_restart(error) ?: result;
}

static void post_in_task(struct io_tw_req tw_req, io_tw_token_t tw)
{
	struct io_uring_cmd *cmd = io_uring_cmd_from_tw(tw_req);
	struct block_command *command = to_command(cmd);
	struct file *file = to_binding(cmd)->target.file;
	s32 result = end_access(cmd, command->result);

	if (unlikely(result != command->result))
		this_cpu_inc(to_binding(cmd)->counters->errors);
	if (command->result >= 0) {
		if (command->write)
			fsnotify_modify(file);
		else
			fsnotify_access(file);
	}
	io_uring_cmd_done(cmd, result, IO_URING_CMD_TASK_WORK_ISSUE_FLAGS);
}

/* Lazily: it posts one CQE and nothing else waits for it. */
void command_post(struct io_uring_cmd *cmd)
{
	io_uring_cmd_do_in_task_lazy(cmd, post_in_task);
}

void command_count_reissue(struct io_uring_cmd *cmd)
{
	this_cpu_inc(to_binding(cmd)->counters->reissued);
}

/* Between begin and release. */
static int issue(struct io_uring_cmd *cmd, bool nowait, u32 *unproved)
{
	struct block_binding *binding = to_binding(cmd);

	if (is_p2p(to_command(cmd)->route) && unlikely(!target_can_p2p(&binding->target)))
		return -EREMOTEIO;
	if (binding->target.raw)
		return raw_issue(cmd, nowait);
	return file_issue(cmd, nowait, unproved);
}

/* Between parse and result. */
static int run(struct io_uring_cmd *cmd, bool nowait, u32 *unproved)
{
	struct block_binding *binding = to_binding(cmd);
	struct block_command *command = to_command(cmd);
	int ret;

	ret = begin_write(cmd, nowait);
	if (ret)
		return ret;
	ret = memory_begin(&binding->memory, command, nowait);
	if (ret) {
		end_write(cmd);
		return ret;
	}
	if (command->route == DMABRIDGE_ROUTE_BOUNCE) {
		memory_release(&binding->memory);
		ret = bounce_issue(cmd, nowait);
	} else {
		ret = issue(cmd, nowait, unproved);
		if (ret == -EIOCBQUEUED)
			return ret;
		memory_release(&binding->memory);
	}
	end_write(cmd);
	ret = end_access(cmd, ret);
	/* Reads were reported by vfs_iocb_iter_read(). */
	if (ret > 0 && command->write)
		fsnotify_modify(binding->target.file);
	return ret;
}

int command_issue(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct block_binding *binding = to_binding(cmd);
	struct block_command *command = to_command(cmd);
	u32 unproved = 0;
	int ret;

	if (cmd->flags & IORING_URING_CMD_REISSUE)
		command_count_reissue(cmd);
	command->route = DMABRIDGE_ROUTE_NONE;
	ret = parse(cmd, command);
	if (!ret)
		ret = check(binding, command);
	/* As with read(2): nothing is asked of the target, nothing is counted. */
	if (!ret && !command->length)
		return 0;
	if (!ret)
		ret = run(cmd, issue_flags & IO_URING_F_NONBLOCK, &unproved);
	if (ret == -EIOCBQUEUED || ret == -EAGAIN)
		return ret;
	ret = without_restart(ret);
	count(binding, command, ret, unproved);
	return ret;
}
