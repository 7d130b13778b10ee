// SPDX-License-Identifier: GPL-2.0-only
/*
 * A buffer: memory of a region behind a dma-buf.
 *
 * Lifetime. The dma-buf's file is the buffer's reference count. The last
 * reference calls release, when there is no attachment (dma-buf), no binding or
 * hold (they hold the file) and no CPU mapping (it holds the file) any more.
 *
 * Why nobody can touch device memory after remove(): see dmabridge_revoke() in
 * placement.c.
 */
#include <linux/file.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

/* --- attach / detach --------------------------------------------------------- */

static int buffer_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	struct dmabridge_buffer *buffer = dmabuf->priv;
	struct dmabridge_attacher attacher = {
		.dev = attach->dev,
		.policy = DMABRIDGE_POLICY_PREFER,
		.is_static = !attach->importer_ops,
		.peer2peer = attach->peer2peer,
		.revocable = dma_buf_attach_revocable(attach),
	};
	struct dmabridge_user_state *user;
	struct dmabridge_facts *facts;
	int ret;

	user = kzalloc_obj(*user);
	facts = kzalloc_obj(*facts);
	if (!user || !facts) {
		ret = -ENOMEM;
		goto free;
	}
	user->buffer = buffer;
	user->attach = attach;
	user->kind = attacher.is_static ? DMABRIDGE_USER_STATIC : DMABRIDGE_USER_DYNAMIC;
	user->policy = attacher.policy;
	user->flags = (attacher.peer2peer ? DMABRIDGE_USER_PEER2PEER : 0) |
		      (attacher.revocable ? DMABRIDGE_USER_REVOCABLE : 0);
	dmabridge_user_describe_device(user, attach->dev);
	strscpy(user->name, dev_name(attach->dev), sizeof(user->name));
	strscpy(user->driver, dev_driver_string(attach->dev), sizeof(user->driver));

	dmabridge_attacher_facts(buffer->region, &attacher, facts);
	ret = dmabridge_user_join(user, facts);
	if (ret)
		goto free;
	/* Taken away, never given: stolen memory is reached by those who did not ask, too. */
	if (!user->reaches_device)
		attach->peer2peer = false;
	attach->priv = user;
	kfree(facts);
	return 0;

free:
	kfree(facts);
	kfree(user);
	return ret;
}

static void buffer_detach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	struct dmabridge_user_state *user = attach->priv;

	dmabridge_user_leave(user);
	kfree(user);
}

/* --- pin / unpin ------------------------------------------------------------- */

/*
 * A pin promises that nothing moves until the unpin. It never moves anything
 * itself: attach has seen to the placement. If that is stale by now, the importer
 * may try again (-EAGAIN; -EBUSY would make the core warn).
 */
static int buffer_pin(struct dma_buf_attachment *attach)
{
	struct dmabridge_user_state *user = attach->priv;
	struct dmabridge_buffer *buffer = user->buffer;

	dma_resv_assert_held(buffer->dmabuf->resv);
	if (buffer->placement == DMABRIDGE_PLACEMENT_NONE)
		return -ENODEV;
	if (buffer->placement == DMABRIDGE_PLACEMENT_DEVICE && !user->reaches_device)
		return -EAGAIN;
	user->nr_pins++;
	user->flags |= DMABRIDGE_USER_PINNED;
	return 0;
}

static void buffer_unpin(struct dma_buf_attachment *attach)
{
	struct dmabridge_user_state *user = attach->priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	if (!--user->nr_pins)
		user->flags &= ~DMABRIDGE_USER_PINNED;
}

/* --- release ------------------------------------------------------------------ */

static void buffer_free_rcu(struct rcu_head *rcu)
{
	struct dmabridge_buffer *buffer = container_of(rcu, struct dmabridge_buffer, rcu);

	percpu_ref_exit(&buffer->gate);
	kfree(buffer);
}

