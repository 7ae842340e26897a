#!/bin/bash
# demo.sh   the main job on a real image: load, mount, look, compare, retag, unmount.
#
# Uses a store and a mount point of its own and leaves nothing behind. Works for
# root and for an ordinary user. IMAGEFS_DEMO_ARCHIVE names a docker-archive to
# use instead of the one below.
set -eu
cd "$(dirname "$0")/../.."
repo=$PWD

work=$(mktemp -d "${TMPDIR:-/tmp}/imagefs-demo-XXXXXX")
cleanup() {
  cd /
  if mountpoint -q "$work/mnt"; then
    "$work/imagefs" umount "$work/mnt" || umount -l "$work/mnt" || fusermount3 -uz "$work/mnt"
  fi
  chmod -R u+w "$work"
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
# run shows a command line, then runs it: what it prints is what you would see.
run() {
  printf '$ %s\n' "$1"
  eval "$1"
}
[ -t 1 ] || say() { printf '\n# %s\n' "$*"; }

say "Build imagefs"
run "CGO_ENABLED=0 go build -o $work/imagefs ./cmd/imagefs"

archive=${IMAGEFS_DEMO_ARCHIVE:-$repo/../shared/fixtures/da-docker1809-busybox-14layers.tar}
if [ -e "$archive" ]; then
  say "Two tags that differ a little, on the layers of a real archive: $(basename "$archive")"
  go run ./integration/mkimage -o "$work/app.tar" -repo demo/app -from "$archive"
else
  say "Two tags that differ a little, assembled from this machine's own busybox or shell"
  go run ./integration/mkimage -o "$work/app.tar" -repo demo/app
fi
ls -l "$work/app.tar"

export PATH=$work:$PATH IMAGEFS_STORE=$work/store
cd "$work"
mkdir mnt

say "Load the archive into the embedded store; no daemon is involved"
run "imagefs load -i app.tar"
run "imagefs images"

say "Mount the store: images are directories now"
run "imagefs mount mnt"
run "ls mnt mnt/images/demo/app mnt/images/demo/app/1.1/"

say "The root file system of an image, read with the usual tools"
run "ls -l mnt/images/demo/app/1.1/rootfs/ mnt/images/demo/app/1.1/rootfs/srv/app/"
run "cat mnt/images/demo/app/1.1/rootfs/srv/app/config"

say "Where it came from"
run "head -4 mnt/images/demo/app/1.1/history | cut -c -110"

say "What is different between two tags (diff exits with 1 when there is something)"
[ "$(id -u)" = 0 ] || echo "(what only root may read in an image, an ordinary user may not: diff says so)"
run "diff -r --no-dereference mnt/images/demo/app/1.0/rootfs mnt/images/demo/app/1.1/rootfs || true"

say "What the last layer changed: the key is hidden, not gone"
last=$(find mnt/images/demo/app/1.1/layers/ -mindepth 1 -maxdepth 1 | sort | tail -1)
run "cat $last/changes"
run "grep -rl 'not a real key' mnt/images/demo/app/1.1/layers/*/diff/srv"

say "A layer's tar, byte for byte: its hash is its diff ID"
run "sha256sum <$last/layer.tar; cat $last/diffid"

say "Tag an image by writing to a file; this one holds the result"
run "echo 'demo/app:1.0 demo/app:live' > mnt/ctl/tag"
run "cat mnt/ctl/last"
run "readlink mnt/images/demo/app/live mnt/images/demo/app/1.0"

say "And retag it"
run "echo 'demo/app:1.1 demo/app:live' > mnt/ctl/tag"
run "cat mnt/images/demo/app/live/rootfs/srv/app/config"

if [ "$(id -u)" = 0 ]; then
  say "It is a root file system"
  run "chroot mnt/images/demo/app/live/rootfs /bin/sh -c 'echo hello from inside; cat /srv/app/config'"
fi

say "Unmount"
run "imagefs umount mnt"
run "ls mnt | wc -l"
