// SPDX-License-Identifier: GPL-2.0-only
/*
 * Users of a buffer: attachments, bindings, holds. Each is judged when it comes,
 * by the same function, and stays on the buffer's list with its verdict, so that
 * one can ask who moved a buffer and why.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "internal.h"
#include "trace.h"

void dmabridge_user_describe(struct dmabridge_user *to, const struct dmabridge_user_state *from)
{
	*to = (struct dmabridge_user){
		.kind = from->kind,
		.flags = from->flags,
		.device = from->device,
		.policy = from->policy,
		.verdict = from->verdict,
	};
	strscpy(to->name, from->name, sizeof(to->name));
	strscpy(to->driver, from->driver, sizeof(to->driver));
}

void dmabridge_user_describe_device(struct dmabridge_user_state *user, struct device *dev)
{
	struct pci_dev *pdev = dmabridge_pci_parent(dev);

	if (!pdev)
		return;
	user->device = dmabridge_pci_address(pdev);
	user->flags |= DMABRIDGE_USER_HAS_DEVICE;
	strscpy(user->driver, dev_driver_string(&pdev->dev), sizeof(user->driver));
}

struct dmabridge_user_state *dmabridge_user_find(struct dmabridge_buffer *buffer, u32 flag)
{
	struct dmabridge_user_state *user;

	list_for_each_entry(user, &buffer->users, node)
		if (user->flags & flag)
			return user;
	return NULL;
}

struct dmabridge_reason dmabridge_user_reason(const struct dmabridge_user_state *user, u32 code,
					      u64 value)
{
	struct dmabridge_reason reason = { .code = code, .value = value };

	if (user->flags & DMABRIDGE_USER_HAS_DEVICE) {
		reason.flags = DMABRIDGE_REASON_HAS_DEVICE;
		reason.device = user->device;
	}
	dmabridge_reason_name(&reason, user->name);
	return reason;
}

static void enlist(struct dmabridge_user_state *user)
{
	struct dmabridge_buffer *buffer = user->buffer;

	dma_resv_lock(buffer->dmabuf->resv, NULL);
	list_add_tail(&user->node, &buffer->users);
	dma_resv_unlock(buffer->dmabuf->resv);
}

/* Attach has an errno only: who wants to know why can ask the buffer. */
static void record_refusal(struct dmabridge_user_state *user)
{
	struct dmabridge_buffer *buffer = user->buffer;

	dma_resv_lock(buffer->dmabuf->resv, NULL);
	dmabridge_user_describe(&buffer->last_refused, user);
	dma_resv_unlock(buffer->dmabuf->resv);
}

int dmabridge_user_join(struct dmabridge_user_state *user, struct dmabridge_facts *facts)
{
	struct dmabridge_buffer *buffer = user->buffer;
	struct dmabridge_decision decision;
	int ret;

	user->verdict.distance = -1;
	ret = dmabridge_place_lock(buffer, &user->verdict);
	if (ret)
		goto out;
	dmabridge_buffer_facts(buffer, facts);
	dmabridge_judge(facts, &user->verdict, &decision);
	ret = decision.error;
	if (!ret && decision.placement != facts->placement) {
		struct dmabridge_reason why = dmabridge_user_reason(user,
			decision.placement == DMABRIDGE_PLACEMENT_SYSTEM ?
				DMABRIDGE_REASON_DEMOTED : DMABRIDGE_REASON_HELD,
			decision.placement);

		ret = dmabridge_move_locked(buffer, decision.placement, &why, &user->verdict);
		if (ret)
			user->verdict.route = DMABRIDGE_ROUTE_NONE;
	}
	if (!ret) {
		user->reaches_device = decision.reaches_device;
		user->bounces = decision.bounces;
		user->path_route = facts->path_route;
		if (decision.bounces)
			user->flags |= DMABRIDGE_USER_BOUNCES;
		else if (!decision.reaches_device)
			user->flags |= DMABRIDGE_USER_NEEDS_SYSTEM;
		else if (user->verdict.policy == DMABRIDGE_POLICY_REQUIRE)
			user->flags |= DMABRIDGE_USER_NEEDS_DEVICE;
		if (decision.reaches_device)
			user->flags |= DMABRIDGE_USER_P2P;
		enlist(user);
	} else {
		record_refusal(user);
	}
	mutex_unlock(&buffer->place_lock);
out:
	trace_dmabridge_verdict(user, &user->verdict, ret);
	return ret;
}

/*
 * Whether a buffer goes home when nobody needs it in system memory any more: if
 * only users took it there, and anyone is left who could see the difference.
 */
static bool wants_home(struct dmabridge_buffer *buffer)
{
	lockdep_assert_held(&buffer->place_lock);
	return buffer->redirected && buffer->placement == DMABRIDGE_PLACEMENT_SYSTEM &&
	       !dmabridge_user_find(buffer, DMABRIDGE_USER_NEEDS_SYSTEM) &&
	       /* Attachment, binding and hold each have one reference. */
	       file_count(buffer->dmabuf->file) > 1;
}

