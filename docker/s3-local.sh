#!/usr/bin/env bash
#
# Runs an S3 server on 127.0.0.1 without Docker: Versity S3 Gateway on a directory, or moto. For the
# tests against a real S3 and for trying Custody out; its credentials stand below for everybody to
# read, so not for production.
#
# The versions are pinned below (Versity) and in tests/live/requirements.txt (moto). See
# `s3-local.sh --help`.

set -euo pipefail

readonly script=s3-local
# shellcheck source=local.sh
source "$(dirname "${BASH_SOURCE[0]}")/local.sh"

readonly versity_version=v1.8.0
readonly host=127.0.0.1
readonly region=us-east-1
readonly access_key_id=custody
readonly secret_access_key=custody-on-this-machine-only
readonly bucket=custody
readonly locked_bucket=custody-locked
readonly start_timeout_s=60
readonly stop_timeout_s=20
readonly fetch_timeout_s=900
readonly turn_timeout_s=$((fetch_timeout_s + start_timeout_s + stop_timeout_s))
readonly marker='Written by docker/s3-local.sh; --fresh removes what is beside this file.'

usage() {
    cat <<HELP
usage: s3-local.sh start|stop|status|env [options]

Runs an S3 server on 127.0.0.1 without Docker, with two buckets: $bucket, and $locked_bucket with
object lock (GOVERNANCE, 1 day).

  start   fetch the server (first time only), start it, make the buckets and return when it answers
          signed requests; a server that runs already is left alone
  stop    end the server with SIGTERM and wait for it
  status  say whether the server runs
  env     print the variables that the tests and custody take, for: eval "\$(s3-local.sh env)"

options (the environment variable in brackets says the same; the option wins)
  --server NAME  versity (a directory, objects survive a restart) or moto (memory) [CUSTODY_S3_SERVER],
                 default versity
  --port N       port of the server [CUSTODY_S3_PORT], default 9000
  --data DIR     data, log and pid file of this server [CUSTODY_S3_DATA], default: <cache>/s3-data/<port>
  --fresh        start only: stop the server if it runs and start it without objects
  --secure DIR   start only, versity only: HTTPS in place of HTTP, with the certificate DIR/cert.pem, its
                 private key DIR/key.pem and the authority DIR/ca.pem that it is checked against
  -h, --help     this text

<cache> is \$CUSTODY_CACHE_DIR, else \$XDG_CACHE_HOME/custody, else ~/.cache/custody. Two servers can
run side by side with different --port and --data; stop and status find theirs by the same options.

needs: curl 7.86 or newer; versity: Go for the first start only (it fetches and builds
$versity_version); moto: moto_server on the PATH (pip install -r tests/live/requirements.txt)
exit codes: 0 done (status: runs), 1 failed, 2 wrong usage, 3 status: does not run
HELP
}

# --- options ---------------------------------------------------------------------------------------

# Sets command, server, port, cache, data, fresh, secure.
parse_options() {
    command='' fresh=no secure=''
    server=${CUSTODY_S3_SERVER:-versity}
    port=${CUSTODY_S3_PORT:-9000}
    data=${CUSTODY_S3_DATA:-}
    while (($# > 0)); do
        case $1 in
            -h | --help) usage; exit 0 ;;
            --fresh) fresh=yes; shift; continue ;;
            --server | --port | --data | --secure) (($# > 1)) || die_usage "$1 needs a value" ;;
            start | stop | status | env)
                [[ -z $command ]] || die_usage "two commands: $command and $1"
                command=$1; shift; continue ;;
            *) die_usage "unknown argument $1" ;;
        esac
        case $1 in
            --server) server=$2 ;;
            --port) port=$2 ;;
            --data) data=$2 ;;
            --secure) secure=$2 ;;
        esac
        shift 2
    done
    [[ -n $command ]] || die_usage 'no command'
    [[ $fresh == no || $command == start ]] || die_usage "--fresh goes with start, not $command"
    [[ $server == versity || $server == moto ]] || die_usage "--server $server is neither versity nor moto"
    if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then
        die_usage "--port $port is not a port (1 to 65535)"
    fi
    cache=$(absolute "$(cache_dir)")
    data=$(absolute "${data:-$cache/s3-data/$port}")
    [[ -n $secure ]] || return 0
    [[ $command == start ]] || die_usage "--secure goes with start, not $command"
    [[ $server == versity ]] || die_usage "--secure goes with --server versity, not $server"
    secure=$(absolute "$secure")
    local file
    for file in ca.pem cert.pem key.pem; do
        [[ -r $secure/$file ]] || die_usage "--secure: $secure/$file is not there"
    done
}

# --- the program -------------------------------------------------------------------------------------

