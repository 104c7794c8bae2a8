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

# await_server NOUN PID PORT LOG ANSWERS...: waits until the command ANSWERS succeeds. The caller has pid_file,
# host, data and start_timeout_s.
await_server() {
    local noun=$1 pid=$2 port=$3 log=$4 deadline=$((SECONDS + start_timeout_s))
    shift 4
    until "$@"; do
        if ! kill -0 "$pid" 2>/dev/null; then
            rm -f "$(pid_file)"
            show_end "$log"
            die "the $noun ended before it answered on $host:$port; the end of $log is above"
        fi
        if ((SECONDS >= deadline)); then
            show_end "$log"
            die "the $noun (pid $pid) did not answer on $host:$port within $start_timeout_s s; the end of $log is above; it still runs, end it with: $0 stop --port $port --data $data"
        fi
        sleep 0.1
    done
}

show_end() { tail -n 30 "$1" >&2 || true; }

# end_server NOUN TIMEOUT_S: ends the server if it runs and waits until it is gone; fails if there was none.
# The caller has running_pid and pid_file.
end_server() {
    local pid deadline
    pid=$(running_pid) || { rm -f "$(pid_file)"; return 1; }
    kill -TERM "$pid" 2>/dev/null || true
    deadline=$((SECONDS + $2))
    while running_pid >/dev/null; do
        if ((SECONDS >= deadline)); then
            say "the $1 (pid $pid) did not end within $2 s of SIGTERM: sending SIGKILL"
            kill -KILL "$pid" 2>/dev/null || true
            while running_pid >/dev/null; do sleep 0.1; done
        else
            sleep 0.1
        fi
    done
    rm -f "$(pid_file)"
}
