#!/usr/bin/env bash
# Runs the chaos suite on servers that it starts itself: three Kafka brokers, an S3 server, ClickHouse's
# engine. Nobody else may use them: they are killed, frozen and cut off.
#
#   tests/live/chaos.sh                       the short series
#   tests/live/chaos.sh --runs 1000           until so many faults have been made
#   tests/live/chaos.sh --runs 1000 --report F  goes on after the last round in F, and adds to it
#   ... --seed N                              another series (default 1)
#   ... --only KIND                           one kind of fault from outside, as the report names it
#   ... --dev                                 an unoptimised build, as the other suites' offline one
set -euo pipefail
cd "$(dirname "$0")/../.."

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
end() {
  docker/kafka-local.sh stop --nodes 3 --port "$kafka_port" --data "$data/kafka" >&2 || true
  docker/s3-local.sh stop --port "$s3_port" --data "$data/s3" >&2 || true
  rm -rf "$data"
}
trap end EXIT

docker/kafka-local.sh start --nodes 3 --port "$kafka_port" --data "$data/kafka" >&2
docker/s3-local.sh start --port "$s3_port" --data "$data/s3" >&2
eval "$(docker/s3-local.sh env --port "$s3_port" --data "$data/s3")"
export CUSTODY_TEST_KAFKA="127.0.0.1:$kafka_port,127.0.0.1:$((kafka_port + 10)),127.0.0.1:$((kafka_port + 20))"
export CUSTODY_TEST_KAFKA_DATA=$data/kafka CUSTODY_TEST_S3_DATA=$data/s3
export CUSTODY_CHAOS_SEED=$seed
((runs == 0)) || export CUSTODY_CHAOS_RUNS=$runs
[[ -z $report ]] || export CUSTODY_CHAOS_REPORT=$report
[[ -z $only ]] || export CUSTODY_CHAOS_ONLY=$only

cargo test "${build[@]}" --test live_chaos -- --nocapture