# Prints the path of the server's program; Go fetches and builds Versity if it is not there. It comes
# into place by one rename.
find_program() {
    local program staging
    if [[ $server == moto ]]; then
        command -v moto_server ||
            die "no moto_server on the PATH: pip install -r tests/live/requirements.txt"
        return
    fi
    program=$cache/versitygw-$versity_version
    staging=$program.part
    mkdir -p "$cache"
    take_turn "$program.lock" "$fetch_timeout_s"
    if [[ ! -x $program ]]; then
        command -v go >/dev/null ||
            die "Versity S3 Gateway $versity_version is not at $program and there is no go to build it: install Go, or use --server moto"
        say "building Versity S3 Gateway $versity_version (first time only, a minute or two)"
        rm -rf -- "$staging"
        mkdir "$staging"
        if ! GOBIN=$staging CGO_ENABLED=0 go install -ldflags='-s -w' \
            "github.com/versity/versitygw/cmd/versitygw@$versity_version" >"$staging/go.log" 2>&1; then
            tail -n 20 "$staging/go.log" >&2
            die "Go could not build Versity S3 Gateway $versity_version (all it said: $staging/go.log): check the network, or GOPROXY, then start again"
        fi
        mv "$staging/versitygw" "$program"
        rm -rf -- "$staging"
    fi
    printf '%s\n' "$program"
}

# --- the server's process ----------------------------------------------------------------------------

pid_file() { printf '%s\n' "$data/server.pid"; }
port_file() { printf '%s\n' "$data/port"; }
# Names the directory of the certificates if the server speaks HTTPS.
secure_file() { printf '%s\n' "$data/secure"; }
recorded_secure() { cat "$(secure_file)" 2>/dev/null || true; }
scheme() { if [[ -n $(recorded_secure) ]]; then printf 'https\n'; else printf 'http\n'; fi; }
server_log() { printf '%s\n' "$data/server.log"; }

recorded_port() { cat "$(port_file)" 2>/dev/null; }

# Prints the pid of the running server of this data directory; fails if there is none. A pid that was
# given to another process since is recognised by its command line.
running_pid() {
    local pid line
    pid=$(cat "$(pid_file)" 2>/dev/null) || return 1
    [[ $pid =~ ^[0-9]+$ ]] || return 1
    line=$(command_line_of "$pid")
    [[ $line == *versitygw*" $data/objects "* || $line == *"moto_server -H $host -p $(recorded_port) "* ]] || return 1
    printf '%s\n' "$pid"
}

# Sends one signed request: method, path with query, file with the body, more curl options. Prints the
# status and drops the answer.
request() {
    local method=$1 path=$2 body=$3 trusted=()
    shift 3
    [[ -z $(recorded_secure) ]] || trusted=(--cacert "$(recorded_secure)/ca.pem")
    curl --silent --max-time 10 --output /dev/null --write-out '%{http_code}' \
        --aws-sigv4 "aws:amz:$region:s3" --user "$access_key_id:$secret_access_key" --request "$method" \
        --header "x-amz-content-sha256: $(sha256_of "$body")" --header 'Content-Type:' "$@" \
        ${trusted[@]+"${trusted[@]}"} --data-binary "@$body" "$(scheme)://$host:$port$path" || true
}

sha256_of() {
    if command -v sha256sum >/dev/null; then sha256sum "$1" | cut -d ' ' -f 1; else shasum -a 256 "$1" | cut -d ' ' -f 1; fi
}

# Base64 of bytes that are given in hex.
# shellcheck disable=SC2001 # ${//} repeats no match in its replacement in bash 5.1
base64_of() { printf '%b' "$(sed 's/../\\x&/g' <<<"$1")" | base64; }

# An answer to a signed request: an open port alone does not say that it is an S3 server.
server_answers() { [[ $(request GET / /dev/null) == 200 ]]; }

# Makes the buckets that are not there.
make_buckets() {
    local status rule=$data/object-lock.xml
    status=$(request PUT "/$bucket" /dev/null)
    [[ $status == 200 || $status == 409 ]] || die "could not make the bucket $bucket: status $status"
    status=$(request PUT "/$locked_bucket" /dev/null --header 'x-amz-bucket-object-lock-enabled: true')
    [[ $status == 200 || $status == 409 ]] || die "could not make the bucket $locked_bucket: status $status"
    cat >"$rule" <<'XML'
<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>
XML
    # S3 takes this request with a checksum of its body only.
    status=$(request PUT "/$locked_bucket?object-lock=" "$rule" --header "x-amz-checksum-sha256: $(base64_of "$(sha256_of "$rule")")")
    [[ $status == 200 ]] || die "could not set the retention of $locked_bucket: status $status"
}

# Removes the objects, and only in a directory that this script made.
wipe() {
    [[ -e $data/objects ]] || return 0
    [[ $(cat "$data/README" 2>/dev/null) == "$marker" ]] ||
        die "$data was not made by this script: choose another --data or remove it by hand"
    rm -rf -- "$data/objects" "$data/versions" "$data/metadata"
}

