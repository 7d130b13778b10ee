# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# Builds the project inside the tree. Sourced after kernel.sh. What a build leaves, under BUILD in the cache:
#   meson/             user space, and the tests
#   modules/KERNEL/    kernel modules (tests/lib/build-modules.sh)
#   install/           the installed project; its prefix is /opt/dmabridge
#   samples/           the samples, each built by itself against that (tests/lib/build-samples.sh)

# set_build: the folder depends on the checkout and the tree, so that several of each can live side by side.
set_build() { BUILD=$CACHE/build/$(printf %s "$CHECKOUT" | sha256sum | cut -c1-8)-$TREE_KEY; }

# need_build [--no-modules] [--tests]: brings user space, the samples, and the modules for KERNEL, up to date; the tests only if asked.
need_build() {
    local kernel=$KERNEL
    [[ -e $CHECKOUT/meson.build ]] || die "$CHECKOUT/meson.build is missing" "use a complete checkout"
    [[ " $* " != *" --no-modules "* ]] || kernel=''
    lock "build-${BUILD##*/}"
    mkdir -p "$BUILD"
    build_step "building" "$BUILD/build.log" "$LIB/build-in-tree.sh" "$CHECKOUT" "$BUILD" "$KERNEL" "$@"
    # Entered anew, as what is installed is put in its place on the way in.
    build_step "building the samples" "$BUILD/samples.log" "$LIB/build-samples.sh" "$CHECKOUT" "$BUILD" "$kernel"
    unlock
}
# build_step TITLE LOG COMMAND...: inside the tree
build_step() {
    local title=$1 log=$2
    shift 2
    if ! step "$title" "$log" build_phase enter_tree -- "$@"; then
        # The first errors, or else whatever came last.
        { grep -E ': (fatal )?error: |ERROR: |: warning: ' "$log" || tail -n 15 "$log"; } | head -n 15 | cut -c1-300 | sed 's/^/    /' >&2
        die "$title failed; the whole log is $log" "mend the source, then run this again"
    fi
}
build_phase() { tail -n 1 | cut -c1-70; }
