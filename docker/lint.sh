#!/usr/bin/env bash
#
# Checks what stands in this folder with the tools of those who will read it: Docker Compose, Helm,
# Prometheus, Alertmanager, ShellCheck, a Dockerfile linter. Nothing is started and no image is fetched.
#
#   docker/lint.sh            a missing tool is a loud line at the end (with CI=true a failure)
#   docker/lint.sh --fetch    first fetches what Go and npm offer, into the cache directory
#
# Debian has the rest: apt-get install prometheus prometheus-alertmanager shellcheck
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly compose_version=v5.5.1
readonly helm_version=v3.22.0
readonly dockerfile_utils_version=0.16.3
# What the chart is rendered for.
readonly kubernetes_version=1.34.0

fetch=no
case "${1:-}" in
    '') ;;
    --fetch) fetch=yes ;;
    *) echo 'usage: docker/lint.sh [--fetch]' >&2; exit 2 ;;
esac

cache=${CUSTODY_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/custody}
tools=$cache/lint-tools
work=$(mktemp -d "${TMPDIR:-/tmp}/custody-lint.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
export PATH=$tools:$PATH
# Nothing of the caller's shell may go over .env.
unset COMPOSE_PROFILES COMPOSE_FILE

missing=() failed=()

say() { printf '== %s\n' "$*"; }

# check NAME COMMAND...: runs it and keeps its name if it fails.
check() {
    local name=$1
    shift
    say "$name"
    "$@" || { failed+=("$name"); printf '!!! FAILED: %s\n' "$name" >&2; }
}

# needs TOOL HOW: whether the tool is there.
needs() {
    command -v "$1" >/dev/null && return
    missing+=("$1: $2")
    return 1
}

# --- fetching ----------------------------------------------------------------------------------------

# Compose is built inside a module of its own: its own module excludes versions, which `go install`
# does not take.
fetch_compose() {
    mkdir -p "$work/compose"
    (
        cd "$work/compose"
        go mod init lint
        go get "github.com/docker/compose/v5/cmd@$compose_version"
        go build -o "$tools/docker-compose-$compose_version" github.com/docker/compose/v5/cmd
    ) >"$work/compose.log" 2>&1 || { tail -n 5 "$work/compose.log" >&2; return 1; }
    ln -sf "docker-compose-$compose_version" "$tools/docker-compose"
}

fetch_tools() {
    mkdir -p "$tools"
    if command -v go >/dev/null; then
        [[ -x $tools/docker-compose-$compose_version ]] || fetch_compose ||
            say "could not build Docker Compose $compose_version"
        [[ -x $tools/helm ]] || GOBIN=$tools go install "helm.sh/helm/v3/cmd/helm@$helm_version" ||
            say "could not build Helm $helm_version"
    fi
    if command -v npm >/dev/null && [[ ! -x $tools/dockerfile-utils ]]; then
        mkdir -p "$tools/npm"
        if npm install --silent --no-fund --no-audit --prefix "$tools/npm" "dockerfile-utils@$dockerfile_utils_version"; then
            ln -sf "npm/node_modules/.bin/dockerfile-utils" "$tools/dockerfile-utils"
        else
            say "could not fetch dockerfile-utils $dockerfile_utils_version"
        fi
    fi
}

# --- checks ------------------------------------------------------------------------------------------

# `docker compose` where Docker has it, else its own program.
compose() {
    if command -v docker-compose >/dev/null; then docker-compose "$@"; else docker compose "$@"; fi
}

check_compose() {
    if ! command -v docker-compose >/dev/null && ! docker compose version >/dev/null 2>&1; then
        needs docker-compose 'docker/lint.sh --fetch builds it, or install Docker Compose' || return 0
    fi
    local all=(--profile core --profile observability --profile collector)
    check 'docker compose config' compose "${all[@]}" config --quiet
    check 'docker compose config: no variable is missing' warns_nothing "${all[@]}"
    compose "${all[@]}" config --format json >"$work/compose.json" 2>/dev/null || return 0
    check_prometheus_config
}

warns_nothing() { ! compose "$@" config --quiet 2>&1 | grep .; }

# The configuration that Compose hands to Prometheus, with its variables filled in.
check_prometheus_config() {
    needs promtool 'apt-get install prometheus' || return 0
    needs python3 'apt-get install python3' || return 0
    mkdir -p "$work/prometheus"
    python3 - "$work/compose.json" >"$work/prometheus/prometheus.yml" <<'PYTHON'
import json
import sys

services = json.load(open(sys.argv[1]))["services"]
text = services["prometheus"]["environment"]["PROMETHEUS_YML"]
print(text.replace("/etc/prometheus/rules", "rules"))
PYTHON
    cp -r prometheus/rules "$work/prometheus/rules"
    check 'promtool check config' promtool check config "$work/prometheus/prometheus.yml"
}

check_helm() {
    needs helm 'docker/lint.sh --fetch builds it' || return 0
    local chart=helm/custody render=(helm template custody helm/custody --kube-version "$kubernetes_version")
    check 'helm lint' helm lint --quiet --strict --kube-version "$kubernetes_version" "$chart"
    check 'helm template' renders "${render[@]}"
    check 'helm template, scaled by processor use' renders "${render[@]}" --set defaults.autoscaling.enabled=true
    check 'helm template, scaled by lag, monitored' renders "${render[@]}" --set defaults.autoscaling.enabled=true \
        --set keda.enabled=true --set monitoring.enabled=true --set secrets.store=s --set secrets.kafka=k
    check 'helm template, no secrets, no gateway' renders "${render[@]}" --set roles.gateway.enabled=false \
        --set 'secrets.piiKeys=,secrets.apiKeys=,secrets.clickhouse='
    check 'the schema refuses a password among the values' refuses "${render[@]}" --set config.clickhouse.password=x
    check 'the schema refuses an unknown value' refuses "${render[@]}" --set replicas=3
    check 'the schema refuses a moving tag' refuses "${render[@]}" --set image.tag=latest
}

renders() { "$@" >/dev/null; }
refuses() { ! "$@" >/dev/null 2>&1; }

check_alerts() {
    if needs promtool 'apt-get install prometheus'; then
        check 'promtool check rules' promtool check rules prometheus/rules/*.yml
    fi
    if needs amtool 'apt-get install prometheus-alertmanager'; then
        check 'amtool check-config' amtool check-config alertmanager.yml
    fi
}

check_scripts() {
    if needs shellcheck 'apt-get install shellcheck'; then
        check shellcheck shellcheck ./*.sh init/*.sh
    fi
    if needs dockerfile-utils 'docker/lint.sh --fetch fetches it with npm'; then
        check 'dockerfile-utils lint' dockerfile-utils lint Dockerfile
    fi
}

[[ $fetch == no ]] || fetch_tools
check_compose
check_helm
check_alerts
check_scripts

if ((${#missing[@]} > 0)); then
    printf '\n!!! NOT CHECKED, as these are missing:\n' >&2
    printf '  - %s\n' "${missing[@]}" | sort -u >&2
    [[ ${CI:-} != true ]] || failed+=('missing tools')
fi
if ((${#failed[@]} > 0)); then
    printf '\n%d check(s) failed:\n' "${#failed[@]}" >&2
    printf '  - %s\n' "${failed[@]}" >&2
    exit 1
fi
echo 'docker/: every check that ran has passed'
