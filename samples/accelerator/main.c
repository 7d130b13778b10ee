// SPDX-License-Identifier: GPL-2.0-only
/*
 * dmabridge_accelerator: a sample driver for an accelerator with memory of its
 * own, to be read and copied. It drives any PCI function whose BAR 2 is memory
 * (QEMU's ivshmem-plain, for one) and that it is told to bind:
 *
 *	# modprobe dmabridge_accelerator
 *	# echo dmabridge_accelerator > /sys/bus/pci/devices/0000:04:00.0/driver_override
 *	# echo 0000:04:00.0 > /sys/bus/pci/drivers_probe
 *
 * What a driver writes to export its memory, and where it is here:
 *
 *   main.c		registers the memory in probe(), unregisters it in remove(),
 *			says when the memory will be lost (suspend, reset, error),
 *			and vetoes importers that it does not like. This file alone,
 *			without ops, makes a complete driver.
 *   buffer.c		makes buffers for its own use, and is told when dmabridge
 *			moves them, so that its page tables are right.
 *   copy_engine.c	lets the device copy, rather than the CPU, when a buffer moves.
 *   compute.c		the device's own work on buffers: with fences, so that moves,
 *			block I/O and other drivers wait for it, and it for them.
 *   node.c		an ioctl node, which a DRM driver has anyway.
 *   knobs.c		what the project's tests need. Not to be copied.
 *
 * This device has no engines: work queues and memcpy stand in for them.
 */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pm.h>
#include <linux/slab.h>

#include "accelerator.h"

#define MEMORY_BAR	2

/* Looked at when a function is bound, but deny, which is looked at for each importer. */
static bool engine = true;
module_param(engine, bool, 0644);
MODULE_PARM_DESC(engine, "The device copies when buffers move, not the CPU");

static ulong offset;
module_param(offset, ulong, 0644);
MODULE_PARM_DESC(offset, "Where in the BAR the memory to export begins");

static ulong size;
module_param(size, ulong, 0644);
MODULE_PARM_DESC(size, "Bytes of the BAR to export; 0: all");

static bool pages = true;
module_param(pages, bool, 0644);
MODULE_PARM_DESC(pages, "The BAR gets struct pages, so that block I/O needs no bounce");

static ulong move_limit;
module_param(move_limit, ulong, 0644);
MODULE_PARM_DESC(move_limit, "Most bytes that the CPU copies for an importer; 0: default");

static ulong system_limit;
module_param(system_limit, ulong, 0644);
MODULE_PARM_DESC(system_limit, "Offer that many bytes of system memory too; 0: none");

static bool take_unrevocable;
module_param(take_unrevocable, bool, 0644);
MODULE_PARM_DESC(take_unrevocable, "Importers that cannot be told to stop get P2P too");

static char *deny;
module_param(deny, charp, 0644);
MODULE_PARM_DESC(deny, "PCI function (0000:01:00.0) that gets no P2P, nor what is below it");

static ulong deny_value;
module_param(deny_value, ulong, 0644);
MODULE_PARM_DESC(deny_value, "Number that stands in the verdict of who was denied");

/* --- what dmabridge asks ------------------------------------------------------------- */

/* @importer need not be a PCI function itself, but below one. */
static bool veto(void *priv, struct device *importer, u64 *value)
{
	bool denied = false;

	kernel_param_lock(THIS_MODULE);
	for (; importer && deny && !denied; importer = importer->parent)
		denied = dev_is_pci(importer) && sysfs_streq(dev_name(importer), deny);
	*value = deny_value;
	kernel_param_unlock(THIS_MODULE);
	return denied;
}

static const struct dmabridge_region_ops ops_with_engine = {
	.copy = copy_engine_copy,
	.veto = veto,
	.moved = buffer_moved,
};

static const struct dmabridge_region_ops ops_without_engine = {
	.veto = veto,
	.moved = buffer_moved,
};

