// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/debug/accelerator-FUNCTION/: by which the project's tests make the
 * engines slow, stuck or faulty, and bring about what a device's life brings
 * about by itself. No part of what a driver needs.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "accelerator.h"

static int copy_hold_get(void *data, u64 *value)
{
	struct copy_engine *engine = data;

	*value = READ_ONCE(engine->hold);
	return 0;
}

static int copy_hold_set(void *data, u64 value)
{
	copy_engine_hold(data, value);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(copy_hold_fops, copy_hold_get, copy_hold_set, "%llu\n");

static int compute_hold_get(void *data, u64 *value)
{
	struct compute *compute = data;

	*value = READ_ONCE(compute->hold);
	return 0;
}

static int compute_hold_set(void *data, u64 value)
{
	compute_hold(data, value);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(compute_hold_fops, compute_hold_get, compute_hold_set, "%llu\n");

/* What is written is done, and what comes of it is what write() returns. */
static ssize_t control_write(struct file *file, const char __user *from, size_t length,
			     loff_t *offset)
{
	struct accelerator *accelerator = file_inode(file)->i_private;
	char command[16];
	int ret = 0;

	if (length >= sizeof(command))
		return -EINVAL;
	if (copy_from_user(command, from, length))
		return -EFAULT;
	command[length] = '\0';
	if (sysfs_streq(command, "suspend"))
		ret = accelerator_suspend(accelerator);
	else if (sysfs_streq(command, "resume"))
		accelerator_resume(accelerator);
	else if (sysfs_streq(command, "lose"))
		accelerator_lose(accelerator);
	else if (sysfs_streq(command, "recover"))
		accelerator_recover(accelerator);
	else
		ret = -EINVAL;
	return ret ?: length;
}

static const struct file_operations control_fops = {
	.open = simple_open,
	.write = control_write,
};

void knobs_create(struct accelerator *accelerator)
{
	struct copy_engine *engine = &accelerator->copy_engine;
	struct dentry *dir = debugfs_create_dir(accelerator->name, NULL);

	debugfs_create_file("copy_hold", 0600, dir, engine, &copy_hold_fops);
	debugfs_create_bool("copy_last_first", 0600, dir, &engine->last_first);
	debugfs_create_u32("copy_delay_ms", 0600, dir, &engine->delay_ms);
	debugfs_create_u32("copy_fail_every", 0600, dir, &engine->fail_every);
	debugfs_create_u32("copy_refuse_every", 0600, dir, &engine->refuse_every);
	debugfs_create_u64("copy_pieces", 0600, dir, &engine->pieces);
	debugfs_create_u32("copy_busy", 0400, dir, &engine->busy);
	debugfs_create_u32("copy_most_busy", 0600, dir, &engine->most_busy);
	debugfs_create_file("compute_hold", 0600, dir, &accelerator->compute,
			    &compute_hold_fops);
	debugfs_create_file("control", 0200, dir, accelerator, &control_fops);
	accelerator->knobs = dir;
}

/* Waits for what runs in them. Nobody could let go of an engine after that. */
void knobs_remove(struct accelerator *accelerator)
{
	debugfs_remove(accelerator->knobs);
	copy_engine_hold(&accelerator->copy_engine, false);
}
