#!/bin/bash
# Makes the guest artefacts in ${QENEX_CACHE:-~/.cache/qenex}/guest from Debian packages and this repository:
#
#   stock/vmlinuz, vmlinux, config, release, modules/{irqbypass,kvm,kvm-amd}.ko    Debian's cloud kernel
#   lean/bzImage, vmlinux, config                                                   a small kernel, built here
#   initramfs-tiny.cpio, initramfs-busybox.cpio, initramfs-uroot.cpio, busybox      user space
#   initramfs-bench.cpio                                                            what `qenex bench` measures devices with; not part of all
#   debian.ext4                                                                     a Debian root disk; not part of all, and needs root
#   initramfs-agent.cpio, initramfs-agent-stock.cpio                                the guest agent, without and with modules
#
# Steps that are done are not done again; an interrupted run goes on where it was. Installs missing build tools when
# it may (root or passwordless sudo), else says what to install.
#
# usage: guest/build.sh [stock|lean|tiny|busybox|uroot|agent|bench|debian|all]...    or: guest/build.sh where | clean
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
for part in common packages stock lean initramfs uroot agent bench debian; do
	# shellcheck source=/dev/null
	. "$here/$part.sh"
done

# steps NAME...: in the order in which they are soonest useful.
steps() {
	local s
	for s; do
		case $s in
		tiny | busybox | stock | uroot | agent | lean | bench | debian) "build_$s" ;;
		all) steps tiny busybox stock uroot agent lean ;;
		*) die "unknown step '$s': want stock, lean, tiny, busybox, uroot, agent, bench, debian, all, where or clean" ;;
		esac
	done
}

case ${1:-all} in
where) echo "$OUT" ;;
clean)
	one_at_a_time
	rm -rf "$OUT" "$WORK"
	;;
*)
	one_at_a_time
	resolve
	steps "${@:-all}"
	;;
esac
