#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh TIME: run every fuzz target of the tree for this long each.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-1m}
grep -rlE '^func Fuzz' --include='*_test.go' . | sort | while read -r file; do
	dir=$(dirname "$file")
	for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]*' "$file" | cut -d' ' -f2); do
		echo "== $dir $target"
		log="build/fuzz/${dir#./}/$target.log" # whole: a finding, or a fatal signal, is read there
		mkdir -p "$(dirname "$log")"
		if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1s "$dir" >"$log" 2>&1; then
			tail -n 40 "$log"
			echo "the whole log: $log" >&2
			exit 1
		fi
		tail -n 3 "$log"
	done
done
