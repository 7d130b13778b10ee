// SPDX-License-Identifier: GPL-2.0-only
/*
 * Modules that serve DMABRIDGE_IOCTL_BIND, and answer for it in advance. They depend on
 * this one; it knows them by number only, and asks for them when they are first needed.
 */
#include <linux/file.h>
#include <linux/kmod.h>
#include <linux/module.h>
#include <linux/rcupdate.h>

#include "internal.h"

/* verdict.c is compiled in user space too, and so exports nothing itself. */
EXPORT_SYMBOL_GPL(dmabridge_verdict_add);

#define NR_IMPORTERS	8

static const struct dmabridge_importer *importers[NR_IMPORTERS];	/* importers_lock */
static DEFINE_MUTEX(importers_lock);

int dmabridge_importer_register(const struct dmabridge_importer *importer)
{
	int ret = -EBUSY;

	if (importer->id >= NR_IMPORTERS)
		return -EINVAL;
	mutex_lock(&importers_lock);
	if (!importers[importer->id]) {
		importers[importer->id] = importer;
		ret = 0;
	}
	mutex_unlock(&importers_lock);
	return ret;
}
EXPORT_SYMBOL_GPL(dmabridge_importer_register);

/* A module is not unloaded while bind() runs: that holds a reference on it. */
void dmabridge_importer_unregister(const struct dmabridge_importer *importer)
{
	mutex_lock(&importers_lock);
	importers[importer->id] = NULL;
	mutex_unlock(&importers_lock);
}
EXPORT_SYMBOL_GPL(dmabridge_importer_unregister);

u64 dmabridge_importer_mask(void)
{
	u64 mask = 0;
	u32 id;

	mutex_lock(&importers_lock);
	for (id = 0; id < NR_IMPORTERS; id++)
		if (importers[id])
			mask |= BIT_ULL(id);
	mutex_unlock(&importers_lock);
	return mask;
}

static const struct dmabridge_importer *importer_get(u32 id)
{
	const struct dmabridge_importer *importer;

	mutex_lock(&importers_lock);
	importer = importers[id];
	if (importer && !try_module_get(importer->owner))
		importer = NULL;
	mutex_unlock(&importers_lock);
	return importer;
}

/* Loads it if need be. Return: with a reference on its module; NULL: @verdict says so. */
static const struct dmabridge_importer *importer_need(u32 id, struct dmabridge_verdict *verdict)
{
	const struct dmabridge_importer *importer = importer_get(id);

	if (!importer) {
		request_module("dmabridge-importer-%u", id);
		importer = importer_get(id);
	}
	if (!importer) {
		struct dmabridge_reason reason = {
			.code = DMABRIDGE_REASON_NO_IMPORTER,
			.flags = DMABRIDGE_REASON_BLOCKS_P2P,
			.value = id,
		};

		dmabridge_verdict_add(verdict, &reason);
	}
	return importer;
}

int dmabridge_importer_bind(struct dma_buf *dmabuf, struct dmabridge_bind *bind,
			    struct file **file)
{
	const struct dmabridge_importer *importer;
	struct file *target;
	int ret;

	if (bind->importer >= NR_IMPORTERS)
		return -EINVAL;
	target = fget(bind->target_fd);
	if (!target)
		return -EBADF;

	importer = importer_need(bind->importer, &bind->verdict);
	if (importer) {
		*file = importer->bind(dmabuf, target, bind);
		ret = PTR_ERR_OR_ZERO(*file);
		module_put(importer->owner);
	} else {
		ret = -EOPNOTSUPP;
	}
	fput(target);
	return ret;
}

int dmabridge_importer_ask(const struct dmabridge_question *question,
			   struct dmabridge_negotiate *arg)
{
	const struct dmabridge_importer *importer;
	struct file *target;
	int ret;

	target = fget(arg->target_fd);
	if (!target)
		return -EBADF;
	importer = importer_need(DMABRIDGE_IMPORTER_BLOCK, &arg->verdict);
	if (importer) {
		ret = importer->ask(question, target, arg);
		module_put(importer->owner);
	} else {
		ret = -EOPNOTSUPP;
	}
	fput(target);
	return ret;
}
