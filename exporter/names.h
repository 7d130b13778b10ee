/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Names of the ABI's values, for tracepoints and debugfs. They are those that the
 * library and dmabridge-reasons(7) use; a unit test compares them.
 *
 * A list takes the macro that is to be made of each entry, and the one for the
 * last, since __print_symbolic() wants no comma behind that.
 */
#ifndef _DMABRIDGE_NAMES_H
#define _DMABRIDGE_NAMES_H

#include "../uapi/dmabridge.h"

#define DMABRIDGE_REGION_KIND_NAMES(NAME, LAST)				\
	NAME(DMABRIDGE_REGION_BAR, "bar")				\
	NAME(DMABRIDGE_REGION_STOLEN, "stolen")				\
	LAST(DMABRIDGE_REGION_SYSTEM, "system")

#define DMABRIDGE_PLACEMENT_NAMES(NAME, LAST)				\
	NAME(DMABRIDGE_PLACEMENT_NONE, "none")				\
	NAME(DMABRIDGE_PLACEMENT_DEVICE, "device")			\
	LAST(DMABRIDGE_PLACEMENT_SYSTEM, "system")

#define DMABRIDGE_POLICY_NAMES(NAME, LAST)				\
	NAME(DMABRIDGE_POLICY_REQUIRE, "require")			\
	NAME(DMABRIDGE_POLICY_PREFER, "prefer")				\
	LAST(DMABRIDGE_POLICY_FORBID, "forbid")

#define DMABRIDGE_ROUTE_NAMES(NAME, LAST)				\
	NAME(DMABRIDGE_ROUTE_NONE, "none")				\
	NAME(DMABRIDGE_ROUTE_P2P_BUS, "p2p_bus")			\
	NAME(DMABRIDGE_ROUTE_P2P_HOST_BRIDGE, "p2p_host_bridge")	\
	NAME(DMABRIDGE_ROUTE_STOLEN, "stolen")				\
	NAME(DMABRIDGE_ROUTE_SYSTEM, "system")				\
	NAME(DMABRIDGE_ROUTE_BOUNCE, "bounce")				\
	LAST(DMABRIDGE_ROUTE_UNPROVED, "unproved")

#define DMABRIDGE_USER_KIND_NAMES(NAME, LAST)				\
	NAME(DMABRIDGE_USER_STATIC, "static_attachment")		\
	NAME(DMABRIDGE_USER_DYNAMIC, "dynamic_attachment")		\
	NAME(DMABRIDGE_USER_BINDING, "binding")				\
	LAST(DMABRIDGE_USER_HOLD, "hold")

#define DMABRIDGE_REASON_NAMES(NAME, LAST)				\
	NAME(DMABRIDGE_REASON_NONE, "none")				\
	NAME(DMABRIDGE_REASON_REVOKED, "revoked")			\
	NAME(DMABRIDGE_REASON_POLICY_FORBID, "policy_forbid")		\
	NAME(DMABRIDGE_REASON_POLICY_CONFLICT, "policy_conflict")	\
	NAME(DMABRIDGE_REASON_DEMOTED, "demoted")			\
	NAME(DMABRIDGE_REASON_HELD, "held")				\
	NAME(DMABRIDGE_REASON_PINNED_BY_USER, "pinned_by_user")		\
	NAME(DMABRIDGE_REASON_PINNED_BY_IMPORTER, "pinned_by_importer")	\
	NAME(DMABRIDGE_REASON_MOVE_LIMIT, "move_limit")			\
	NAME(DMABRIDGE_REASON_NO_SYSTEM_MEMORY, "no_system_memory")	\
	NAME(DMABRIDGE_REASON_NO_DEVICE_MEMORY, "no_device_memory")	\
	NAME(DMABRIDGE_REASON_MOVED, "moved")				\
	NAME(DMABRIDGE_REASON_INTERRUPTED, "interrupted")		\
	NAME(DMABRIDGE_REASON_NO_PAGES, "no_pages")			\
	NAME(DMABRIDGE_REASON_RESTORED, "restored")			\
	NAME(DMABRIDGE_REASON_SYSTEM_REGION, "system_region")		\
	NAME(DMABRIDGE_REASON_EVICTED, "evicted")			\
	NAME(DMABRIDGE_REASON_SUSPENDED, "suspended")			\
	NAME(DMABRIDGE_REASON_COPY_FAILED, "copy_failed")		\
	NAME(DMABRIDGE_REASON_STATIC_IMPORTER, "static_importer")	\
	NAME(DMABRIDGE_REASON_NOT_PEER2PEER, "not_peer2peer")		\
	NAME(DMABRIDGE_REASON_NOT_REVOCABLE, "not_revocable")		\
	NAME(DMABRIDGE_REASON_NOT_PCI, "not_pci")			\
	NAME(DMABRIDGE_REASON_EXPORTER_VETO, "exporter_veto")		\
	NAME(DMABRIDGE_REASON_DMA_MASK, "dma_mask")			\
	NAME(DMABRIDGE_REASON_ACS_REDIRECT, "acs_redirect")		\
	NAME(DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED, "host_bridge_unlisted")	\
	NAME(DMABRIDGE_REASON_NO_PATH, "no_path")			\
	NAME(DMABRIDGE_REASON_MEMORY_ENCRYPTION, "memory_encryption")	\
	NAME(DMABRIDGE_REASON_QUEUE_NO_P2P, "queue_no_p2p")		\
	NAME(DMABRIDGE_REASON_STACKED_DEVICE, "stacked_device")		\
	NAME(DMABRIDGE_REASON_STABLE_WRITES, "stable_writes")		\
	NAME(DMABRIDGE_REASON_FILESYSTEM_UNLISTED, "filesystem_unlisted")	\
	NAME(DMABRIDGE_REASON_FILE_NO_DIRECT_IO, "file_no_direct_io")	\
	NAME(DMABRIDGE_REASON_FILE_ENCRYPTED, "file_encrypted")		\
	NAME(DMABRIDGE_REASON_FILE_VERITY, "file_verity")		\
	NAME(DMABRIDGE_REASON_FILE_REALTIME, "file_realtime")		\
	NAME(DMABRIDGE_REASON_TARGET_NOT_BLOCK, "target_not_block")	\
	NAME(DMABRIDGE_REASON_TARGET_READ_ONLY, "target_read_only")	\
	NAME(DMABRIDGE_REASON_TARGET_NOT_READABLE, "target_not_readable")	\
	NAME(DMABRIDGE_REASON_TARGET_BUSY, "target_busy")		\
	NAME(DMABRIDGE_REASON_FOREIGN_BUFFER, "foreign_buffer")		\
	LAST(DMABRIDGE_REASON_NO_IMPORTER, "no_importer")

#endif /* _DMABRIDGE_NAMES_H */
