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
echo "a step of the screen, 1912x1036, lossless, no CopyRect; kB sent and ms of processor (Tight, ZRLE: Xvnc's, beyond what it spends for us):"
awk '
	/^BenchmarkScreen\// {
		split($1, part, "/"); sub(/-[0-9]+$/, "", part[3])
		if (!(part[2] in seen)) { seen[part[2]] = 1; order[++n] = part[2] }
		for (i = 2; i < NF; i++) { if ($(i+1) == "ns/op") ms = $i / 1e6; if ($(i+1) == "B/step") kb = $i / 1000 }
		cell[part[2], part[3]] = sprintf("%.2f kB, %.1f ms", kb, ms)
	}
	END {
		print "| scene | sdbox | sdbox without its search | Tight | ZRLE |\n|---|--:|--:|--:|--:|"
		for (i = 1; i <= n; i++) { s = order[i]
			print "| " s " | " cell[s, "sdbox"] " | " cell[s, "sdbox-without-search"] " | " cell[s, "tight"] " | " cell[s, "zrle"] " |" }
	}' "$out/benchmarks.txt"
echo "the card's comparison of fingers, 10,000 of the same and 10,000 of others:"
go test -run "^\$" -bench ErrorRates -benchtime 10000x ./internal/card/cardsim | grep Benchmark | tee -a "$out/benchmarks.txt"
code=0
build/bin/sdbox-lab day --bin build/bin --out "$out" --once $many || code=$?
build/bin/sdbox-lab chart "$out/report.json" docs/switch.png
exit $code
