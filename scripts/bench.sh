#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bench.sh: the figures of README.md with the load of the machine beside them, into build/bench; and the README's chart.
# FEW=1 measures each figure some times instead of many (a minute instead of ten).
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/bench
mkdir -p "$out" docs
many=--many
[ -z "${FEW:-}" ] || many=""
echo "machine: $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"
go test -run '^$' -bench . -benchtime 1s ./... | grep -vE '^(PASS|ok|\?|goos|goarch|pkg|cpu)' | tee "$out/benchmarks.txt" || true
echo "the card's comparison of fingers, 10,000 of the same and 10,000 of others:"
go test -run "^\$" -bench ErrorRates -benchtime 10000x ./internal/card/cardsim | grep Benchmark | tee -a "$out/benchmarks.txt"
code=0
build/bin/sdbox-lab day --bin build/bin --out "$out" --once $many || code=$?
build/bin/sdbox-lab chart "$out/report.json" docs/switch.png
exit $code
