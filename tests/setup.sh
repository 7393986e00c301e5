#!/bin/sh
# Installs what the tests need and the machine lacks. Without root it only says what is missing.
set -eu
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need nft nftables
need ip iproute2
need bridge iproute2
need conntrack conntrack
need iptables iptables
need python3 python3
need unshare util-linux
need nsenter util-linux
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "missing packages:$missing (as root: apt-get install$missing)" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
