// SPDX-License-Identifier: GPL-2.0-only
/*
 * An attachment: what an importing driver does with a dma-buf, call by call as
 * user space wishes.
 *
 * Locks. The list of mappings and the pins are under the dma-buf's dma_resv, as
 * the exporter's callback comes with it held. Fences and counters are not: an
 * exporter may hold dma_resv for as long as a fence of ours is pending, and just
 * then user space wants to look and to signal.
 *
 * Lifetime. The file is the only reference. Its release signals the fences first,
 * since somebody may wait for one with dma_resv held, and lets no more be made. Then
 * it unmaps, unpins and detaches: after dma_buf_detach() no callback comes.
 */
#include <linux/anon_inodes.h>
#include <linux/atomic.h>
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/scatterlist.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>

#include "internal.h"

struct mapping {
	struct list_head node;		/* attachment->mappings */
	struct sg_table *sgt;
	enum dma_data_direction dir;
	u32 id;
	u32 invalidations;
};

/* A fence that is not signalled yet. */
struct pending {
	struct list_head node;		/* attachment->fences */
	struct dma_fence *fence;	/* referenced */
};

struct attachment {
	struct dma_buf *dmabuf;		/* referenced */
	struct dma_buf_attachment *attach;
	struct client client;
	u32 on_invalidate;

	struct list_head mappings;	/* resv */
	u32 last_id;			/* resv */
	atomic_t nr_mappings;		/* changed under resv */
	atomic_t nr_pins;		/* changed under resv */
	atomic_t invalidations;
	atomic_t invalidations_mapped;
	atomic_t failures;

	spinlock_t fence_lock;		/* inside resv */
	struct list_head fences;	/* fence_lock */
	u32 nr_fences;			/* fence_lock */
	bool closing;			/* fence_lock: nobody is left to signal another */
};

/* --- fences -------------------------------------------------------------------- */

static const char *fence_name(struct dma_fence *fence)
{
	return "dmabridge-test-importer";
}

/*
 * Without release and wait a fence needs nothing of this module once it is
 * signalled: it may outlive it on a dma-buf.
 */
static const struct dma_fence_ops fence_ops = {
	.get_driver_name = fence_name,
	.get_timeline_name = fence_name,
};

static bool remember(struct attachment *attachment, struct pending *pending)
{
	bool closing;

	spin_lock(&attachment->fence_lock);
	closing = attachment->closing;
	if (!closing) {
		list_add_tail(&pending->node, &attachment->fences);
		attachment->nr_fences++;
	}
	spin_unlock(&attachment->fence_lock);
	return !closing;
}

static int add_fence(struct attachment *attachment, enum dma_resv_usage usage)
{
	struct dma_resv *resv = attachment->dmabuf->resv;
	struct dma_fence *fence;
	struct pending *pending;
	int ret;

	dma_resv_assert_held(resv);
	pending = kzalloc_obj(*pending);
	fence = kzalloc_obj(*fence);
	ret = pending && fence ? dma_resv_reserve_fences(resv, 1) : -ENOMEM;
	if (ret)
		goto free;
	/* A context of its own, so that none takes the place of another. */
	dma_fence_init(fence, &fence_ops, NULL, dma_fence_context_alloc(1), 1);
	pending->fence = fence;
	/* The reference of the list may go at once, if user space signals at once. */
	dma_fence_get(fence);
	if (!remember(attachment, pending)) {
		dma_fence_put(fence);
		ret = -ESHUTDOWN;
		goto free;
	}
	dma_resv_add_fence(resv, fence, usage);
	dma_fence_put(fence);
	return 0;

free:
	kfree(fence);
	kfree(pending);
	return ret;
}

