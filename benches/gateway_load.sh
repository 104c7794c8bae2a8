#!/usr/bin/env bash
# Load on the gateway over loopback: events per second, events per CPU second of the gateway alone, p99
# at half load, memory. An item is a JSON event or a span; a span becomes one event or two. Needs `wrk` (its package is called so). The log acknowledges and keeps nothing.
#
#   benches/gateway_load.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}
cargo build --release -p ingest --features gateway --example gateway_load --offline
target=$(cargo metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
example="${GATEWAY_LOAD:-$target/release/examples/gateway_load}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$example" bodies "$work"
ticks=$(getconf CLK_TCK)

cpu() { awk -v t="$ticks" '{ print ($14 + $15) / t }' "/proc/$1/stat"; }

# name, path, file, media type, connections, pause before each request of a connection in ms
load() {
  local name=$1 path=$2 file=$3 media=$4 connections=$5 pause=$6
  mkfifo "$work/stop"
  "$example" serve <"$work/stop" >"$work/out" &
  local gateway=$!
  exec 3>"$work/stop"
  until [ -s "$work/out" ]; do read -rt 0.05 <> <(:) || true; done
  local address
  address=$(head -1 "$work/out" | cut -d' ' -f1)
  local before after line
  before=$(cpu "$gateway")
  line=$(wrk -t1 -c"$connections" -d"${seconds}s" -s benches/gateway_load.lua "http://$address$path" -- \
    "$work/$file" "$media" "$pause" | tail -1)
  after=$(cpu "$gateway")
  local peak
  peak=$(awk '/VmHWM/ { print $2 / 1024 }' "/proc/$gateway/status")
  exec 3>&-
  wait "$gateway"
  mv "$work/out" "$work/result"; rm "$work/stop"
  local events
  events=$(awk '/events_total.*accepted/ { print $2 }' "$work/result")
  awk -v name="$name" -v line="$line" -v before="$before" -v after="$after" -v peak="$peak" -v events="$events" 'BEGIN {
    split(line, f, " "); cpu = after - before;
    printf "%s: %.0f items/s, %.0f items and %.0f events per CPU second, p50 %s ms, p99 %s ms, peak %.0f MiB, ",
      name, f[2] * 100 / f[4], f[2] * 100 / cpu, events / cpu, f[6], f[8], peak;
    printf "%s refused, %s broken\n", f[10], f[12] }'
}

load json/full /v1/events events.json application/json 16 0
load json/half /v1/events events.json application/json 8 "${HALF_PAUSE_MS:-30}"
load otlp/full /v1/traces traces.pb application/x-protobuf 16 0
load otlp/half /v1/traces traces.pb application/x-protobuf 8 "${HALF_PAUSE_MS:-30}"
