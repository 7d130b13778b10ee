// SPDX-License-Identifier: GPL-2.0-only
/*
 * Watches: fds that tell when a buffer moves, is revoked or is released.
 *
 * Lifetime. A watch must not keep the memory, and so has no reference on the
 * dma-buf. What a buffer and its watches have in common is a struct
 * dmabridge_watched: the buffer holds one reference from its creation to its
 * release, each watch one for as long as its file is open.
 *
 * An event is the state, not its history: of several moves between two reads
 * only the last is told, with its generation. So nothing queues up for those who
 * do not read.
 */
#include <linux/anon_inodes.h>
#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uio.h>

#include "internal.h"

struct dmabridge_watched {
	struct kref ref;
	wait_queue_head_t wait;
	spinlock_t lock;		/* all below, and the watches' seen; taken under dma_resv */
	struct dmabridge_event state;	/* flags not 0: the last there is */
	u64 changes;			/* of state */
	struct list_head eventfds;	/* watches that have one */
};

struct watch {
	struct dmabridge_watched *watched;	/* referenced */
	struct list_head node;			/* watched->eventfds */
	struct eventfd_ctx *eventfd;		/* referenced, or NULL */
	u64 seen;				/* watched->changes when it was read last */
};

/* --- the buffer's side ---------------------------------------------------------- */

int dmabridge_watched_create(struct dmabridge_buffer *buffer)
{
	struct dmabridge_watched *watched;

	watched = kzalloc_obj(*watched, GFP_KERNEL_ACCOUNT);
	if (!watched)
		return -ENOMEM;
	kref_init(&watched->ref);
	init_waitqueue_head(&watched->wait);
	spin_lock_init(&watched->lock);
	INIT_LIST_HEAD(&watched->eventfds);
	watched->state.generation = buffer->generation;
	watched->state.placement = buffer->placement;
	buffer->watched = watched;
	return 0;
}

static void watched_free(struct kref *ref)
{
	kfree(container_of(ref, struct dmabridge_watched, ref));
}

static void watched_put(struct dmabridge_watched *watched)
{
	kref_put(&watched->ref, watched_free);
}

static void announce(struct dmabridge_watched *watched)
{
	struct watch *watch;

	lockdep_assert_held(&watched->lock);
	watched->changes++;
	list_for_each_entry(watch, &watched->eventfds, node)
		eventfd_signal(watch->eventfd);
	wake_up_all(&watched->wait);
}

void dmabridge_watched_changed(struct dmabridge_buffer *buffer)
{
	struct dmabridge_watched *watched = buffer->watched;

	dma_resv_assert_held(buffer->dmabuf->resv);
	spin_lock(&watched->lock);
	watched->state.generation = buffer->generation;
	watched->state.placement = buffer->placement;
	watched->state.reason = buffer->last_move;
	if (buffer->placement == DMABRIDGE_PLACEMENT_NONE)
		watched->state.flags |= DMABRIDGE_EVENT_REVOKED;
	announce(watched);
	spin_unlock(&watched->lock);
}

void dmabridge_watched_released(struct dmabridge_buffer *buffer)
{
	struct dmabridge_watched *watched = buffer->watched;
	bool was_over;

	/* A buffer that was never finished. */
	if (!watched)
		return;
	spin_lock(&watched->lock);
	was_over = watched->state.flags;
	watched->state.flags |= DMABRIDGE_EVENT_RELEASED;
	/* The revoke was the last event, and said so. */
	if (!was_over)
		announce(watched);
	spin_unlock(&watched->lock);
	watched_put(watched);
}

/* --- a watch's file --------------------------------------------------------------- */

/* Return: 1: @event is news; 0: there was news, and there will be no more; -EAGAIN: none yet. */
static int take_event(struct watch *watch, struct dmabridge_event *event)
{
	struct dmabridge_watched *watched = watch->watched;
	int ret = 1;

	spin_lock(&watched->lock);
	*event = watched->state;
	if (watch->seen == watched->changes)
		ret = watched->state.flags ? 0 : -EAGAIN;
	watch->seen = watched->changes;
	spin_unlock(&watched->lock);
	return ret;
}

static void give_event_back(struct watch *watch)
{
	struct dmabridge_watched *watched = watch->watched;

	spin_lock(&watched->lock);
	watch->seen = watched->changes - 1;
	spin_unlock(&watched->lock);
}

