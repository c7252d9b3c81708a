# debian.ext4: a Debian 12 root disk, made by debootstrap: what tests need who want a real system, with apt, fio and iperf3 in it. It has no init of
# its own; the guest agent stays the first process (qenex.hold). debootstrap runs the packages' own scripts in a chroot and so needs root.
# Sourced, never run.

DEBIAN_SUITE=bookworm
DEBIAN_MIRROR=http://deb.debian.org/debian
DEBIAN_PACKAGES=fio,iperf3,iproute2,e2fsprogs,ca-certificates
DEBIAN_FREE=1024 # MiB

build_debian() {
	local key
	key=$(apt-cache show --no-all-versions base-files | sed -n 's/^Version: //p')-$(debian_sources | xargs -d '\n' cat | sha256sum | cut -d' ' -f1)
	fresh debian "$key" "$OUT/debian.ext4" && return
	need debootstrap debian-archive-keyring
	as_root true || die "the Debian root disk needs root, for debootstrap runs the packages' scripts in a chroot: run guest/build.sh debian as root"
	timed "debian-disk (about 5 minutes)" make_debian
	done_with debian "$key"
}

# debian_sources: the files that say what is in the disk, and how.
debian_sources() {
	find "$GUEST/debiandisk" "$GUEST/../rootdisk/ext4" -name '*.go' ! -name '*_test.go' ! -name doc.go | LC_ALL=C sort
	echo "$GUEST/debian.sh"
}

make_debian() {
	local root=$WORK/debian-root disk=$WORK/debiandisk
	mkdir -p "$WORK/debs/debootstrap"
	as_root rm -rf "$root"
	as_root debootstrap --variant=minbase --include="$DEBIAN_PACKAGES" --cache-dir="$WORK/debs/debootstrap" "$DEBIAN_SUITE" "$root" "$DEBIAN_MIRROR"
	as_root find "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/var/log" -type f -delete
	echo qenex | as_root tee "$root/etc/hostname" >/dev/null
	(cd "$GUEST" && CGO_ENABLED=0 go build -o "$disk" ./debiandisk)
	as_root "$disk" -o "$OUT/debian.ext4" -free "$DEBIAN_FREE" "$root"
	as_root chown "$(id -u):$(id -g)" "$OUT/debian.ext4"
	as_root rm -rf "$root"
	rm -f "$disk"
}
