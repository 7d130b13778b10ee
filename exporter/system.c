// SPDX-License-Identifier: GPL-2.0-only
/*
 * Regions of ordinary system memory: all buffers are where others are redirected
 * to.
 */
#include "internal.h"

struct dmabridge_region *dmabridge_register_system(struct device *dev,
						   const struct dmabridge_region_desc *desc)
{
	struct dmabridge_region *region;

	if (!desc->limit)
		return ERR_PTR(-EINVAL);
	region = dmabridge_region_alloc(dev, desc, "system");
	if (IS_ERR(region))
		return region;
	region->kind = DMABRIDGE_REGION_SYSTEM;
	region->has_pages = true;
	region->size = desc->limit;
	return dmabridge_region_register(region);
}
EXPORT_SYMBOL_GPL(dmabridge_register_system);