/* What there is to know, as poll() names it; 0: nothing. */
static __poll_t pending(struct watch *watch)
{
	struct dmabridge_watched *watched = watch->watched;
	__poll_t events = 0;

	spin_lock(&watched->lock);
	if (watch->seen != watched->changes)
		events |= EPOLLIN | EPOLLRDNORM;
	if (watched->state.flags)
		events |= EPOLLHUP;
	spin_unlock(&watched->lock);
	return events;
}

static ssize_t watch_read(struct kiocb *iocb, struct iov_iter *to)
{
	struct file *file = iocb->ki_filp;
	struct watch *watch = file->private_data;
	bool nowait = file->f_flags & O_NONBLOCK || iocb->ki_flags & IOCB_NOWAIT;
	struct dmabridge_event event;
	int ret;

	if (iov_iter_count(to) < sizeof(event))
		return -EINVAL;
	/* Another reader may be faster. */
	while ((ret = take_event(watch, &event)) == -EAGAIN && !nowait) {
		ret = wait_event_interruptible(watch->watched->wait, pending(watch));
		if (ret)
			return ret;
	}
	if (ret <= 0)
		return ret;
	if (copy_to_iter(&event, sizeof(event), to) != sizeof(event)) {
		give_event_back(watch);
		return -EFAULT;
	}
	return sizeof(event);
}

static __poll_t watch_poll(struct file *file, poll_table *table)
{
	struct watch *watch = file->private_data;

	poll_wait(file, &watch->watched->wait, table);
	return pending(watch);
}

static void watch_free(struct watch *watch)
{
	if (watch->eventfd) {
		spin_lock(&watch->watched->lock);
		list_del(&watch->node);
		spin_unlock(&watch->watched->lock);
		eventfd_ctx_put(watch->eventfd);
	}
	watched_put(watch->watched);
	kfree(watch);
}

static int watch_release(struct inode *inode, struct file *file)
{
	watch_free(file->private_data);
	return 0;
}

static const struct file_operations watch_fops = {
	.owner = THIS_MODULE,
	.read_iter = watch_read,
	.poll = watch_poll,
	.release = watch_release,
	.llseek = noop_llseek,
};

/* --- create ----------------------------------------------------------------------- */

/* Whatever happens from here on, the watch will tell. Takes over @eventfd, also on error. */
static struct watch *watch_add(struct dmabridge_watched *watched, struct eventfd_ctx *eventfd,
			       u64 *generation)
{
	struct watch *watch;
	int ret = 0;

	watch = kzalloc_obj(*watch, GFP_KERNEL_ACCOUNT);
	if (!watch) {
		ret = -ENOMEM;
		goto put;
	}
	watch->watched = watched;
	watch->eventfd = eventfd;
	spin_lock(&watched->lock);
	if (watched->state.flags) {
		ret = -ENODEV;
	} else {
		watch->seen = watched->changes;
		*generation = watched->state.generation;
		if (eventfd)
			list_add_tail(&watch->node, &watched->eventfds);
		kref_get(&watched->ref);
	}
	spin_unlock(&watched->lock);
	if (!ret)
		return watch;
put:
	kfree(watch);
	if (eventfd)
		eventfd_ctx_put(eventfd);
	return ERR_PTR(ret);
}

int dmabridge_watch_create(struct dmabridge_buffer *buffer, struct dmabridge_watch *arg,
			   struct file **file)
{
	struct eventfd_ctx *eventfd = NULL;
	struct watch *watch;

	if (arg->eventfd != -1) {
		eventfd = eventfd_ctx_fdget(arg->eventfd);
		if (IS_ERR(eventfd))
			return PTR_ERR(eventfd);
	}
	watch = watch_add(buffer->watched, eventfd, &arg->generation);
	if (IS_ERR(watch))
		return PTR_ERR(watch);
	/* A read does what IOCB_NOWAIT asks: io_uring need not have a thread for it. */
	*file = anon_inode_getfile_fmode("[dmabridge-watch]", &watch_fops, watch, O_RDONLY,
					 FMODE_NOWAIT);
	if (IS_ERR(*file)) {
		watch_free(watch);
		return PTR_ERR(*file);
	}
	return 0;
}
