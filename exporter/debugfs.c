// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/debug/dmabridge/REGION: a region and its buffers, as text for
 * people. Programs use DMABRIDGE_IOCTL_QUERY: this text may change.
 *
 * Lifetime. dmabridge_debugfs_remove() waits for readers and lets no more in. A
 * read keeps a reference on the buffer that it shows, and thereby that buffer's
 * place on the region's list; between two reads there is none.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "internal.h"
#include "names.h"

static struct dentry *root;

/* --- texts ------------------------------------------------------------------------ */

struct flag_name {
	u32 flag;
	const char *name;
};

static const struct flag_name region_flags[] = {
	{ DMABRIDGE_REGION_HAS_PAGES, "has_pages" },
	{ DMABRIDGE_REGION_TAKES_UNREVOCABLE, "takes_unrevocable" },
	{ DMABRIDGE_REGION_HAS_ENGINE, "has_engine" },
	{ DMABRIDGE_REGION_SUSPENDED, "suspended" },
	{ DMABRIDGE_REGION_QUARANTINED, "quarantined" },
	{ DMABRIDGE_REGION_NOT_PCI, "not_pci" },
	{ DMABRIDGE_REGION_UNREGISTERED, "unregistered" },
};

static const struct flag_name user_flags[] = {
	{ DMABRIDGE_USER_NEEDS_SYSTEM, "needs_system" },
	{ DMABRIDGE_USER_NEEDS_DEVICE, "needs_device" },
	{ DMABRIDGE_USER_PEER2PEER, "peer2peer" },
	{ DMABRIDGE_USER_REVOCABLE, "revocable" },
	{ DMABRIDGE_USER_PINNED, "pinned" },
	{ DMABRIDGE_USER_BOUNCES, "bounces" },
};

static const struct flag_name reason_flags[] = {
	{ DMABRIDGE_REASON_BLOCKS_P2P, "blocks_p2p" },
	{ DMABRIDGE_REASON_BLOCKS_MOVE, "blocks_move" },
};

static void show_flags(struct seq_file *seq, u32 flags, const struct flag_name *names, u32 nr)
{
	u32 i;

	for (i = 0; i < nr; i++)
		if (flags & names[i].flag)
			seq_printf(seq, " %s", names[i].name);
}

static void show_device(struct seq_file *seq, u64 device)
{
	char text[24];

	dmabridge_address_text(text, sizeof(text), device);
	seq_printf(seq, " %s", text);
}

/* A reason in one line: its name, then the evidence. */
static void show_reason(struct seq_file *seq, const struct dmabridge_reason *reason)
{
	seq_printf(seq, " %s", dmabridge_reason_text(reason->code));
	if (reason->flags & DMABRIDGE_REASON_HAS_DEVICE)
		show_device(seq, reason->device);
	if (reason->name[0])
		seq_printf(seq, " %s", reason->name);
	if (reason->value)
		seq_printf(seq, " value=%#llx", reason->value);
	show_flags(seq, reason->flags, reason_flags, ARRAY_SIZE(reason_flags));
	seq_putc(seq, '\n');
}

/* --- region ------------------------------------------------------------------------- */

