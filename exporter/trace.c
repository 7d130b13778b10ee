// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tracepoints themselves, and the texts in them that are put together when
 * one is hit, so that filters can name a device or a reason.
 */
#include <linux/string.h>

#define CREATE_TRACE_POINTS
#include "trace.h"

void dmabridge_trace_device(char to[DMABRIDGE_TRACE_DEVICE], bool has_device, u64 device)
{
	if (has_device)
		dmabridge_address_text(to, DMABRIDGE_TRACE_DEVICE, device);
	else
		strscpy(to, "-", DMABRIDGE_TRACE_DEVICE);
}

void dmabridge_trace_reasons(char to[DMABRIDGE_TRACE_REASONS],
			     const struct dmabridge_verdict *verdict, u32 flags)
{
	u32 nr = min(verdict->nr_reasons, DMABRIDGE_MAX_REASONS), i;
	size_t used = 0;

	strscpy(to, "-", DMABRIDGE_TRACE_REASONS);
	for (i = 0; i < nr; i++) {
		const struct dmabridge_reason *reason = &verdict->reasons[i];

		if ((reason->flags & flags) != flags)
			continue;
		used += scnprintf(to + used, DMABRIDGE_TRACE_REASONS - used, "%s%s",
				  used ? "," : "", dmabridge_reason_text(reason->code));
	}
}
