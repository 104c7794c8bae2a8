#!/usr/bin/env bash
# Upgrades an installation under load and takes the upgrade back: two versions side by side in the same groups.
#
#   tests/live/upgrade.sh                 from the newest tag to this checkout
#   tests/live/upgrade.sh REVISION        from that revision
#   tests/live/upgrade.sh --dev [...]     unoptimised builds, as the other suites' offline one
#
# The older version is built in a worktree of its own, with a target folder of its own beside this one's
# (target/upgrade), so that a second run builds nothing. CUSTODY_TEST_KAFKA names a broker; without it, one is
# started. CUSTODY_TEST_OLD_BINARY names a binary that is there already, and nothing older is built.
set -euo pipefail
cd "$(dirname "$0")/../.."

profile=release build=(--release --features live)
if [[ ${1:-} == --dev ]]; then
  profile=debug build=(--workspace --all-features)
  shift
fi
revision=${1:-$(git describe --tags --abbrev=0 2>/dev/null || true)}

ends=()
end() { for ((i = ${#ends[@]} - 1; i >= 0; i--)); do eval "${ends[i]}"; done; }
trap end EXIT

if [[ -z ${CUSTODY_TEST_OLD_BINARY:-} ]]; then
  [[ -n $revision ]] || { echo "upgrade.sh: there is no tag yet; name the older revision: tests/live/upgrade.sh REVISION" >&2; exit 2; }
  commit=$(git rev-parse --verify --quiet "$revision^{commit}") ||
    { echo "upgrade.sh: no such revision: $revision" >&2; exit 2; }
  target=$PWD/target/upgrade
  tree=$(mktemp -d "${TMPDIR:-/tmp}/custody-upgrade.XXXXXX")
  ends+=("git worktree remove --force '$tree/custody'; rm -rf '$tree'")
  git worktree add --quiet --detach "$tree/custody" "$commit"
  echo "== building $revision ($commit)"
  args=(--bin custody)
  [[ $profile == debug ]] || args+=(--release)
  (cd "$tree/custody" && CARGO_TARGET_DIR=$target cargo build --locked --target-dir "$target" "${args[@]}")
  export CUSTODY_TEST_OLD_BINARY=$target/$profile/custody
fi

if [[ -z ${CUSTODY_TEST_KAFKA:-} ]]; then
  port=${CUSTODY_TEST_KAFKA_PORT:-19690}
  data=$(mktemp -d "${TMPDIR:-/tmp}/custody-kafka.XXXXXX")
  rmdir "$data"
  ends+=("docker/kafka-local.sh stop --port $port --data '$data' >&2 || true; rm -rf '$data'")
  docker/kafka-local.sh start --port "$port" --data "$data" >&2
  export CUSTODY_TEST_KAFKA=127.0.0.1:$port
fi

echo "== upgrading $CUSTODY_TEST_OLD_BINARY"
cargo test "${build[@]}" --test live_upgrade -- --nocapture
