#!/bin/sh
# Installs what the tests need and the machine lacks. Without root it only says what is missing. Ansible goes into target/.
set -eu
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need nft nftables
need ip iproute2
need bridge iproute2
need conntrack conntrack
need iptables iptables
need python3 python3
need faketime faketime
need valgrind valgrind
need curl curl
need etcd etcd-server
need etcdctl etcd-client
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
need objdump binutils
need man man-db
need groff groff-base
need zsh zsh
need fish fish
need unshare util-linux
need nsenter util-linux
if [ "$(id -u)" = 0 ]; then # tests with container engines and systemd are not tried without root
	need dockerd docker.io
	need podman podman
	need runc runc
	need busybox busybox-static
	need systemd-nspawn systemd-container
	need systemd-run systemd
	need sshd openssh-server
fi
here=$(dirname "$0")
[ -z "$missing" ] && exec sh "$here/ansible/setup.sh"
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "missing packages:$missing (as root: apt-get install$missing)" >&2
	exit 1
fi
# Packages of daemons start them when they are installed, unless this says that they may not. The test starts its own.
policy=/usr/sbin/policy-rc.d
restore() {
	rm -f "$policy"
	[ ! -e "$policy.before-netrec" ] || mv "$policy.before-netrec" "$policy"
}
[ ! -e "$policy" ] || mv "$policy" "$policy.before-netrec"
trap restore EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
sh "$here/ansible/setup.sh"