static void buffer_free(struct dmabridge_buffer *buffer)
{
	/*
	 * Revoked in system memory, for which nobody waited. There is no I/O any
	 * more, but the gate's own RCU callback must not come after ours.
	 */
	if (percpu_ref_is_dying(&buffer->gate))
		wait_event(buffer->gate_wait, percpu_ref_is_zero(&buffer->gate));
	if (buffer->backing)
		dmabridge_backing_put(buffer->backing);
	dmabridge_watched_released(buffer);
	mem_cgroup_put(buffer->memcg);
	mutex_destroy(&buffer->place_lock);
	put_device(&buffer->region->dev);
	/* Whoever drained the gate may have been seen doing so before it was done. */
	call_rcu(&buffer->rcu, buffer_free_rcu);
}

static void buffer_release(struct dma_buf *dmabuf)
{
	struct dmabridge_buffer *buffer = dmabuf->priv;
	struct dmabridge_region *region = buffer->region;

	mutex_lock(&region->lock);
	list_del(&buffer->region_node);
	mutex_unlock(&region->lock);
	buffer_free(buffer);
}

const struct dma_buf_ops dmabridge_dma_buf_ops = {
	.attach = buffer_attach,
	.detach = buffer_detach,
	.pin = buffer_pin,
	.unpin = buffer_unpin,
	.map_dma_buf = dmabridge_map,
	.unmap_dma_buf = dmabridge_unmap,
	.release = buffer_release,
	.begin_cpu_access = dmabridge_begin_cpu_access,
	.end_cpu_access = dmabridge_end_cpu_access,
	.mmap = dmabridge_mmap,
};

/* --- create ------------------------------------------------------------------- */

static int export_buffer(struct dmabridge_buffer *buffer)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct dma_buf *dmabuf;

	info.exp_name = "dmabridge";
	info.ops = &dmabridge_dma_buf_ops;
	info.size = buffer->size;
	info.flags = O_RDWR;
	info.priv = buffer;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	buffer->dmabuf = dmabuf;
	return 0;
}

u32 dmabridge_first_placement(const struct dmabridge_region *region, u32 policy)
{
	return policy == DMABRIDGE_POLICY_FORBID || !region->memory ?
	       DMABRIDGE_PLACEMENT_SYSTEM : DMABRIDGE_PLACEMENT_DEVICE;
}

/* Under region->entry: the region stays alive until the buffer is on its list. */
static struct dmabridge_buffer *create(struct dmabridge_region *region, u64 size, u32 policy)
{
	u32 placement = dmabridge_first_placement(region, policy);
	struct dmabridge_backing *backing;
	struct dmabridge_buffer *buffer;
	int ret;

	buffer = kzalloc_obj(*buffer, GFP_KERNEL_ACCOUNT);
	if (!buffer)
		return ERR_PTR(-ENOMEM);
	ret = percpu_ref_init(&buffer->gate, dmabridge_gate_released, PERCPU_REF_ALLOW_REINIT,
			      GFP_KERNEL_ACCOUNT);
	if (ret) {
		kfree(buffer);
		return ERR_PTR(ret);
	}
	buffer->size = size;
	buffer->policy = policy;
	buffer->generation = 1;
	mutex_init(&buffer->place_lock);
	INIT_LIST_HEAD(&buffer->users);
	INIT_LIST_HEAD(&buffer->mappings);
	INIT_LIST_HEAD(&buffer->region_node);
	init_waitqueue_head(&buffer->gate_wait);
	init_waitqueue_head(&buffer->unmap_wait);
	buffer->memcg = get_mem_cgroup_from_mm(current->mm);
	buffer->region = region;
	get_device(&region->dev);

	backing = dmabridge_backing_alloc(region, placement, size, buffer->memcg);
	if (IS_ERR(backing)) {
		ret = PTR_ERR(backing);
		goto free;
	}
	buffer->backing = backing;
	buffer->placement = placement;
	ret = dmabridge_watched_create(buffer);
	if (ret)
		goto free;
	ret = export_buffer(buffer);
	if (ret)
		goto free;
	mutex_lock(&region->lock);
	list_add_tail(&buffer->region_node, &region->buffers);
	mutex_unlock(&region->lock);
	return buffer;

free:
	buffer_free(buffer);
	return ERR_PTR(ret);
}

