#!/bin/bash
# SPDX-License-Identifier: MIT
#
# enter-tree.sh LAYERS MOUNTPOINT CWD BUILD N PATH... COMMAND...: the inside of enter_tree (tree.sh). Runs in a mount namespace of its own, so that
# no mount is ever left on the host. LAYERS are the tree, and what lies over it (LAYER:TREE): read-only; what is written goes to memory.
set -euo pipefail
layers=$1 mountpoint=$2 cwd=$3 build=$4 count=$5
shift 5
binds=("${@:1:count}")
shift "$count"

fail() { echo "workbench: error: $*" >&2; exit 126; }

mount -t tmpfs -o mode=0755 dmabridge "$mountpoint" || fail "cannot mount a tmpfs in a mount namespace; a container must allow mounts (e.g. --privileged)"
mkdir "$mountpoint"/{upper,work,root}
root=$mountpoint/root
options=lowerdir=$layers,upperdir=$mountpoint/upper,workdir=$mountpoint/work
mount -t overlay -o "$options" dmabridge "$root" 2>/dev/null ||
    mount -t overlay -o "$options,userxattr" dmabridge "$root" ||
    fail "this kernel or container does not allow overlayfs, which protects the tree from changes; see 'dmesg'"

for path in /proc /sys /dev; do mount --rbind "$path" "$root$path"; done
for path in /tmp /run /var/tmp; do mount -t tmpfs -o mode=1777 dmabridge "$root$path"; done
for path in "${binds[@]}"; do
    if [[ -d $path ]]; then
        mkdir -p "$root$path"
    else
        mkdir -p "$root${path%/*}"
        : >"$root$path"
    fi
    # Not recursive, because this namespace's own mounts are under the cache; a rootless namespace may insist on it.
    mount --bind "$path" "$root$path" 2>/dev/null || mount --rbind "$path" "$root$path"
done
# The installed project has one place, here and in a guest.
if [[ -n $build && -d $build/install/opt/dmabridge ]]; then
    mkdir -p "$root/opt/dmabridge"
    mount --bind "$build/install/opt/dmabridge" "$root/opt/dmabridge"
fi

keep=()
while IFS= read -r name; do keep+=("$name=${!name}"); done < <(compgen -e | grep -E '^(TERM|CI|DMABRIDGE_.*|GTEST_.*)$')
[[ -d $root$cwd ]] || cwd=/
exec chroot "$root" /usr/bin/env -i -C "$cwd" HOME=/root LANG=C.UTF-8 "${keep[@]}" \
    PATH=/opt/dmabridge/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PKG_CONFIG_PATH=/opt/dmabridge/lib/pkgconfig LD_LIBRARY_PATH=/opt/dmabridge/lib "$@"
