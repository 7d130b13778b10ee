// SPDX-License-Identifier: GPL-2.0-only
/*
 * The administrator's list of functions that must not do peer-to-peer traffic:
 * the module parameter "deny". It is one more reason against a path, and takes
 * nothing away from those who have been granted one.
 *
 * A list is never changed, only replaced: readers look at it under RCU, writers
 * are kept apart by the module's param_lock.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "internal.h"

/* In place of the second address. */
#define ANYONE	U64_MAX

struct denied_pair {
	u64 one;
	u64 other;
};

struct deny_list {
	struct rcu_head rcu;
	u32 nr;
	struct denied_pair pairs[] __counted_by(nr);
};

static struct deny_list __rcu *denied;	/* NULL: nobody */

static bool matches(const struct denied_pair *pair, u64 a, u64 b)
{
	if (pair->other == ANYONE)
		return pair->one == a || pair->one == b;
	return (pair->one == a && pair->other == b) || (pair->one == b && pair->other == a);
}

bool dmabridge_denied(struct pci_dev *a, struct pci_dev *b)
{
	u64 one = dmabridge_pci_address(a), other = dmabridge_pci_address(b);
	const struct deny_list *list;
	bool found = false;
	u32 i;

	rcu_read_lock();
	list = rcu_dereference(denied);
	for (i = 0; list && i < list->nr && !found; i++)
		found = matches(&list->pairs[i], one, other);
	rcu_read_unlock();
	return found;
}

/* --- the parameter ------------------------------------------------------------ */

/* As the kernel writes it, so that a list is no longer read back than written. */
static bool parse_address(const char *text, u64 *address)
{
	unsigned int domain, bus, slot, function;
	char canonical[24];

	if (sscanf(text, "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4 ||
	    bus > 0xff || slot > 0x1f || function > 7)
		return false;
	*address = (u64)domain << 16 | PCI_DEVID(bus, PCI_DEVFN(slot, function));
	dmabridge_address_text(canonical, sizeof(canonical), *address);
	return !strcasecmp(text, canonical);
}

static int parse_pair(char *text, struct denied_pair *pair)
{
	const char *one = strsep(&text, "-");

	pair->other = ANYONE;
	if (!parse_address(one, &pair->one)) {
		pr_err("deny: '%s' is no PCI function (0000:01:00.0)\n", one);
		return -EINVAL;
	}
	if (!text)
		return 0;
	if (!parse_address(text, &pair->other)) {
		pr_err("deny: '%s' is no PCI function (0000:01:00.0)\n", text);
		return -EINVAL;
	}
	if (pair->one == pair->other) {
		pr_err("deny: '%s' is paired with itself; alone it is denied with anyone\n", one);
		return -EINVAL;
	}
	return 0;
}

/* Cuts @text to pieces. Return: NULL for an empty one. */
static struct deny_list *parse_list(char *text)
{
	struct deny_list *list;
	const char *at;
	u32 nr = 1, i;
	int ret;

	if (!*text)
		return NULL;
	for (at = text; *at; at++)
		nr += *at == ',';
	list = kzalloc_flex(*list, pairs, nr);
	if (!list)
		return ERR_PTR(-ENOMEM);
	list->nr = nr;
	for (i = 0; i < nr; i++) {
		ret = parse_pair(strsep(&text, ","), &list->pairs[i]);
		if (ret) {
			kfree(list);
			return ERR_PTR(ret);
		}
	}
	return list;
}

static void replace_list(struct deny_list *list)
{
	/* The parameter's callers hold param_lock, or are the module's last. */
	struct deny_list *old = rcu_replace_pointer(denied, list, true);

	if (old)
		kfree_rcu(old, rcu);
}

static int deny_set(const char *value, const struct kernel_param *param)
{
	struct deny_list *list;
	char *text;

	/* It has to be readable in one page, with a newline. */
	if (strlen(value) > PAGE_SIZE - 2) {
		pr_err("deny: the list is longer than %lu bytes\n", PAGE_SIZE - 2);
		return -EINVAL;
	}
	text = kstrdup(value, GFP_KERNEL);
	if (!text)
		return -ENOMEM;
	list = parse_list(strim(text));
	kfree(text);
	if (IS_ERR(list))
		return PTR_ERR(list);
	replace_list(list);
	return 0;
}

static int deny_get(char *to, const struct kernel_param *param)
{
	const struct deny_list *list;
	char one[24], other[24];
	int length = 0;
	u32 i;

	rcu_read_lock();
	list = rcu_dereference(denied);
	for (i = 0; list && i < list->nr; i++) {
		const struct denied_pair *pair = &list->pairs[i];

		dmabridge_address_text(one, sizeof(one), pair->one);
		length += scnprintf(to + length, PAGE_SIZE - length, "%s%s", i ? "," : "", one);
		if (pair->other == ANYONE)
			continue;
		dmabridge_address_text(other, sizeof(other), pair->other);
		length += scnprintf(to + length, PAGE_SIZE - length, "-%s", other);
	}
	rcu_read_unlock();
	return length + scnprintf(to + length, PAGE_SIZE - length, "\n");
}

/* The module is gone: there are no readers. */
static void deny_free(void *unused)
{
	replace_list(NULL);
}

static const struct kernel_param_ops deny_ops = {
	.set = deny_set,
	.get = deny_get,
	.free = deny_free,
};

module_param_cb(deny, &deny_ops, NULL, 0644);
MODULE_PARM_DESC(deny, "Functions (0000:01:00.0) and pairs of them (0000:01:00.0-0000:02:00.0), separated by commas, that must not do peer-to-peer traffic");
