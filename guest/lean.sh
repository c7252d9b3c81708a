# lean/: a small kernel for guests of a KVM that emulates kernel code, from Debian's kernel source and lean.config.
# Sourced, never run.

build_lean() {
	local dir=$OUT/lean key new=$WORK/lean
	key=${SHA256[linux-source-6.1]}-$(digest "$GUEST/lean.config" "$GUEST/lean.sh")
	fresh lean "$key" "$dir"/{bzImage,vmlinux,config} && return
	need make gcc libc6-dev flex bison bc libelf-dev xz-utils lz4
	unpack_source
	timed "configuring the lean kernel" configure_lean
	timed "lean-kernel build (about 5 minutes on 2 cores)" make_lean
	rm -rf "$new" && mkdir -p "$new"
	cp "$SOURCE/arch/x86/boot/bzImage" "$SOURCE/vmlinux" "$new/"
	cp "$SOURCE/.config" "$new/config"
	rm -rf "$dir" && mv "$new" "$dir"
	done_with lean "$key"
}

# unpack_source: leave the kernel's source tree in SOURCE. A tree built before is kept: then only what changed is compiled.
unpack_source() {
	local version=${VERSION[linux-source-6.1]} part=$WORK/source
	SOURCE=$WORK/linux-source-6.1_$version
	[ -d "$SOURCE" ] && return
	fetch linux-source-6.1
	rm -rf "$part" "$WORK"/linux-source-6.1_* && mkdir -p "$part"
	timed "unpacking the source of Linux $version" untar_source "$part"
	mv "$part/linux-source-6.1" "$SOURCE"
	rm -rf "$part"
	rm -f "$DEB"
}

# untar_source DIRECTORY: from the package in DEB.
untar_source() {
	dpkg-deb --fsys-tarfile "$DEB" | tar -xO ./usr/src/linux-source-6.1.tar.xz | xz -dc | tar -x -C "$1"
}

# configure_lean: tinyconfig plus lean.config; stops when the result has not got what lean.config asks for.
configure_lean() {
	make -C "$SOURCE" tinyconfig
	(cd "$SOURCE" && ./scripts/kconfig/merge_config.sh -m .config "$GUEST/lean.config")
	make -C "$SOURCE" olddefconfig
	local wanted
	grep -E '^CONFIG_' "$GUEST/lean.config" | while read -r wanted; do
		grep -qxF "$wanted" "$SOURCE/.config" || { echo "lean.config asks for $wanted; the configured kernel has not got it"; exit 1; }
	done
}

# make_lean: the same bytes wherever and whenever it is built with the same compiler.
make_lean() {
	make -C "$SOURCE" -j"$(nproc)" vmlinux bzImage \
		KBUILD_BUILD_TIMESTAMP='1970-01-01' KBUILD_BUILD_USER=qenex KBUILD_BUILD_HOST=qenex KBUILD_BUILD_VERSION=1
}
