#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# axe.sh: put axe-core of test/axe/package-lock.json where the tests of the pages look for it.
set -eu
cd "$(dirname "$0")/.."
want=$(sed -n 's/.*"axe-core": "\([0-9.]*\)".*/\1/p' test/axe/package.json)
grep -qs "\"version\": \"$want\"" test/axe/node_modules/axe-core/package.json && exit 0
command -v npm >/dev/null || scripts/packages.sh npm
if ! said=$(cd test/axe && npm ci --ignore-scripts 2>&1); then
	printf '%s\n' "$said" | tail -n 10 >&2
	echo "npm could not fetch axe-core $want, with which the tests look at the pages" >&2
	echo "hint: with a registry in reach, run: cd test/axe && npm ci" >&2
	exit 1
fi
