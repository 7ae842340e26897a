#!/bin/bash
# setup.sh demo|test|bench   installs the Debian packages that a target needs and that are missing.
#
# Fast, silent and without effect when nothing is missing. As an ordinary user
# it goes through sudo. Services that packages bring are kept from starting.
set -eu
PATH=$PATH:/usr/sbin:/sbin

# What must be there: a command or an absolute path, and the package that has it.
demo="
fusermount3         fuse3
"
lint="
shellcheck          shellcheck
gcc                 gcc
/usr/include/stdio.h libc6-dev
/usr/share/bash-completion/bash_completion bash-completion
"
engines="
dockerd             docker.io
docker              docker.io
containerd          containerd
runc                runc
podman              podman
buildah             buildah
skopeo              skopeo
umoci               umoci
fuse-overlayfs      fuse-overlayfs
setfattr            attr
bsdtar              libarchive-tools
jq                  jq
python3             python3
/bin/busybox        busybox-static
bzip2               bzip2
xz                  xz-utils
zstd                zstd
mmdebstrap          mmdebstrap
clamscan            clamav
systemd-analyze     systemd
debsums             debsums
"
case ${1:-} in
demo) wanted=$demo ;;
bench) wanted=$demo$engines ;;
test) wanted=$demo$lint$engines ;;
*) echo "usage: setup.sh demo|test|bench" >&2; exit 2 ;;
esac

missing=
while read -r what package; do
  [ -n "$what" ] || continue
  case $what in
  /*) [ -e "$what" ] && continue ;;
  *) command -v "$what" >/dev/null && continue ;;
  esac
  case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
done <<<"$wanted"

# Peers that not every release of Debian has.
if [ "$1" = bench ] && command -v apt-cache >/dev/null; then
  for what in ratarmount fuse-archive; do
    if ! command -v $what >/dev/null && apt-cache show $what >/dev/null 2>&1; then
      missing="$missing $what"
    fi
  done
fi

# The benchmark loads a real image where the scripts that build it lie beside
# the repository, and files of this machine elsewhere.
real_image() {
  local scripts images
  scripts=${IMAGEFS_SHARED_ENGINES:-$(dirname "$0")/../../../shared/engines}
  images=${ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/imagefs-engines}/images
  [ -x "$scripts/make-images.sh" ] && [ "$(id -u)" = 0 ] || return 0
  [ -e "$images/web-1.docker.tar" ] && [ -e "$images/web-both.docker.tar" ] && [ -e "$images/web-1.docker.tar.gz" ] && return 0
  echo "setup: building the images that the benchmark loads (a few minutes, once)"
  mkdir -p "${images%/images}"
  (
    flock 9
    "$scripts/dockerd.sh" start >/dev/null
    trap '"$scripts/dockerd.sh" stop' EXIT
    "$scripts/make-images.sh" web && "$scripts/save-images.sh"
  ) 9>"${images%/images}/lock" >&2
}

if [ ! -e /dev/fuse ] && [ "$(id -u)" = 0 ]; then
  modprobe fuse 2>/dev/null || true
fi
if [ ! -e /dev/fuse ]; then
  echo "setup: there is no /dev/fuse: load the kernel module fuse, or give this container the device" >&2
  exit 1
fi
# Tests also run as an ordinary user. Debian's udev gives the device these
# permissions; a machine without udev may not have them.
if [ "$1" != demo ] && [ "$(stat -c %a /dev/fuse)" != 666 ] && [ "$(id -u)" = 0 ]; then
  echo "setup: letting ordinary users open /dev/fuse"
  chmod 666 /dev/fuse
fi
if [ -z "$missing" ]; then
  [ "$1" != bench ] || real_image
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  echo "setup: missing, and no apt-get to install it with:$missing" >&2
  exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
  as_root=sudo
  if ! command -v sudo >/dev/null; then
    echo "setup: missing; install as root: apt-get install --no-install-recommends$missing" >&2
    exit 1
  fi
fi

echo "setup: installing Debian packages:$missing"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap '$as_root rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
  $as_root chmod 755 $policy
fi
apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3"
log=$(mktemp)
run() {
  if ! "$@" >"$log" 2>&1 </dev/null; then
    tail -30 "$log" >&2
    rm -f "$log"
    echo "setup: failed: $*" >&2
    exit 1
  fi
}
# shellcheck disable=SC2086 # word splitting is what makes the lists arguments
{
  run $apt update -qq
  run $apt install -y -qq --no-install-recommends $missing
}
rm -f "$log"
[ "$1" != bench ] || real_image