static void signal_fences(struct attachment *attachment, bool closing)
{
	struct pending *pending, *next;
	LIST_HEAD(fences);

	spin_lock(&attachment->fence_lock);
	list_splice_init(&attachment->fences, &fences);
	attachment->nr_fences = 0;
	attachment->closing |= closing;
	spin_unlock(&attachment->fence_lock);
	list_for_each_entry_safe(pending, next, &fences, node) {
		dma_fence_signal(pending->fence);
		dma_fence_put(pending->fence);
		kfree(pending);
	}
}

/* --- mappings ------------------------------------------------------------------- */

static int map(struct attachment *attachment, enum dma_data_direction dir, u32 *id)
{
	struct mapping *mapping;
	int ret;

	dma_resv_assert_held(attachment->dmabuf->resv);
	mapping = kzalloc_obj(*mapping);
	if (!mapping)
		return -ENOMEM;
	mapping->sgt = dma_buf_map_attachment(attachment->attach, dir);
	if (IS_ERR(mapping->sgt)) {
		ret = PTR_ERR(mapping->sgt);
		kfree(mapping);
		return ret;
	}
	mapping->dir = dir;
	mapping->id = ++attachment->last_id;
	list_add_tail(&mapping->node, &attachment->mappings);
	atomic_inc(&attachment->nr_mappings);
	*id = mapping->id;
	return 0;
}

static void unmap(struct attachment *attachment, struct mapping *mapping)
{
	dma_resv_assert_held(attachment->dmabuf->resv);
	dma_buf_unmap_attachment(attachment->attach, mapping->sgt, mapping->dir);
	list_del(&mapping->node);
	atomic_dec(&attachment->nr_mappings);
	kfree(mapping);
}

static void unmap_all(struct attachment *attachment)
{
	struct mapping *mapping, *next;

	list_for_each_entry_safe(mapping, next, &attachment->mappings, node)
		unmap(attachment, mapping);
}

static struct mapping *find(struct attachment *attachment, u32 id)
{
	struct mapping *mapping;

	dma_resv_assert_held(attachment->dmabuf->resv);
	list_for_each_entry(mapping, &attachment->mappings, node)
		if (mapping->id == id)
			return mapping;
	return NULL;
}

static void invalidate_mappings(struct dma_buf_attachment *attach)
{
	struct attachment *attachment = attach->importer_priv;
	struct mapping *mapping;

	dma_resv_assert_held(attach->dmabuf->resv);
	atomic_inc(&attachment->invalidations);
	if (!list_empty(&attachment->mappings))
		atomic_inc(&attachment->invalidations_mapped);
	list_for_each_entry(mapping, &attachment->mappings, node)
		mapping->invalidations++;
	switch (attachment->on_invalidate) {
	case TEST_IMPORTER_UNMAP:
		unmap_all(attachment);
		break;
	case TEST_IMPORTER_FENCE:
		if (add_fence(attachment, DMA_RESV_USAGE_BOOKKEEP))
			atomic_inc(&attachment->failures);
		break;
	}
}

/* By TEST_IMPORTER_PEER2PEER | TEST_IMPORTER_REVOCABLE. */
static const struct dma_buf_attach_ops attach_ops[] = {
	[0] = { },
	[TEST_IMPORTER_PEER2PEER] = { .allow_peer2peer = true },
	[TEST_IMPORTER_REVOCABLE] = { .invalidate_mappings = invalidate_mappings },
	[TEST_IMPORTER_PEER2PEER | TEST_IMPORTER_REVOCABLE] = {
		.allow_peer2peer = true,
		.invalidate_mappings = invalidate_mappings,
	},
};

/* --- calls ---------------------------------------------------------------------- */

static long map_ioctl(struct attachment *attachment, void __user *user_arg)
{
	struct dma_resv *resv = attachment->dmabuf->resv;
	struct test_importer_map arg;
	int ret;

	if (copy_from_user(&arg, user_arg, sizeof(arg)))
		return -EFAULT;
	if (arg.id || arg.direction > TEST_IMPORTER_FROM_DEVICE)
		return -EINVAL;
	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;
	ret = map(attachment, arg.direction, &arg.id);
	dma_resv_unlock(resv);
	if (ret)
		return ret;
	/* A caller that cannot be told its id still has the mapping, until it closes. */
	return copy_to_user(user_arg, &arg, sizeof(arg)) ? -EFAULT : 0;
}

