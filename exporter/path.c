// SPDX-License-Identifier: GPL-2.0-only
/*
 * The PCI path between an exporter and an importer.
 *
 * Whether P2P works is pci_p2pdma_distance()'s decision alone. The kernel does
 * not export by which route or why not, so the tree is walked here as well, to
 * tell people; nothing is decided by that walk.
 */
#include <linux/cc_platform.h>
#include <linux/dma-mapping.h>
#include <linux/iommu-dma.h>
#include <linux/pci-p2pdma.h>

#include "internal.h"

#define ACS_REDIRECT	(PCI_ACS_RR | PCI_ACS_CR | PCI_ACS_EC)

struct pci_dev *dmabridge_pci_parent(struct device *dev)
{
	while (dev && !dev_is_pci(dev))
		dev = dev->parent;
	return dev ? to_pci_dev(dev) : NULL;
}

u64 dmabridge_pci_address(struct pci_dev *pdev)
{
	return (u64)pci_domain_nr(pdev->bus) << 16 | pci_dev_id(pdev);
}

static void add_blocker(struct dmabridge_facts *facts, u32 code, struct pci_dev *pdev, u64 value)
{
	struct dmabridge_reason *reason;

	if (facts->nr_blockers == DMABRIDGE_MAX_BLOCKERS)
		return;
	reason = &facts->blockers[facts->nr_blockers++];
	*reason = (struct dmabridge_reason){ .code = code, .value = value };
	if (pdev) {
		reason->flags = DMABRIDGE_REASON_HAS_DEVICE;
		reason->device = dmabridge_pci_address(pdev);
		dmabridge_reason_name(reason, pci_name(pdev));
	}
}

/* ACS control bits of a bridge that send peer traffic up; 0: none, or no ACS. */
static u16 acs_redirect(struct pci_dev *bridge)
{
	u16 ctrl;

	if (!bridge->acs_cap ||
	    pci_read_config_word(bridge, bridge->acs_cap + PCI_ACS_CTRL, &ctrl))
		return 0;
	return ctrl & ACS_REDIRECT;
}

static bool is_above(struct pci_dev *bridge, struct pci_dev *pdev)
{
	for (; pdev; pdev = pci_upstream_bridge(pdev))
		if (pdev == bridge)
			return true;
	return false;
}

/* The lowest device that both are, or are below of; NULL: only a host bridge. */
static struct pci_dev *common_bridge(struct pci_dev *a, struct pci_dev *b)
{
	for (; a; a = pci_upstream_bridge(a))
		if (is_above(a, b))
			return a;
	return NULL;
}

/* Bridges from @pdev up to, and without, @top that redirect; each a blocker if asked. */
static unsigned int count_redirects(struct pci_dev *pdev, struct pci_dev *top,
				    struct dmabridge_facts *blame)
{
	unsigned int found = 0;

	for (; pdev != top; pdev = pci_upstream_bridge(pdev)) {
		u16 ctrl = acs_redirect(pdev);

		if (ctrl) {
			found++;
			if (blame)
				add_blocker(blame, DMABRIDGE_REASON_ACS_REDIRECT, pdev, ctrl);
		}
	}
	return found;
}

/* On the path between two functions whose lowest common bridge is @common. */
static unsigned int count_path_redirects(struct pci_dev *a, struct pci_dev *b,
					 struct pci_dev *common, struct dmabridge_facts *blame)
{
	/* p2pdma counts the common bridge's own bits too. */
	return count_redirects(a, common, blame) + count_redirects(b, common, blame) +
	       count_redirects(common, pci_upstream_bridge(common), blame);
}

/*
 * The host bridge as p2pdma names it: by the first function on its root bus, if
 * that is 00.0 or a root port. Like p2pdma's, this walk takes no pci_bus_sem, which
 * error recovery holds when it revokes: @pdev keeps what is above it.
 */
static void blame_host_bridge(struct dmabridge_facts *facts, struct pci_dev *pdev)
{
	struct pci_bus *bus = pci_find_host_bridge(pdev->bus)->bus;
	struct pci_dev *root;

	root = bus ? list_first_entry_or_null(&bus->devices, struct pci_dev, bus_list) : NULL;
	if (!root || (root->devfn != PCI_DEVFN(0, 0) &&
		      pci_pcie_type(root) != PCI_EXP_TYPE_ROOT_PORT))
		return;
	add_blocker(facts, DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED, root,
		    (u64)root->vendor << 16 | root->device);
}

/*
 * The kernel looks at no mask on its way to a peer: what does not fit would be
 * cut off, and go somewhere else. Through an IOMMU the device is given an address
 * that fits.
 */
static void check_mask(struct dmabridge_facts *facts, const struct dmabridge_region *region,
		       struct pci_dev *importer)
{
	u64 offset = region->start - pci_resource_start(region->pdev, region->bar);
	u64 last = pci_bus_address(region->pdev, region->bar) + offset + region->size - 1;
	u64 mask = dma_get_mask(&importer->dev);

	if (facts->path_route == DMABRIDGE_ROUTE_P2P_HOST_BRIDGE && use_dma_iommu(&importer->dev))
		return;
	if (last > mask)
		add_blocker(facts, DMABRIDGE_REASON_DMA_MASK, importer, mask);
}

void dmabridge_path_facts(struct dmabridge_facts *facts, const struct dmabridge_region *region,
			  struct device *client)
{
	struct pci_dev *importer = dmabridge_pci_parent(client);
	struct pci_dev *provider = region->pdev;
	struct pci_dev *common;
	unsigned int known;
	bool redirected;

	facts->distance = -1;
	if (cc_platform_has(CC_ATTR_MEM_ENCRYPT))
		add_blocker(facts, DMABRIDGE_REASON_MEMORY_ENCRYPTION, NULL, 0);
	if (!importer) {
		add_blocker(facts, DMABRIDGE_REASON_NOT_PCI, NULL, 0);
		return;
	}
	if (dmabridge_denied(provider, importer))
		add_blocker(facts, DMABRIDGE_REASON_DENIED, importer, 0);

	known = facts->nr_blockers;
	facts->distance = pci_p2pdma_distance(provider, client, false);
	common = common_bridge(provider, importer);
	if (facts->distance >= 0) {
		redirected = common && count_path_redirects(provider, importer, common, NULL);
		facts->path_route = common && !redirected ? DMABRIDGE_ROUTE_P2P_BUS :
							    DMABRIDGE_ROUTE_P2P_HOST_BRIDGE;
		check_mask(facts, region, importer);
		return;
	}

	if (common)
		count_path_redirects(provider, importer, common, facts);
	/* Which of two its list lacks p2pdma does not export. The library has the lists. */
	blame_host_bridge(facts, provider);
	if (pci_find_host_bridge(provider->bus) != pci_find_host_bridge(importer->bus))
		blame_host_bridge(facts, importer);
	if (facts->nr_blockers == known)
		add_blocker(facts, DMABRIDGE_REASON_NO_PATH, NULL, (u64)(s64)facts->distance);
}
