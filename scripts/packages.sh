#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# packages.sh GROUP...: install the Debian packages of these groups of debian-packages.txt that are missing.
set -eu
cd "$(dirname "$0")/.."
missing=""
for group in "$@"; do
	for package in $(awk -v want="[$group]" '/^\[/ { on = ($0 == want); next } on && NF && $1 !~ /^#/ { print $1 }' debian-packages.txt); do
		if ! dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed; then
			missing="$missing $package"
		fi
	done
done
[ -n "$missing" ] || exit 0
sudo=""
if [ "$(id -u)" -ne 0 ]; then
	sudo="sudo"
	command -v sudo >/dev/null || { echo "sdbox needs these Debian packages:$missing" >&2; echo "hint: run as root, or: apt-get install$missing" >&2; exit 1; }
fi
echo "installing:$missing"
log=$(mktemp)
if ! { $sudo apt-get -qq update && $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	for package in $missing; do
		dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "missing Debian package: $package" >&2
	done
	echo "hint: sdbox is made for Debian 12 with a working apt; see debian-packages.txt" >&2
	rm -f "$log"
	exit 1
fi
rm -f "$log"
