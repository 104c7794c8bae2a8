#!/usr/bin/env bash
#
# Runs Apache Kafka 4.x (KRaft, every node both broker and controller) on 127.0.0.1 without Docker: the
# broker's Maven artifacts and the machine's Java. For the tests against a real Kafka and for trying
# Custody out; one machine, an open listener even beside a secured one, a password that stands below for
# everybody to read and tokens without a signature, so not for production.
#
# The version is pinned in kafka/pom.xml beside this script. See `kafka-local.sh --help`.

set -euo pipefail

script_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly script=kafka-local
# shellcheck source=local.sh
source "$script_dir/local.sh"
readonly pom="$script_dir/kafka/pom.xml"
readonly log4j_config="$script_dir/kafka/log4j2.properties"
readonly host=127.0.0.1
readonly java_version_min=17
readonly start_timeout_s=90
readonly stop_timeout_s=30
# The last nodes of a cluster have nobody left to hand their partitions to, and would wait for it.
readonly cluster_stop_timeout_s=8
readonly fetch_timeout_s=600
readonly turn_timeout_s=$((fetch_timeout_s + start_timeout_s + stop_timeout_s))
# The user of the secured listener.
readonly scram_user=custody
readonly scram_password=custody-on-this-machine-only
readonly properties_marker='# Written by docker/kafka-local.sh at every start; edits are lost.'

usage() {
    cat <<HELP
usage: kafka-local.sh start|stop|status [options]

Runs Apache Kafka (KRaft, combined brokers and controllers) on 127.0.0.1 without Docker: one node, or
a cluster of several whose topics have three replicas, two of them in sync.

  start   fetch the artifacts (first time only), format the storage (first time only), start the
          broker and return when it answers Kafka requests; a broker that runs already is left alone
  stop    end the broker with SIGTERM and wait for it
  status  say whether the broker runs

options (the environment variable in brackets says the same; the option wins)
  --port N             port of the broker [CUSTODY_KAFKA_PORT], default 9092
  --controller-port N  port of the controller [CUSTODY_KAFKA_CONTROLLER_PORT], default: port + 1
  --data DIR           data, log and pid file of this broker [CUSTODY_KAFKA_DATA],
                       default: <cache>/kafka-data/<port>
  --heap SIZE          Java heap of each node [CUSTODY_KAFKA_HEAP], default 512m
  --nodes N            1 (default) or 3 to 9 nodes: node I has --port + 10 * (I - 1), the next port for
                       its controller, and DIR/node-I
  --node I             this node of the cluster only
  --fresh              start only: stop the broker if it runs and start it on empty storage
  --secure DIR         start only: beside the plain listener one with SASL_SSL on the port after the
                       controller's (default: --port + 2), for SCRAM-SHA-512 as $scram_user with the
                       password $scram_password, and for OAUTHBEARER with unsigned
                       tokens (alg none) that name sub and exp; DIR/server.pem holds its private key
                       (PKCS #8) and certificate chain. The user is made with the storage
  --advertise-port N   start only: a further plain listener on the second port after the controller's
                       (default: --port + 3) that sends its clients on to port N (node I: N + 10 * (I - 1)),
                       where something of yours stands before it, such as a proxy that breaks connections
  -h, --help           this text

<cache> is \$CUSTODY_CACHE_DIR, else \$XDG_CACHE_HOME/custody, else ~/.cache/custody. Two brokers can
run side by side with different --port and --data; stop and status find theirs by the same options.

needs: Java 17 or newer (\$JAVA_HOME or PATH); Maven (mvn) for the first start only
exit codes: 0 done (status: runs), 1 failed, 2 wrong usage, 3 status: does not run
HELP
}

# --- options ---------------------------------------------------------------------------------------

# Sets command, port, controller_port, cache, data, heap, fresh, secure, advertise_port, nodes, only_node.
parse_options() {
    command='' fresh=no secure='' advertise_port='' nodes=1 only_node=''
    port=${CUSTODY_KAFKA_PORT:-9092}
    controller_port=${CUSTODY_KAFKA_CONTROLLER_PORT:-}
    data=${CUSTODY_KAFKA_DATA:-}
    heap=${CUSTODY_KAFKA_HEAP:-512m}
    while (($# > 0)); do
        case $1 in
            -h | --help) usage; exit 0 ;;
            --fresh) fresh=yes; shift; continue ;;
            --port | --controller-port | --data | --heap | --nodes | --node | --secure | --advertise-port)
                (($# > 1)) || die_usage "$1 needs a value" ;;
            start | stop | status)
                [[ -z $command ]] || die_usage "two commands: $command and $1"
                command=$1; shift; continue ;;
            *) die_usage "unknown argument $1" ;;
        esac
        case $1 in
            --port) port=$2 ;;
            --controller-port) controller_port=$2 ;;
            --data) data=$2 ;;
            --heap) heap=$2 ;;
            --nodes) nodes=$2 ;;
            --node) only_node=$2 ;;
            --secure) secure=$2 ;;
            --advertise-port) advertise_port=$2 ;;
        esac
        shift 2
    done
    [[ -n $command ]] || die_usage 'no command'
    [[ $fresh == no || $command == start ]] || die_usage "--fresh goes with start, not $command"
    [[ -z $secure || $command == start ]] || die_usage "--secure goes with start, not $command"
    [[ -z $advertise_port || $command == start ]] || die_usage "--advertise-port goes with start, not $command"
    [[ -z $advertise_port ]] || check_port --advertise-port "$advertise_port"
    check_port --port "$port"
    check_nodes
    controller_port=${controller_port:-$((port + 1))}
    check_port --controller-port "$controller_port"
    ((port != controller_port)) || die_usage "broker and controller need two ports, both are $port"
    [[ $heap =~ ^[0-9]+[kKmMgG]$ ]] || die_usage "--heap $heap is not a size such as 512m or 2g"
    cache=$(absolute "$(cache_dir)")
    data=$(absolute "${data:-$cache/kafka-data/$port}")
    check_path "$cache"
    check_path "$data"
    [[ -n $secure ]] || return 0
    secure=$(absolute "$secure")
    check_path "$secure"
    [[ -r $secure/server.pem ]] || die_usage "--secure: $secure/server.pem is not there; it holds the broker's private key and certificate chain"
}

