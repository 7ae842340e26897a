#!/bin/bash
# fuzz.sh TIME PACKAGE…   runs every fuzz target of the packages for TIME each.
set -eu
go=${GO:-go}
time=$1
shift

# Targets that load write and sync; in memory they get further.
if [ -d /dev/shm ] && [ -w /dev/shm ]; then
  export GOTMPDIR=${GOTMPDIR:-${TMPDIR:-/tmp}}
  TMPDIR=$(mktemp -d /dev/shm/imagefs-fuzz-XXXXXX)
  export TMPDIR
  trap 'rm -rf "$TMPDIR"' EXIT
fi

found=0
while read -r package dir; do
  while read -r target; do
    found=$((found + 1))
    echo "fuzz $package $target"
    # Unlimited, making interesting inputs smaller takes all of a short time.
    "$go" test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x "$package" </dev/null
  done < <(find "$dir" -maxdepth 1 -name '*_test.go' -exec sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' {} +)
done < <("$go" list -f '{{.ImportPath}} {{.Dir}}' "$@")
if [ $found = 0 ]; then
  echo "fuzz: no targets found" >&2
  exit 1
fi
