# initramfs-*.cpio: the guests' user space. Sourced, never run.

# build_tiny: one assembled program that prints a line and powers off.
build_tiny() {
	local key
	key=$(digest "$GUEST"/init/*.{s,inc} "$GUEST"/{initramfs,mkinitramfs}/*.go "$GUEST"/initramfs/*.spec "$GUEST/initramfs.sh")
	fresh tiny "$key" "$OUT/initramfs-tiny.cpio" && return
	need binutils
	timed "initramfs-tiny" pack tiny
	done_with tiny "$key"
}

# build_busybox: Debian's static busybox with our /init.
build_busybox() {
	local key
	key=${SHA256[busybox-static]}-$(digest "$GUEST"/init/* "$GUEST"/{initramfs,mkinitramfs}/*.go "$GUEST"/initramfs/*.spec "$GUEST/initramfs.sh")
	fresh busybox "$key" "$OUT/initramfs-busybox.cpio" "$OUT/busybox" && return
	need binutils
	fetch busybox-static
	timed "initramfs-busybox" pack busybox
	done_with busybox "$key"
}

# pack NAME: assemble, gather, write initramfs-NAME.cpio.
pack() {
	local build=$WORK/init p
	mkdir -p "$build"
	for p in start off tiny; do
		as -I "$GUEST/init" -o "$build/$p.o" "$GUEST/init/$p.s"
		ld -n -s -o "$build/$p" "$build/$p.o"
	done
	if [ "$1" = busybox ]; then
		dpkg-deb --fsys-tarfile "$DEB" | tar -xO ./bin/busybox >"$build/busybox"
		chmod 755 "$build/busybox"
		cp "$build/busybox" "$OUT/busybox.part" && mv "$OUT/busybox.part" "$OUT/busybox"
	fi
	(cd "$GUEST" && go run ./mkinitramfs -o "$OUT/initramfs-$1.cpio" "initramfs/$1.spec" BUILD="$build" GUEST="$GUEST")
}
