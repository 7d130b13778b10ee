// SPDX-License-Identifier: GPL-2.0-only
/*
 * dmabridge_test_awake: while it is loaded the guest's own virtio devices are
 * left alone when the system suspends. The guest lives by them: its root file
 * system is on one (9p), whose driver does not survive a suspend. So all other
 * devices can be suspended and resumed for real, by /sys/power/pm_test.
 */
#include <linux/module.h>
#include <linux/pci.h>

static void stay_awake(bool awake)
{
	struct pci_dev *pdev = NULL;

	for_each_pci_dev(pdev)
		if (!strcmp(dev_driver_string(&pdev->dev), "virtio-pci"))
			dev_pm_syscore_device(&pdev->dev, awake);
}

static int __init awake_init(void)
{
	stay_awake(true);
	return 0;
}

static void __exit awake_exit(void)
{
	stay_awake(false);
}

module_init(awake_init);
module_exit(awake_exit);

MODULE_DESCRIPTION("Keeps a guest's own devices awake in a suspend test");
MODULE_LICENSE("GPL");
