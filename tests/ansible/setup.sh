#!/bin/sh
# Puts Ansible and what ansible-test needs into target/ansible, from PyPI, once; what runs it needs no network then.
set -eu
cd "$(dirname "$0")/../.."
into=$PWD/target/ansible
stamp=$(cat tests/ansible/requirements.txt tests/ansible/get-pip.py tests/ansible/setup.sh | cksum)
[ "$(cat "$into/stamp" 2>/dev/null)" != "$stamp" ] || exit 0
rm -rf "$into"
mkdir -p "$into"
python3 -m venv "$into/venv"
"$into/venv/bin/pip" install --quiet --requirement tests/ansible/requirements.txt
# ansible-test has environments of its own below its home. It insists on the path of a collection, which is outside of a
# working tree since it would ask Git for its files.
cache=$into/home/.ansible/test/cache
mkdir -p "$cache"
cp tests/ansible/get-pip.py "$cache/get_pip_24_2.py"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/ansible_collections/netrec"
cp -R ansible "$folder/ansible_collections/netrec/netrec"
cd "$folder/ansible_collections/netrec/netrec"
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for test in compile import pep8 validate-modules; do
	HOME=$into/home PATH=$into/venv/bin:$PATH ansible-test sanity --prime-venvs --python "$version" --test "$test" >&2
done
echo "$stamp" >"$into/stamp"
