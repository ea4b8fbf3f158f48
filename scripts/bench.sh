#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bench.sh: the figures, with the load of the machine beside them.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
echo "machine: $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"
go test -run '^$' -bench . -benchtime 1s ./... | grep -vE '^(PASS|ok|\?|goos|goarch|pkg|cpu)' || true
build/bin/sdbox-lab day --bin build/bin --out build/bench --once
echo "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
