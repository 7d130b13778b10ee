#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Process 1 of a guest, in the tree's own userland: finishes the set-up, runs the command, reports, powers off.
# guest.env in the run directory (written by vm.py) says what this run wants.
export HOME=/root LANG=C.UTF-8 LD_LIBRARY_PATH=/opt/dmabridge/lib
export PATH=/opt/dmabridge/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# shellcheck source=/dev/null
. /host/guest.env

port() {
    for entry in /sys/class/virtio-ports/*; do
        if [ "$(cat "$entry/name")" = "$1" ]; then
            echo "/dev/${entry##*/}"
            return
        fi
    done
}
exec 9>"$(port status)"

finish() {
    umount -a -t ext4,xfs 2>/dev/null
    sync
    dmesg >"$(port dmesg)"
    echo "$1" >&9
    exec 9>&-
    exec /bin/busybox poweroff -f
}
give_up() { finish "failed $*"; }

# On a kernel with kmemleak: what nothing points to any more goes to the kernel log, and so fails the run. An object has to be 5 seconds old to be suspected,
# and unchanged from one scan to the next.
scan_for_leaks() {
    [ -n "$kmemleak" ] || return 0
    echo 1 >/sys/module/kmemleak/parameters/verbose
    sleep 6
    for _ in 1 2; do
        # If kmemleak has given up it has logged why.
        echo scan >&8 || give_up "kmemleak does not scan"
    done
}

mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /dev/pts
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing
# Opened now, because the command may lock the kernel down, and nobody opens it after that.
kmemleak=/sys/kernel/debug/kmemleak
if [ -e "$kmemleak" ]; then exec 8>"$kmemleak"; else kmemleak=; fi
mount -t tmpfs -o mode=1777 tmp /var/tmp
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
ip link set lo up
hostname guest
# A hung process shows in the kernel log, and so fails the run, well before the run's time limit.
echo $((20 * SLOWNESS)) >/proc/sys/kernel/hung_task_timeout_secs
echo 1 >/proc/sys/kernel/panic_on_oops

[ ! -d /host/install ] || mount --bind /host/install /opt/dmabridge || give_up "cannot mount the installed project"

if [ -n "$LOAD_MODULES" ]; then
    updates=/lib/modules/$(uname -r)/updates
    mkdir -p "$updates"
    cp /host/modules/*.ko "$updates/"
    cp /host/modules/modprobe.conf /etc/modprobe.d/dmabridge.conf
    for module in dmabridge dmabridge_pci dmabridge_block; do
        [ ! -e "$updates/$module.ko" ] || modprobe "$module" || give_up "cannot load the module $module"
    done
    if [ -e "$updates/dmabridge_pci.ko" ]; then
        # Which functions have stolen memory, and where it begins, is looked at when they are bound. vm.py names them by shell patterns.
        list=
        for entry in $STOLEN; do
            for device in ${entry%@*}; do list=$list,${device##*/}@${entry#*@}; done
        done
        if [ -n "$list" ]; then
            echo "${list#,}" >/sys/module/dmabridge_pci/parameters/stolen || give_up "dmabridge_pci takes no stolen memory"
        fi
        for device in /sys/bus/pci/devices/*; do
            [ "$(cat "$device/vendor" "$device/device" | tr -d '\n')" = 0x1af40x1110 ] || continue
            echo dmabridge_pci >"$device/driver_override"
            echo "${device##*/}" >/sys/bus/pci/drivers_probe
            [ -e "$device/driver" ] || give_up "dmabridge_pci did not bind ${device##*/}"
        done
    fi
fi

# NVMe drives are found in any order and in the background.
count=0 tries=0
while :; do
    set -- /sys/block/nvme*n* /sys/block/vd*
    count=0
    for entry; do [ ! -e "$entry" ] || count=$((count + 1)); done
    [ "$count" -lt "$DRIVES" ] || break
    tries=$((tries + 1))
    [ "$tries" -lt $((300 * SLOWNESS)) ] || give_up "only $count of $DRIVES drives appeared"
    sleep 0.1
done

cd /root || give_up "no /root"
echo ready >&9
if [ -n "$INTERACTIVE" ]; then
    # shellcheck disable=SC2086  # several words, or none
    stty -F /dev/hvc0 sane $TERMINAL_SIZE
    setsid --ctty --wait sh /host/command <>/dev/hvc0 >&0 2>&1 8>&- 9>&-
    status=$?
else
    # By way of pipes, because a port can be opened only once; what is read from them goes out at once.
    mkfifo /run/stdout /run/stderr
    cat /run/stdout >"$(port stdout)" 8>&- 9>&- &
    stdout=$!
    cat /run/stderr >"$(port stderr)" 8>&- 9>&- &
    stderr=$!
    setsid --wait sh /host/command </dev/null >/run/stdout 2>/run/stderr 8>&- 9>&-
    status=$?
    # A process that the command left behind may keep a pipe open for ever.
    (sleep 5; kill "$stdout" "$stderr") 2>/dev/null 8>&- 9>&- &
    wait "$stdout" "$stderr"
fi
scan_for_leaks
finish "exit $status"