/* System memory is not moved, but revoked. */
static const struct dmabridge_region_ops system_ops = {
	.moved = buffer_moved,
};

/* --- when the memory is lost, or about to be ------------------------------------------- */

int accelerator_suspend(struct accelerator *accelerator)
{
	int ret = dmabridge_suspend(accelerator->region);

	/* On error all goes on. */
	if (!ret)
		compute_stop(&accelerator->compute);
	return ret;
}

void accelerator_resume(struct accelerator *accelerator)
{
	compute_start(&accelerator->compute);
	dmabridge_resume(accelerator->region);
}

/*
 * Jobs may hang, which is why one resets a device. Others wait for their fences,
 * and nobody else can end them.
 */
void accelerator_lose(struct accelerator *accelerator)
{
	compute_cancel(&accelerator->compute);
	dmabridge_revoke_all(accelerator->region);
}

void accelerator_recover(struct accelerator *accelerator)
{
	compute_start(&accelerator->compute);
	dmabridge_recovered(accelerator->region);
}

/* Before any device is suspended: importers have to unmap, and memory has to be found. */
static int pm_prepare(struct device *dev)
{
	return accelerator_suspend(dev_get_drvdata(dev));
}

static void pm_complete(struct device *dev)
{
	accelerator_resume(dev_get_drvdata(dev));
}

static const struct dev_pm_ops accelerator_pm = {
	.prepare = pm_prepare,
	.complete = pm_complete,
};

static void reset_prepare(struct pci_dev *pdev)
{
	accelerator_lose(pci_get_drvdata(pdev));
}

static void reset_done(struct pci_dev *pdev)
{
	accelerator_recover(pci_get_drvdata(pdev));
}

static pci_ers_result_t error_detected(struct pci_dev *pdev, pci_channel_state_t state)
{
	/* Nothing is lost, and nobody has to be reset for our sake. */
	if (state == pci_channel_io_normal)
		return PCI_ERS_RESULT_CAN_RECOVER;
	accelerator_lose(pci_get_drvdata(pdev));
	return state == pci_channel_io_perm_failure ? PCI_ERS_RESULT_DISCONNECT :
						      PCI_ERS_RESULT_NEED_RESET;
}

static pci_ers_result_t slot_reset(struct pci_dev *pdev)
{
	/* Another device of the same bus may have asked for the reset. */
	accelerator_lose(pci_get_drvdata(pdev));
	pci_restore_state(pdev);
	return PCI_ERS_RESULT_RECOVERED;
}

static const struct pci_error_handlers accelerator_errors = {
	.error_detected = error_detected,
	.slot_reset = slot_reset,
	.resume = reset_done,
	.reset_prepare = reset_prepare,
	.reset_done = reset_done,
};

/* --- probe and remove -------------------------------------------------------------------- */

static void accelerator_free(struct kref *ref)
{
	struct accelerator *accelerator = container_of(ref, struct accelerator, ref);

	compute_exit(&accelerator->compute);
	copy_engine_exit(&accelerator->copy_engine);
	mutex_destroy(&accelerator->lock);
	kfree(accelerator);
}

void accelerator_put(struct accelerator *accelerator)
{
	kref_put(&accelerator->ref, accelerator_free);
}

static struct accelerator *accelerator_alloc(struct pci_dev *pdev)
{
	struct accelerator *accelerator;
	int ret;

	accelerator = kzalloc_obj(*accelerator);
	if (!accelerator)
		return ERR_PTR(-ENOMEM);
	kref_init(&accelerator->ref);
	accelerator->pdev = pdev;
	init_rwsem(&accelerator->alive);
	mutex_init(&accelerator->lock);
	INIT_LIST_HEAD(&accelerator->buffers);
	snprintf(accelerator->name, sizeof(accelerator->name), "accelerator-%s", pci_name(pdev));

