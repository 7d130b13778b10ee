// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device that an attachment is for: any PCI function, or one of the module's
 * own that hangs on no bus.
 */
#include <linux/device/faux.h>
#include <linux/dma-mapping.h>
#include <linux/idr.h>
#include <linux/pci.h>

#include "internal.h"

static DEFINE_IDA(client_ids);

/* Those that have set a PCI function's mask, at most one of each function. */
static LIST_HEAD(masked_clients);
static DEFINE_MUTEX(masked_clients_lock);

static int own_device_init(struct client *client, const struct test_importer_attach *arg)
{
	char name[48];
	int ret;

	client->id = ida_alloc(&client_ids, GFP_KERNEL);
	if (client->id < 0)
		return client->id;
	snprintf(name, sizeof(name), "dmabridge-test-importer.%d", client->id);
	client->faux = faux_device_create(name, NULL, NULL);
	if (!client->faux) {
		ret = -ENOMEM;
		goto free_id;
	}
	client->dev = &client->faux->dev;
	client->dev->dma_parms = &client->dma_parms;
	dma_set_max_seg_size(client->dev, arg->max_segment ?: UINT_MAX);
	client->dev->dma_mask = &client->dev->coherent_dma_mask;
	ret = dma_set_mask_and_coherent(client->dev, DMA_BIT_MASK(arg->mask_bits ?: 64));
	if (ret)
		goto destroy;
	return 0;

destroy:
	faux_device_destroy(client->faux);
free_id:
	ida_free(&client_ids, client->id);
	return ret;
}

static bool is_masked(const struct device *dev)
{
	const struct client *other;

	lockdep_assert_held(&masked_clients_lock);
	list_for_each_entry(other, &masked_clients, node)
		if (other->dev == dev)
			return true;
	return false;
}

/* A function's mask is its driver's business: this touches only one that has none. */
static int set_mask(struct client *client, u32 bits)
{
	struct device *dev = client->dev;
	int ret = 0;

	mutex_lock(&masked_clients_lock);
	device_lock(dev);
	if (dev->driver)
		ret = -EINVAL;
	else if (is_masked(dev))
		ret = -EBUSY;
	if (!ret) {
		client->old_mask = dma_get_mask(dev);
		client->old_coherent_mask = dev->coherent_dma_mask;
		ret = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(bits));
	}
	if (!ret)
		list_add(&client->node, &masked_clients);
	device_unlock(dev);
	mutex_unlock(&masked_clients_lock);
	return ret;
}

static void restore_mask(struct client *client)
{
	struct device *dev = client->dev;

	mutex_lock(&masked_clients_lock);
	device_lock(dev);
	list_del(&client->node);
	/* A driver that has come meanwhile has set its own. */
	if (!dev->driver) {
		dma_set_mask(dev, client->old_mask);
		dma_set_coherent_mask(dev, client->old_coherent_mask);
	}
	device_unlock(dev);
	mutex_unlock(&masked_clients_lock);
}

static int pci_init(struct client *client, const struct test_importer_attach *arg)
{
	struct pci_dev *pdev;
	int ret;

	if (arg->max_segment || arg->device >> 48)
		return -EINVAL;
	pdev = pci_get_domain_bus_and_slot(arg->device >> 16, arg->device >> 8 & 0xff,
					   arg->device & 0xff);
	if (!pdev)
		return -ENXIO;
	client->dev = &pdev->dev;
	if (!arg->mask_bits)
		return 0;
	ret = set_mask(client, arg->mask_bits);
	if (ret)
		pci_dev_put(pdev);
	return ret;
}

int client_init(struct client *client, const struct test_importer_attach *arg)
{
	INIT_LIST_HEAD(&client->node);
	if (arg->mask_bits > 64)
		return -EINVAL;
	if (arg->flags & TEST_IMPORTER_PCI)
		return pci_init(client, arg);
	if (arg->device)
		return -EINVAL;
	return own_device_init(client, arg);
}

void client_exit(struct client *client)
{
	if (client->faux) {
		faux_device_destroy(client->faux);
		ida_free(&client_ids, client->id);
		return;
	}
	if (!list_empty(&client->node))
		restore_mask(client);
	pci_dev_put(to_pci_dev(client->dev));
}
