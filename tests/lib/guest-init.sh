#!/bin/sh
# SPDX-License-Identifier: MIT
#
# First program of a guest, in the initial RAM disk (busybox). Puts the tree (and the kernel's layer, if it has one), read-only by 9p, under one in memory,
# adds the shares, and hands over to guest-run.sh inside it.
bb=/bin/busybox
for command in mount mkdir insmod cp switch_root; do eval "$command() { $bb $command \"\$@\"; }"; done

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys

give_up() {
    echo "guest: $*" >/dev/kmsg
    $bb poweroff -f
}

# Whether a guest comes up at all, as vm.py asks before it trusts KVM.
[ "$1" != probe ] || give_up probe

while read -r module; do
    insmod "/modules/$module" || give_up "cannot load $module"
done </modules/order

share() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,$3" "$1" "$2" || give_up "cannot mount the share $1"; }

share host /host ro,cache=none
# shellcheck source=/dev/null
. /host/guest.env
share tree /lower ro,cache=loose
layers=/lower
if [ -n "$HAVE_KERNEL_LAYER" ]; then
    share kernel /kernel ro,cache=loose
    layers=/kernel:/lower
fi
mount -t tmpfs -o mode=0755 rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=$layers,upperdir=/rw/upper,workdir=/rw/work root /new || give_up "cannot mount the root file system"
mkdir -p /new/host /new/src /new/build /new/share /new/opt/dmabridge
mount -o move /host /new/host
share src /new/src ro,cache=mmap
if [ -n "$HAVE_BUILD" ]; then
    share build /new/build ro,cache=mmap
fi
[ -z "$HAVE_SHARE" ] || share share /new/share rw,cache=none
for folder in dev proc sys; do mount -o move /$folder /new/$folder; done
mount -t tmpfs -o mode=0755 run /new/run
mount -t tmpfs -o mode=1777 tmp /new/tmp
exec $bb switch_root /new /bin/sh /src/tests/lib/guest-run.sh
