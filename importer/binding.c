// SPDX-License-Identifier: GPL-2.0-only
/*
 * A binding: a buffer and a target, joined under a policy, as a file.
 */
#include <linux/anon_inodes.h>
#include <linux/compat.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "block.h"

static void sum_counters(const struct block_binding *binding, struct binding_counters *sum)
{
	unsigned int cpu, route;

	memset(sum, 0, sizeof(*sum));
	for_each_possible_cpu(cpu) {
		const struct binding_counters *counters = per_cpu_ptr(binding->counters, cpu);

		for (route = 0; route < DMABRIDGE_NR_ROUTES; route++) {
			sum->commands[route] += READ_ONCE(counters->commands[route]);
			sum->bytes[route] += READ_ONCE(counters->bytes[route]);
		}
		sum->errors += READ_ONCE(counters->errors);
		sum->reissued += READ_ONCE(counters->reissued);
	}
}

static long describe(struct block_binding *binding, unsigned int cmd, void __user *user_info)
{
	struct dmabridge_binding_info *info __free(kfree) = kzalloc_obj(*info);
	struct binding_counters *sum __free(kfree) = kzalloc_obj(*sum);
	unsigned int route;
	int ret;

	if (!info || !sum)
		return -ENOMEM;
	ret = dmabridge_copy_in(info, sizeof(*info), cmd, user_info);
	if (ret)
		return ret;
	if (info->flags)
		return -EINVAL;

	info->flags = binding->target.flags;
	info->offset_align = binding->target.offset_align;
	info->memory_align = binding->target.memory_align;
	info->max_length = COMMAND_MAX_LENGTH;
	info->buffer_size = memory_size(&binding->memory);
	info->generation = memory_generation(&binding->memory);
	info->verdict = binding->verdict;
	sum_counters(binding, sum);
	info->errors = sum->errors;
	info->reissued = sum->reissued;
	for (route = 0; route < DMABRIDGE_NR_ROUTES; route++) {
		info->routes[route].commands = sum->commands[route];
		info->routes[route].bytes = sum->bytes[route];
	}
	return dmabridge_copy_out(user_info, cmd, info, sizeof(*info));
}

static long binding_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	if (_IOC_TYPE(cmd) != DMABRIDGE_IOC || _IOC_NR(cmd) != _IOC_NR(DMABRIDGE_IOCTL_BINDING))
		return -ENOTTY;
	return describe(file->private_data, cmd, (void __user *)arg);
}

static const char *route_name(u32 route)
{
	static const char * const names[] = {
		[DMABRIDGE_ROUTE_NONE] = "none",
		[DMABRIDGE_ROUTE_P2P_BUS] = "p2p_bus",
		[DMABRIDGE_ROUTE_P2P_HOST_BRIDGE] = "p2p_host_bridge",
		[DMABRIDGE_ROUTE_STOLEN] = "stolen",
		[DMABRIDGE_ROUTE_SYSTEM] = "system",
		[DMABRIDGE_ROUTE_BOUNCE] = "bounce",
		[DMABRIDGE_ROUTE_UNPROVED] = "unproved",
	};

	return route < ARRAY_SIZE(names) ? names[route] : "unknown";
}

static void binding_show_fdinfo(struct seq_file *m, struct file *file)
{
	const struct block_binding *binding = file->private_data;
	struct binding_counters *sum __free(kfree) = kzalloc_obj(*sum);
	u32 route;

	seq_printf(m, "dmabridge-target:\t%s\n", target_name(&binding->target));
	seq_printf(m, "dmabridge-verdict:\t%s\n", route_name(binding->verdict.route));
	if (!sum)
		return;
	sum_counters(binding, sum);
	for (route = 0; route < DMABRIDGE_NR_ROUTES; route++)
		if (sum->commands[route])
			seq_printf(m, "dmabridge-route-%s:\t%llu commands, %llu bytes\n",
				   route_name(route), sum->commands[route], sum->bytes[route]);
	seq_printf(m, "dmabridge-errors:\t%llu\n", sum->errors);
	seq_printf(m, "dmabridge-reissued:\t%llu\n", sum->reissued);
}

static int binding_release(struct inode *inode, struct file *file)
{
	struct block_binding *binding = file->private_data;

	/* May move the buffer home, for which nobody needs the target. */
	target_exit(&binding->target);
	memory_close(&binding->memory);
	free_percpu(binding->counters);
	kfree(binding);
	return 0;
}

