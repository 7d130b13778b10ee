#!/bin/sh
# SPDX-License-Identifier: MIT
#
# build-in-tree.sh CHECKOUT BUILD KERNEL [--no-modules] [--tests]: what build.sh runs inside the tree.
set -eu
checkout=$1 build=$2 kernel=$3
shift 3
modules=yes target=programs
for option; do
    case $option in
    --no-modules) modules='' ;;
    --tests) target=all ;;
    esac
done

# meson prepares an interrupted or outdated build directory anew by itself; only one that it never finished has to go.
if [ ! -e "$build/meson/build.ninja" ]; then
    rm -rf "$build/meson"
    meson setup --prefix=/opt/dmabridge --libdir=lib "$build/meson" "$checkout"
fi
ninja -C "$build/meson" "$target"
meson install -C "$build/meson" --no-rebuild --only-changed --quiet --destdir "$build/install"
[ -z "$modules" ] || "$checkout/tests/lib/build-modules.sh" "$checkout" "$build/modules" "$kernel"
