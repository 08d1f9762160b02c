#!/bin/sh
# The key of a cluster in containers, on a machine that need not have shoal: what `shoal keys new --container DIR` does.
#
#   deploy/new_key.sh [DIR]                       writes DIR/cluster.key (default: keys/cluster.key beside docker-compose.yml)
#
# Only the owner can look into DIR; the file itself can be read by any user, because the processes in the containers that get
# it as a secret run as another one. An existing key is kept.
set -eu
dir=${1:-$(dirname "$0")/../keys}
umask 077
mkdir -p "$dir"
chmod 700 "$dir"
set -C # refuses to overwrite
od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >"$dir/cluster.key"
chmod 444 "$dir/cluster.key"
echo "$dir/cluster.key: whoever has this file can join the cluster"
