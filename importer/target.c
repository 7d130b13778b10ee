// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a target is: the facts about a block device or a file that decide how its
 * bytes can be moved, and whether a peer's memory may be handed to it.
 *
 * Peer memory goes to a file only where the file system is known to hand the
 * pages to its own disk, unread: ext4 and xfs, with conditions that can change
 * under way and are looked at by each command. Other file systems get system
 * memory: they may succeed by copying.
 */
#include <linux/blk-integrity.h>
#include <linux/fileattr.h>
#include <linux/magic.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/pci.h>
#include <linux/stat.h>

#include "block.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC	0x58465342
#endif

/* --- reasons ---------------------------------------------------------------- */

static void add_reason(struct reason_list *list, u32 code, u64 value, const char *name)
{
	struct dmabridge_reason *reason;

	if (list->nr < DMABRIDGE_MAX_REASONS) {
		reason = &list->reasons[list->nr];
		*reason = (struct dmabridge_reason){
			.code = code,
			.flags = DMABRIDGE_REASON_BLOCKS_P2P,
			.value = value,
		};
		if (name)
			strscpy(reason->name, name, sizeof(reason->name));
	}
	list->nr++;
}

static int refuse(struct dmabridge_verdict *verdict, int error, u32 code, u64 value,
		  const char *name)
{
	struct dmabridge_reason reason = {
		.code = code,
		.flags = DMABRIDGE_REASON_BLOCKS_P2P,
		.value = value,
	};

	if (name)
		strscpy(reason.name, name, sizeof(reason.name));
	dmabridge_verdict_add(verdict, &reason);
	return error;
}

/* --- the disk ----------------------------------------------------------------- */

static const char *disk_name(const struct block_target *target)
{
	return target->bdev->bd_disk->disk_name;
}

static bool disk_takes_p2p(struct block_device *bdev)
{
	return blk_queue_pci_p2pdma(bdev_get_queue(bdev));
}

/* Somebody reads the data with the CPU on its way, or could not bear a change of it. */
static bool disk_needs_stable_data(struct block_device *bdev)
{
	return bdev_stable_writes(bdev) || blk_get_integrity(bdev->bd_disk);
}

struct device *target_device(const struct block_target *target)
{
	struct device *dev;

	/* A disk that was pulled out still names parents, which may be gone. */
	if (!target->bdev || !disk_live(target->bdev->bd_disk))
		return NULL;
	for (dev = disk_to_dev(target->bdev->bd_disk); dev; dev = dev->parent)
		if (dev_is_pci(dev))
			return disk_to_dev(target->bdev->bd_disk);
	return NULL;
}

static void disk_reasons(const struct block_target *target, struct reason_list *list)
{
	/* md, dm, loop, multipath, fabrics: what is behind can be anything, and change. */
	if (!target_device(target))
		add_reason(list, DMABRIDGE_REASON_STACKED_DEVICE, 0, disk_name(target));
	if (!disk_takes_p2p(target->bdev))
		add_reason(list, DMABRIDGE_REASON_QUEUE_NO_P2P, 0, disk_name(target));
	if (disk_needs_stable_data(target->bdev))
		add_reason(list, DMABRIDGE_REASON_STABLE_WRITES, 0, disk_name(target));
}

/* --- the file system ------------------------------------------------------------ */

static bool is_fs(const struct super_block *sb, unsigned long magic, const char *name)
{
	return sb->s_magic == magic && !strcmp(sb->s_type->name, name);
}

static bool is_ext4(const struct super_block *sb)
{
	return is_fs(sb, EXT4_SUPER_MAGIC, "ext4");
}

static bool is_xfs(const struct super_block *sb)
{
	return is_fs(sb, XFS_SUPER_MAGIC, "xfs");
}

