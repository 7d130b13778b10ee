# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# What every host-side script of the workbench shares: messages, long steps, locks, where things are cached, and how
# this user may become root. Sourced; needs only bash, coreutils and util-linux.

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# shellcheck disable=SC2034  # used by those that source this
LIB=$CHECKOUT/tests/lib
CACHE=${DMABRIDGE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/dmabridge}
PROGRAM=${PROGRAM:-${0##*/}}
# Exit status of everything that stops before the user's command could run (see dmabridge-vm(1)).
EXIT_SETUP=126

say() { printf '%s: %s\n' "$PROGRAM" "$*" >&2; }

# die WHAT [REMEDY]: ends with one message that says what is wrong and what to do.
die() {
    say "error: $1"
    [[ $# -lt 2 ]] || printf '%*s  what to do: %s\n' "${#PROGRAM}" '' "$2" >&2
    exit "$EXIT_SETUP"
}

# It would be another folder for each folder that this is run from, this checkout among them.
[[ $CACHE == /* ]] || die "the cache folder '$CACHE' is not an absolute path" "begin DMABRIDGE_CACHE (or XDG_CACHE_HOME) with a /"

# step TITLE LOG PHASES COMMAND...: runs a long command with its output in LOG, and shows that it is alive.
# PHASES names a function that prints, from LOG's tail on its input, what is being done now.
step() {
    local title=$1 log=$2 phases=$3 start=$SECONDS pid status=0 phase last=$SECONDS
    shift 3
    # In a process group of its own, so that an interrupt ends all of it, children of children too.
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    set +m
    trap 'as_root kill -TERM -- "-$pid" 2>/dev/null || kill -TERM -- "-$pid"; wait "$pid"; [[ ! -t 2 ]] || echo >&2; say "$title: interrupted"; exit 130' INT TERM
    while kill -0 "$pid" 2>/dev/null; do
        phase=$(tail -n 40 "$log" 2>/dev/null | "$phases")
        if [[ -t 2 ]]; then
            printf '\r\033[K%s: %s (%d s) %s' "$PROGRAM" "$title" $((SECONDS - start)) "$phase" >&2
        elif ((SECONDS - last >= (last == start ? 2 : 20))); then
            # Short steps are not worth a line in a log.
            last=$SECONDS
            say "$title ($((SECONDS - start)) s) $phase"
        fi
        sleep 0.5
    done
    wait "$pid" || status=$?
    trap - INT TERM
    [[ ! -t 2 ]] || printf '\r\033[K' >&2
    ((status != 0 || SECONDS - start < 2)) || say "$title: done in $((SECONDS - start)) s"
    return "$status"
}

# explain_log LOG: ends with the reason that a failed step's log tells.
explain_log() {
    local log=$1 tail
    tail=$(tail -n 200 "$log")
    if grep -qiE 'no space left on device' <<<"$tail"; then
        die "the disk under $CACHE is full" "free some space, or set DMABRIDGE_CACHE to a folder on a larger disk"
    elif grep -qiE 'temporary failure resolving|could not resolve|could not connect|connection (timed out|refused|failed)|network is unreachable|failed to fetch|no route to host' <<<"$tail"; then
        grep -iE 'resolv|connect|unreachable|failed to fetch' <<<"$tail" | head -n 3 | sed 's/^/    /' >&2
        die "the Debian mirror cannot be reached" "check the network and apt's mirror and proxy settings ('apt-get update' must work), then run this again"
    elif grep -qiE 'NO_PUBKEY|not signed|signatures? (were|was|could)' <<<"$tail"; then
        die "the mirror's signature cannot be checked" "install or upgrade the package debian-archive-keyring; log: $log"
    fi
    tail -n 15 "$log" | sed 's/^/    /' >&2
    die "it failed; the whole log is $log" "read the lines above; running this again starts from a clean state"
}

# lock NAME: holds an exclusive lock until this shell ends or unlock is called; waits, and says for whom.
lock() {
    local file=$CACHE/locks/$1 fd
    mkdir -p "$CACHE/locks" || die "cannot write to the cache folder $CACHE" "set DMABRIDGE_CACHE to a folder that you may write"
    exec {fd}>>"$file"
    if ! flock -n "$fd"; then
        say "another run (process $(cat "$file" 2>/dev/null)) is busy with the same $1; waiting for it"
        flock "$fd"
    fi
    echo $$ >"$file"
    LOCK_FD=$fd
}
unlock() { exec {LOCK_FD}>&-; }

# need_space GIB WHAT: fails early rather than half-way through.
need_space() {
    local free
    mkdir -p "$CACHE" 2>/dev/null || die "cannot create the cache folder $CACHE" "set DMABRIDGE_CACHE to a folder that you may write"
    free=$(df --output=avail -B1M "$CACHE" | tail -n 1)
    ((free >= $1 * 1024)) || die "$2 needs $1 GiB of disk space under $CACHE; $((free / 1024)) GiB are free" \
        "free some space, or set DMABRIDGE_CACHE to a folder on a larger disk"
}

# How this user enters a tree: root, userns (a user namespace with a range of ids) or sudo. Sets PRIVILEGE.
# Rootless entry maps root to the user and the other ids to those of /etc/subuid, so that what is built stays the user's.
ROOTLESS=(unshare --user --map-root-user --map-auto --mount --propagation private)
find_privilege() {
    [[ -z ${PRIVILEGE:-} ]] || return 0
    if ((EUID == 0)); then
        PRIVILEGE=root
    elif "${ROOTLESS[@]}" true 2>/dev/null; then
        PRIVILEGE=userns
    elif sudo_works; then
        if ! command -v newuidmap >/dev/null && [[ -r /etc/subuid ]] && grep -q "^$(id -un):" /etc/subuid; then
            install_packages uidmap "lets this work without root from then on"
            if "${ROOTLESS[@]}" true 2>/dev/null; then
                PRIVILEGE=userns
                return
            fi
        fi
        PRIVILEGE=sudo
    else
        die "this user is not root, has no sudo, and cannot create user namespaces with a range of ids" \
            "run this as root, or have an administrator install 'uidmap', give this user a range in /etc/subuid and /etc/subgid, and allow unprivileged user namespaces"
    fi
}

sudo_works() { command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; }

# as_root COMMAND...: on the host itself, not in a namespace.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif sudo_works; then
        sudo --preserve-env=http_proxy,https_proxy,no_proxy "$@"
    else
        return 1
    fi
}

# install_packages "NAME..." WHY: the only change ever made to the host; says so first.
install_packages() {
    local names=$1 why=$2 log=$CACHE/install.log
    command -v apt-get >/dev/null || die "this needs $names ($why), and the host has no apt-get" "install $names by hand, or use a Debian-like host"
    if ((EUID != 0)) && ! sudo_works; then
        die "this needs the package(s) $names ($why), which only root may install" "have an administrator run: apt-get install $names"
    fi
    mkdir -p "$CACHE"
    say "installing on this host, by apt-get: $names ($why). Nothing else of the host is changed."
    # shellcheck disable=SC2086  # a list of names
    step "installing $names" "$log" apt_phase apt_install $names || explain_log "$log"
}
apt_install() {
    as_root apt-get update -q && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}
apt_phase() { sed -n 's/^\(Get\|Unpacking\|Setting up\)\(.\{0,60\}\).*/\1\2/p' | tail -n 1; }
