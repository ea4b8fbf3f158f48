#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# testvm.sh: every test that starts a machine under QEMU (scripts/machines.txt), one after another, as a table. README=1 writes the table
# into image/README.md.
set -uo pipefail
cd "$(dirname "$0")/.."
log=build/testvm.log
table=build/testvm.md
export SDBOX_BIN="$PWD/build/bin"
began=$(cut -d' ' -f1-3 /proc/loadavg)
: >"$log"
code=0
rows=""
while read -r package test _; do
	echo "$package $test"
	from=$SECONDS
	result=passed
	go test -race -count=1 -v -timeout 30m -run "^${test//\//$/^}\$" "./$package" </dev/null >"$log.one" 2>&1 || result=failed
	grep -qE "^--- PASS: ${test%%/*} " "$log.one" || result=failed
	[ $result = passed ] || { code=1; tail -n 60 "$log.one"; }
	cat "$log.one" >>"$log"
	rows+="| \`$test\` | $package | $result | $((SECONDS - from)) |"$'\n'
done < <(grep -v '^#' scripts/machines.txt)
{
	echo "$(date -u +%Y-%m-%d), $(nproc) cores, load $began before and $(cut -d' ' -f1-3 /proc/loadavg) after, QEMU $(qemu-system-x86_64 --version | sed -n 's/.*version \([0-9.]*\).*/\1/p') without KVM."
	printf '\n| test | in | result | seconds |\n|---|---|---|--:|\n%s' "$rows"
} >"$table"
cat "$table"
if [ -n "${README:-}" ]; then
	awk -v table="$table" '/^<!-- machines:/ { print; print ""; while ((getline line < table) > 0) print line; print ""; skip = 1 } /^<!-- end of machines/ { skip = 0 } !skip' image/README.md >build/README.image && cat build/README.image >image/README.md
fi
exit $code
