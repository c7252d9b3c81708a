package bench

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/qenex/qenex-kernel/guest/initramfs"
)

// userLine is what the tiny initramfs prints when it runs.
const userLine = "QENEX: user space"

// Command lines: the same for all peers. The second keeps Linux away from what a software KVM cannot do.
const (
	cmdline     = "console=ttyS0 quiet panic=0 reboot=k"
	softCmdline = cmdline + " noxsave clearcpuid=smap,popcnt,erms,fsrm no_timer_check tsc=reliable lpj=4000000 rodata=off"
)

// artefacts are the files that guests are started from.
type artefacts struct {
	first, ports, mmio string // test guests
	kernel, user       string // as guest/build.sh made them, "" when they are missing
	patched, trap      string // kernel without its INT3 self-test, and an initramfs whose init is trapInit
	busybox            string // for the machine that runs commands, "" when it is missing
	devices            string // the initramfs of guest/build.sh bench, "" when it is missing
	program            string // an initramfs whose init is the program that measures
}

// selfTest is the kernel function that runs INT3, which a software KVM cannot do and only QENEX completes.
const selfTest = "int3_selftest"

// prepare writes what is generated into dir and finds the kernel and the tiny initramfs under guest.
func prepare(dir, guest string, exits uint32, soft bool) (a artefacts, err error) {
	for _, f := range []struct {
		path *string
		name string
		text []byte
	}{
		{&a.first, "first", pvhImage(firstGuest())},
		{&a.ports, "ports", pvhImage(portGuest(exits))},
		{&a.mmio, "mmio", pvhImage(mmioGuest(exits))},
	} {
		*f.path = filepath.Join(dir, f.name)
		if err := os.WriteFile(*f.path, f.text, 0o600); err != nil {
			return a, err
		}
	}
	kernel, user := filepath.Join(guest, "lean", "vmlinux"), filepath.Join(guest, "initramfs-tiny.cpio")
	text, err := os.ReadFile(kernel)
	if errors.Is(err, os.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	a.kernel, a.patched = kernel, kernel
	if exists(user) {
		a.user = user
	}
	if tools := filepath.Join(guest, "initramfs-bench.cpio"); exists(tools) {
		a.devices = tools
	}
	if busybox := filepath.Join(guest, "busybox"); exists(busybox) {
		a.busybox = busybox
	}
	if soft {
		if err := skipFunction(text, selfTest); err != nil {
			return a, fmt.Errorf("%s: %w", kernel, err)
		}
		a.patched = filepath.Join(dir, "vmlinux")
		if err := os.WriteFile(a.patched, text, 0o600); err != nil {
			return a, err
		}
	}
	a.trap = filepath.Join(dir, "trap.cpio")
	var image initramfs.Image
	image.Dir("dev", 0o755)
	image.CharDev("dev/console", 0o600, 5, 1)
	image.Text("init", string(trapInit()), 0o755)
	return a, image.WriteFile(a.trap)
}

// skipFunction makes a function of a 64-bit ELF file return at once: RET over its first byte.
func skipFunction(file []byte, name string) error {
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		return err
	}
	symbols, err := f.Symbols()
	if err != nil {
		return err
	}
	for _, s := range symbols {
		if s.Name != name {
			continue
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_LOAD && s.Value >= p.Vaddr && s.Value-p.Vaddr < p.Filesz {
				if at := p.Off + (s.Value - p.Vaddr); at < uint64(len(file)) {
					file[at] = 0xC3
					return nil
				}
			}
		}
	}
	return fmt.Errorf("no code of a function %s", name)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
