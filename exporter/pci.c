// SPDX-License-Identifier: GPL-2.0-only
/*
 * dmabridge_pci: exports the largest memory BAR of any PCI function that it is
 * told to bind (driver_override), and drives nothing else of the device. What
 * kind of region it makes of a function the administrator says, by parameters
 * that are looked at when the function is bound.
 */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pm.h>
#include <linux/security.h>

#include "dmabridge_exporter.h"

static int bar = -1;
module_param(bar, int, 0444);
MODULE_PARM_DESC(bar, "BAR to export; -1: the largest memory BAR");

static char *no_pages;
module_param(no_pages, charp, 0644);
MODULE_PARM_DESC(no_pages, "Functions (0000:01:00.0[,...]) whose BAR gets no struct pages");

static char *stolen;
module_param(stolen, charp, 0644);
MODULE_PARM_DESC(stolen, "Functions whose BAR is system RAM that was kept from the kernel, is coherent with it, and where it begins (0000:01:00.0@0x30000000[,...])");

/* --- parameters -------------------------------------------------------------------- */

/*
 * The entry for @pdev in a list of functions: what follows its name, up to a
 * comma. Return: NULL: there is none. Under kernel_param_lock().
 */
static const char *find_entry(const char *list, struct pci_dev *pdev)
{
	size_t length = strlen(pci_name(pdev));

	while (list && *list) {
		if (!strncmp(list, pci_name(pdev), length) && strchr(",@\n", list[length]))
			return list + length;
		list = strchr(list, ',');
		if (list)
			list++;
	}
	return NULL;
}

static bool wants_no_pages(struct pci_dev *pdev)
{
	bool found;

	kernel_param_lock(THIS_MODULE);
	found = find_entry(no_pages, pdev);
	kernel_param_unlock(THIS_MODULE);
	return found;
}

/* Return: 0: @start is set; -ENOENT: it is no such function; -EINVAL: no address. */
static int find_stolen(struct pci_dev *pdev, phys_addr_t *start)
{
	long long address = 0;
	const char *entry;
	char after = 0;
	int ret = 0;

	kernel_param_lock(THIS_MODULE);
	entry = find_entry(stolen, pdev);
	if (!entry)
		ret = -ENOENT;
	else if (sscanf(entry, "@%lli%c", &address, &after) < 1 || !strchr(",\n", after))
		ret = -EINVAL;
	kernel_param_unlock(THIS_MODULE);
	*start = address;
	return ret;
}

/* --- probe --------------------------------------------------------------------------- */

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

static bool can_have_pages(struct pci_dev *pdev, int nr)
{
	return IS_ALIGNED(pci_resource_start(pdev, nr) | pci_resource_len(pdev, nr), SZ_2M);
}

static struct dmabridge_region *register_region(struct pci_dev *pdev, int nr)
{
	struct dmabridge_stolen_desc ram = {
		.bar = nr,
		.size = pci_resource_len(pdev, nr),
		.cpu_reachable = true,
		.dma_reachable = true,
		.coherent = true,
	};
	struct dmabridge_bar_desc desc = { .bar = nr };
	int ret;

	ret = find_stolen(pdev, &ram.start);
	if (!ret)
		return dmabridge_register_stolen(pdev, &ram);
	if (ret != -ENOENT)
		return ERR_PTR(ret);
	desc.no_pages = wants_no_pages(pdev);
	if (!desc.no_pages && !can_have_pages(pdev, nr)) {
		pci_info(pdev, "BAR %d cannot have struct pages, which need 2 MiB: block I/O will bounce\n",
			 nr);
		desc.no_pages = true;
	}
	return dmabridge_register_bar(pdev, &desc);
}

static int dmabridge_pci_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct dmabridge_region *region;
	int nr = bar, ret;

	/* As for the BARs in sysfs: whoever maps one tells the device where to do DMA. */
	ret = security_locked_down(LOCKDOWN_PCI_ACCESS);
	if (ret)
		return dev_err_probe(&pdev->dev, ret, "no BAR is exported: the kernel is locked down\n");
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	if (nr < 0)
		nr = largest_bar(pdev);
	if (nr < 0)
		return dev_err_probe(&pdev->dev, nr, "no memory BAR to export\n");
	ret = pcim_request_region(pdev, nr, KBUILD_MODNAME);
	if (ret)
		return dev_err_probe(&pdev->dev, ret, "BAR %d is in use\n", nr);
	/* To be restored after an error. */
	ret = pci_save_state(pdev);
	if (ret)
		return ret;

	region = register_region(pdev, nr);
	if (IS_ERR(region))
		return dev_err_probe(&pdev->dev, PTR_ERR(region), "cannot export BAR %d (%pR)\n",
				     nr, pci_resource_n(pdev, nr));
	pci_set_drvdata(pdev, region);
	return 0;
}

static void dmabridge_pci_remove(struct pci_dev *pdev)
{
	dmabridge_unregister(pci_get_drvdata(pdev));
}

/* --- when the memory is lost, or about to be ------------------------------------------- */

/* Before any device is suspended: importers have to unmap, and memory has to be found. */
static int dmabridge_pci_prepare(struct device *dev)
{
	return dmabridge_suspend(dev_get_drvdata(dev));
}

static void dmabridge_pci_complete(struct device *dev)
{
	dmabridge_resume(dev_get_drvdata(dev));
}

static const struct dev_pm_ops dmabridge_pci_pm = {
	.prepare = dmabridge_pci_prepare,
	.complete = dmabridge_pci_complete,
};

static void reset_prepare(struct pci_dev *pdev)
{
	dmabridge_revoke_all(pci_get_drvdata(pdev));
}

static void reset_done(struct pci_dev *pdev)
{
	dmabridge_recovered(pci_get_drvdata(pdev));
}

static pci_ers_result_t error_detected(struct pci_dev *pdev, pci_channel_state_t state)
{
	/* Nothing is lost, and nobody has to be reset for our sake. */
	if (state == pci_channel_io_normal)
		return PCI_ERS_RESULT_CAN_RECOVER;
	dmabridge_revoke_all(pci_get_drvdata(pdev));
	return state == pci_channel_io_perm_failure ? PCI_ERS_RESULT_DISCONNECT :
						      PCI_ERS_RESULT_NEED_RESET;
}

static pci_ers_result_t slot_reset(struct pci_dev *pdev)
{
	/* Another device of the same bus may have asked for the reset. */
	dmabridge_revoke_all(pci_get_drvdata(pdev));
	pci_restore_state(pdev);
	return PCI_ERS_RESULT_RECOVERED;
}

static const struct pci_error_handlers dmabridge_pci_errors = {
	.error_detected = error_detected,
	.slot_reset = slot_reset,
	.resume = reset_done,
	.reset_prepare = reset_prepare,
	.reset_done = reset_done,
};

/* No ids: which function to bind is the administrator's choice. */
static const struct pci_device_id dmabridge_pci_ids[] = {
	{ }
};

static struct pci_driver dmabridge_pci_driver = {
	.name = "dmabridge_pci",
	.id_table = dmabridge_pci_ids,
	.probe = dmabridge_pci_probe,
	.remove = dmabridge_pci_remove,
	.err_handler = &dmabridge_pci_errors,
	.driver.pm = pm_sleep_ptr(&dmabridge_pci_pm),
};
module_pci_driver(dmabridge_pci_driver);

MODULE_DESCRIPTION("Export a PCI BAR as dma-bufs");
MODULE_LICENSE("GPL");
