#!/bin/bash
# fuzz.sh TIME PACKAGE…   runs every fuzz target of the packages for TIME each.
set -eu
go=${GO:-go}
time=$1
shift

# Targets that load write and sync; in memory they get further.
if [ -d /dev/shm ] && [ -w /dev/shm ]; then
  export GOTMPDIR=${GOTMPDIR:-${TMPDIR:-/tmp}}
  shm=$(mktemp -d /dev/shm/imagefs-fuzz-XXXXXX)
  export TMPDIR=$shm
fi

log=$(mktemp)
trap 'rm -rf "$log" "${shm:-$log}"' EXIT

# fuzz runs one target. Go before 1.27 sometimes takes the end of the time for a
# failure of the target (go.dev/issue/75804). It then has nothing to show but
# those words, and the target gets another try; what fails with an input to show
# for it, or in any other way, has failed.
fuzz() {
  local try
  for try in 1 2 3 4 5; do
    # Unlimited, making interesting inputs smaller takes all of a short time.
    if "$go" test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 10x "$1" >"$log" 2>&1 </dev/null; then
      cat "$log"
      return
    fi
    if ! grep -qx ' *context deadline exceeded' "$log" || grep -qE 'Failing input|panic|_test\.go:' "$log"; then
      cat "$log"
      return 1
    fi
    echo "fuzz: the end of the time was taken for a failure (try $try)"
  done
  cat "$log"
  return 1
}

found=0
while read -r package dir; do
  while read -r target; do
    found=$((found + 1))
    echo "fuzz $package $target"
    fuzz "$package" "$target"
  done < <(find "$dir" -maxdepth 1 -name '*_test.go' -exec sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' {} +)
done < <("$go" list -f '{{.ImportPath}} {{.Dir}}' "$@")
if [ $found = 0 ]; then
  echo "fuzz: no targets found" >&2
  exit 1
fi
