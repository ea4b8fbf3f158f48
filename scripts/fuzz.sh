#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh TIME [TARGET...]: first hold the seeds of every fuzz target to 80 % of its parser's statements, then run each for TIME. With
# TIME 0 only the seeds. A target is named FOLDER.NAME or NAME; without one, all of fuzz.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-1m}
shift || true
want=80
out=$PWD/build/fuzz
mkdir -p "$out"
echo "machine: $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"

# targets prints the rows of fuzz.txt that were asked for.
targets() {
	sed -e 's/#.*//' -e '/^[[:space:]]*$/d' scripts/fuzz.txt | while read -r dir target parser; do
		if [ $# -eq 0 ] || [[ " $* " == *" $target "* || " $* " == *" $dir.$target "* ]]; then
			echo "$dir $target $parser"
		fi
	done
}

# share DIR TARGET PARSER...: run the target's seeds, and print how many of the parser's statements they reach, of how many.
share() {
	local dir=$1 target=$2 log
	shift 2
	log=$out/${dir//\//.}.$target
	if ! (cd "$dir" && "$out/${dir//\//.}.test" -test.run "^$target\$" -test.coverprofile "$log.cover" -test.count 1) >"$log.seeds" 2>&1; then
		tail -n 40 "$log.seeds" >&2
		return 1
	fi
	go tool cover -func "$log.cover" >"$log.functions"
	awk -v parser="$*" '
		BEGIN {
			n = split(parser, words, " ")
			for (i = 1; i <= n; i++) {
				split(words[i], part, ":")
				whole[part[1]] = part[2] == ""
				m = split(part[2], names, ",")
				for (k = 1; k <= m; k++) wanted[part[1], names[k]] = 1
			}
		}
		{ sub(/^.*\//, "", $1); split($1, at, /[:.,]/); file = at[1] "." at[2]; line = at[3] + 0 }
		FNR == NR { # FILE:LINE: FUNCTION SHARE
			begins[file, line] = 1
			if (whole[file] || (file, $2) in wanted) ours[file, line] = 1
			next
		}
		FNR > 1 { # FILE:LINE.COLUMN,LINE.COLUMN STATEMENTS COUNT
			while (line > 0 && !((file, line) in begins)) line--
			if ((file, line) in ours) { all += $2; if ($3 > 0) reached += $2 }
		}
		END { print reached + 0, all + 0 }' "$log.functions" "$log.cover"
}

for dir in $(targets "$@" | cut -d' ' -f1 | sort -u); do
	go test -c -cover -o "$out/${dir//\//.}.test" "./$dir"
done
poor=0
: >"$out/seeds.txt"
while read -r dir target parser; do
	# shellcheck disable=SC2086 # the parser is words
	read -r reached all < <(share "$dir" "$target" $parser)
	percent=$((all == 0 ? 0 : reached * 100 / all))
	echo "$dir $target $percent $reached $all" >>"$out/seeds.txt"
	if [ "$percent" -lt "$want" ]; then
		echo "the seeds of $dir $target reach $percent % of their parser's statements ($reached of $all), want $want %" >&2
		poor=1
	fi
done < <(targets "$@")
[ $poor -eq 0 ] || exit 1

if [ "$time" != 0 ]; then
	while read -r dir target _; do
		log=$out/${dir//\//.}.$target.log # whole: a finding, or a fatal signal, is read there
		echo "$dir $target"
		if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1s "./$dir" >"$log" 2>&1 </dev/null; then
			tail -n 40 "$log" >&2
			echo "the whole log: $log" >&2
			exit 1
		fi
	done < <(targets "$@")
fi
echo
printf '%-24s %-28s %10s %12s\n' package target "seeds' share" executions
while read -r dir target percent _; do
	executions=-
	[ "$time" = 0 ] || executions=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$out/${dir//\//.}.$target.log" | tail -n 1)
	printf '%-24s %-28s %10s %% %12s\n' "$dir" "$target" "$percent" "$executions"
done <"$out/seeds.txt"