	ret = copy_engine_init(&accelerator->copy_engine);
	if (!ret)
		ret = compute_init(&accelerator->compute);
	if (ret) {
		accelerator_put(accelerator);
		return ERR_PTR(ret);
	}
	return accelerator;
}

static int register_regions(struct accelerator *accelerator)
{
	const struct dmabridge_bar_desc memory = {
		.region.ops = engine ? &ops_with_engine : &ops_without_engine,
		.region.priv = accelerator,
		.region.move_limit = move_limit,
		.region.take_unrevocable = take_unrevocable,
		.bar = MEMORY_BAR,
		.offset = offset,
		.size = size,
		.no_pages = !pages,
	};
	const struct dmabridge_region_desc system = {
		.ops = &system_ops,
		.priv = accelerator,
		.limit = system_limit,
	};
	struct dmabridge_region *region;

	region = dmabridge_register_bar(accelerator->pdev, &memory);
	if (IS_ERR(region))
		return PTR_ERR(region);
	accelerator->region = region;
	if (!system.limit)
		return 0;
	region = dmabridge_register_system(&accelerator->pdev->dev, &system);
	if (IS_ERR(region)) {
		dmabridge_unregister(accelerator->region);
		return PTR_ERR(region);
	}
	accelerator->system = region;
	return 0;
}

/* On return nobody reaches the device's memory any more. */
static void unregister_regions(struct accelerator *accelerator)
{
	/* Else revoking would wait for jobs that may hang. */
	compute_cancel(&accelerator->compute);
	if (accelerator->system)
		dmabridge_unregister(accelerator->system);
	dmabridge_unregister(accelerator->region);
	compute_stop(&accelerator->compute);
}

static int accelerator_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct accelerator *accelerator;
	int ret;

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	ret = pcim_request_region(pdev, MEMORY_BAR, KBUILD_MODNAME);
	if (ret)
		return dev_err_probe(&pdev->dev, ret, "BAR %d is in use\n", MEMORY_BAR);
	/* To be restored after an error. */
	ret = pci_save_state(pdev);
	if (ret)
		return ret;
	accelerator = accelerator_alloc(pdev);
	if (IS_ERR(accelerator))
		return PTR_ERR(accelerator);
	accelerator->memory = pcim_iomap(pdev, MEMORY_BAR, 0);
	if (!accelerator->memory) {
		ret = -ENOMEM;
		goto put;
	}
	/* What dmabridge calls an offset is one in the region. */
	accelerator->memory += offset;
	ret = register_regions(accelerator);
	if (ret) {
		dev_err_probe(&pdev->dev, ret, "cannot export BAR %d (%pR)\n", MEMORY_BAR,
			      pci_resource_n(pdev, MEMORY_BAR));
		goto put;
	}
	ret = node_register(accelerator);
	if (ret)
		goto unregister;
	knobs_create(accelerator);
	pci_set_drvdata(pdev, accelerator);
	return 0;

unregister:
	unregister_regions(accelerator);
put:
	accelerator_put(accelerator);
	return ret;
}

static void accelerator_remove(struct pci_dev *pdev)
{
	struct accelerator *accelerator = pci_get_drvdata(pdev);

	knobs_remove(accelerator);
	node_unregister(accelerator);
	unregister_regions(accelerator);
	accelerator_put(accelerator);
}

/* None: which function to bind is the administrator's choice. Real hardware has ids. */
static const struct pci_device_id accelerator_ids[] = {
	{ }
};

static struct pci_driver accelerator_driver = {
	.name = "dmabridge_accelerator",
	.id_table = accelerator_ids,
	.probe = accelerator_probe,
	.remove = accelerator_remove,
	.err_handler = &accelerator_errors,
	.driver.pm = pm_sleep_ptr(&accelerator_pm),
};
module_pci_driver(accelerator_driver);

MODULE_DESCRIPTION("Sample accelerator driver that exports its memory");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("DMA_BUF");
