// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMABRIDGE_IOCTL_NEGOTIATE: what an importer would be told if it came now, by the
 * facts and the judgement that decide when it does come. Only what a move finds out
 * by itself is not known in advance.
 */
#include <linux/mm.h>
#include <linux/pm_runtime.h>
#include <linux/slab.h>

#include "internal.h"

struct dmabridge_question {
	struct dma_buf *foreign;		/* NULL: ours. Else there is nothing more */
	struct dmabridge_buffer *buffer;	/* NULL: one that the region would make */
	struct dmabridge_region *region;
	u64 size;
	u32 policy;
};

struct dma_buf *dmabridge_question_foreign(const struct dmabridge_question *question)
{
	return question->foreign;
}
EXPORT_SYMBOL_GPL(dmabridge_question_foreign);

#define FILE_FLAGS	(DMABRIDGE_NEGOTIATE_READ | DMABRIDGE_NEGOTIATE_WRITE)
#define PCI_FLAGS	(DMABRIDGE_NEGOTIATE_STATIC | DMABRIDGE_NEGOTIATE_PEER2PEER | \
			 DMABRIDGE_NEGOTIATE_REVOCABLE)

static bool is_policy(u32 policy)
{
	return dmabridge_combine_policies(policy, policy);
}

static bool buffer_valid(const struct dmabridge_negotiate *arg)
{
	if (arg->fd == -1)
		return arg->size && is_policy(arg->buffer_policy);
	return !arg->region_id && !arg->size && !arg->buffer_policy;
}

static bool importer_valid(const struct dmabridge_negotiate *arg)
{
	if (!is_policy(arg->policy))
		return false;
	switch (arg->kind) {
	case DMABRIDGE_NEGOTIATE_FILE:
		return arg->flags && !(arg->flags & ~FILE_FLAGS) && !arg->device;
	case DMABRIDGE_NEGOTIATE_PCI:
		/* A static importer has nothing by which to say that it is more. */
		return !(arg->flags & ~PCI_FLAGS) && arg->target_fd == -1 &&
		       (!(arg->flags & DMABRIDGE_NEGOTIATE_STATIC) ||
			arg->flags == DMABRIDGE_NEGOTIATE_STATIC);
	default:
		return false;
	}
}

bool dmabridge_negotiate_valid(const struct dmabridge_negotiate *arg)
{
	return buffer_valid(arg) && importer_valid(arg);
}

/* --- the answer --------------------------------------------------------------- */

static int answer(const struct dmabridge_question *question, struct dmabridge_facts *facts,
		  struct dmabridge_negotiate *arg)
{
	struct dmabridge_buffer *buffer = question->buffer;
	struct dmabridge_decision decision;
	int ret;

	if (buffer) {
		ret = dmabridge_place_lock(buffer, &arg->verdict);
		if (ret)
			return ret;
		dmabridge_buffer_facts(buffer, facts);
	} else {
		dmabridge_new_buffer_facts(question->region, question->size, question->policy,
					   facts);
	}
	dmabridge_judge(facts, &arg->verdict, &decision);
	ret = decision.error;
	if (buffer) {
		if (!ret)
			ret = dmabridge_check_move(buffer, decision.placement, &arg->verdict);
		mutex_unlock(&buffer->place_lock);
	}
	if (ret)
		arg->verdict.route = DMABRIDGE_ROUTE_NONE;
	else
		arg->placement = decision.placement;
	return ret;
}

int dmabridge_user_ask(const struct dmabridge_question *question,
		       const struct dmabridge_user_desc *desc, struct dmabridge_negotiate *arg)
{
	struct dmabridge_facts *facts __free(kfree) = kzalloc_obj(*facts);

	if (!facts)
		return -ENOMEM;
	dmabridge_user_facts(question->region, question->policy, desc, facts);
	return answer(question, facts, arg);
}
EXPORT_SYMBOL_GPL(dmabridge_user_ask);

static struct pci_dev *find_function(u64 device)
{
	u64 domain = device >> 16;

	if (domain > INT_MAX)
		return NULL;
	return pci_get_domain_bus_and_slot(domain, PCI_BUS_NUM(device), device & 0xff);
}

