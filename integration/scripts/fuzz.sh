#!/bin/bash
# fuzz.sh TIME PACKAGE…   runs every fuzz target of the packages for TIME each.
set -eu
time=$1
shift
found=0
for package in $("${GO:-go}" list "$@"); do
  dir=$("${GO:-go}" list -f '{{.Dir}}' "$package")
  targets=$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$dir"/*_test.go 2>/dev/null) || continue
  for target in $targets; do
    found=$((found + 1))
    echo "fuzz $package $target"
    "${GO:-go}" test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package"
  done
done
if [ $found = 0 ]; then
  echo "fuzz: no targets found" >&2
  exit 1
fi
