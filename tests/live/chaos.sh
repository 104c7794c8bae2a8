#!/usr/bin/env bash
# Runs the chaos suite on servers that it starts itself: three Kafka brokers, an S3 server, ClickHouse's
# engine. Nobody else may use them: they are killed, frozen, cut off and left without room.
#
#   tests/live/chaos.sh                       the short series
#   tests/live/chaos.sh --runs 1000           until so many faults have been made
#   tests/live/chaos.sh --runs 1000 --report F  resumes after the last round in F, and adds to it
#   ... --seed N                              another series (default 1)
#   ... --only KIND                           one kind of fault from outside, as the report names it
#   ... --dev                                 an unoptimised build, as the other suites' offline one
#
# Disks that it fills are file systems in memory, which only this script and what it starts see (util-linux'
# unshare; root, or a kernel that lets users have namespaces). Where that is not possible it says so and
# leaves them out; with CI=true it fails.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ -z ${CUSTODY_CHAOS_DISKS:-} ]]; then
  [[ $(id -u) == 0 ]] && as=(--mount) || as=(--user --map-root-user --mount)
  if unshare "${as[@]}" mount -t tmpfs custody-try /mnt 2>/dev/null; then
    CUSTODY_CHAOS_DISKS=yes exec unshare "${as[@]}" "$BASH" "tests/live/$(basename "$0")" "$@"
  fi
  printf '\n!!! NOT RUN: chaos with full disks: no file system can be mounted (unshare %s)\n\n' "${as[*]}" >&2
  [[ ${CI:-} != true ]] || exit 1
  CUSTODY_CHAOS_DISKS=no
fi

runs=0 seed=1 report="" only=""
build=(--release --features live --features fault-points)
while (($# > 0)); do
  case $1 in
    --runs | --seed | --report | --only) (($# > 1)) || { echo "chaos.sh: $1 needs a value" >&2; exit 2; } ;;
    --dev) build=(--workspace --all-features); shift; continue ;;
    *) echo "usage: tests/live/chaos.sh [--runs N] [--seed N] [--report FILE] [--only KIND] [--dev]" >&2; exit 2 ;;
  esac
  case $1 in
    --runs) runs=$2 ;;
    --seed) seed=$2 ;;
    --report) report=$2 ;;
    --only) only=$2 ;;
  esac
  shift 2
done

kafka_port=${CUSTODY_CHAOS_KAFKA_PORT:-19700}
s3_port=${CUSTODY_CHAOS_S3_PORT:-19790}
data=$(mktemp -d "${TMPDIR:-/tmp}/custody-chaos.XXXXXX")
disks=()
end() {
  docker/kafka-local.sh stop --nodes 3 --port "$kafka_port" --data "$data/kafka" >&2 || true
  docker/s3-local.sh stop --port "$s3_port" --data "$data/s3" >&2 || true
  ((${#disks[@]} == 0)) || umount "${disks[@]}" || true
  rm -rf "$data"
}
trap end EXIT

if [[ $CUSTODY_CHAOS_DISKS == yes ]]; then
  # They take memory for what they hold: 10 MB a round at most.
  for disk in s3 kafka/node-3/storage spool; do
    mkdir -p "$data/$disk"
    mount -t tmpfs -o size=8g custody-chaos "$data/$disk"
    disks+=("$data/$disk")
  done
  export CUSTODY_TEST_SPOOL=$data/spool
fi

# The address of each broker, on the port that is so much behind its own.
brokers() { printf '127.0.0.1:%s,127.0.0.1:%s,127.0.0.1:%s' $((kafka_port + $1)) $((kafka_port + $1 + 10)) $((kafka_port + $1 + 20)); }

# The third port is the suite's: its proxies stand before the brokers there.
docker/kafka-local.sh start --nodes 3 --port "$kafka_port" --data "$data/kafka" --advertise-port $((kafka_port + 4)) >&2
docker/s3-local.sh start --port "$s3_port" --data "$data/s3" >&2
eval "$(docker/s3-local.sh env --port "$s3_port" --data "$data/s3")"
CUSTODY_TEST_KAFKA=$(brokers 0) CUSTODY_TEST_KAFKA_RELAYED=$(brokers 3) CUSTODY_TEST_KAFKA_ADVERTISED=$(brokers 4)
export CUSTODY_TEST_KAFKA CUSTODY_TEST_KAFKA_RELAYED CUSTODY_TEST_KAFKA_ADVERTISED
export CUSTODY_TEST_KAFKA_DATA=$data/kafka CUSTODY_TEST_S3_DATA=$data/s3
export CUSTODY_CHAOS_SEED=$seed
((runs == 0)) || export CUSTODY_CHAOS_RUNS=$runs
[[ -z $report ]] || export CUSTODY_CHAOS_REPORT=$report
[[ -z $only ]] || export CUSTODY_CHAOS_ONLY=$only

cargo test "${build[@]}" --test live_chaos -- --nocapture
