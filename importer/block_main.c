// SPDX-License-Identifier: GPL-2.0-only
/*
 * The block importer's module: registers with the exporter.
 */
#include <linux/module.h>

#include "block.h"

struct workqueue_struct *block_workqueue;

static const struct dmabridge_importer block_importer = {
	.id = DMABRIDGE_IMPORTER_BLOCK,
	.owner = THIS_MODULE,
	.bind = binding_create,
	.ask = binding_ask,
};

static int __init dmabridge_block_init(void)
{
	int ret;

	/* Memory reclaim may wait for a write of ours to end. */
	block_workqueue = alloc_workqueue("dmabridge_block", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!block_workqueue)
		return -ENOMEM;
	ret = raw_init();
	if (ret)
		goto destroy_workqueue;
	ret = file_init();
	if (ret)
		goto exit_raw;
	ret = dmabridge_importer_register(&block_importer);
	if (ret)
		goto exit_file;
	return 0;

exit_file:
	file_exit();
exit_raw:
	raw_exit();
destroy_workqueue:
	destroy_workqueue(block_workqueue);
	return ret;
}

/* No binding is left: each holds a reference on the module by its file. */
static void __exit dmabridge_block_exit(void)
{
	dmabridge_importer_unregister(&block_importer);
	/* Its last items may still be on their way out of our code. */
	destroy_workqueue(block_workqueue);
	file_exit();
	raw_exit();
}

module_init(dmabridge_block_init);
module_exit(dmabridge_block_exit);

MODULE_DESCRIPTION("Block devices and files as importers of dmabridge buffers");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("DMA_BUF");
MODULE_ALIAS("dmabridge-importer-0");
