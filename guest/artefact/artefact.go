// Package artefact finds the guest artefacts that guest/build.sh makes: kernels, initramfs images, modules. It only looks
// for files; it never builds or downloads any.
package artefact

import (
	"fmt"
	"os"
	"path/filepath"
)

// Names of artefacts, relative to Dir.
const (
	StockKernel  = "stock/vmlinuz" // Debian's cloud kernel, bzImage
	StockELF     = "stock/vmlinux" // the same, ELF with a PVH note
	LeanKernel   = "lean/bzImage"  // the small kernel built from lean.config
	LeanELF      = "lean/vmlinux"
	Modules      = "stock/modules" // irqbypass.ko, kvm.ko, kvm-amd.ko of the stock kernel
	Busybox      = "busybox"       // static
	InitBusybox  = "initramfs-busybox.cpio"
	InitUroot    = "initramfs-uroot.cpio"
	InitTiny     = "initramfs-tiny.cpio"
	InitAgent    = "initramfs-agent.cpio"       // the guest agent, for LeanKernel
	InitStock    = "initramfs-agent-stock.cpio" // the same with the modules of StockKernel
	CommandParam = "qenex.cmd"                  // kernel parameter: shell commands that the guest runs; not in InitTiny or the agent's
	ActionParam  = "qenex.action"               // kernel parameter: poweroff, direct, reboot, halt, panic or shell; not in InitTiny or the agent's
	Milestone    = "QENEX: user space"
)

// Cache is the directory of everything that QENEX keeps between runs: $QENEX_CACHE, or ~/.cache/qenex.
func Cache() (string, error) {
	if dir := os.Getenv("QENEX_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the cache of guest artefacts: %w; set QENEX_CACHE", err)
	}
	return filepath.Join(home, ".cache", "qenex"), nil
}

// Path is the absolute path of an artefact. Where it is missing, the error says how to make it.
func Path(name string) (string, error) {
	dir, err := Cache()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "guest", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("guest artefact %s: %w; make it with: make guest", name, err)
	}
	return path, nil
}