struct dmabridge_buffer *dmabridge_buffer_create(struct dmabridge_region *region, u64 size,
						 u32 policy)
{
	struct dmabridge_buffer *buffer;
	int ret;

	if (!size || !PAGE_ALIGNED(size) || !dmabridge_combine_policies(policy, policy))
		return ERR_PTR(-EINVAL);
	/* A buffer that insists on device memory, where there is none. */
	if (policy == DMABRIDGE_POLICY_REQUIRE && !region->memory)
		return ERR_PTR(-EOPNOTSUPP);
	/* Nor in system memory: it could never go to the device. */
	if (size > region->size)
		return ERR_PTR(-ENOSPC);
	if (down_read_killable(&region->entry))
		return ERR_PTR(-EINTR);
	ret = dmabridge_region_open(region);
	buffer = ret ? ERR_PTR(ret) : create(region, size, policy);
	up_read(&region->entry);
	return buffer;
}
EXPORT_SYMBOL_GPL(dmabridge_buffer_create);

/* --- references ----------------------------------------------------------------- */

struct dmabridge_buffer *dmabridge_buffer_of(struct dma_buf *dmabuf)
{
	return dmabuf->ops == &dmabridge_dma_buf_ops ? dmabuf->priv : NULL;
}
EXPORT_SYMBOL_GPL(dmabridge_buffer_of);

struct dmabridge_buffer *dmabridge_buffer_get(int fd)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);
	struct dmabridge_buffer *buffer;

	if (IS_ERR(dmabuf))
		return ERR_CAST(dmabuf);
	buffer = dmabridge_buffer_of(dmabuf);
	if (!buffer) {
		dma_buf_put(dmabuf);
		return ERR_PTR(-EMEDIUMTYPE);
	}
	return buffer;
}

struct dmabridge_buffer *dmabridge_buffer_ref(struct dmabridge_buffer *buffer)
{
	get_dma_buf(buffer->dmabuf);
	return buffer;
}

void dmabridge_buffer_put(struct dmabridge_buffer *buffer)
{
	dma_buf_put(buffer->dmabuf);
}
EXPORT_SYMBOL_GPL(dmabridge_buffer_put);

struct dma_buf *dmabridge_buffer_dma_buf(struct dmabridge_buffer *buffer)
{
	return buffer->dmabuf;
}
EXPORT_SYMBOL_GPL(dmabridge_buffer_dma_buf);

u64 dmabridge_buffer_generation(const struct dmabridge_buffer *buffer)
{
	return READ_ONCE(buffer->generation);
}
EXPORT_SYMBOL_GPL(dmabridge_buffer_generation);

/* --- where it is ------------------------------------------------------------------ */

int dmabridge_buffer_locate(struct dmabridge_buffer *buffer, u64 at,
			    struct dmabridge_location *location)
{
	const struct dmabridge_run *run;
	u64 inside;

	dma_resv_assert_held(buffer->dmabuf->resv);
	if (buffer->placement == DMABRIDGE_PLACEMENT_NONE)
		return -ENODEV;
	/* Who knows where the bytes are can write them. */
	WRITE_ONCE(buffer->touched, true);
	run = dmabridge_backing_find(buffer->backing, at);
	inside = at - run->start;
	*location = (struct dmabridge_location){
		.placement = buffer->placement,
		.length = run->length - inside,
	};
	if (buffer->placement == DMABRIDGE_PLACEMENT_DEVICE)
		location->offset = run->phys + inside - buffer->region->start;
	else
		location->page = run->page + (inside >> PAGE_SHIFT);
	return 0;
}
EXPORT_SYMBOL_GPL(dmabridge_buffer_locate);

/* --- query ---------------------------------------------------------------------- */

struct snapshot {
	struct dmabridge_user *users;
	struct dmabridge_chunk *chunks;
};

