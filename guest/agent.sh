# initramfs-agent*.cpio: the guest agent, and the modules that it loads into the stock kernel. Sourced, never run.

# What the stock kernel needs as modules. 9p is in Debian's kernels, but not in its cloud kernels.
AGENT_MODULES="virtio_pci virtio_mmio virtio_blk virtio_net vmw_vsock_virtio_transport virtio_console virtio-rng virtio_balloon
	overlay button evdev ?9p ?9pnet_virtio"

build_agent() {
	local key
	key=${SHA256[$KERNEL]}-$(agent_sources | xargs -d '\n' cat | sha256sum | cut -d' ' -f1)-$(go env GOVERSION)
	fresh agent "$key" "$OUT"/initramfs-agent{,-stock}.cpio && return
	fetch "$KERNEL"
	timed "initramfs-agent" pack_agent
	done_with agent "$key"
}

# agent_sources: the files that the images are made of, and the programs that make them.
agent_sources() {
	(cd "$GUEST/.." && find "$PWD"/agent/{wire,tree} "$PWD"/guest/{agent,modules,mkmodules,initramfs,mkinitramfs} \
		'(' -name '*.go' ! -name '*_test.go' -o -name agent.spec ')' | LC_ALL=C sort)
	echo "$GUEST/agent.sh"
	echo "$GUEST/../go.mod"
}

pack_agent() {
	local build=$WORK/agent
	rm -rf "$build" && mkdir -p "$build/root"
	cd "$GUEST"
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build -trimpath -buildvcs=false -ldflags '-s -w -buildid=' -o "$build/agent" ./agent
	dpkg-deb --fsys-tarfile "$DEB" | tar -x -C "$build/root" --wildcards './lib/modules/*.ko'
	# shellcheck disable=SC2086
	go run ./mkmodules -spec "$build/modules.spec" -order "$build/order" "$build/root/lib/modules" $AGENT_MODULES
	cat initramfs/agent.spec "$build/modules.spec" >"$build/stock.spec"
	go run ./mkinitramfs -o "$OUT/initramfs-agent.cpio" initramfs/agent.spec BUILD="$build"
	go run ./mkinitramfs -o "$OUT/initramfs-agent-stock.cpio" "$build/stock.spec" BUILD="$build"
	rm -rf "$build/root"
}
