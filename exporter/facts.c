// SPDX-License-Identifier: GPL-2.0-only
/*
 * What dmabridge_judge() wants to know: about a buffer, or one that could be made,
 * and about an importer of any kind. Whoever comes to stay and whoever only asks
 * (negotiate.c) are told by the same facts.
 */
#include "internal.h"

/* --- the buffer --------------------------------------------------------------- */

/* Reads of a BAR by the CPU are slow; RAM and engines are not. */
static u64 copy_limit(const struct dmabridge_buffer *buffer)
{
	const struct dmabridge_region *region = buffer->region;

	if (!READ_ONCE(buffer->touched) || !dmabridge_region_is_io(region) || region->has_engine)
		return U64_MAX;
	return region->move_limit;
}

/* Why it is in system memory, if it is for nobody's sake. place_lock held. */
static struct dmabridge_reason why_in_system(const struct dmabridge_buffer *buffer)
{
	struct dmabridge_reason why = buffer->last_move;

	if (READ_ONCE(buffer->region->stops))
		why.code = DMABRIDGE_REASON_SUSPENDED;
	else if (why.code == DMABRIDGE_REASON_SUSPENDED)
		why.code = DMABRIDGE_REASON_EVICTED;	/* and could not go back */
	return why;
}

void dmabridge_buffer_facts(struct dmabridge_buffer *buffer, struct dmabridge_facts *facts)
{
	const struct dmabridge_user_state *needer;

	lockdep_assert_held(&buffer->place_lock);
	facts->buffer_policy = buffer->policy;
	facts->placement = buffer->placement;
	facts->why_in_system = why_in_system(buffer);
	facts->exporter = dmabridge_region_address(buffer->region);
	facts->size = buffer->size;
	facts->copy_limit = copy_limit(buffer);
	facts->takes_unrevocable = buffer->region->take_unrevocable;

	needer = dmabridge_user_find(buffer, DMABRIDGE_USER_NEEDS_SYSTEM);
	if (needer)
		facts->system_needer = dmabridge_user_reason(needer, DMABRIDGE_REASON_DEMOTED, 0);
	needer = dmabridge_user_find(buffer, DMABRIDGE_USER_NEEDS_DEVICE);
	if (needer)
		facts->device_needer = dmabridge_user_reason(needer, DMABRIDGE_REASON_HELD,
							     DMABRIDGE_PLACEMENT_DEVICE);
}

void dmabridge_new_buffer_facts(const struct dmabridge_region *region, u64 size, u32 policy,
				struct dmabridge_facts *facts)
{
	facts->buffer_policy = policy;
	facts->placement = dmabridge_first_placement(region, policy);
	facts->exporter = dmabridge_region_address(region);
	facts->size = size;
	facts->copy_limit = U64_MAX;	/* nobody has touched it */
	facts->takes_unrevocable = region->take_unrevocable;
}

/* --- the importer ------------------------------------------------------------- */

/* How @importer, which may be NULL, reaches the device memory of @region. */
static void reach_facts(struct dmabridge_region *region, struct device *importer,
			struct dmabridge_facts *facts)
{
	struct dmabridge_reason veto = { .code = DMABRIDGE_REASON_EXPORTER_VETO };

	facts->region_kind = region->kind;
	facts->distance = -1;
	/* Above a device that is gone there need be no bridge, nor a bus, any more. */
	down_read(&region->entry);
	if (region->kind == DMABRIDGE_REGION_BAR && !region->dead)
		dmabridge_path_facts(facts, region, importer);
	up_read(&region->entry);
	if (region->kind == DMABRIDGE_REGION_STOLEN)
		facts->path_route = DMABRIDGE_ROUTE_STOLEN;
	facts->vetoed = dmabridge_region_vetoes(region, importer, &veto.value);
	if (facts->vetoed && facts->nr_blockers < DMABRIDGE_MAX_BLOCKERS)
		facts->blockers[facts->nr_blockers++] = veto;
}

void dmabridge_attacher_facts(struct dmabridge_region *region,
			      const struct dmabridge_attacher *attacher,
			      struct dmabridge_facts *facts)
{
	facts->importer_policy = attacher->policy;
	facts->is_static = attacher->is_static;
	facts->peer2peer = attacher->peer2peer;
	facts->revocable = attacher->revocable;
	reach_facts(region, attacher->dev, facts);
	/*
	 * Below a PCI function is good enough for the distance, but what maps
	 * for this attachment wants the function itself.
	 */
	if (facts->distance >= 0 && !dev_is_pci(attacher->dev)) {
		facts->distance = -1;
		facts->blockers[facts->nr_blockers++].code = DMABRIDGE_REASON_NOT_PCI;
	}
}

static void copy_reasons(const struct dmabridge_user_desc *desc, struct dmabridge_facts *facts)
{
	u32 i;

	for (i = 0; i < min(desc->nr_reasons, DMABRIDGE_MAX_BLOCKERS); i++)
		facts->blockers[facts->nr_blockers++] = desc->reasons[i];
}

/*
 * Whether an importer's own reasons against P2P are ones against the memory of
 * @region. RAM serves all, but one that insists on DMA gets no copy.
 */
static bool reasons_count(const struct dmabridge_region *region, u32 buffer_policy,
			  const struct dmabridge_user_desc *desc)
{
	return region->kind != DMABRIDGE_REGION_STOLEN ||
	       (desc->may_copy && dmabridge_combine_policies(buffer_policy, desc->policy) ==
					DMABRIDGE_POLICY_REQUIRE);
}

void dmabridge_user_facts(struct dmabridge_region *region, u32 buffer_policy,
			  const struct dmabridge_user_desc *desc, struct dmabridge_facts *facts)
{
	facts->importer_policy = desc->policy;
	/* Its I/O is gated and drained: it follows every move, and every revoke. */
	facts->peer2peer = true;
	facts->revocable = true;
	facts->needs_pages = !region->has_pages;
	if (reasons_count(region, buffer_policy, desc))
		copy_reasons(desc, facts);
	reach_facts(region, desc->device, facts);
}

void dmabridge_foreign_facts(const struct dmabridge_reason *foreign, u64 size,
			     const struct dmabridge_user_desc *desc, struct dmabridge_facts *facts)
{
	/* All that is known of it: it is in system memory, and stays there. */
	facts->region_kind = DMABRIDGE_REGION_SYSTEM;
	facts->foreign = *foreign;
	facts->buffer_policy = DMABRIDGE_POLICY_PREFER;
	facts->placement = DMABRIDGE_PLACEMENT_SYSTEM;
	facts->size = size;
	facts->importer_policy = desc->policy;
	facts->distance = -1;
	copy_reasons(desc, facts);
}
