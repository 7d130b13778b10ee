/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Facts about one buffer and one importer in, verdict out. No state, no locks,
 * no kernel calls: attach, the block importer and queries ask the same function,
 * and it is tested in user space.
 */
#ifndef _DMABRIDGE_VERDICT_H
#define _DMABRIDGE_VERDICT_H

#include "../uapi/dmabridge.h"

#define DMABRIDGE_MAX_BLOCKERS	DMABRIDGE_MAX_REASONS

struct dmabridge_facts {
	/* the buffer */
	__u32 region_kind;
	struct dmabridge_reason foreign;	/* it has no region; code 0: it has */
	__u32 buffer_policy;
	__u32 placement;		/* now; NONE: revoked */
	struct dmabridge_reason why_in_system;	/* if there is no system_needer */
	__u64 exporter;			/* the exporting function */
	__u64 size;
	__u64 copy_limit;		/* ~0: nothing to copy */
	_Bool takes_unrevocable;
	struct dmabridge_reason system_needer;	/* code 0: nobody needs system memory */
	struct dmabridge_reason device_needer;	/* code 0: nobody needs device memory */

	/* the importer */
	__u32 importer_policy;
	_Bool is_static;
	_Bool peer2peer;
	_Bool revocable;
	_Bool needs_pages;		/* and there are none: it bounces */
	_Bool vetoed;			/* by the driver; it is among the blockers too */
	__s32 distance;			/* pci_p2pdma_distance() */
	__u32 path_route;		/* by the path, if distance >= 0 */
	__u32 nr_blockers;		/* other reasons why it cannot do P2P */
	struct dmabridge_reason blockers[DMABRIDGE_MAX_BLOCKERS];
};

struct dmabridge_decision {
	__u32 placement;		/* that the importer is served from */
	_Bool reaches_device;		/* without a copy, if not now then later */
	_Bool bounces;			/* by copies, if not now then later */
	int error;			/* 0, or why it is refused */
};

/* The stricter of two policies; 0: they conflict, or one is no policy. */
__u32 dmabridge_combine_policies(__u32 a, __u32 b);

void dmabridge_judge(const struct dmabridge_facts *facts, struct dmabridge_verdict *verdict,
		     struct dmabridge_decision *decision);

void dmabridge_verdict_add(struct dmabridge_verdict *verdict,
			   const struct dmabridge_reason *reason);

#endif /* _DMABRIDGE_VERDICT_H */
