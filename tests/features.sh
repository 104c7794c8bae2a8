#!/usr/bin/env bash
# Checks every set of features that the crates promise to build with, alone and together.
#
#   tests/features.sh          all of them
#   tests/features.sh ingest   one crate's
#
# A workspace build unifies features: a missing `cfg`, or a dependency that another feature happens to bring, shows
# only where a set is built by itself. CARGO names another cargo.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
only=${1:-}

# Crate and features; "-" is the crate without any.
promised() {
  cat <<'SETS'
schemas -
schemas arrow
schemas testing
schemas arrow,testing
ingest -
ingest client
ingest gateway
ingest kafka
ingest local
ingest testing
ingest client,gateway
ingest gateway,kafka
ingest gateway,local
ingest client,gateway,kafka,local
ingest client,gateway,kafka,local,testing
processors -
processors testing
sinks -
sinks testing
custody -
custody fault-points
SETS
}

# Crates that a set must not pull in: what an agent embeds holds no server and no database.
banned() {
  cat <<'BANNED'
ingest - axum tonic rdkafka fjall reqwest clickhouse arrow parquet object_store
ingest client axum tonic rdkafka fjall clickhouse arrow parquet object_store opentelemetry-proto
ingest gateway rdkafka fjall clickhouse arrow parquet object_store
ingest kafka axum tonic reqwest fjall clickhouse arrow parquet object_store
ingest local axum tonic reqwest rdkafka clickhouse arrow parquet object_store
BANNED
}

arguments() { # crate features
  set -- "$1" "${2#-}"
  printf '%s\n' -p "$1" --no-default-features ${2:+--features "$2"}
}

failed=0
while read -r crate features; do
  [ -z "$only" ] || [ "$only" = "$crate" ] || continue
  mapfile -t args < <(arguments "$crate" "$features")
  echo "== check $crate, features $features"
  "$cargo" check --locked "${args[@]}" || { echo "!!! $crate does not build with the features $features" >&2; failed=1; }
done < <(promised)

while read -r crate features names; do
  [ -z "$only" ] || [ "$only" = "$crate" ] || continue
  mapfile -t args < <(arguments "$crate" "$features")
  tree=$("$cargo" tree --locked -e normal --prefix none "${args[@]}")
  for name in $names; do
    if grep -q "^$name v" <<<"$tree"; then
      echo "!!! $crate with the features $features depends on $name" >&2
      failed=1
    fi
  done
done < <(banned)

[ "$failed" = 0 ] && echo "every promised set of features builds"
exit "$failed"
