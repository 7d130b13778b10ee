#!/bin/bash
# SPDX-License-Identifier: MIT
#
# build-kernel.sh CHECKOUT VERSION RELEASE OUT: builds the debugging kernel; what kernel.sh runs inside the tree.
#
# VERSION is that of Debian's package linux-source-*, RELEASE what the kernel calls itself (uname -r). OUT, which is empty, becomes a layer on the tree:
# boot/vmlinuz-RELEASE, usr/lib/modules/RELEASE, and what builds modules for it in usr/src/linux-headers-RELEASE.
# Packages are installed into the tree as this process sees it, in memory; the tree itself stays as it is.
set -euo pipefail
checkout=$1 version=$2 release=$3 out=$4
fragment=$checkout/tests/kernels/debug.config
series=$(cut -d. -f1,2 <<<"$version")
work=$out/work

fetch() {
    # The sandbox's user cannot write to $work, nor does it exist in every rootless tree.
    local apt=(apt-get -q -o APT::Sandbox::User=root)
    "${apt[@]}" update
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends flex bison libelf-dev libssl-dev openssl lz4
    "${apt[@]}" download "linux-source-$series=$version"
    # A quarter of the source is register lists of a driver that is not built.
    dpkg-deb --fsys-tarfile ./linux-source-*.deb | tar -x -O "./usr/src/linux-source-$series.tar.xz" |
        tar -x -J --strip-components=1 --exclude='*/drivers/gpu/drm/amd/include' --one-top-level=source
    rm ./linux-source-*.deb
}

# Kconfig drops without a word what it does not know and what depends on something else.
check_config() {
    local line name bad=()
    while IFS= read -r line; do
        case $line in
        CONFIG_*) grep -qxF -- "$line" .config || bad+=("$line") ;;
        '# CONFIG_'*' is not set')
            name=${line#\# }
            ! grep -q "^${name%% *}=" .config || bad+=("$line")
            ;;
        esac
    done <"$fragment"
    ((${#bad[@]} == 0)) || {
        echo "ERROR: these lines of tests/kernels/debug.config took no effect:"
        printf '  %s\n' "${bad[@]}"
        exit 1
    } >&2
}

configure() {
    make -s allnoconfig
    scripts/kconfig/merge_config.sh -m .config "$fragment" >/dev/null
    make -s olddefconfig
    check_config
}

install_layer() {
    local modules=$out/usr/lib/modules/$release headers=/usr/src/linux-headers-$release
    make modules_install INSTALL_MOD_PATH="$out/usr" DEPMOD=true
    rm -f "$modules/build"
    ln -s "$headers" "$modules/build"
    depmod -b "$out/usr" "$release"
    make run-command KBUILD_RUN_COMMAND="\$(srctree)/scripts/package/install-extmod-build $out$headers"
    mkdir -p "$out/boot"
    cp arch/x86/boot/bzImage "$out/boot/vmlinuz-$release"
    cp .config "$out/boot/config-$release"
}

mkdir "$work"
cd "$work"
fetch
cd source
patch -p1 --fuzz=0 <"$checkout/tests/kernels/debug.patch"
# The release's end, in place of one that the configuration would give.
export LOCALVERSION=${release#"$(make -s kernelversion)"}
export KBUILD_BUILD_USER=dmabridge KBUILD_BUILD_HOST=workbench
configure
[[ $(make -s kernelrelease) == "$release" ]] || { echo "ERROR: the kernel calls itself $(make -s kernelrelease), not $release" >&2; exit 1; }
make -j"$(nproc)" bzImage modules
install_layer
cd "$out"
rm -rf "$work"
