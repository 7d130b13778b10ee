#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Called by mmdebstrap before the first 'apt-get update' of a new tree: tree-setup-hook.sh ROOT SUITE.
# Adds the backports archive beside the stable one, and says which packages come from it.
set -eu
root=$1 suite=$2
line=$(grep -rhE "^deb .* $suite main" "$root/etc/apt" | head -n 1)
[ -n "$line" ] || { echo "no source line for $suite in the new tree" >&2; exit 1; }
echo "$line" | sed "s| $suite main.*| $suite-backports main|" >"$root/etc/apt/sources.list.d/backports.list"
mkdir -p "$root/etc/apt/preferences.d"
cp "$(dirname "$0")/tree-backports.pref" "$root/etc/apt/preferences.d/backports.pref"
