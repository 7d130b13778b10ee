// SPDX-License-Identifier: GPL-2.0-only
/*
 * From facts to verdict. See verdict.h.
 */
#include <linux/errno.h>

#include "verdict.h"

__u32 dmabridge_combine_policies(__u32 a, __u32 b)
{
	if (a < DMABRIDGE_POLICY_REQUIRE || a > DMABRIDGE_POLICY_FORBID ||
	    b < DMABRIDGE_POLICY_REQUIRE || b > DMABRIDGE_POLICY_FORBID)
		return 0;
	if (a == b || b == DMABRIDGE_POLICY_PREFER)
		return a;
	if (a == DMABRIDGE_POLICY_PREFER)
		return b;
	return 0;
}

void dmabridge_verdict_add(struct dmabridge_verdict *verdict,
			   const struct dmabridge_reason *reason)
{
	if (verdict->nr_reasons < DMABRIDGE_MAX_REASONS)
		verdict->reasons[verdict->nr_reasons] = *reason;
	verdict->nr_reasons++;
}

static void add(struct dmabridge_verdict *verdict, __u32 code, __u32 flags, __u64 value)
{
	struct dmabridge_reason reason = {
		.code = code,
		.flags = flags,
		.value = value,
	};

	dmabridge_verdict_add(verdict, &reason);
}

/* What is asked of those who want to reach a BAR. */
static void collect_bar_blockers(const struct dmabridge_facts *facts,
				 struct dmabridge_verdict *verdict)
{
	if (facts->is_static)
		add(verdict, DMABRIDGE_REASON_STATIC_IMPORTER, DMABRIDGE_REASON_BLOCKS_P2P, 0);
	else if (!facts->peer2peer)
		add(verdict, DMABRIDGE_REASON_NOT_PEER2PEER, DMABRIDGE_REASON_BLOCKS_P2P, 0);
	else if (!facts->revocable && !facts->takes_unrevocable)
		add(verdict, DMABRIDGE_REASON_NOT_REVOCABLE, DMABRIDGE_REASON_BLOCKS_P2P, 0);
	if (facts->needs_pages)
		add(verdict, DMABRIDGE_REASON_NO_PAGES, DMABRIDGE_REASON_BLOCKS_P2P, 0);
	/* A path that the kernel refuses is a reason even if no cause was found. */
	if (facts->distance < 0 && !facts->nr_blockers)
		add(verdict, DMABRIDGE_REASON_NO_PATH, DMABRIDGE_REASON_BLOCKS_P2P,
		    (__u64)(__s64)facts->distance);
}

static _Bool is_blocker(const struct dmabridge_facts *facts, __u32 code)
{
	__u32 i;

	for (i = 0; i < facts->nr_blockers && i < DMABRIDGE_MAX_BLOCKERS; i++)
		if (facts->blockers[i].code == code)
			return 1;
	return 0;
}

/* Why this importer can never reach the device, whatever the placement. */
static void collect_blockers(const struct dmabridge_facts *facts,
			     struct dmabridge_verdict *verdict)
{
	__u32 i;

	if (verdict->policy == DMABRIDGE_POLICY_FORBID)
		add(verdict, DMABRIDGE_REASON_POLICY_FORBID, DMABRIDGE_REASON_BLOCKS_P2P, 0);
	if (facts->foreign.code)
		dmabridge_verdict_add(verdict, &facts->foreign);
	else if (facts->region_kind == DMABRIDGE_REGION_SYSTEM)
		add(verdict, DMABRIDGE_REASON_SYSTEM_REGION, DMABRIDGE_REASON_BLOCKS_P2P, 0);
	if (facts->region_kind == DMABRIDGE_REGION_BAR)
		collect_bar_blockers(facts, verdict);

	for (i = 0; i < facts->nr_blockers && i < DMABRIDGE_MAX_BLOCKERS; i++) {
		struct dmabridge_reason reason = facts->blockers[i];

		/* A disk that is made of others is no PCI function: that was said. */
		if (reason.code == DMABRIDGE_REASON_NOT_PCI &&
		    is_blocker(facts, DMABRIDGE_REASON_STACKED_DEVICE))
			continue;
		reason.flags |= DMABRIDGE_REASON_BLOCKS_P2P;
		dmabridge_verdict_add(verdict, &reason);
	}
}