/* User memory must not be touched under dma_resv, so all is copied twice. */
static int take_snapshot(struct dmabridge_buffer *buffer, struct dmabridge_query *query,
			 struct snapshot *to)
{
	const struct dmabridge_backing *backing;
	const struct dmabridge_user_state *user;
	u32 i;
	int ret;

	ret = dma_resv_lock_interruptible(buffer->dmabuf->resv, NULL);
	if (ret)
		return ret;
	backing = buffer->backing;
	query->placement = buffer->placement;
	query->flags = query->placement == DMABRIDGE_PLACEMENT_NONE ? DMABRIDGE_BUFFER_REVOKED : 0;
	query->generation = buffer->generation;
	query->moves = buffer->moves;
	query->last_move = buffer->last_move;
	query->last_refused = buffer->last_refused;
	query->nr_users = 0;
	list_for_each_entry(user, &buffer->users, node) {
		if (query->nr_users < query->max_users)
			dmabridge_user_describe(&to->users[query->nr_users], user);
		query->nr_users++;
	}
	query->nr_chunks = 0;
	if (query->placement == DMABRIDGE_PLACEMENT_DEVICE) {
		query->nr_chunks = backing->nr_runs;
		for (i = 0; i < min(query->nr_chunks, query->max_chunks); i++)
			to->chunks[i] = (struct dmabridge_chunk){
				.offset = backing->runs[i].phys - buffer->region->start,
				.length = backing->runs[i].length,
			};
	}
	dma_resv_unlock(buffer->dmabuf->resv);
	return 0;
}

static int copy_users(const struct dmabridge_query *query, const struct snapshot *from)
{
	u32 i, nr = min(query->nr_users, query->max_users);

	for (i = 0; i < nr; i++)
		if (copy_struct_to_user(u64_to_user_ptr(query->users + (u64)i * query->user_size),
					query->user_size, &from->users[i],
					sizeof(from->users[i]), NULL))
			return -EFAULT;
	return 0;
}

static int copy_chunks(const struct dmabridge_query *query, const struct snapshot *from)
{
	u32 nr = min(query->nr_chunks, query->max_chunks);

	if (copy_to_user(u64_to_user_ptr(query->chunks), from->chunks,
			 array_size(nr, sizeof(*from->chunks))))
		return -EFAULT;
	return 0;
}

/* More than anyone has; bounds what one call makes the kernel allocate. */
#define MAX_QUERY_USERS		1024
#define MAX_QUERY_CHUNKS	SZ_1M

int dmabridge_buffer_query(struct dmabridge_buffer *buffer, struct dmabridge_query *query)
{
	struct snapshot snapshot = {};
	int ret = -ENOMEM;

	if (!query->users != !query->max_users || !query->chunks != !query->max_chunks)
		return -EINVAL;
	if (query->max_users && (query->user_size < offsetofend(struct dmabridge_user, verdict) ||
				 query->user_size > PAGE_SIZE))
		return -EINVAL;
	query->max_users = min(query->max_users, MAX_QUERY_USERS);
	query->max_chunks = min(query->max_chunks, MAX_QUERY_CHUNKS);
	if (query->max_users)
		snapshot.users = kvzalloc_objs(*snapshot.users, query->max_users,
					       GFP_KERNEL_ACCOUNT);
	if (query->max_chunks)
		snapshot.chunks = kvzalloc_objs(*snapshot.chunks, query->max_chunks,
						GFP_KERNEL_ACCOUNT);
	if ((query->max_users && !snapshot.users) || (query->max_chunks && !snapshot.chunks))
		goto free;

	query->region_id = buffer->region->id;
	query->policy = buffer->policy;
	query->size = buffer->size;
	strscpy_pad(query->region, buffer->region->name, sizeof(query->region));
	ret = take_snapshot(buffer, query, &snapshot);
	if (!ret)
		ret = copy_users(query, &snapshot);
	if (!ret)
		ret = copy_chunks(query, &snapshot);
free:
	kvfree(snapshot.chunks);
	kvfree(snapshot.users);
	return ret;
}
