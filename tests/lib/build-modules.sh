#!/bin/bash
# SPDX-License-Identifier: MIT
#
# build-modules.sh CHECKOUT OUT KERNEL: builds the kernel modules with kbuild, out of the source tree.
#
# OUT/KERNEL/ gets the .ko files, Module.symvers, which drivers are linked by that call dmabridge, and modprobe.conf, by which modprobe loads them and what they depend on from /lib/modules/KERNEL/updates
# (an index by depmod would cost seconds after every change). Compiler warnings (W=1), sparse and modpost remarks are errors. Does nothing if nothing changed.
set -euo pipefail
checkout=$1 out=$2 kernel=$3

# One kbuild call over all folders, so that symbols that one module exports are found by the others.
folders=()
for folder in exporter importer samples/accelerator tests/modules; do
    [[ ! -e $checkout/$folder/Kbuild ]] || folders+=("$folder")
done
((${#folders[@]})) || { echo "no folder with a Kbuild file in $checkout" >&2; exit 1; }

headers=/lib/modules/$kernel/build
[[ -e $headers/Makefile ]] || { echo "no headers for kernel $kernel ($headers); install linux-headers-$kernel" >&2; exit 1; }

result=$out/$kernel
work=$out/work-$kernel
stamp=$(cd "$checkout" && { find "${folders[@]}" uapi -type f -print0 | sort -z | xargs -0 sha256sum; sha256sum "$0"; } | sha256sum)
[[ ! -e $result/stamp || $(<"$result/stamp") != "$stamp" ]] || exit 0
rm -rf "$result"
mkdir -p "$work"

# Only what changed is copied, with its time, so that kbuild compiles only that.
sync_folder() {
    local from=$checkout/$1 to=$work/$1 file
    mkdir -p "$to"
    (cd "$to" && find . -type f \( -name '*.c' -o -name '*.h' -o -name Kbuild \)) | while IFS= read -r file; do
        [[ -e $from/$file ]] || rm "$to/$file"
    done
    (cd "$from" && find . -type f \( -name '*.[chS]' -o -name Kbuild \)) | while IFS= read -r file; do
        mkdir -p "$to/${file%/*}"
        cmp -s "$from/$file" "$to/$file" || cp "$from/$file" "$to/$file"
    done
}
for folder in "${folders[@]}" uapi; do sync_folder "$folder"; done
{ for folder in "${folders[@]}"; do echo "obj-m += $folder/"; done; } >"$work/Kbuild.new"
cmp -s "$work/Kbuild.new" "$work/Kbuild" || cp "$work/Kbuild.new" "$work/Kbuild"

log=$work/make.log
# Sparse is asked for by KBUILD_CHECKSRC rather than C: Debian's headers lack the script by which C=1 first looks for
# sparse, and go on without it. What make says about that script is left out of the log. Sparse 0.6.4 does not know
# __typeof_unqual__, nor that a string literal's length is a constant (MODULE_*()); these definitions stand in. Its errors
# about them cannot just be left out of the log: after an error sparse keeps its warnings to itself.
sparse="-D__typeof_unqual__=__typeof__ '-D__builtin_strlen(s)=(sizeof(s)-1)'"
if ! make -C "$headers" M="$work" W=1 KBUILD_CHECKSRC=1 CF="$sparse" KCFLAGS=-Werror -j"$(nproc)" modules 2>&1 |
    sed '/checker-valid.sh: No such file/d; /sparse is not available or not up to date/d' >"$log"; then
    cat "$log" >&2
    exit 1
fi
if grep -q '^  CC \[M\]  .*/' "$log" && ! grep -q '^  CHECK ' "$log"; then
    rm -rf "$work"
    echo "the modules were compiled but not checked by sparse; is it installed?" >&2
    exit 1
fi
if grep -E ': (warning|error): |^WARNING: |^ERROR: ' "$log" >&2; then
    # kbuild holds these objects for finished; the next build has to report them again.
    rm -rf "$work"
    echo "the lines above count as errors" >&2
    exit 1
fi
cat "$log"

rm -rf "$result.new"
mkdir -p "$result.new"
find "$work" -name '*.ko' -exec cp -t "$result.new" {} +
cp "$work/Module.symvers" "$result.new"
for module in "$result.new"/*.ko; do
    name=$(basename "$module" .ko)
    load="/sbin/insmod /lib/modules/$kernel/updates/$name.ko \$CMDLINE_OPTS"
    for needed in $(modinfo -F depends "$module" | tr , ' '); do load="/sbin/modprobe $needed && $load"; done
    echo "install ${name//-/_} $load"
done >"$result.new/modprobe.conf"
echo "$stamp" >"$result.new/stamp"
mv "$result.new" "$result"