static void refuse(struct dmabridge_verdict *verdict, struct dmabridge_decision *decision,
		   int error)
{
	verdict->route = DMABRIDGE_ROUTE_NONE;
	decision->placement = DMABRIDGE_PLACEMENT_NONE;
	decision->error = error;
}

/* System memory it is, if the buffer is there or can go there. */
static void redirect(const struct dmabridge_facts *facts, struct dmabridge_verdict *verdict,
		     struct dmabridge_decision *decision)
{
	int error = 0;

	if (facts->placement != DMABRIDGE_PLACEMENT_SYSTEM) {
		if (facts->device_needer.code) {
			struct dmabridge_reason reason = facts->device_needer;

			reason.flags |= DMABRIDGE_REASON_BLOCKS_MOVE;
			dmabridge_verdict_add(verdict, &reason);
			error = -EBUSY;
		}
		if (facts->size > facts->copy_limit) {
			add(verdict, DMABRIDGE_REASON_MOVE_LIMIT, DMABRIDGE_REASON_BLOCKS_MOVE,
			    facts->copy_limit);
			error = -EOPNOTSUPP;
		}
	}
	if (error) {
		refuse(verdict, decision, error);
		return;
	}
	verdict->route = DMABRIDGE_ROUTE_SYSTEM;
	decision->placement = DMABRIDGE_PLACEMENT_SYSTEM;
}

void dmabridge_judge(const struct dmabridge_facts *facts, struct dmabridge_verdict *verdict,
		     struct dmabridge_decision *decision)
{
	*verdict = (struct dmabridge_verdict){
		.policy = dmabridge_combine_policies(facts->buffer_policy, facts->importer_policy),
		.distance = facts->distance,
	};
	*decision = (struct dmabridge_decision){ .error = 0 };

	if (facts->placement == DMABRIDGE_PLACEMENT_NONE) {
		struct dmabridge_reason reason = {
			.code = DMABRIDGE_REASON_REVOKED,
			.flags = DMABRIDGE_REASON_HAS_DEVICE | DMABRIDGE_REASON_BLOCKS_P2P,
			.device = facts->exporter,
		};

		dmabridge_verdict_add(verdict, &reason);
		refuse(verdict, decision, -ENODEV);
		return;
	}
	if (!verdict->policy) {
		add(verdict, DMABRIDGE_REASON_POLICY_CONFLICT, DMABRIDGE_REASON_BLOCKS_P2P,
		    (__u64)facts->buffer_policy << 32 | facts->importer_policy);
		refuse(verdict, decision, -EOPNOTSUPP);
		return;
	}

	collect_blockers(facts, verdict);
	decision->reaches_device = !verdict->nr_reasons;

	if (decision->reaches_device) {
		/*
		 * A buffer that others moved goes back only if this importer
		 * insists and nobody needs it where it is: no heuristics.
		 */
		if (facts->placement == DMABRIDGE_PLACEMENT_DEVICE ||
		    (verdict->policy == DMABRIDGE_POLICY_REQUIRE && !facts->system_needer.code)) {
			verdict->route = facts->path_route;
			decision->placement = DMABRIDGE_PLACEMENT_DEVICE;
			return;
		}
		if (facts->system_needer.code) {
			struct dmabridge_reason reason = facts->system_needer;

			reason.flags |= DMABRIDGE_REASON_BLOCKS_P2P;
			dmabridge_verdict_add(verdict, &reason);
		} else {
			struct dmabridge_reason reason = facts->why_in_system;

			reason.flags |= DMABRIDGE_REASON_BLOCKS_P2P;
			dmabridge_verdict_add(verdict, &reason);
		}
	}

	/* It follows the buffer wherever that is, so it need not move. */
	decision->bounces = facts->needs_pages && !facts->vetoed &&
			    verdict->policy == DMABRIDGE_POLICY_PREFER &&
			    facts->region_kind == DMABRIDGE_REGION_BAR;
	if (decision->bounces) {
		decision->placement = facts->placement;
		verdict->route = facts->placement == DMABRIDGE_PLACEMENT_DEVICE ?
				 DMABRIDGE_ROUTE_BOUNCE : DMABRIDGE_ROUTE_SYSTEM;
		return;
	}
	if (verdict->policy == DMABRIDGE_POLICY_REQUIRE)
		refuse(verdict, decision, -EOPNOTSUPP);
	else
		redirect(facts, verdict, decision);
}