/* Return: whether the file system tells alignments for direct I/O. 0: it does none. */
static bool ask_alignment(struct file *file, u32 flags, u32 *offset_align, u32 *memory_align)
{
	struct kstat stat;

	if (vfs_getattr_nosec(&file->f_path, &stat, STATX_DIOALIGN | STATX_DIO_READ_ALIGN, 0) ||
	    !(stat.result_mask & STATX_DIOALIGN))
		return false;
	*memory_align = stat.dio_mem_align;
	*offset_align = stat.dio_offset_align;
	/* Set if reads may be finer than writes. */
	if (!(flags & DMABRIDGE_BIND_WRITE) && stat.dio_read_offset_align)
		*offset_align = stat.dio_read_offset_align;
	return true;
}

static bool can_direct_io(struct file *file)
{
	u32 offset_align, memory_align;

	return file->f_mode & FMODE_CAN_ODIRECT && !IS_DAX(file_inode(file)) &&
	       ask_alignment(file, 0, &offset_align, &memory_align) && offset_align &&
	       memory_align;
}

/* The data are not on the file system's own disk. */
static bool is_realtime(struct file *file)
{
	struct file_kattr attr = { .fsx_valid = true };

	return is_xfs(file_inode(file)->i_sb) &&
	       (vfs_fileattr_get(file->f_path.dentry, &attr) ||
		attr.fsx_xflags & FS_XFLAG_REALTIME);
}

/* ext4 fills holes of files with the old block map by copying. */
static bool has_block_map(struct file *file)
{
	struct file_kattr attr = { .flags_valid = true };

	return is_ext4(file_inode(file)->i_sb) &&
	       (vfs_fileattr_get(file->f_path.dentry, &attr) || !(attr.flags & FS_EXTENT_FL));
}

static bool copies_writes(const struct block_target *target)
{
	return target->flags & DMABRIDGE_BIND_WRITE && has_block_map(target->file);
}

static void file_reasons(const struct block_target *target, struct reason_list *list)
{
	struct file *file = target->file;
	struct inode *inode = file_inode(file);

	if (!target->listed)
		add_reason(list, DMABRIDGE_REASON_FILESYSTEM_UNLISTED, inode->i_sb->s_magic,
			   inode->i_sb->s_type->name);
	if (IS_ENCRYPTED(inode))
		add_reason(list, DMABRIDGE_REASON_FILE_ENCRYPTED, 0, NULL);
	if (IS_VERITY(inode))
		add_reason(list, DMABRIDGE_REASON_FILE_VERITY, 0, NULL);
	if (is_realtime(file))
		add_reason(list, DMABRIDGE_REASON_FILE_REALTIME, 0, NULL);
	if (!can_direct_io(file) || copies_writes(target))
		add_reason(list, DMABRIDGE_REASON_FILE_NO_DIRECT_IO, 0, NULL);
	if (mapping_stable_writes(file->f_mapping) &&
	    !(target->bdev && disk_needs_stable_data(target->bdev)))
		add_reason(list, DMABRIDGE_REASON_STABLE_WRITES, 0, target_name(target));
}

/* --- for bind and for commands ---------------------------------------------------- */

void target_p2p_reasons(const struct block_target *target, struct reason_list *list)
{
	if (!target->raw)
		file_reasons(target, list);
	if (target->bdev)
		disk_reasons(target, list);
}

static s64 change_time(const struct inode *inode)
{
	struct timespec64 ctime = inode_get_ctime(inode);

	return timespec64_to_ns(&ctime);
}

/* What takes a call into the file system to know, and changes its change time. */
static bool file_is_fit(struct block_target *target)
{
	struct file *file = target->file;
	struct inode *inode = file_inode(file);
	struct kstat stat;
	s64 asked;

	if (is_mgtime(inode) && atomic64_read(&target->fit_since) == change_time(inode))
		return true;
	/* First the time: a change from here on gives another one. */
	if (vfs_getattr_nosec(&file->f_path, &stat, STATX_CTIME, 0))
		return false;
	asked = timespec64_to_ns(&stat.ctime);
	if (!can_direct_io(file) || is_realtime(file) || copies_writes(target))
		return false;
	atomic64_set(&target->fit_since, asked);
	return true;
}

/* The lists above, as far as things can change after bind. */
bool target_can_p2p(struct block_target *target)
{
	struct inode *inode = file_inode(target->file);

	if (!disk_takes_p2p(target->bdev) || disk_needs_stable_data(target->bdev))
		return false;
	if (target->raw)
		return true;
	return !IS_ENCRYPTED(inode) && !IS_VERITY(inode) &&
	       !mapping_stable_writes(target->file->f_mapping) && file_is_fit(target);
}