static int region_show(struct seq_file *seq, void *unused)
{
	const struct dmabridge_region *region = seq->private;
	struct dmabridge_region_info info = { .id = region->id };
	int ret;

	/* It is registered for as long as this file is there. */
	ret = dmabridge_region_describe(&info);
	if (ret)
		return ret;
	seq_printf(seq, "id: %u\nkind: %s\ndriver: %s\n", info.id,
		   dmabridge_region_kind_text(info.kind), info.driver);
	if (!(info.flags & DMABRIDGE_REGION_NOT_PCI)) {
		seq_puts(seq, "device:");
		show_device(seq, info.device);
		seq_printf(seq, "\nbar: %u\n", info.bar);
	}
	seq_puts(seq, "flags:");
	show_flags(seq, info.flags, region_flags, ARRAY_SIZE(region_flags));
	seq_printf(seq, "\nbuffers: %u\nsize: %llu\nlimit: %llu\navailable: %llu\n",
		   info.nr_buffers, info.size, info.limit, info.available);
	seq_printf(seq, "quarantined: %llu\nmove limit: %llu\n", info.quarantined,
		   info.move_limit);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(region);

/* --- buffers ------------------------------------------------------------------------ */

/* What one open file needs. */
struct buffers_reader {
	struct dmabridge_region *region;
	struct dmabridge_user user;	/* too large for the stack */
};

/*
 * The first buffer that lives behind @after on the list, or NULL, with a
 * reference. @after is referenced, or NULL: from the start.
 */
static struct dmabridge_buffer *live_buffer_behind(struct dmabridge_region *region,
						   struct dmabridge_buffer *after)
{
	struct list_head *node;

	mutex_lock(&region->lock);
	node = after ? &after->region_node : &region->buffers;
	while ((node = node->next) != &region->buffers) {
		struct dmabridge_buffer *buffer =
			list_entry(node, struct dmabridge_buffer, region_node);

		if (get_file_active(&buffer->dmabuf->file)) {
			mutex_unlock(&region->lock);
			return buffer;
		}
	}
	mutex_unlock(&region->lock);
	return NULL;
}

static void *buffers_next(struct seq_file *seq, void *buffer, loff_t *pos)
{
	struct buffers_reader *reader = seq->private;
	struct dmabridge_buffer *next = live_buffer_behind(reader->region, buffer);

	if (buffer)
		dmabridge_buffer_put(buffer);
	(*pos)++;
	return next;
}

/* By its number: those that went since the last read() make others be left out. */
static void *buffers_start(struct seq_file *seq, loff_t *pos)
{
	struct buffers_reader *reader = seq->private;
	struct dmabridge_buffer *buffer = live_buffer_behind(reader->region, NULL);
	loff_t at = 0;

	while (buffer && at < *pos)
		buffer = buffers_next(seq, buffer, &at);
	return buffer;
}

static void buffers_stop(struct seq_file *seq, void *buffer)
{
	if (buffer)
		dmabridge_buffer_put(buffer);
}

static void show_user(struct seq_file *seq, const char *title, const struct dmabridge_user *user)
{
	u32 nr = min(user->verdict.nr_reasons, DMABRIDGE_MAX_REASONS), i;

	seq_printf(seq, "  %s: %s %s", title, dmabridge_user_kind_text(user->kind), user->name);
	if (user->driver[0])
		seq_printf(seq, " driver %s", user->driver);
	if (user->flags & DMABRIDGE_USER_HAS_DEVICE) {
		seq_puts(seq, " device");
		show_device(seq, user->device);
	}
	seq_printf(seq, "\n    p2p: %s\n    flags:",
		   user->flags & DMABRIDGE_USER_P2P ? "granted" : "no");
	show_flags(seq, user->flags, user_flags, ARRAY_SIZE(user_flags));
	seq_printf(seq, "\n    policy: %s\n", dmabridge_policy_text(user->policy));
	/* A hold does no I/O, and so has neither. */
	if (user->kind != DMABRIDGE_USER_HOLD)
		seq_printf(seq, "    route: %s\n    distance: %d\n",
			   dmabridge_route_text(user->verdict.route), user->verdict.distance);
	for (i = 0; i < nr; i++) {
		seq_puts(seq, "    reason:");
		show_reason(seq, &user->verdict.reasons[i]);
	}
	if (user->verdict.nr_reasons > nr)
		seq_printf(seq, "    reasons left out: %u\n", user->verdict.nr_reasons - nr);
}

static void show_buffer_locked(struct seq_file *seq, struct dmabridge_buffer *buffer)
{
	struct buffers_reader *reader = seq->private;
	const struct dmabridge_user_state *user;

	dma_resv_assert_held(buffer->dmabuf->resv);
	seq_printf(seq, "  placement: %s%s\n", dmabridge_placement_text(buffer->placement),
		   buffer->placement == DMABRIDGE_PLACEMENT_NONE ? " (revoked)" : "");
	seq_printf(seq, "  generation: %llu\n  moves: %llu\n", buffer->generation, buffer->moves);
	if (buffer->last_move.code) {
		seq_puts(seq, "  last move:");
		show_reason(seq, &buffer->last_move);
	}
	seq_printf(seq, "  dma mappings: %zu\n  dma mappings of a bar: %u\n",
		   list_count_nodes(&buffer->mappings), buffer->nr_io_mappings);
	list_for_each_entry(user, &buffer->users, node) {
		dmabridge_user_describe(&reader->user, user);
		show_user(seq, "user", &reader->user);
		if (user->nr_pins)
			seq_printf(seq, "    pins: %u\n", user->nr_pins);
	}
	if (buffer->last_refused.kind)
		show_user(seq, "last refused", &buffer->last_refused);
}

static int buffers_show(struct seq_file *seq, void *item)
{
	struct dmabridge_buffer *buffer = item;
	int ret;

	ret = dma_resv_lock_interruptible(buffer->dmabuf->resv, NULL);
	if (ret)
		return ret;
	seq_printf(seq, "buffer %llu\n  size: %llu\n  policy: %s\n",
		   (u64)file_inode(buffer->dmabuf->file)->i_ino, buffer->size,
		   dmabridge_policy_text(buffer->policy));
	show_buffer_locked(seq, buffer);
	dma_resv_unlock(buffer->dmabuf->resv);
	return 0;
}

static const struct seq_operations buffers_ops = {
	.start = buffers_start,
	.next = buffers_next,
	.stop = buffers_stop,
	.show = buffers_show,
};

static int buffers_open(struct inode *inode, struct file *file)
{
	struct buffers_reader *reader = __seq_open_private(file, &buffers_ops, sizeof(*reader));

	if (!reader)
		return -ENOMEM;
	reader->region = inode->i_private;
	return 0;
}

static const struct file_operations buffers_fops = {
	.owner = THIS_MODULE,
	.open = buffers_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = seq_release_private,
};

/* --- registration ------------------------------------------------------------------- */

void dmabridge_debugfs_add(struct dmabridge_region *region)
{
	region->debugfs = debugfs_create_dir(region->name, root);
	debugfs_create_file("region", 0400, region->debugfs, region, &region_fops);
	debugfs_create_file("buffers", 0400, region->debugfs, region, &buffers_fops);
}

void dmabridge_debugfs_remove(struct dmabridge_region *region)
{
	debugfs_remove(region->debugfs);
}

void dmabridge_debugfs_init(void)
{
	root = debugfs_create_dir("dmabridge", NULL);
}

void dmabridge_debugfs_exit(void)
{
	debugfs_remove(root);
}
