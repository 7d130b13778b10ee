// SPDX-License-Identifier: GPL-2.0-only
/*
 * dmabridge_pci: exports the largest memory BAR of any PCI function that it is
 * told to bind (driver_override), and drives nothing else of the device.
 */
#include <linux/module.h>
#include <linux/pci.h>

#include "dmabridge_exporter.h"

static int bar = -1;
module_param(bar, int, 0444);
MODULE_PARM_DESC(bar, "BAR to export; -1: the largest memory BAR");

static int largest_bar(struct pci_dev *pdev)
{
	int best = -ENODEV, i;

	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		if (!(pci_resource_flags(pdev, i) & IORESOURCE_MEM) || !pci_resource_len(pdev, i))
			continue;
		if (best < 0 || pci_resource_len(pdev, i) > pci_resource_len(pdev, best))
			best = i;
	}
	return best;
}

static int dmabridge_pci_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct dmabridge_bar_desc desc = { .bar = bar };
	struct dmabridge_region *region;
	int ret;

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	if (desc.bar < 0)
		desc.bar = largest_bar(pdev);
	if (desc.bar < 0)
		return dev_err_probe(&pdev->dev, desc.bar, "no memory BAR to export\n");
	ret = pcim_request_region(pdev, desc.bar, KBUILD_MODNAME);
	if (ret)
		return dev_err_probe(&pdev->dev, ret, "BAR %d is in use\n", desc.bar);

	region = dmabridge_register_bar(pdev, &desc);
	if (IS_ERR(region))
		return dev_err_probe(&pdev->dev, PTR_ERR(region), "cannot export BAR %d (%pR)\n",
				     desc.bar, pci_resource_n(pdev, desc.bar));
	pci_set_drvdata(pdev, region);
	return 0;
}

static void dmabridge_pci_remove(struct pci_dev *pdev)
{
	dmabridge_unregister(pci_get_drvdata(pdev));
}

/* No ids: which function to bind is the administrator's choice. */
static const struct pci_device_id dmabridge_pci_ids[] = {
	{ }
};

static struct pci_driver dmabridge_pci_driver = {
	.name = "dmabridge_pci",
	.id_table = dmabridge_pci_ids,
	.probe = dmabridge_pci_probe,
	.remove = dmabridge_pci_remove,
};
module_pci_driver(dmabridge_pci_driver);

MODULE_DESCRIPTION("Export a PCI BAR as dma-bufs");
MODULE_LICENSE("GPL");
