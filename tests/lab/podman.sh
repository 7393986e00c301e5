#!/bin/sh
# A real Podman with its service, for a test of containers of its own. Needs root, Debian's podman and busybox, and writes into
# /run, so that the caller should have its own of that.
#   podman.sh start DIR CGROUP                all of its data under DIR, an image `busybox`, its API at /run/podman/podman.sock
#   podman.sh container DIR CGROUP WORDS...   a new container in the background
#   podman.sh run DIR CGROUP WORDS...         the command `podman`
#   podman.sh stop DIR CGROUP                 ends all of it and takes its control groups away
set -eu
what=$1 dir=$2 cgroup=$3
shift 3
# Neither systemd nor a journal is asked for anything.
export CONTAINERS_CONF="$dir/containers.conf"
podman="podman --root $dir/data --runroot $dir/run --storage-driver vfs"
# What stays behind to watch a container keeps the caller's pipes open.
through_files() {
	if "$@" >"$dir/said" 2>"$dir/complaint" </dev/null; then
		cat "$dir/said"
	else
		cat "$dir/complaint" >&2
		exit 1
	fi
}
case $what in
start)
	mkdir -p "$dir/root/bin" /run/podman
	printf '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n' >"$CONTAINERS_CONF"
	busybox=$(command -v busybox)
	cp "$busybox" "$dir/root/bin/busybox"
	for library in $(ldd "$busybox" 2>/dev/null | grep -o '/[^ ]*'); do
		mkdir -p "$dir/root$(dirname "$library")"
		cp -L "$library" "$dir/root$library"
	done
	for name in sh mkdir httpd ip; do ln -sf busybox "$dir/root/bin/$name"; done
	tar c -C "$dir/root" . | $podman import - busybox >/dev/null 2>&1
	rm -f /run/podman/podman.sock
	$podman system service --time=0 unix:///run/podman/podman.sock >"$dir/log" 2>&1 </dev/null &
	echo $! >"$dir/pid"
	n=0
	until [ -S /run/podman/podman.sock ]; do
		n=$((n + 1))
		if [ $n -gt 100 ] || ! kill -0 "$(cat "$dir/pid")" 2>/dev/null; then
			tail -n 3 "$dir/log" >&2
			exit 1
		fi
		sleep 0.1
	done
	;;
container) through_files $podman run -d --cgroup-parent "/$cgroup" "$@" ;;
run) through_files $podman "$@" ;;
stop)
	$podman rm -f -a -t 0 >/dev/null 2>&1 || true
	kill "$(cat "$dir/pid")"
	for group in /sys/fs/cgroup/"$cgroup" /sys/fs/cgroup/*/"$cgroup"; do
		# The container's monitor ends a little after the container.
		n=0
		until [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do
			n=$((n + 1))
			[ $n -le 100 ] || find "$group" -depth -type d -exec rmdir {} +
			sleep 0.1
		done
	done
	;;
esac
