#!/bin/bash
# docker29.sh   builds the daemon and the client of Docker 29, which Debian does not have, and prints
# the directory that they are in: dockerd, docker.
#
# They are built once, from the sources that the Go module proxy has, into the
# cache of the engines' images. Fast and silent when they are there.
set -eu
GO=${GO:-go}
DAEMON=v2.0.0-beta.24         # github.com/moby/moby/v2; its daemon's releases are 29.x
CLIENT=v29.9.3+incompatible   # github.com/docker/cli
# The version that this daemon needs; what the client's own list names cannot be had everywhere.
SWARMKIT=v2.1.3-0.20260828175525-ad0357aedfca

cache=${ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/imagefs-engines}
dir=$cache/docker29-$DAEMON-${CLIENT%+*}
if [ -e "$dir" ]; then
  echo "$dir"
  exit 0
fi
mkdir -p "$cache"
exec 9>"$cache/docker29.lock"
flock 9
if [ -e "$dir" ]; then # somebody else has built it meanwhile
  echo "$dir"
  exit 0
fi
echo "docker29: building dockerd $DAEMON and docker ${CLIENT%+*} (a few minutes, once)" >&2
tmp=$(mktemp -d "$cache/docker29.tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off GOTOOLCHAIN=auto
mkdir "$tmp/bin"
cd "$tmp"
GOBIN=$tmp/bin $GO install -trimpath -tags 'exclude_graphdriver_btrfs no_systemd' \
  -ldflags "-s -w -X github.com/moby/moby/v2/dockerversion.Version=${DAEMON#v}" \
  "github.com/moby/moby/v2/cmd/dockerd@$DAEMON" >"$tmp/log" 2>&1 || { tail -30 "$tmp/log" >&2; exit 1; }

# The client's go.mod has another name, which go does not look for.
source=$($GO mod download -json "github.com/docker/cli@$CLIENT" 2>"$tmp/log" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
[ -n "$source" ] || { tail -30 "$tmp/log" >&2; exit 1; }
cp -r "$source" "$tmp/cli"
chmod -R u+w "$tmp/cli"
cd "$tmp/cli"
mv vendor.mod go.mod
mv vendor.sum go.sum
{
  $GO mod edit -replace "github.com/moby/swarmkit/v2=github.com/moby/swarmkit/v2@$SWARMKIT"
  $GO build -mod=mod -trimpath -ldflags "-s -w -X github.com/docker/cli/cli/version.Version=${CLIENT%+*}" -o "$tmp/bin/docker" ./cmd/docker
} >"$tmp/log" 2>&1 || { tail -30 "$tmp/log" >&2; exit 1; }

"$tmp/bin/dockerd" --version >&2
"$tmp/bin/docker" --version >&2
mv "$tmp/bin" "$dir"
echo "$dir"
