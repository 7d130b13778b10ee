#!/bin/sh
# SPDX-License-Identifier: MIT
#
# build-in-tree.sh CHECKOUT BUILD KERNEL [--no-modules]: what build.sh runs inside the tree.
set -eu
checkout=$1 build=$2 kernel=$3 modules=${4:-}

# meson prepares an interrupted or outdated build directory anew by itself; only one that it never finished has to go.
if [ ! -e "$build/meson/build.ninja" ]; then
    rm -rf "$build/meson"
    meson setup --prefix=/opt/dmabridge --libdir=lib "$build/meson" "$checkout"
fi
meson compile -C "$build/meson"
meson install -C "$build/meson" --no-rebuild --only-changed --quiet --destdir "$build/install"
[ "$modules" = --no-modules ] || "$checkout/tests/lib/build-modules.sh" "$checkout" "$build/modules" "$kernel"
