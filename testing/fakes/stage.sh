# Runs one stage of the shell runtime: stage.sh ROOT UID:GID GROUPS READONLY DIR PROGRAM ARGUMENT...
# It is process 1 of a PID namespace, in a mount and a UTS namespace: when it ends, the kernel ends all that the
# stage left and removes all that is mounted here. Its PATH is the stage's, so it names programs in full.
set -e
root=$1 ids=$2 groups=$3 readonly=$4 dir=$5
shift 5

/bin/mount --make-rprivate /
/bin/mount --bind "$root" "$root"
[ "$readonly" = false ] || /bin/mount -o remount,bind,ro "$root"
/bin/mount -t proc proc "$root/proc"
/bin/mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
  # shellcheck disable=SC2086 # three words
  set -- $device "$@"
  /bin/mknod -m 666 "$root/dev/$1" c "$2" "$3"
  shift 3
done
/bin/mkdir -m 1777 "$root/dev/shm"
if [ "$readonly" = true ]; then
  /bin/mount -o remount,ro "$root/dev"
  for writable in tmp .airlock/home; do /bin/mount -t tmpfs -o mode=1777 tmpfs "$root/$writable"; done
fi
/bin/mount --bind "$root/../builds" "$root/builds"
/bin/mount --bind "$root/../cache" "$root/cache"
/bin/hostname -F "$root/etc/hostname"
cd /
# The conformance suite fills memory to see a limit: it need not be this machine's.
ulimit -v 524288 # KiB, of each process
set +e

# What this shell says about a signal that ended the stage is not the stage's output.
exec 3>&2 2>/dev/null
# shellcheck disable=SC2016 # expanded inside
/usr/sbin/chroot --userspec="$ids" --groups="$groups" "$root" /bin/sh -c \
  'cd "$1" 2>/dev/null || cd /builds; shift; unset SHLVL OLDPWD; exec "$@"' sh "$dir" "$@" 2>&3 3>&-