static long unmap_ioctl(struct attachment *attachment, u32 __user *user_id)
{
	struct dma_resv *resv = attachment->dmabuf->resv;
	struct mapping *mapping;
	u32 id;
	int ret;

	if (get_user(id, user_id))
		return -EFAULT;
	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;
	mapping = find(attachment, id);
	if (mapping)
		unmap(attachment, mapping);
	dma_resv_unlock(resv);
	return mapping ? 0 : -ENOENT;
}

static void describe(const struct attachment *attachment, const struct mapping *mapping,
		     struct test_importer_sg *arg, struct test_importer_segment *to)
{
	struct sg_table *sgt = mapping->sgt;
	const struct mapping *other;
	struct scatterlist *sg;
	unsigned int i;

	arg->nents = sgt->nents;
	arg->orig_nents = sgt->orig_nents;
	arg->invalidations = mapping->invalidations;
	/* Then what importers see are copies, without the CPU's side. */
	if (IS_ENABLED(CONFIG_DMABUF_DEBUG))
		arg->same_as = TEST_IMPORTER_HIDDEN;
	list_for_each_entry(other, &attachment->mappings, node)
		if (other != mapping && other->sgt == sgt)
			arg->same_as = other->id;
	for_each_sgtable_dma_sg(sgt, sg, i) {
		if (i == arg->max)
			break;
		to[i].address = sg_dma_address(sg);
		to[i].length = sg_dma_len(sg);
		to[i].has_page = i < sgt->orig_nents && sg_page(sg);
	}
}

/* Into memory of our own first: user memory must not be touched under dma_resv. */
static long sg_ioctl(struct attachment *attachment, void __user *user_arg)
{
	struct dma_resv *resv = attachment->dmabuf->resv;
	struct test_importer_segment *segments;
	struct test_importer_sg arg;
	struct mapping *mapping;
	u32 used;
	int ret;

	if (copy_from_user(&arg, user_arg, sizeof(arg)))
		return -EFAULT;
	if (arg.same_as || arg.max > SZ_1M)
		return -EINVAL;
	segments = kvzalloc_objs(*segments, arg.max ?: 1);
	if (!segments)
		return -ENOMEM;
	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		goto free;
	mapping = find(attachment, arg.id);
	if (mapping)
		describe(attachment, mapping, &arg, segments);
	else
		ret = -ENOENT;
	dma_resv_unlock(resv);
	used = min(arg.nents, arg.max);
	if (!ret && (copy_to_user(u64_to_user_ptr(arg.segments), segments,
				  array_size(used, sizeof(*segments))) ||
		     copy_to_user(user_arg, &arg, sizeof(arg))))
		ret = -EFAULT;
free:
	kvfree(segments);
	return ret;
}

static long pin_ioctl(struct attachment *attachment)
{
	struct dma_resv *resv = attachment->dmabuf->resv;
	int ret;

	if (!attachment->attach->importer_ops)
		return -EINVAL;
	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;
	ret = dma_buf_pin(attachment->attach);
	if (!ret)
		atomic_inc(&attachment->nr_pins);
	dma_resv_unlock(resv);
	return ret;
}

static long unpin_ioctl(struct attachment *attachment)
{
	struct dma_resv *resv = attachment->dmabuf->resv;
	int ret;

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;
	if (atomic_add_unless(&attachment->nr_pins, -1, 0))
		dma_buf_unpin(attachment->attach);
	else
		ret = -EINVAL;
	dma_resv_unlock(resv);
	return ret;
}

