# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# The Debian tree that everything is built and run in: what is in it, how it is made, how it is entered.
# Sourced after host.sh. A tree never changes once it has its final name.

SUITE=trixie
# Raise when the recipe below changes in a way that its inputs (package list, pins, suite) do not show.
RECIPE=1
TREE_GIB=4

tree_packages() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$LIB/tree-packages.txt"; }

tree_key() {
    { echo "$SUITE $RECIPE $(uname -m)"; tree_packages; cat "$LIB/tree-backports.pref"; } | sha256sum | cut -c1-16
}

# need_tree: sets TREE to a complete tree, made now if need be.
need_tree() {
    [[ $(uname -m) == x86_64 ]] || die "the workbench runs on x86_64 only; this is $(uname -m)" "use an x86_64 host"
    find_privilege
    TREE_KEY=$(tree_key)
    TREE=$CACHE/trees/$TREE_KEY
    [[ ! -d $TREE ]] || return 0
    lock "tree-$TREE_KEY"
    [[ -d $TREE ]] || make_tree
    unlock
}

make_tree() {
    local partial=$TREE.partial log=$CACHE/tree.log
    need_space "$TREE_GIB" "making the Debian tree"
    if [[ -e $partial ]]; then
        say "an earlier run was interrupted: removing its half-made tree"
        remove_tree "$partial"
    fi
    command -v mmdebstrap >/dev/null || install_packages mmdebstrap "makes the Debian $SUITE tree that everything else runs in"
    [[ -e $(keyring) ]] || install_packages debian-archive-keyring "checks the signatures of Debian's packages"
    mkdir -p "$CACHE/trees"
    if ! step "making the Debian $SUITE tree ($(tree_packages | wc -l) packages and what they need, once)" "$log" tree_phase bootstrap "$partial"; then
        remove_tree "$partial"
        explain_log "$log"
    fi
    mv "$partial" "$TREE"
}

tree_phase() { sed -n 's/^I: \(.*\)/\1/p' | tail -n 1; }

bootstrap() {
    local target=$1 args=() line sources=()
    args=(--variant=apt "--include=$(tree_packages | paste -sd,)" --setup-hook="'$LIB/tree-setup-hook.sh' \"\$1\" $SUITE"
        --dpkgopt=force-unsafe-io --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"'
        --dpkgopt=path-exclude=/usr/share/{man,info,locale,doc,lintian}/'*' --dpkgopt=path-include=/usr/share/doc/'*'/copyright)
    while IFS= read -r line; do args+=("--aptopt=$line"); done < <(host_apt_settings)
    while IFS= read -r line; do sources+=("$line"); done < <(host_mirrors)
    # The kernel package would spend its time on an initramfs that nothing boots from.
    export INITRD=No
    set -o pipefail
    case $PRIVILEGE in
    root | sudo)
        as_root env INITRD=No unshare --mount --propagation private \
            mmdebstrap --mode=root --format=directory "${args[@]}" "$SUITE" "$target" "${sources[@]}"
        ;;
    userns)
        # By way of tar, because mmdebstrap's own namespace does not map root to this user.
        # Its temporary copy must be where the mapped ids may go, which a home folder need not be, and not in memory, as /tmp may be.
        export TMPDIR=${TMPDIR:-/var/tmp}
        mkdir -p "$target"
        mmdebstrap --mode=unshare --format=tar "${args[@]}" "$SUITE" - "${sources[@]}" |
            "${ROOTLESS[@]}" tar -x --numeric-owner --exclude='./dev/*' -C "$target"
        ;;
    esac
}

keyring() {
    local file
    for file in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [[ ! -e $file ]] || break
    done
    echo "$file"
}

# The host's own way to the mirrors: proxies, clocks, retries.
host_apt_settings() {
    command -v apt-config >/dev/null || return 0
    apt-config dump --no-empty --format '%f "%v"%n' |
        grep -E '^Acquire::(https?::|ForceIPv|Retries|Check-|Min-ValidTime|Max-ValidTime|By-Hash)' || true
}

# Debian hosts have a mirror that works for them: print source lines for it. Others get mmdebstrap's default (no output).
# shellcheck disable=SC2016  # $(...) in the format is apt's own syntax
host_mirrors() {
    local site release component origin codename main='' security=''
    codename=$(. /etc/os-release && [[ $ID == debian ]] && echo "${VERSION_CODENAME:-}")
    [[ -n $codename ]] || return 0
    while IFS='|' read -r site release component origin; do
        [[ $component == main && ${origin:-Debian} == Debian ]] || continue
        case $release in
        "$codename" | stable | oldstable | testing) main=${main:-$site} ;;
        "$codename-security" | stable-security | oldstable-security) security=${security:-$site} ;;
        esac
    done < <(apt-get indextargets --format '$(SITE)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)' 'Created-By: Packages')
    if [[ -n $main && -n $security ]]; then
        printf "deb [signed-by=$(keyring)] %s\n" "$main $SUITE main" "$main $SUITE-updates main" "$security $SUITE-security main"
    elif [[ -n $main ]]; then
        echo "$main"
    fi
}

remove_tree() {
    case ${PRIVILEGE:-root} in
    root | sudo) as_root rm -rf --one-file-system "$1" ;;
    userns) "${ROOTLESS[@]}" rm -rf --one-file-system "$1" ;;
    esac
}

# enter_tree [--exec] [--bind PATH]... -- COMMAND...: runs COMMAND in the tree, with the checkout, the cache and each PATH where they are on the
# host, and the files of KERNEL_LAYER if one is selected. Everything else that it writes is gone when it ends. With --exec it takes this shell's place.
enter_tree() {
    local binds=("$CHECKOUT" "$CACHE") exec='' enter
    while [[ $1 != -- ]]; do
        case $1 in
        --exec) exec="exec"; shift ;;
        --bind) binds+=("$2"); shift 2 ;;
        esac
    done
    shift
    case $PRIVILEGE in
    root) enter=(unshare --mount --propagation private) ;;
    sudo) enter=(sudo unshare --mount --propagation private) ;;
    userns) enter=("${ROOTLESS[@]}") ;;
    esac
    mkdir -p "$CACHE/mnt"
    $exec "${enter[@]}" bash "$LIB/enter-tree.sh" "${KERNEL_LAYER:+$KERNEL_LAYER:}$TREE" "$CACHE/mnt" "$PWD" "${BUILD:-}" "${#binds[@]}" "${binds[@]}" "$@"
}