void dmabridge_go_home(struct dmabridge_buffer *buffer)
{
	struct dmabridge_reason why = { .code = DMABRIDGE_REASON_RESTORED };
	struct dmabridge_verdict ignored = {};

	/* If it fails the buffer is whole where it is; the query says so. */
	if (wants_home(buffer))
		dmabridge_move_locked(buffer, DMABRIDGE_PLACEMENT_DEVICE, &why, &ignored);
}

void dmabridge_user_leave(struct dmabridge_user_state *user)
{
	struct dmabridge_buffer *buffer = user->buffer;

	mutex_lock(&buffer->place_lock);
	dma_resv_lock(buffer->dmabuf->resv, NULL);
	list_del(&user->node);
	dma_resv_unlock(buffer->dmabuf->resv);
	dmabridge_go_home(buffer);
	mutex_unlock(&buffer->place_lock);
}

/* --- users that are no attachment: bindings --------------------------------------- */

struct dmabridge_user_state *dmabridge_user_add(struct dmabridge_buffer *buffer,
						const struct dmabridge_user_desc *desc,
						struct dmabridge_verdict *verdict)
{
	struct dmabridge_user_state *user;
	struct dmabridge_facts *facts;
	int ret;

	user = kzalloc_obj(*user, GFP_KERNEL_ACCOUNT);
	facts = kzalloc_obj(*facts);
	if (!user || !facts) {
		ret = -ENOMEM;
		goto free;
	}
	user->buffer = buffer;
	user->kind = DMABRIDGE_USER_BINDING;
	user->policy = desc->policy;
	user->flags = DMABRIDGE_USER_PEER2PEER | DMABRIDGE_USER_REVOCABLE;
	if (desc->device)
		dmabridge_user_describe_device(user, desc->device);
	strscpy(user->name, desc->name, sizeof(user->name));

	dmabridge_user_facts(buffer->region, buffer->policy, desc, facts);
	ret = dmabridge_user_join(user, facts);
	*verdict = user->verdict;
	if (ret)
		goto free;
	kfree(facts);
	return user;

free:
	kfree(facts);
	kfree(user);
	return ERR_PTR(ret);
}
EXPORT_SYMBOL_GPL(dmabridge_user_add);

void dmabridge_user_remove(struct dmabridge_user_state *user)
{
	dmabridge_user_leave(user);
	kfree(user);
}
EXPORT_SYMBOL_GPL(dmabridge_user_remove);

/* --- users that do no I/O: placement holds ------------------------------------------ */

static int hold_release(struct inode *inode, struct file *file)
{
	struct dmabridge_user_state *user = file->private_data;
	struct dmabridge_buffer *buffer = user->buffer;

	dmabridge_user_remove(user);
	dmabridge_buffer_put(buffer);
	return 0;
}

static const struct file_operations hold_fops = {
	.owner = THIS_MODULE,
	.release = hold_release,
};

static int hold_join(struct dmabridge_user_state *user, struct dmabridge_hold *arg)
{
	struct dmabridge_buffer *buffer = user->buffer;
	struct dmabridge_reason why = dmabridge_user_reason(user, DMABRIDGE_REASON_HELD,
							    arg->placement);
	int ret;

	ret = dmabridge_place_lock(buffer, &arg->verdict);
	if (ret)
		goto out;
	ret = dmabridge_check_request(buffer, arg->placement, &arg->verdict);
	if (!ret)
		ret = dmabridge_move_locked(buffer, arg->placement, &why, &arg->verdict);
	if (!ret) {
		user->verdict = arg->verdict;
		enlist(user);
	}
	mutex_unlock(&buffer->place_lock);
out:
	trace_dmabridge_verdict(user, &arg->verdict, ret);
	return ret;
}

int dmabridge_hold_create(struct dmabridge_buffer *buffer, struct dmabridge_hold *arg,
			  struct file **file)
{
	bool to_system = arg->placement == DMABRIDGE_PLACEMENT_SYSTEM;
	struct dmabridge_user_state *user;
	int ret;

	user = kzalloc_obj(*user, GFP_KERNEL_ACCOUNT);
	if (!user)
		return -ENOMEM;
	user->buffer = buffer;
	user->kind = DMABRIDGE_USER_HOLD;
	user->policy = to_system ? DMABRIDGE_POLICY_FORBID : DMABRIDGE_POLICY_REQUIRE;
	user->flags = to_system ? DMABRIDGE_USER_NEEDS_SYSTEM : DMABRIDGE_USER_NEEDS_DEVICE;
	user->reaches_device = !to_system;
	get_task_comm(user->name, current);

	ret = hold_join(user, arg);
	if (ret) {
		kfree(user);
		return ret;
	}
	*file = anon_inode_getfile("[dmabridge-hold]", &hold_fops, user, O_RDWR);
	if (IS_ERR(*file)) {
		dmabridge_user_remove(user);
		return PTR_ERR(*file);
	}
	/* Until hold_release(). */
	dmabridge_buffer_ref(buffer);
	return 0;
}