static long events_ioctl(struct attachment *attachment, void __user *user_arg)
{
	struct test_importer_events events = {
		.invalidations = atomic_read(&attachment->invalidations),
		.invalidations_mapped = atomic_read(&attachment->invalidations_mapped),
		.mappings = atomic_read(&attachment->nr_mappings),
		.pins = atomic_read(&attachment->nr_pins),
		.failures = atomic_read(&attachment->failures),
	};

	spin_lock(&attachment->fence_lock);
	events.fences = attachment->nr_fences;
	spin_unlock(&attachment->fence_lock);
	return copy_to_user(user_arg, &events, sizeof(events)) ? -EFAULT : 0;
}

static long add_fence_ioctl(struct attachment *attachment, u32 __user *user_usage)
{
	struct dma_resv *resv = attachment->dmabuf->resv;
	u32 usage;
	int ret;

	if (get_user(usage, user_usage))
		return -EFAULT;
	if (usage > TEST_IMPORTER_USAGE_BOOKKEEP)
		return -EINVAL;
	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;
	ret = add_fence(attachment, usage);
	dma_resv_unlock(resv);
	return ret;
}

static int bench_round(struct attachment *attachment, struct test_importer_bench *arg)
{
	struct dma_buf_attachment *attach = attachment->attach;
	struct sg_table *sgt;
	u64 start, mapped;

	start = ktime_get_ns();
	sgt = dma_buf_map_attachment(attach, arg->direction);
	if (IS_ERR(sgt))
		return PTR_ERR(sgt);
	mapped = ktime_get_ns();
	arg->nents = sgt->nents;
	dma_buf_unmap_attachment(attach, sgt, arg->direction);
	arg->unmap_ns += ktime_get_ns() - mapped;
	arg->map_ns += mapped - start;
	return 0;
}

static long bench_ioctl(struct attachment *attachment, void __user *user_arg)
{
	struct dma_resv *resv = attachment->dmabuf->resv;
	struct test_importer_bench arg;
	u32 round;
	int ret = 0;

	if (copy_from_user(&arg, user_arg, sizeof(arg)))
		return -EFAULT;
	if (arg.map_ns || arg.unmap_ns || arg.nents || arg.__reserved ||
	    arg.direction > TEST_IMPORTER_FROM_DEVICE)
		return -EINVAL;
	for (round = 0; round < arg.rounds && !ret; round++) {
		if (signal_pending(current))
			return -EINTR;
		ret = dma_resv_lock_interruptible(resv, NULL);
		if (ret)
			return ret;
		ret = bench_round(attachment, &arg);
		dma_resv_unlock(resv);
		cond_resched();
	}
	if (ret)
		return ret;
	return copy_to_user(user_arg, &arg, sizeof(arg)) ? -EFAULT : 0;
}

static long translate_ioctl(struct attachment *attachment, void __user *user_arg)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(attachment->client.dev);
	struct test_importer_translate arg;

	if (copy_from_user(&arg, user_arg, sizeof(arg)))
		return -EFAULT;
	if (arg.phys)
		return -EINVAL;
	if (!domain)
		return -ENODEV;
	arg.phys = iommu_iova_to_phys(domain, arg.address);
	return copy_to_user(user_arg, &arg, sizeof(arg)) ? -EFAULT : 0;
}

static long attachment_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct attachment *attachment = file->private_data;
	void __user *user_arg = (void __user *)arg;

	switch (cmd) {
	case TEST_IMPORTER_IOCTL_MAP:
		return map_ioctl(attachment, user_arg);
	case TEST_IMPORTER_IOCTL_UNMAP:
		return unmap_ioctl(attachment, user_arg);
	case TEST_IMPORTER_IOCTL_SG:
		return sg_ioctl(attachment, user_arg);
	case TEST_IMPORTER_IOCTL_PIN:
		return pin_ioctl(attachment);
	case TEST_IMPORTER_IOCTL_UNPIN:
		return unpin_ioctl(attachment);
	case TEST_IMPORTER_IOCTL_EVENTS:
		return events_ioctl(attachment, user_arg);
	case TEST_IMPORTER_IOCTL_ADD_FENCE:
		return add_fence_ioctl(attachment, user_arg);
	case TEST_IMPORTER_IOCTL_SIGNAL:
		signal_fences(attachment, false);
		return 0;
	case TEST_IMPORTER_IOCTL_BENCH:
		return bench_ioctl(attachment, user_arg);
	case TEST_IMPORTER_IOCTL_TRANSLATE:
		return translate_ioctl(attachment, user_arg);
	default:
		return -ENOTTY;
	}
}

