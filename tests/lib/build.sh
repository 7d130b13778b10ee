# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# Builds the project inside the tree. Sourced after kernel.sh. What a build leaves, under BUILD in the cache:
#   meson/             user space, and the tests
#   modules/KERNEL/    kernel modules (tests/lib/build-modules.sh)
#   install/           the installed project; its prefix is /opt/dmabridge

# set_build: the folder depends on the checkout and the tree, so that several of each can live side by side.
set_build() { BUILD=$CACHE/build/$(printf %s "$CHECKOUT" | sha256sum | cut -c1-8)-$TREE_KEY; }

# need_build [--no-modules] [--tests]: brings user space, and the modules for KERNEL, up to date; the tests only if asked.
need_build() {
    local log=$BUILD/build.log
    [[ -e $CHECKOUT/meson.build ]] || die "$CHECKOUT/meson.build is missing" "use a complete checkout"
    lock "build-${BUILD##*/}"
    mkdir -p "$BUILD"
    if ! step "building" "$log" build_phase enter_tree -- "$LIB/build-in-tree.sh" "$CHECKOUT" "$BUILD" "$KERNEL" "$@"; then
        # The first errors, or else whatever came last.
        { grep -E ': (fatal )?error: |ERROR: |: warning: ' "$log" || tail -n 15 "$log"; } | head -n 15 | cut -c1-300 | sed 's/^/    /' >&2
        die "the build failed; the whole log is $log" "mend the source, then run this again"
    fi
    unlock
}
build_phase() { tail -n 1 | cut -c1-70; }
