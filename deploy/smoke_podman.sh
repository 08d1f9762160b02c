#!/usr/bin/env bash
# Run the real docker-compose.yml in real containers, on a machine that has no Docker: podman and podman-compose, as root.
#
#   apt-get install podman runc catatonit netavark aardvark-dns mmdebstrap
#   deploy/smoke_podman.sh
#
# It builds the image, trains with `up --scale worker=4`, and kills a worker in the middle of another run. Everything it
# makes lies in one temporary folder, which it removes. It is not part of the tests: it needs the network, and a minute or two.
#
# What it changes, because a small machine or a container may lack it:
#   base image    PYTHON_IMAGE if set; otherwise the one of the Dockerfile if a registry can be reached; otherwise a
#                 Debian made by mmdebstrap, with the Python that Debian has.
#   containers    runc, and low limits on files and processes: crun wants pure cgroups v2, and raising limits is a privilege.
#   network       netavark: podman's older networks have no names inside when they are internal.
#   health        without systemd podman runs no health checks, and podman-compose goes on without them: servers and
#                 workers then simply try until the scheduler answers.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "smoke: $*" >&2; exit 1; }
say() { echo "== $*"; }

[ "$(id -u)" = 0 ] || fail "needs root"
for tool in podman runc catatonit python3; do command -v $tool >/dev/null || [ -x /usr/libexec/podman/$tool ] || fail "needs $tool: apt-get install podman runc catatonit netavark aardvark-dns mmdebstrap"; done
[ -x /usr/lib/podman/netavark ] || [ -x /usr/libexec/podman/netavark ] || fail "needs netavark and aardvark-dns"

work=$(mktemp -d)
mkdir "$work/networks"
cat >"$work/containers.conf" <<X
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "runc"
[network]
network_backend = "netavark"
network_config_dir = "$work/networks"
X
cat >"$work/storage.conf" <<X
[storage]
driver = "overlay"
graphroot = "$work/storage"
runroot = "$work/run"
X
export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf

clean() {
  podman rm -fa -t 1 >/dev/null 2>&1 || true
  podman network rm -f shoal_cluster >/dev/null 2>&1 || true
  podman volume rm -fa >/dev/null 2>&1 || true
  umount "$work/storage/overlay" 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT

base() { # prints the name of a base image
  local want
  want=$(sed -n 's/^ARG PYTHON_IMAGE=//p' deploy/Dockerfile)
  if [ -n "${PYTHON_IMAGE:-}" ]; then echo "$PYTHON_IMAGE"; return; fi
  if timeout 120 podman pull -q "docker.io/library/$want" >/dev/null 2>&1; then echo "docker.io/library/$want"; return; fi
  command -v mmdebstrap >/dev/null || fail "no registry can be reached, and there is no mmdebstrap to make a base image"
  mmdebstrap --quiet --variant=apt --include=python3,python3-venv,ca-certificates \
    --customize-hook='ln -s python3 "$1/usr/bin/python"' \
    --customize-hook='cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"' \
    bookworm "$work/base.tar" >&2
  podman import -q "$work/base.tar" localhost/shoal-base >/dev/null
  rm "$work/base.tar"
  echo localhost/shoal-base
}

exit_codes() { podman ps -a --filter name=shoal_ --format '{{.Names}} {{.ExitCode}} {{.State}}'; }

say "podman-compose"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check -q install podman-compose
compose() { "$work/venv/bin/podman-compose" --no-ansi "$@"; }

say "base image"
PYTHON_IMAGE=$(base)
export PYTHON_IMAGE
echo "$PYTHON_IMAGE"

say "build"
compose --podman-build-args=--network=host build scheduler >"$work/build.log" 2>&1 || { tail -40 "$work/build.log"; fail "the image does not build"; }
podman run --rm localhost/shoal:0.1.0 --version

say "up --scale worker=4"
timeout 180 "$work/venv/bin/podman-compose" --no-ansi up --scale worker=4 >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail "up failed"; }
grep -E "held-out|ledger|everybody" "$work/up.log"
exit_codes
[ "$(exit_codes | awk '$2 == 0' | wc -l)" = 6 ] || { cat "$work/up.log"; fail "not every container ended with 0"; }
podman run --rm --entrypoint cat --volume shoal_runs:/runs localhost/shoal:0.1.0 /runs/report.json >"$work/report.json"
python3 - "$work/report.json" <<'X'
import json, sys
r = json.load(open(sys.argv[1]))
assert r["workers"] == 4 and r["accuracy"] >= 0.97 and r["ledger"]["balanced"], r
print(f"report: {r['workers']} workers, accuracy {r['accuracy']:.4f}")
X
compose down -t 1 >/dev/null 2>&1

say "a worker is killed in the middle of a run"
mkdir "$work/scripts"
sed -E 's/("--epochs", type=int, default=)[0-9]+/\1100000/' examples/digits.py >"$work/scripts/digits.py"
SHOAL_SCRIPTS=$work/scripts compose up -d >"$work/up.log" 2>&1
for _ in $(seq 300); do podman logs shoal_scheduler_1 2>&1 | grep -q declared && break; sleep 0.2; done
podman kill -s KILL shoal_worker_2 >/dev/null
timeout 20 podman wait shoal_scheduler_1 shoal_server_1 shoal_server_2 shoal_worker_1 >/dev/null || { exit_codes; fail "somebody still runs 20 s later"; }
exit_codes
[ "$(exit_codes | awk '$2 == 0' | wc -l)" = 0 ] || fail "somebody ended with 0 although the run failed"
for name in scheduler_1 server_1 server_2 worker_1; do
  podman logs shoal_$name 2>&1 | grep -E "worker [01] \(host .*silent for" || { podman logs shoal_$name; fail "$name does not name the culprit"; }
done
compose down -t 1 >/dev/null 2>&1

say "passed"