const char *target_name(const struct block_target *target)
{
	return target->bdev ? disk_name(target) : file_inode(target->file)->i_sb->s_type->name;
}

/* --- open and close ------------------------------------------------------------------ */

static int check_access(const struct file *file, u32 flags, struct dmabridge_verdict *verdict)
{
	u32 missing = 0;

	if (flags & DMABRIDGE_BIND_READ && !(file->f_mode & FMODE_READ))
		missing |= DMABRIDGE_BIND_READ;
	if (flags & DMABRIDGE_BIND_WRITE && !(file->f_mode & FMODE_WRITE))
		missing |= DMABRIDGE_BIND_WRITE;
	if (missing)
		return refuse(verdict, -EBADF, DMABRIDGE_REASON_TARGET_NOT_READABLE, missing, NULL);
	/* Opened for writing at its end, not at an offset. */
	if (flags & DMABRIDGE_BIND_WRITE && file->f_flags & O_APPEND)
		return refuse(verdict, -EINVAL, DMABRIDGE_REASON_TARGET_NOT_READABLE,
			      DMABRIDGE_BIND_WRITE, NULL);
	return 0;
}

static void init_raw(struct block_target *target)
{
	target->raw = true;
	target->direct = true;
	target->bdev = file_bdev(target->file);
	target->offset_align = bdev_logical_block_size(target->bdev);
	target->memory_align = bdev_dma_alignment(target->bdev) + 1;
}

static int init_file(struct block_target *target, struct dmabridge_verdict *verdict)
{
	struct file *file = target->file;
	struct super_block *sb = file_inode(file)->i_sb;
	bool aligned;

	if ((target->flags & DMABRIDGE_BIND_READ && !file->f_op->read_iter) ||
	    (target->flags & DMABRIDGE_BIND_WRITE && !file->f_op->write_iter))
		return refuse(verdict, -EOPNOTSUPP, DMABRIDGE_REASON_TARGET_NOT_BLOCK, 0,
			      sb->s_type->name);

	target->listed = sb->s_bdev && (is_ext4(sb) || is_xfs(sb));
	if (target->listed)
		target->bdev = sb->s_bdev;
	target->offset_align = 1;
	target->memory_align = 1;
	aligned = ask_alignment(file, target->flags, &target->offset_align,
				&target->memory_align);
	if (!target->offset_align || !target->memory_align) {
		target->offset_align = 1;
		target->memory_align = 1;
		aligned = false;
	}
	/* A file system that is not listed may do it without telling alignments. */
	target->direct = file->f_mode & FMODE_CAN_ODIRECT && !IS_DAX(file_inode(file)) &&
			 (aligned || !target->listed);

	if (target->listed && target->flags & DMABRIDGE_BIND_READ) {
		target->probe = dentry_open(&file->f_path, O_RDONLY | O_LARGEFILE, file->f_cred);
		if (IS_ERR(target->probe)) {
			int error = PTR_ERR(target->probe);

			target->probe = NULL;
			return error;
		}
	}
	return 0;
}

int target_init(struct block_target *target, struct file *file, u32 flags,
		struct dmabridge_verdict *verdict)
{
	umode_t mode = file_inode(file)->i_mode;
	int ret;

	if (!S_ISBLK(mode) && !S_ISREG(mode))
		return refuse(verdict, -EOPNOTSUPP, DMABRIDGE_REASON_TARGET_NOT_BLOCK, 0,
			      file_inode(file)->i_sb->s_type->name);
	ret = check_access(file, flags, verdict);
	if (ret)
		return ret;

	target->file = get_file(file);
	target->flags = flags;
	seqlock_init(&target->runs_lock);
	if (S_ISBLK(mode)) {
		init_raw(target);
		return 0;
	}
	ret = init_file(target, verdict);
	if (ret)
		target_exit(target);
	return ret;
}

