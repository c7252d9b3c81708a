# stock/: Debian's cloud kernel as it is shipped, and the modules that make a KVM host of it. Sourced, never run.

build_stock() {
	local dir=$OUT/stock key=${SHA256[$KERNEL]}-$(digest "$GUEST/stock.sh") new=$WORK/stock
	fresh stock "$key" "$dir"/{vmlinuz,vmlinux,config,release} "$dir"/modules/{irqbypass,kvm,kvm-amd}.ko && return
	need lz4
	fetch "$KERNEL"
	rm -rf "$new" && mkdir -p "$new/root" "$new/modules"
	timed "stock kernel ${VERSION[$KERNEL]}" unpack_stock "$new"
	rm -rf "$new/root" "$dir" && mv "$new" "$dir"
	done_with stock "$key"
}

# unpack_stock DIRECTORY: fill it from the package in DEB.
unpack_stock() {
	local m
	dpkg-deb --fsys-tarfile "$DEB" | tar -x -C "$1/root" --wildcards './boot/*' '*/arch/x86/kvm/*' '*/virt/lib/*'
	mv "$1"/root/boot/vmlinuz-* "$1/vmlinuz"
	mv "$1"/root/boot/config-* "$1/config"
	for m in virt/lib/irqbypass arch/x86/kvm/kvm arch/x86/kvm/kvm-amd; do
		mv "$1"/root/lib/modules/*/kernel/"$m.ko" "$1/modules/"
	done
	(cd "$1/root/lib/modules" && echo *) >"$1/release"
	payload "$1/vmlinuz" | lz4 -dc >"$1/vmlinux"
}

# payload BZIMAGE: its compressed kernel, which is legacy LZ4 in Debian 12 (Documentation/x86/boot.rst: payload_offset counts from the protected-mode code,
# payload_length includes the four bytes of size behind the stream).
payload() {
	local sects offset length
	sects=$(od -An -tu1 -j $((0x1f1)) -N1 "$1")
	offset=$(od -An -tu4 -j $((0x248)) -N4 "$1")
	length=$(od -An -tu4 -j $((0x24c)) -N4 "$1")
	dd if="$1" bs=1M iflag=skip_bytes,count_bytes skip=$(((sects + 1) * 512 + offset)) count=$((length - 4)) status=none
}
