#!/bin/sh
# Makes a Debian package of a binary: packaging/deb.sh BINARY FOLDER. Says where it is.
set -eu
binary=$(readlink -f "$1")
mkdir -p "$2"
into=$(readlink -f "$2")
cd "$(dirname "$0")/.."
version=$("$binary" --version | cut -d' ' -f2)
architecture=$(dpkg --print-architecture)
# Of a binary that is linked at run time the newest symbol says which C library it needs.
libc=$(objdump -T "$binary" 2>/dev/null | grep -o 'GLIBC_[0-9.]*' | cut -d_ -f2 | sort -uV | tail -n 1)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
share=$root/usr/share
install -D -m 755 "$binary" "$root/usr/bin/netrec"
for unit in systemd/*.service; do
	install -D -m 644 "$unit" "$root/usr/lib/systemd/system/$(basename "$unit")"
done
"$binary" man "$share/man/man1"
gzip -9n "$share"/man/man1/*.1
mkdir -p "$share/bash-completion/completions" "$share/zsh/vendor-completions" "$share/fish/vendor_completions.d"
"$binary" completions bash >"$share/bash-completion/completions/netrec"
"$binary" completions zsh >"$share/zsh/vendor-completions/_netrec"
"$binary" completions fish >"$share/fish/vendor_completions.d/netrec.fish"
mkdir -p "$share/netrec"
"$binary" schema >"$share/netrec/netrec.schema.json"
install -m 644 schema/output.schema.json "$share/netrec/output.schema.json"
for example in examples/*.toml; do
	install -D -m 644 "$example" "$share/doc/netrec/examples/$(basename "$example")"
done
install -m 644 packaging/debian/copyright "$share/doc/netrec/copyright"
gzip -9nc CHANGELOG.md >"$share/doc/netrec/changelog.gz"
install -D -m 644 packaging/debian/netrec.toml "$root/etc/netrec/netrec.toml"
install -D -m 644 packaging/debian/rt_protos "$root/etc/iproute2/rt_protos.d/netrec.conf"
for script in postinst prerm postrm; do
	install -D -m 755 "packaging/debian/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find etc -type f | sed 's|^|/|' | sort) >"$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f | sort | xargs md5sum) >"$root/DEBIAN/md5sums"
{
	sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" \
		-e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$root" | cut -f1)/" packaging/debian/control
	[ -z "$libc" ] || echo "Depends: libc6 (>= $libc)"
} >"$root/DEBIAN/control"
find "$root" -type d -exec chmod 755 {} +
dpkg-deb --root-owner-group ${NETREC_DEB_COMPRESSION:+-Z"$NETREC_DEB_COMPRESSION"} --build "$root" "$into" >/dev/null
echo "$into/netrec_${version}_$architecture.deb"