static bool needs_claim(const struct block_target *target)
{
	return target->raw && target->flags & DMABRIDGE_BIND_WRITE;
}

static int check_writable(const struct block_target *target, struct dmabridge_verdict *verdict)
{
	if (!bdev_read_only(target->bdev))
		return 0;
	return refuse(verdict, -EROFS, DMABRIDGE_REASON_TARGET_READ_ONLY, 0, disk_name(target));
}

static int explain_claim(const struct block_target *target, struct dmabridge_verdict *verdict,
			 int error)
{
	if (error == -EBUSY)
		refuse(verdict, error, DMABRIDGE_REASON_TARGET_BUSY, 0, disk_name(target));
	return error;
}

/* All bindings are one holder, the module: several may write to one device. */
int target_claim(struct block_target *target, struct dmabridge_verdict *verdict)
{
	struct file *claim;
	int ret;

	if (!needs_claim(target))
		return 0;
	ret = check_writable(target, verdict);
	if (ret)
		return ret;
	claim = bdev_file_open_by_dev(target->bdev->bd_dev, BLK_OPEN_READ | BLK_OPEN_WRITE,
				      THIS_MODULE, NULL);
	if (IS_ERR(claim))
		return explain_claim(target, verdict, PTR_ERR(claim));
	target->claim = claim;
	return 0;
}

int target_check_claim(const struct block_target *target, struct dmabridge_verdict *verdict)
{
	const void *holder;
	int ret;

	if (!needs_claim(target))
		return 0;
	ret = check_writable(target, verdict);
	if (ret)
		return ret;
	if (!disk_live(target->bdev->bd_disk))
		return -ENXIO;
	/*
	 * Only a claim tells for sure, and for as long as it lasts; but others would wait
	 * for it, or fail. That the whole disk of a partition is claimed cannot be seen.
	 */
	holder = READ_ONCE(target->bdev->bd_holder);
	return holder && holder != THIS_MODULE ? explain_claim(target, verdict, -EBUSY) : 0;
}

void target_exit(struct block_target *target)
{
	if (target->claim)
		bdev_fput(target->claim);
	if (target->probe)
		fput(target->probe);
	fput(target->file);
}

/* --- holes ------------------------------------------------------------------------------ */

bool target_known_data(struct block_target *target, loff_t pos, loff_t end)
{
	unsigned int seq, i;
	bool known;

	do {
		seq = read_seqbegin(&target->runs_lock);
		known = false;
		for (i = 0; i < TARGET_DATA_RUNS && !known; i++)
			known = pos >= target->runs[i].start && end <= target->runs[i].end;
	} while (read_seqretry(&target->runs_lock, seq));
	return known;
}

static struct data_run *find_touching(struct block_target *target, loff_t start, loff_t end)
{
	unsigned int i;

	for (i = 0; i < TARGET_DATA_RUNS; i++)
		if (start <= target->runs[i].end && end >= target->runs[i].start)
			return &target->runs[i];
	return NULL;
}

static void note_data(struct block_target *target, loff_t start, loff_t end)
{
	struct data_run *run;

	write_seqlock(&target->runs_lock);
	run = find_touching(target, start, end);
	if (run) {
		run->start = min(start, run->start);
		run->end = max(end, run->end);
	} else {
		target->runs[target->next_run] = (struct data_run){ start, end };
		target->next_run = (target->next_run + 1) % TARGET_DATA_RUNS;
	}
	write_sequnlock(&target->runs_lock);
}

/*
 * By way of a file of our own: seeking sets the file's position, and the caller's
 * is not ours to set. Positions of concurrent calls overwrite each other, and
 * nobody reads them.
 */
u64 target_find_data(struct block_target *target, loff_t pos, loff_t end)
{
	u64 found = 0;

	while (pos < end) {
		loff_t start = vfs_llseek(target->probe, pos, SEEK_DATA);
		loff_t stop;

		if (start < 0 || start >= end)
			break;
		stop = vfs_llseek(target->probe, start, SEEK_HOLE);
		if (stop <= start)
			break;
		note_data(target, start, stop);
		found += min(stop, end) - start;
		pos = stop;
	}
	return found;
}