static const struct file_operations binding_fops = {
	.owner = THIS_MODULE,
	.uring_cmd = command_issue,
	.unlocked_ioctl = binding_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.show_fdinfo = binding_show_fdinfo,
	.release = binding_release,
};

/* @target as a user of a buffer. @blockers, zero before, and @target have to outlive @desc. */
static void describe_user(const struct block_target *target, u32 policy,
			  struct reason_list *blockers, struct dmabridge_user_desc *desc)
{
	target_p2p_reasons(target, blockers);
	*desc = (struct dmabridge_user_desc){
		.device = target_device(target),
		.name = target_name(target),
		.policy = policy,
		.write = target->flags & DMABRIDGE_BIND_READ,
		.may_copy = !target->direct || !(target->raw || target->listed),
		.reasons = blockers->reasons,
		.nr_reasons = min(blockers->nr, DMABRIDGE_MAX_REASONS),
	};
}

/* Through the page cache, whatever the buffer's place. */
static void correct_route(const struct block_target *target, const struct reason_list *blockers,
			  struct dmabridge_verdict *verdict)
{
	u32 i;

	if (target->direct)
		return;
	verdict->route = DMABRIDGE_ROUTE_BOUNCE;
	if (verdict->nr_reasons)
		return;
	/* Stolen memory serves all: the target's reasons were no reasons until now. */
	for (i = 0; i < min(blockers->nr, DMABRIDGE_MAX_REASONS); i++)
		dmabridge_verdict_add(verdict, &blockers->reasons[i]);
}

static int join(struct block_binding *binding, struct dma_buf *dmabuf,
		struct dmabridge_bind *bind)
{
	struct reason_list *blockers __free(kfree) = kzalloc_obj(*blockers);
	struct dmabridge_user_desc desc;
	int ret;

	if (!blockers)
		return -ENOMEM;
	describe_user(&binding->target, bind->policy, blockers, &desc);
	ret = memory_open(&binding->memory, dmabuf, &desc, &bind->verdict);
	if (ret)
		return ret;
	correct_route(&binding->target, blockers, &bind->verdict);
	binding->verdict = bind->verdict;
	return 0;
}

struct file *binding_create(struct dma_buf *dmabuf, struct file *target,
			    struct dmabridge_bind *bind)
{
	struct block_binding *binding;
	struct file *file;
	int ret;

	binding = kzalloc_obj(*binding, GFP_KERNEL_ACCOUNT);
	if (!binding)
		return ERR_PTR(-ENOMEM);
	binding->counters = alloc_percpu_gfp(struct binding_counters, GFP_KERNEL_ACCOUNT);
	if (!binding->counters) {
		ret = -ENOMEM;
		goto free_binding;
	}
	ret = target_init(&binding->target, target, bind->flags, &bind->verdict);
	if (ret)
		goto free_counters;
	ret = target_claim(&binding->target, &bind->verdict);
	if (ret)
		goto exit_target;
	ret = join(binding, dmabuf, bind);
	if (ret)
		goto exit_target;
	file = anon_inode_getfile("[dmabridge-binding]", &binding_fops, binding, O_RDWR);
	if (IS_ERR(file)) {
		ret = PTR_ERR(file);
		goto close_memory;
	}
	return file;

close_memory:
	memory_close(&binding->memory);
exit_target:
	target_exit(&binding->target);
free_counters:
	free_percpu(binding->counters);
free_binding:
	kfree(binding);
	return ERR_PTR(ret);
}

static int ask_target(const struct dmabridge_question *question, struct block_target *target,
		      struct dmabridge_negotiate *arg)
{
	struct reason_list *blockers __free(kfree) = kzalloc_obj(*blockers);
	struct dmabridge_user_desc desc;
	int ret;

	if (!blockers)
		return -ENOMEM;
	ret = target_check_claim(target, &arg->verdict);
	if (ret)
		return ret;
	describe_user(target, arg->policy, blockers, &desc);
	ret = memory_ask(question, &desc, arg);
	if (!ret)
		correct_route(target, blockers, &arg->verdict);
	return ret;
}

int binding_ask(const struct dmabridge_question *question, struct file *file,
		struct dmabridge_negotiate *arg)
{
	struct block_target *target __free(kfree) = kzalloc_obj(*target);
	int ret;

	if (!target)
		return -ENOMEM;
	ret = target_init(target, file, arg->flags, &arg->verdict);
	if (ret)
		return ret;
	ret = ask_target(question, target, arg);
	target_exit(target);
	return ret;
}
