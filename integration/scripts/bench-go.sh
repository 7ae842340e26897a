#!/bin/bash
# bench-go.sh FILE PACKAGE…   runs the packages' benchmarks, compares them with those in FILE, and writes FILE anew.
#
# COUNT (default 6) runs of each, so that benchstat can tell a change from noise.
set -eu
file=$1
shift
new=$(mktemp)
trap 'rm -f "$new"' EXIT
${GO:-go} test -run '^$' -bench . -benchmem -count "${COUNT:-6}" "$@" | tee "$new"
# benchstat tells results of different processors apart, and compares what is of the same.
if [ -s "$file" ]; then
  ${GO:-go} run "$BENCHSTAT" last="$file" now="$new"
fi
grep -v -e '^ok' -e '^PASS' "$new" >"$file"