/* --- lifetime -------------------------------------------------------------------- */

static void attachment_destroy(struct attachment *attachment)
{
	struct dma_buf *dmabuf = attachment->dmabuf;

	signal_fences(attachment, true);
	dma_resv_lock(dmabuf->resv, NULL);
	unmap_all(attachment);
	while (atomic_add_unless(&attachment->nr_pins, -1, 0))
		dma_buf_unpin(attachment->attach);
	dma_resv_unlock(dmabuf->resv);
	dma_buf_detach(dmabuf, attachment->attach);
	client_exit(&attachment->client);
	kfree(attachment);
}

static int attachment_release(struct inode *inode, struct file *file)
{
	struct attachment *attachment = file->private_data;
	struct dma_buf *dmabuf = attachment->dmabuf;

	attachment_destroy(attachment);
	dma_buf_put(dmabuf);
	return 0;
}

static const struct file_operations attachment_fops = {
	.owner = THIS_MODULE,
	.release = attachment_release,
	.unlocked_ioctl = attachment_ioctl,
};

static int check(const struct test_importer_attach *arg)
{
	u32 known = TEST_IMPORTER_PCI;

	if (arg->kind == TEST_IMPORTER_DYNAMIC)
		known |= TEST_IMPORTER_PEER2PEER | TEST_IMPORTER_REVOCABLE;
	else if (arg->kind != TEST_IMPORTER_STATIC)
		return -EINVAL;
	if (arg->flags & ~known || arg->on_invalidate > TEST_IMPORTER_FENCE ||
	    arg->peer2peer || arg->attachment_fd)
		return -EINVAL;
	return 0;
}

struct file *attachment_create(struct dma_buf *dmabuf, struct test_importer_attach *arg)
{
	u32 kind_flags = arg->flags & (TEST_IMPORTER_PEER2PEER | TEST_IMPORTER_REVOCABLE);
	struct attachment *attachment;
	struct file *file;
	int ret;

	ret = check(arg);
	if (ret)
		return ERR_PTR(ret);
	attachment = kzalloc_obj(*attachment);
	if (!attachment)
		return ERR_PTR(-ENOMEM);
	attachment->dmabuf = dmabuf;
	attachment->on_invalidate = arg->on_invalidate;
	INIT_LIST_HEAD(&attachment->mappings);
	INIT_LIST_HEAD(&attachment->fences);
	spin_lock_init(&attachment->fence_lock);
	ret = client_init(&attachment->client, arg);
	if (ret) {
		kfree(attachment);
		return ERR_PTR(ret);
	}

	/* Complete up to here, as invalidate_mappings may come before this returns. */
	if (arg->kind == TEST_IMPORTER_STATIC)
		attachment->attach = dma_buf_attach(dmabuf, attachment->client.dev);
	else
		attachment->attach = dma_buf_dynamic_attach(dmabuf, attachment->client.dev,
							    &attach_ops[kind_flags], attachment);
	if (IS_ERR(attachment->attach)) {
		ret = PTR_ERR(attachment->attach);
		client_exit(&attachment->client);
		kfree(attachment);
		return ERR_PTR(ret);
	}
	arg->peer2peer = attachment->attach->peer2peer;
	file = anon_inode_getfile("[dmabridge-test-importer]", &attachment_fops, attachment,
				  O_RDWR);
	if (IS_ERR(file))
		attachment_destroy(attachment);
	return file;
}