# --- commands ----------------------------------------------------------------------------------------

start() {
    local program pid
    mkdir -p "$data"
    data=$(absolute "$data")
    take_turn "$data/lock" "$turn_timeout_s"
    if [[ $fresh == no ]] && pid=$(running_pid); then
        [[ $(recorded_port) == "$port" ]] ||
            die "the server of $data runs already on port $(recorded_port), not $port (pid $pid): stop it first or choose another --data"
        [[ -z $secure || $(recorded_secure) == "$secure" ]] ||
            die "the server of $data runs already without --secure $secure (pid $pid): stop it first or choose another --data"
        await_server server "$pid" "$port" "$(server_log)" server_answers
        printf 's3 runs already on %s:%s (pid %s)\n' "$host" "$port" "$pid"
        return
    fi
    command -v curl >/dev/null || die 'no curl on the PATH: install it (Debian: apt-get install curl)'
    program=$(find_program)
    if [[ $fresh == yes ]]; then
        end_server server "$stop_timeout_s" || true
        wipe
    fi
    ! port_is_open "$port" ||
        die "port $port on $host is in use by another process: choose another with --port, or end that process (ss -ltnp shows which it is)"
    mkdir -p "$data/objects" "$data/versions"
    printf '%s\n' "$marker" >"$data/README"
    printf '%s\n' "$port" >"$(port_file)"
    printf '%s' "$secure" >"$(secure_file)"
    launch "$program"
    pid=$(cat "$(pid_file)")
    if lacks_attributes "$pid"; then
        say "the file system of $data keeps no extended attributes: a put that is interrupted may leave half an object"
        mkdir "$data/metadata"
        launch "$program"
        pid=$(cat "$(pid_file)")
    fi
    await_server server "$pid" "$port" "$(server_log)" server_answers
    make_buckets
    printf 's3 (%s) runs on %s:%s (pid %s, data %s); for the variables: %s env --port %s\n' \
        "$server" "$host" "$port" "$pid" "$data" "$0" "$port"
}

# Starts the server in the background, free of this terminal, and writes its pid file. Metadata of an object
# are extended attributes, which come into place with it; in files of their own, as they are where
# DIR/metadata is, they come before it, and a server that is killed or out of room in between then refuses to
# create an object that is not there.
launch() {
    local tls=() sidecar=()
    [[ ! -d $data/metadata ]] || sidecar=(--sidecar "$data/metadata")
    [[ -z $secure ]] || tls=(--cert "$secure/cert.pem" --key "$secure/key.pem")
    if [[ $server == versity ]]; then
        ROOT_ACCESS_KEY_ID=$access_key_id ROOT_SECRET_ACCESS_KEY=$secret_access_key \
            nohup "$1" --quiet --region "$region" --port "$host:$port" ${tls[@]+"${tls[@]}"} posix ${sidecar[@]+"${sidecar[@]}"} \
            --versioning-dir "$data/versions" "$data/objects" </dev/null >"$(server_log)" 2>&1 9>&- &
    else
        nohup "$1" -H "$host" -p "$port" </dev/null >"$(server_log)" 2>&1 9>&- &
    fi
    printf '%s\n' "$!" >"$(pid_file)"
}

# Waits until the server answers or has ended; whether it ended for want of extended attributes.
lacks_attributes() {
    local deadline=$((SECONDS + start_timeout_s))
    until server_answers || ((SECONDS >= deadline)) || ! kill -0 "$1" 2>/dev/null; do sleep 0.1; done
    [[ ! -d $data/metadata ]] && grep -q 'xattrs are not supported' "$(server_log)"
}

stop() {
    if [[ ! -d $data ]]; then
        printf 's3 does not run (nothing in %s)\n' "$data"
        return
    fi
    take_turn "$data/lock" "$turn_timeout_s"
    if end_server server "$stop_timeout_s"; then
        printf 's3 stopped (data kept in %s)\n' "$data"
    else
        printf 's3 does not run (data in %s)\n' "$data"
    fi
}

status() {
    local pid
    if pid=$(running_pid); then
        port=$(recorded_port)
        if server_answers; then
            printf 's3 runs on %s:%s (pid %s, data %s)\n' "$host" "$port" "$pid" "$data"
        else
            printf 's3 process runs (pid %s) but does not answer on %s:%s; see %s\n' \
                "$pid" "$host" "$port" "$(server_log)"
            return 1
        fi
    else
        printf 's3 does not run (data directory %s)\n' "$data"
        return 3
    fi
}

env() {
    printf 'export CUSTODY_TEST_S3=%s://%s:%s\n' "$(scheme)" "$host" "$port"
    printf 'export AWS_ACCESS_KEY_ID=%s\n' "$access_key_id"
    printf 'export AWS_SECRET_ACCESS_KEY=%s\n' "$secret_access_key"
}

parse_options "$@"
"$command"
