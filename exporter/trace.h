/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints, in /sys/kernel/tracing/events/dmabridge. Their names are the whole
 * kernel's: BPF finds them without that folder. A buffer is named by its inode, as
 * in /proc/PID/fdinfo and debugfs, a PCI function by its address.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dmabridge

#if !defined(_DMABRIDGE_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _DMABRIDGE_TRACE_H

#include <linux/tracepoint.h>

#include "internal.h"
#include "names.h"

#ifndef _DMABRIDGE_TRACE_HELPERS
#define _DMABRIDGE_TRACE_HELPERS

#define DMABRIDGE_TRACE_REASONS	256	/* room for DMABRIDGE_MAX_REASONS names */
#define DMABRIDGE_TRACE_DEVICE	24	/* room for an address */

/* "-" if @has_device is not set. */
void dmabridge_trace_device(char to[DMABRIDGE_TRACE_DEVICE], bool has_device, u64 device);
/* Names of the verdict's reasons that have all of @flags, "-" if there are none. */
void dmabridge_trace_reasons(char to[DMABRIDGE_TRACE_REASONS],
			     const struct dmabridge_verdict *verdict, u32 flags);

static inline u64 dmabridge_trace_inode(const struct dmabridge_buffer *buffer)
{
	return file_inode(buffer->dmabuf->file)->i_ino;
}

#endif /* _DMABRIDGE_TRACE_HELPERS */

/* Tools that print by themselves need to know what the enumerators are worth. */
#define DEFINE_NAME(value, name)	TRACE_DEFINE_ENUM(value);
DMABRIDGE_PLACEMENT_NAMES(DEFINE_NAME, DEFINE_NAME)
DMABRIDGE_POLICY_NAMES(DEFINE_NAME, DEFINE_NAME)
DMABRIDGE_ROUTE_NAMES(DEFINE_NAME, DEFINE_NAME)
DMABRIDGE_USER_KIND_NAMES(DEFINE_NAME, DEFINE_NAME)
DMABRIDGE_REASON_NAMES(DEFINE_NAME, DEFINE_NAME)
#undef DEFINE_NAME

#define SYMBOL(value, name)		{ value, name },
#define LAST_SYMBOL(value, name)	{ value, name }
#define show_placement(value)	\
	__print_symbolic(value, DMABRIDGE_PLACEMENT_NAMES(SYMBOL, LAST_SYMBOL))
#define show_policy(value)	\
	__print_symbolic(value, DMABRIDGE_POLICY_NAMES(SYMBOL, LAST_SYMBOL))
#define show_route(value)	\
	__print_symbolic(value, DMABRIDGE_ROUTE_NAMES(SYMBOL, LAST_SYMBOL))
#define show_user_kind(value)	\
	__print_symbolic(value, DMABRIDGE_USER_KIND_NAMES(SYMBOL, LAST_SYMBOL))
#define show_reason(value)	\
	__print_symbolic(value, DMABRIDGE_REASON_NAMES(SYMBOL, LAST_SYMBOL))

/* An attachment, a binding or a hold came, or was refused (error). */
TRACE_EVENT(dmabridge_verdict,
	TP_PROTO(const struct dmabridge_user_state *user, const struct dmabridge_verdict *verdict,
		 int error),
	TP_ARGS(user, verdict, error),

	TP_STRUCT__entry(
		__field(u64, ino)
		__field(u64, size)
		__field(u32, kind)
		__string(name, user->name)
		__string(driver, user->driver[0] ? user->driver : "-")
		__array(char, device, DMABRIDGE_TRACE_DEVICE)
		__field(u32, policy)
		__field(u32, route)
		__field(s32, distance)
		__field(int, error)
		__array(char, reasons, DMABRIDGE_TRACE_REASONS)
	),

	TP_fast_assign(
		__entry->ino = dmabridge_trace_inode(user->buffer);
		__entry->size = user->buffer->size;
		__entry->kind = user->kind;
		__assign_str(name);
		__assign_str(driver);
		dmabridge_trace_device(__entry->device, user->flags & DMABRIDGE_USER_HAS_DEVICE,
				       user->device);
		__entry->policy = user->policy;
		__entry->route = verdict->route;
		__entry->distance = verdict->distance;
		__entry->error = error;
		dmabridge_trace_reasons(__entry->reasons, verdict, 0);
	),

	TP_printk("ino=%llu size=%llu kind=%s name=%s driver=%s device=%s policy=%s route=%s distance=%d error=%d reasons=%s",
		  __entry->ino, __entry->size, show_user_kind(__entry->kind), __get_str(name),
		  __get_str(driver), __entry->device, show_policy(__entry->policy),
		  show_route(__entry->route), __entry->distance, __entry->error,
		  __entry->reasons)
);

/* A buffer moved, or did not (error, and the reasons why not). */
TRACE_EVENT(dmabridge_move,
	TP_PROTO(const struct dmabridge_buffer *buffer, u32 from, u32 to,
		 const struct dmabridge_reason *why, const struct dmabridge_verdict *verdict,
		 int error),
	TP_ARGS(buffer, from, to, why, verdict, error),

	TP_STRUCT__entry(
		__field(u64, ino)
		__field(u64, size)
		__field(u64, generation)
		__field(u32, from)
		__field(u32, to)
		__field(u32, why)
		__string(name, why->name[0] ? why->name : "-")
		__array(char, device, DMABRIDGE_TRACE_DEVICE)
		__field(int, error)
		__array(char, reasons, DMABRIDGE_TRACE_REASONS)
	),

	TP_fast_assign(
		__entry->ino = dmabridge_trace_inode(buffer);
		__entry->size = buffer->size;
		__entry->generation = READ_ONCE(buffer->generation);
		__entry->from = from;
		__entry->to = to;
		__entry->why = why->code;
		__assign_str(name);
		dmabridge_trace_device(__entry->device, why->flags & DMABRIDGE_REASON_HAS_DEVICE,
				       why->device);
		__entry->error = error;
		dmabridge_trace_reasons(__entry->reasons, verdict, DMABRIDGE_REASON_BLOCKS_MOVE);
	),

	TP_printk("ino=%llu size=%llu generation=%llu from=%s to=%s why=%s name=%s device=%s error=%d reasons=%s",
		  __entry->ino, __entry->size, __entry->generation,
		  show_placement(__entry->from), show_placement(__entry->to),
		  show_reason(__entry->why), __get_str(name), __entry->device, __entry->error,
		  __entry->reasons)
);

/* A buffer loses its device, and its bytes. */
TRACE_EVENT(dmabridge_revoke,
	TP_PROTO(const struct dmabridge_buffer *buffer),
	TP_ARGS(buffer),

	TP_STRUCT__entry(
		__field(u64, ino)
		__field(u64, size)
		__field(u32, from)
		__string(region, buffer->region->name)
	),

	TP_fast_assign(
		__entry->ino = dmabridge_trace_inode(buffer);
		__entry->size = buffer->size;
		__entry->from = buffer->placement;
		__assign_str(region);
	),

	TP_printk("ino=%llu size=%llu from=%s region=%s",
		  __entry->ino, __entry->size, show_placement(__entry->from),
		  __get_str(region))
);

#endif /* _DMABRIDGE_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
