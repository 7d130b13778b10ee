// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-bufs of other exporters: no region, no placement of ours, no user's list. What
 * an importer of our own finds out about one is judged like all else.
 */
#include <linux/slab.h>

#include "internal.h"

static struct dmabridge_reason foreign_reason(const struct dma_buf *dmabuf, int error)
{
	struct dmabridge_reason reason = {
		.code = DMABRIDGE_REASON_FOREIGN_BUFFER,
		.flags = DMABRIDGE_REASON_BLOCKS_P2P,
		.value = -error,
	};

	dmabridge_reason_name(&reason, dmabuf->exp_name);
	return reason;
}

int dmabridge_foreign_refuse(const struct dma_buf *dmabuf, struct dmabridge_verdict *verdict)
{
	struct dmabridge_reason reason = foreign_reason(dmabuf, 0);

	dmabridge_verdict_add(verdict, &reason);
	return -EMEDIUMTYPE;
}

int dmabridge_foreign_judge(const struct dma_buf *dmabuf, int error,
			    const struct dmabridge_user_desc *desc,
			    struct dmabridge_verdict *verdict)
{
	struct dmabridge_facts *facts __free(kfree) = kzalloc_obj(*facts);
	struct dmabridge_reason reason = foreign_reason(dmabuf, error);
	struct dmabridge_decision decision;

	if (!facts)
		return -ENOMEM;
	dmabridge_foreign_facts(&reason, dmabuf->size, desc, facts);
	dmabridge_judge(facts, verdict, &decision);
	if (error) {
		verdict->route = DMABRIDGE_ROUTE_NONE;
		return -EMEDIUMTYPE;
	}
	return decision.error;
}
EXPORT_SYMBOL_GPL(dmabridge_foreign_judge);