check_nodes() {
    [[ $nodes =~ ^[13-9]$ ]] || die_usage "--nodes $nodes is not 1 or 3 to 9: two nodes stop when either does"
    if [[ -n $only_node && ! ($only_node =~ ^[1-9]$ && $only_node -le $nodes) ]]; then
        die_usage "--node $only_node is not one of $nodes"
    fi
    ((nodes == 1)) || [[ -z $controller_port ]] || die_usage '--controller-port is for one node'
}

check_port() {
    if ! [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || (($2 > 65535)); then
        die_usage "$1 $2 is not a port (1 to 65535)"
    fi
}

# Kafka reads its settings as ISO-8859-1 with escapes and splits log.dirs at commas, Java splits class
# paths at colons: a path with such a character would be taken for another one.
check_path() {
    local LC_ALL=C
    [[ $1 != *[!A-Za-z0-9/._@+=~\ -]* ]] ||
        die_usage "the path $1 holds a character that Kafka's settings do not carry (letters, digits, space and /._@+=~- work): choose another with --data or CUSTODY_CACHE_DIR"
}

# --- Java and the artifacts --------------------------------------------------------------------------

# Prints the path of a Java that can run the broker.
find_java() {
    local java version major
    if [[ -n ${JAVA_HOME:-} ]]; then
        java=$JAVA_HOME/bin/java
        [[ -x $java ]] || die "JAVA_HOME is $JAVA_HOME but $java is not there: correct or unset JAVA_HOME"
    else
        java=$(command -v java) ||
            die "no java on the PATH: install Java $java_version_min or newer (Debian: apt-get install openjdk-17-jre-headless) or set JAVA_HOME"
    fi
    version=$("$java" -version 2>&1 | sed -n 's/.*version "\([^"]*\)".*/\1/p') || version=''
    # Java 8 and older call themselves 1.x.
    major=${version%%[!0-9]*}
    ((${major:-0} >= java_version_min)) ||
        die "$java is version ${version:-unknown}, too old for Kafka 4: install Java $java_version_min or newer or set JAVA_HOME to one"
    printf '%s\n' "$java"
}

kafka_version() {
    sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$pom"
}

# Prints the directory of the broker's jars; Maven fetches them if they are not there for this pom.xml.
# They come into place by one rename, with the pom.xml that says which they are.
fetch_artifacts() {
    local version libs staging
    version=$(kafka_version)
    libs=$cache/kafka-$version
    staging=$libs.part
    mkdir -p "$cache"
    take_turn "$libs.lock" "$fetch_timeout_s"
    if cmp -s "$pom" "$libs/pom.xml"; then
        printf '%s\n' "$libs"
        return
    fi
    command -v mvn >/dev/null ||
        die "Kafka $version is not in $libs and there is no mvn to fetch it: install Maven (Debian: apt-get install maven) or copy that directory from a machine that has it"
    say "fetching Kafka $version into $libs (about 45 MB, first time only)"
    rm -rf -- "$staging"
    mkdir "$staging"
    if ! mvn -B -ntp -f "$pom" dependency:copy-dependencies "-DoutputDirectory=$staging" >"$staging/mvn.log" 2>&1; then
        grep -m 1 '^\[ERROR\]' "$staging/mvn.log" >&2 || tail -n 20 "$staging/mvn.log" >&2
        die "Maven could not fetch Kafka $version (all it said: $staging/mvn.log): check the network, or the proxy or mirror in ~/.m2/settings.xml, then start again"
    fi
    cp "$pom" "$staging/pom.xml"
    rm -rf -- "$libs"
    mv "$staging" "$libs"
    printf '%s\n' "$libs"
}

# --- the broker's process ----------------------------------------------------------------------------

pid_file() { printf '%s\n' "$data/broker.pid"; }
properties_file() { printf '%s\n' "$data/server.properties"; }
broker_log() { printf '%s\n' "$data/broker.log"; }
storage_dir() { printf '%s\n' "$data/storage"; }
# Names the user that the storage was made with, if it was.
scram_file() { printf '%s\n' "$data/scram-user"; }

# Prints the pid of the running broker of this data directory; fails if there is none. A pid that was
# given to another process since is recognised by its command line.
running_pid() {
    local pid
    pid=$(cat "$(pid_file)" 2>/dev/null) || return 1
    [[ $pid =~ ^[0-9]+$ ]] || return 1
    [[ $(command_line_of "$pid") == *"kafka.Kafka $(properties_file)"* ]] || return 1
    printf '%s\n' "$pid"
}

# Prints the port the broker of this data directory was last started with.
recorded_port() {
    sed -n 's|^advertised.listeners=BROKER://[^:]*:\([0-9]*\).*$|\1|p' "$(properties_file)"
}

# A node that was killed a moment ago holds its port until its last thread is gone.
require_free_port() {
    local deadline=$((SECONDS + 5))
    while port_is_open "$1" && ((SECONDS < deadline)); do sleep 0.1; done
    ! port_is_open "$1" ||
        die "port $1 on $host is in use by another process: choose another with $2, or end that process (ss -ltnp shows which it is)"
}

# Asks for metadata (API 3, version 1, no topics) and succeeds if at least one broker is listed: the
# node has then caught up with its controller and serves clients. An open port alone says neither.
broker_answers() (
    exec 2>/dev/null 3<>"/dev/tcp/$host/$1" || return 1
    # size 14, API 3, version 1, correlation id 7, client id null, array of 0 topics
    printf '\0\0\0\016\0\003\0\001\0\0\0\007\377\377\0\0\0\0' >&3 || return 1
    # size (4 bytes), correlation id (4), number of brokers (4); NUL reads as the empty string
    local answer='' byte i LC_ALL=C
    for ((i = 0; i < 12; i++)); do
        IFS= read -r -d '' -n 1 -t 5 byte <&3 || return 1
        printf -v byte '%d' "'$byte"
        ((i < 4)) || answer="$answer $byte"
    done
    [[ $answer == ' 0 0 0 7 0 0 0 '* && $answer != *' 0' ]]
)

# --- storage and settings ----------------------------------------------------------------------------

# Every node of the cluster as Kafka's static list of voters: 1@host:port,2@host:port, ...
voters() {
    local i list=''
    for ((i = 1; i <= nodes; i++)); do
        list+=",$i@$host:$((base_port + 10 * (i - 1) + 1))"
    done
    printf '%s\n' "${list#,}"
}

secure_port() { printf '%s\n' "$((controller_port + 1))"; }
# Where the listener behind somebody else's port is, and that port for this node.
relayed_port() { printf '%s\n' "$((controller_port + 2))"; }
advertised_port() { printf '%s\n' "$((advertise_port + 10 * (node - 1)))"; }

# The settings of the secured listener, if one is asked for. Without a validator of its own Kafka takes
# unsigned tokens; a connection ends with the token it was made with.
secure_properties() {
    [[ -n $secure ]] || return 0
    cat <<PROPERTIES
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location=$secure/server.pem
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512,OAUTHBEARER
listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.secure.oauthbearer.connections.max.reauth.ms=3600000
PROPERTIES
}

write_properties() {
    local listeners=BROKER://$host:$port advertised
    [[ -z $secure ]] || listeners+=,SECURE://$host:$(secure_port)
    advertised=$listeners
    if [[ -n $advertise_port ]]; then
        listeners+=,RELAYED://$host:$(relayed_port)
        advertised+=,RELAYED://$host:$(advertised_port)
    fi
    local replicas=1 in_sync=1 quorum="controller.quorum.bootstrap.servers=$host:$controller_port" controlled=false
    if ((nodes > 1)); then
        replicas=3 in_sync=2 quorum="controller.quorum.voters=$(voters)" controlled=true
    fi
    cat >"$(properties_file)" <<PROPERTIES
$properties_marker
process.roles=broker,controller
node.id=$node
listeners=$listeners,CONTROLLER://$host:$controller_port
advertised.listeners=$advertised
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL,RELAYED:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
$quorum
log.dirs=$(storage_dir)

# Few partitions of the internal topics, as each is a directory to open at every start.
default.replication.factor=$replicas
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$in_sync
share.coordinator.state.topic.num.partitions=4

# Topics are made on purpose, with the partition count their keys need.
auto.create.topics.enable=false
# 8 MiB, above the 5 MiB records of the tests.
message.max.bytes=8388608
replica.fetch.max.bytes=8388608
# Test data carries old timestamps; time-based retention would delete it at once.
log.retention.ms=-1
log.retention.bytes=-1
# A consumer group starts at its first member.
group.initial.rebalance.delay.ms=0
# A dead member is noticed in seconds: here nothing but tests dies. Clients choose theirs from 2 s on, and
# the protocol of KIP-848 has the brokers' (by default 45 s, every 5 s).
group.min.session.timeout.ms=2000
group.consumer.min.session.timeout.ms=2000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=1000
# A controlled shutdown takes the leader off every partition of a lone broker while its transaction
# coordinator still works: it drops the commit markers of what is in flight, and readers of committed
# records wait without end. Without one, a start after a stop waits until the old registration has run out:
# 12 s in place of 2 s.
controlled.shutdown.enable=$controlled

$(secure_properties)
PROPERTIES
}

# Kafka's form of a UUID: 16 bytes in URL-safe base64 without padding. Random, so that a client can tell
# fresh storage from the old one; the first letter is fixed, as a leading '-' reads as an option.
new_cluster_id() {
    printf 'C%s\n' "$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c 2-22)"
}

# Formats the storage unless it is formatted; StorageTool writes meta.properties last.
format_storage() {
    local java=$1 libs=$2 cluster_id quorum=--standalone scram=()
    if [[ -e $(storage_dir)/meta.properties ]]; then
        [[ -z $secure || -e $(scram_file) ]] ||
            die "the storage in $data was made without --secure and has no user: add --fresh (its records go), or choose another --data"
        return 0
    fi
    [[ -z $secure ]] || scram=(--add-scram "SCRAM-SHA-512=[name=\"$scram_user\",password=\"$scram_password\"]")
    if ((nodes == 1)); then
        cluster_id=$(new_cluster_id)
    else
        # The voters are listed in the settings; the id is that of the whole cluster.
        quorum=
        [[ -e $base_data/cluster-id ]] || new_cluster_id >"$base_data/cluster-id"
        cluster_id=$(<"$base_data/cluster-id")
    fi
    "$java" -Xmx128m -XX:TieredStopAtLevel=1 "-Dlog4j2.configurationFile=$log4j_config" -cp "$libs/*" \
        kafka.tools.StorageTool format ${quorum:+"$quorum"} --cluster-id "$cluster_id" \
        ${scram[@]+"${scram[@]}"} --config "$(properties_file)" >>"$(broker_log)" 2>&1 9>&- || {
        show_end "$(broker_log)"
        die "could not format $(storage_dir); the reason is above"
    }
    rm -f "$(scram_file)"
    [[ -z $secure ]] || printf '%s\n' "$scram_user" >"$(scram_file)"
}

# Removes the storage, and only in a directory this script wrote its settings to.
wipe_storage() {
    [[ -e $(storage_dir) ]] || return 0
    [[ $(head -n 1 "$(properties_file)" 2>/dev/null) == "$properties_marker" ]] ||
        die "$data was not made by this script (its server.properties is missing or another's): choose another --data or remove it by hand"
    rm -rf -- "$(storage_dir)"
}

# --- commands ----------------------------------------------------------------------------------------

# Starts the node unless it runs.
start_node() {
    local java libs pid
    mkdir -p "$data"
    take_turn "$data/lock" "$turn_timeout_s"
    if [[ $fresh == no ]] && pid=$(running_pid); then
        [[ $(recorded_port) == "$port" ]] ||
            die "the broker of $data runs already on port $(recorded_port), not $port (pid $pid): stop it first or choose another --data"
        [[ -z $secure ]] || grep -qxF "listener.name.secure.ssl.keystore.location=$secure/server.pem" "$(properties_file)" ||
            die "the broker of $data runs already without --secure $secure (pid $pid): stop it first or choose another --data"
        [[ -z $advertise_port ]] || grep -q "^advertised.listeners=.*,RELAYED://$host:$(advertised_port)$" "$(properties_file)" ||
            die "the broker of $data runs already without --advertise-port $advertise_port (pid $pid): stop it first or choose another --data"
        return
    fi
    java=$(find_java)
    libs=$(fetch_artifacts)
    if [[ $fresh == yes ]]; then
        stop_broker || true
        wipe_storage
    fi
    require_free_port "$port" --port
    require_free_port "$controller_port" --controller-port
    [[ -z $secure ]] || require_free_port "$(secure_port)" --port
    [[ -z $advertise_port ]] || require_free_port "$(relayed_port)" --port
    : >"$(broker_log)"
    write_properties
    format_storage "$java" "$libs"
    launch_broker "$java" "$libs"
}

await_node() {
    local pid
    pid=$(cat "$(pid_file)")
    await_server broker "$pid" "$port" "$(broker_log)" broker_answers "$port"
    printf 'kafka %s runs on %s:%s (pid %s, data %s)\n' "$(kafka_version)" "$host" "$port" "$pid" "$data"
    [[ -z $secure ]] || printf '  and with SASL_SSL on %s:%s\n' "$host" "$(secure_port)"
    [[ -z $advertise_port ]] || printf '  and on %s:%s for what listens on port %s\n' "$host" "$(relayed_port)" "$(advertised_port)"
}

# All nodes first, then their answers: one alone has no quorum.
start() {
    if [[ $fresh == yes && -z $only_node ]]; then
        rm -f "$base_data/cluster-id"
    fi
    each_node start_node
    each_node await_node
}

# Starts the broker in the background, free of this terminal, and writes its pid file.
launch_broker() {
    local java=$1 libs=$2
    nohup "$java" "-Xmx$heap" -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true \
        "-Dlog4j2.configurationFile=$log4j_config" -cp "$libs/*" \
        kafka.Kafka "$(properties_file)" </dev/null >>"$(broker_log)" 2>&1 9>&- &
    printf '%s\n' "$!" >"$(pid_file)"
}

# Ends the broker if it runs and waits until it is gone; fails if there was none.
stop_broker() {
    local timeout=$stop_timeout_s
    [[ $nodes == 1 || -n $only_node ]] || timeout=$cluster_stop_timeout_s
    end_server broker "$timeout"
}

stop() {
    each_node signal_node
    each_node stop_node
}

signal_node() {
    local pid
    pid=$(running_pid) || return 0
    kill -TERM "$pid" 2>/dev/null || true
}

stop_node() {
    if [[ ! -d $data ]]; then
        printf 'kafka does not run (nothing in %s)\n' "$data"
        return
    fi
    take_turn "$data/lock" "$turn_timeout_s"
    if stop_broker; then
        printf 'kafka stopped (data kept in %s)\n' "$data"
    else
        printf 'kafka does not run (data in %s)\n' "$data"
    fi
}

status() { each_node status_node; }

status_node() {
    local pid
    if pid=$(running_pid); then
        if broker_answers "$(recorded_port)"; then
            printf 'kafka runs on %s:%s (pid %s, data %s)\n' "$host" "$(recorded_port)" "$pid" "$data"
        else
            printf 'kafka process runs (pid %s) but does not answer on %s:%s; see %s\n' \
                "$pid" "$host" "$(recorded_port)" "$(broker_log)"
            return 1
        fi
    else
        printf 'kafka does not run (data directory %s)\n' "$data"
        return 3
    fi
}

# Sets node, port, controller_port and data of a node.
choose_node() {
    node=$1 data=$base_data
    if ((nodes > 1)); then
        port=$((base_port + 10 * (node - 1)))
        controller_port=$((port + 1))
        data=$base_data/node-$node
    fi
}

# Does something for every node that is asked for, up to the first that fails.
each_node() {
    local i
    for ((i = ${only_node:-1}; i <= ${only_node:-$nodes}; i++)); do
        choose_node "$i"
        "$1"
    done
}

parse_options "$@"
base_port=$port base_data=$data
"$command"
