#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test.sh: vet and every test with -race; a skipped test is a failure and is listed. Tests that start machines under QEMU come after the
# others and one after another: a machine that is emulated takes a core, and what waits for it must not be held up by the next.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
log=build/test.log
unformatted=$(gofmt -l agent cmd firmware gateway image internal pki test 2>/dev/null)
if [ -n "$unformatted" ]; then
	printf 'not formatted (run "make fmt"):\n%s\n' "$unformatted"
	exit 1
fi
go vet ./... || exit 1
export SDBOX_BIN="$PWD/build/bin"
machines=$(awk '!/^#/ && NF { print $1 }' scripts/machines.txt | sort -u)
others=$(go list ./... | grep -vxF "$(printf 'sdbox/%s\n' $machines)")
long=$(awk '$3 == "long" { print "^" $2 "$" }' scripts/machines.txt | paste -sd'|')
code=0
go test -race -count=1 -v -timeout 15m "$@" $others >"$log" 2>&1 || code=1
go test -race -count=1 -v -timeout 30m -p 1 -skip "$long" "$@" $(printf './%s\n' $machines) >>"$log" 2>&1 || code=1
grep -E '^(ok|FAIL|---? FAIL|panic:|\?)|no test files|\[build failed\]|^WARNING: DATA RACE' "$log" | grep -v '^?' || true
if [ $code -ne 0 ]; then
	echo
	echo "failures, in full:"
	awk '/^=== RUN/ { name = $3; buf[name] = ""; cur = name; next } { if (cur != "") buf[cur] = buf[cur] $0 "\n" } /^ *--- FAIL/ { print buf[cur]; }' "$log" | tail -n 400
	tail -n 60 "$log"
fi
skipped=$(grep -E '^ *--- SKIP' "$log")
if [ -n "$skipped" ]; then
	printf 'skipped tests, none may be:\n%s\n' "$skipped"
	code=1
fi
[ $code -eq 0 ] && echo "all tests passed"
exit $code
