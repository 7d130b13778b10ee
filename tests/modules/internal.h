/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _TEST_IMPORTER_INTERNAL_H
#define _TEST_IMPORTER_INTERNAL_H

#include <linux/device.h>
#include <linux/list.h>

#include "test_importer.h"

struct dma_buf;
struct faux_device;
struct file;

/* --- client.c ----------------------------------------------------------------- */

/* The device that an attachment maps for. Embedded, and fixed while it lives. */
struct client {
	struct device *dev;
	struct faux_device *faux;		/* the module's own device, or NULL */
	struct device_dma_parameters dma_parms;	/* of that */
	int id;					/* of that */
	struct list_head node;			/* masked_clients, if it set a mask */
	u64 old_mask;				/* of a PCI function that had another */
	u64 old_coherent_mask;
};

int client_init(struct client *client, const struct test_importer_attach *arg);
void client_exit(struct client *client);

/* --- attachment.c -------------------------------------------------------------- */

/*
 * Attach to @dmabuf, whose reference the attachment takes over on success only.
 * Return: its file.
 */
struct file *attachment_create(struct dma_buf *dmabuf, struct test_importer_attach *arg);

#endif /* _TEST_IMPORTER_INTERNAL_H */
