# What kafka-local.sh, s3-local.sh and registry-local.sh share; sourced by them, with `script` naming the caller.
#
# Words, turns, paths and processes. It knows none of the servers.
# shellcheck shell=bash disable=SC2154

say() { printf '%s: %s\n' "$script" "$*" >&2; }
die() { say "error: $*"; exit 1; }
die_usage() { say "error: $* (see --help)"; exit 2; }

# Holds the given lock file until this shell (or subshell) ends, so that two callers take turns. Without
# flock (macOS) there is no lock, and simultaneous first starts are the caller's to avoid.
take_turn() {
    command -v flock >/dev/null || return 0
    exec 9>"$1"
    flock -w "$2" 9 || die "another $script.sh has held $1 for $2 s: end it and try again"
}

# Where servers and their data are kept.
cache_dir() {
    if [[ -n ${CUSTODY_CACHE_DIR:-} ]]; then
        printf '%s\n' "$CUSTODY_CACHE_DIR"
    elif [[ -n ${XDG_CACHE_HOME:-} ]]; then
        printf '%s\n' "$XDG_CACHE_HOME/custody"
    else
        printf '%s\n' "${HOME:?is not set: set CUSTODY_CACHE_DIR}/.cache/custody"
    fi
}

# One spelling for one directory: the path is compared with a server's command line.
absolute() {
    if [[ -d $1 ]]; then
        (cd "$1" && pwd -P)
    elif [[ $1 == /* ]]; then
        printf '%s\n' "$1"
    else
        printf '%s\n' "$PWD/$1"
    fi
}

command_line_of() {
    if [[ -r /proc/$1/cmdline ]]; then
        tr '\0' ' ' <"/proc/$1/cmdline"
    else
        ps -ww -o args= -p "$1" 2>/dev/null || true
    fi
}

port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