static int ask_function(const struct dmabridge_question *question,
			struct dmabridge_negotiate *arg)
{
	struct dmabridge_facts *facts __free(kfree) = kzalloc_obj(*facts);
	struct pci_dev *pdev __free(pci_dev_put) = find_function(arg->device);
	struct dmabridge_attacher attacher = {
		.policy = arg->policy,
		.is_static = arg->flags & DMABRIDGE_NEGOTIATE_STATIC,
		.peer2peer = arg->flags & DMABRIDGE_NEGOTIATE_PEER2PEER,
		.revocable = arg->flags & DMABRIDGE_NEGOTIATE_REVOCABLE,
	};

	if (!facts)
		return -ENOMEM;
	if (!pdev)
		return -ENODEV;
	attacher.dev = &pdev->dev;
	/*
	 * p2pdma remembers what it finds on the way, also for those who attached
	 * long ago; bridges above a sleeping function read as all ones.
	 */
	pm_runtime_get_sync(&pdev->dev);
	dmabridge_attacher_facts(question->region, &attacher, facts);
	pm_runtime_put(&pdev->dev);
	return answer(question, facts, arg);
}

static int ask(const struct dmabridge_question *question, struct dmabridge_negotiate *arg)
{
	return arg->kind == DMABRIDGE_NEGOTIATE_FILE ? dmabridge_importer_ask(question, arg) :
						       ask_function(question, arg);
}

/* --- the question ------------------------------------------------------------- */

static int ask_about_buffer(struct dmabridge_buffer *buffer, struct dmabridge_negotiate *arg)
{
	const struct dmabridge_question question = {
		.buffer = buffer,
		.region = buffer->region,
		.policy = buffer->policy,
	};

	return ask(&question, arg);
}

static int ask_about_foreign(struct dma_buf *dmabuf, struct dmabridge_negotiate *arg)
{
	const struct dmabridge_question question = { .foreign = dmabuf };

	/* What its exporter would say to an attach, it alone knows. */
	if (arg->kind != DMABRIDGE_NEGOTIATE_FILE)
		return dmabridge_foreign_refuse(dmabuf, &arg->verdict);
	return ask(&question, arg);
}

static int ask_about_dma_buf(struct dmabridge_negotiate *arg)
{
	struct dma_buf *dmabuf = dma_buf_get(arg->fd);
	struct dmabridge_buffer *buffer;
	int ret;

	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	buffer = dmabridge_buffer_of(dmabuf);
	ret = buffer ? ask_about_buffer(buffer, arg) : ask_about_foreign(dmabuf, arg);
	dma_buf_put(dmabuf);
	return ret;
}

/* What dmabridge_buffer_create() would say; whether there is memory left is not asked. */
static int check_region(struct dmabridge_region *region, struct dmabridge_negotiate *arg)
{
	struct dmabridge_reason reason = { .flags = DMABRIDGE_REASON_BLOCKS_P2P };
	u32 first = dmabridge_first_placement(region, arg->buffer_policy);
	u64 most = first == DMABRIDGE_PLACEMENT_DEVICE ? region->limit : region->size;
	int ret = -ENOSPC;

	if (arg->size > most) {
		reason.code = DMABRIDGE_REASON_NO_DEVICE_MEMORY;
		reason.value = arg->size;
	} else {
		if (down_read_killable(&region->entry))
			return -EINTR;
		ret = dmabridge_region_open(region);
		up_read(&region->entry);
		if (!ret)
			return 0;
		reason.code = ret == -ENODEV ? DMABRIDGE_REASON_REVOKED :
					       DMABRIDGE_REASON_SUSPENDED;
		reason.flags |= DMABRIDGE_REASON_HAS_DEVICE;
		reason.device = dmabridge_region_address(region);
	}
	dmabridge_verdict_add(&arg->verdict, &reason);
	return ret;
}

static int ask_about_region(struct dmabridge_negotiate *arg)
{
	struct dmabridge_question question = {
		.region = dmabridge_region_get(arg->region_id),
		.size = arg->size,
		.policy = arg->buffer_policy,
	};
	int ret;

	if (!question.region)
		return -ENOENT;
	ret = check_region(question.region, arg);
	if (!ret)
		ret = ask(&question, arg);
	put_device(&question.region->dev);
	return ret;
}

int dmabridge_negotiate(struct dmabridge_negotiate *arg)
{
	return arg->fd == -1 ? ask_about_region(arg) : ask_about_dma_buf(arg);
}
