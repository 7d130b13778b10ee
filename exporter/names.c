// SPDX-License-Identifier: GPL-2.0-only
/*
 * Texts for people. See names.h.
 */
#include <linux/array_size.h>
#include <linux/pci.h>
#include <linux/sprintf.h>

#include "internal.h"
#include "names.h"

struct name {
	u32 value;
	const char *text;
};

#define ENTRY(value, text)	{ value, text },

static const struct name region_kinds[] = { DMABRIDGE_REGION_KIND_NAMES(ENTRY, ENTRY) };
static const struct name placements[] = { DMABRIDGE_PLACEMENT_NAMES(ENTRY, ENTRY) };
static const struct name policies[] = { DMABRIDGE_POLICY_NAMES(ENTRY, ENTRY) };
static const struct name routes[] = { DMABRIDGE_ROUTE_NAMES(ENTRY, ENTRY) };
static const struct name user_kinds[] = { DMABRIDGE_USER_KIND_NAMES(ENTRY, ENTRY) };
static const struct name reasons[] = { DMABRIDGE_REASON_NAMES(ENTRY, ENTRY) };

static const char *find_text(const struct name *names, size_t nr, u32 value)
{
	size_t i;

	for (i = 0; i < nr; i++)
		if (names[i].value == value)
			return names[i].text;
	return "unknown";
}

const char *dmabridge_region_kind_text(u32 kind)
{
	return find_text(region_kinds, ARRAY_SIZE(region_kinds), kind);
}

const char *dmabridge_placement_text(u32 placement)
{
	return find_text(placements, ARRAY_SIZE(placements), placement);
}

const char *dmabridge_policy_text(u32 policy)
{
	return find_text(policies, ARRAY_SIZE(policies), policy);
}

const char *dmabridge_route_text(u32 route)
{
	return find_text(routes, ARRAY_SIZE(routes), route);
}

const char *dmabridge_user_kind_text(u32 kind)
{
	return find_text(user_kinds, ARRAY_SIZE(user_kinds), kind);
}

const char *dmabridge_reason_text(u32 code)
{
	return find_text(reasons, ARRAY_SIZE(reasons), code);
}

void dmabridge_address_text(char *to, size_t size, u64 device)
{
	u8 devfn = device;

	scnprintf(to, size, "%04llx:%02x:%02x.%x", device >> 16, (u8)(device >> 8),
		  PCI_SLOT(devfn), PCI_FUNC(devfn));
}
