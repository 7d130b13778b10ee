# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# The kernels that guests boot: Debian's, which are in the tree, and the project's debugging kernel, which is built when first asked for and kept beside
# the trees. Sourced after tree.sh.
#
# The debugging kernel is a layer on the tree (tests/lib/enter-tree.sh; in a guest tests/lib/guest-init.sh): its files are where Debian's packages put theirs, and
# nothing that uses a kernel has to know which one it is. A layer never changes once it has its final name.

DEBUG_KERNEL=debug
# How many times longer than on Debian's kernel a guest may take: all of its checks run on an emulated processor.
DEBUG_SLOWNESS=8
# While it is built, and then.
DEBUG_BUILD_GIB=5

list_kernels() {
    local dir
    for dir in "$TREE"/lib/modules/*/; do
        dir=${dir%/}
        [[ ! -e $TREE/boot/vmlinuz-${dir##*/} ]] || echo "${dir##*/}"
    done | sort -V
}

# select_kernel [NAME]: sets KERNEL to the one asked for, or to the tree's newest. With it KERNEL_LAYER, the folder of one that is not in the tree, made now
# if there is none, else nothing; and SLOWNESS.
# shellcheck disable=SC2034  # used by those that source this
select_kernel() {
    local kernels
    KERNEL_LAYER='' SLOWNESS=1
    if [[ ${1:-} == "$DEBUG_KERNEL" ]]; then
        find_debug_kernel
        need_debug_kernel
        SLOWNESS=$DEBUG_SLOWNESS
        return
    fi
    kernels=$(list_kernels)
    KERNEL=${1:-$(tail -n 1 <<<"$kernels")}
    grep -qxF -- "$KERNEL" <<<"$kernels" || die "no kernel '$KERNEL' in the tree" "choose one of: $(paste -sd' ' <<<"$kernels") $DEBUG_KERNEL"
}

# find_debug_kernel: sets KERNEL, KERNEL_LAYER and SOURCE_VERSION, whether it was built or not. Its name has the key of all that it is made from,
# so that nothing built for one is ever taken for another.
find_debug_kernel() {
    local newest key
    newest=$(list_kernels | tail -n 1)
    SOURCE_VERSION=$(sed -n "/^Package: linux-image-$newest\$/,/^\$/s/^Version: //p" "$TREE/var/lib/dpkg/status")
    [[ -n $SOURCE_VERSION ]] || die "the tree does not tell which version its kernel $newest has" "run tests/workbench clean, then this again"
    key=$({ echo "$SOURCE_VERSION"; cat "$CHECKOUT"/tests/kernels/debug.{config,patch} "$LIB/build-kernel.sh"; } | sha256sum | cut -c1-8)
    KERNEL=${SOURCE_VERSION%%-*}-dmabridge-debug-$key
    KERNEL_LAYER=$CACHE/kernels/$KERNEL
}

need_debug_kernel() {
    [[ ! -d $KERNEL_LAYER ]] || return 0
    lock "kernel-$KERNEL"
    [[ -d $KERNEL_LAYER ]] || make_debug_kernel
    unlock
}

make_debug_kernel() {
    local partial=$KERNEL_LAYER.partial log=$CACHE/kernel.log name binds=() proxies=()
    need_space "$DEBUG_BUILD_GIB" "building the debugging kernel"
    if [[ -e $partial ]]; then
        say "an earlier run was interrupted: removing its half-made kernel"
        remove_tree "$partial"
    fi
    say "building the debugging kernel from Debian's linux source $SOURCE_VERSION, once: downloads 170 MB, needs $DEBUG_BUILD_GIB GiB of disk meanwhile and 0.3 GiB then," \
        "takes some 20 minutes on 2 processors"
    mkdir -p "$partial"
    # The host's network, as it is now.
    [[ ! -e /etc/resolv.conf ]] || binds=(--bind /etc/resolv.conf)
    for name in http_proxy https_proxy no_proxy; do [[ -z ${!name:-} ]] || proxies+=("$name=${!name}"); done
    # Without the kernel that is being made.
    if ! KERNEL_LAYER='' step "building the debugging kernel" "$log" kernel_phase \
        enter_tree "${binds[@]}" -- env "${proxies[@]}" "$LIB/build-kernel.sh" "$CHECKOUT" "$SOURCE_VERSION" "$KERNEL" "$partial"; then
        remove_tree "$partial"
        explain_kernel_log "$log"
    fi
    mv "$partial" "$KERNEL_LAYER"
}

kernel_phase() { tail -n 1 | cut -c1-70; }

explain_kernel_log() {
    local log=$1
    if grep -q "was not found" "$log" && grep -q "^E: Version '$SOURCE_VERSION'" "$log"; then
        die "Debian no longer has the source of the tree's kernel, linux $SOURCE_VERSION" "run tests/workbench clean, then this again: the tree is then made anew, with the present kernel"
    elif grep -q '^ERROR: ' "$log"; then
        sed -n '/^ERROR: /,$p' "$log" | sed 's/^/    /' >&2
        die "the debugging kernel cannot be built; the whole log is $log" "mend what the lines above name"
    fi
    explain_log "$log"
}
