# initramfs-uroot.cpio: u-root's Go commands in one binary, and uinit as their job. Which commands, at which version: the
# tool lines of uroot/go.mod. Needs only Go and its module proxy. Sourced, never run.

build_uroot() {
	local key
	key=$(digest "$GUEST"/uroot/go.* "$GUEST"/uroot/uinit/*.go "$GUEST/uroot.sh")-$(go env GOVERSION)
	fresh uroot "$key" "$OUT/initramfs-uroot.cpio" && return
	timed "initramfs-uroot (about a minute)" make_uroot
	done_with uroot "$key"
}

make_uroot() {
	local commands
	cd "$GUEST/uroot"
	go mod download
	commands=$(go list tool | grep /cmds/core/)
	# shellcheck disable=SC2086
	go tool u-root -o "$OUT/initramfs-uroot.cpio.part" -initcmd=init -uinitcmd=uinit -defaultsh=gosh $commands ./uinit
	mv "$OUT/initramfs-uroot.cpio.part" "$OUT/initramfs-uroot.cpio"
}
