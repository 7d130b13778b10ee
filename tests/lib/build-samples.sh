#!/bin/bash
# SPDX-License-Identifier: MIT
#
# build-samples.sh CHECKOUT BUILD [KERNEL]: builds the samples, each by its own Makefile against the installed project, as a reader would. What build.sh runs
# inside the tree, once /opt/dmabridge is there.
#
# BUILD/samples/NAME gets a copy of the sample, so that it finds nothing else of the checkout, and is made there; the driver in NAME-KERNEL, and only if KERNEL is
# given. Does nothing for a sample if neither it nor what is installed has changed.
set -euo pipefail
checkout=$1 out=$2/samples modules=$2/modules kernel=${3:-}

hash_of() { find "$@" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum; }
installed=$(hash_of /opt/dmabridge/include /opt/dmabridge/lib/pkgconfig "$0")

# make_sample NAME FOLDER STAMP MAKE_ARGUMENT...
make_sample() {
    local name=$1 folder=$out/$2 stamp=$3
    shift 3
    stamp+=$(hash_of "$checkout/samples/$name")
    [[ ! -e $folder/stamp || $(<"$folder/stamp") != "$stamp" ]] || return 0
    rm -rf "$folder"
    mkdir -p "$out"
    cp -r "$checkout/samples/$name" "$folder"
    echo "making the sample $name"
    make -C "$folder" "$@"
    echo "$stamp" >"$folder/stamp"
}
make_one() {
    if [[ $1 != accelerator ]]; then
        make_sample "$1" "$1" "$installed" CFLAGS="-O1 -Wextra -Werror" CXXFLAGS="-O1 -Wextra -Werror"
    elif [[ -n $kernel ]]; then
        local symbols=$modules/$kernel/Module.symvers
        make_sample "$1" "$1-$kernel" "$installed$(hash_of "$symbols")" KERNEL="$kernel" SYMBOLS="$symbols" KCFLAGS=-Werror
    fi
}
export -f hash_of make_sample make_one
export checkout out modules kernel installed

for folder in "$checkout"/samples/*/; do basename "$folder"; done | xargs -P "$(nproc)" -I{} bash -euo pipefail -c 'make_one {}'
