// Command svmbench runs `qenex bench` inside the svm lane's machine, with QEMU and gokvm beside it: real SVM semantics, where
// guest kernel code runs instead of being emulated by KVM. All of it is in turn emulated by the outer QEMU, so only the
// ratios of one run mean something.
//
// usage: svmbench [argument of qenex bench ...]
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/internal/svmlane"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "svmbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	dir, err := os.MkdirTemp("", "qenex-svmbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	qenex, gokvm := filepath.Join(dir, "qenex"), filepath.Join(dir, "gokvm")
	for path, pkg := range map[string]string{qenex: "./cmd/qenex", gokvm: "github.com/bobuhiro11/gokvm"} {
		if err := build(ctx, path, pkg); err != nil {
			return err
		}
	}
	files, err := qemuFiles(ctx)
	if err != nil {
		return err
	}
	if err := svmlane.Linked(ctx, files, iperfPath); err != nil {
		return err
	}
	files["/bin/gokvm"], files["/bin/iperf3"] = gokvm, iperfPath
	results, err := svmlane.Exec(ctx, svmlane.Spec{
		Binaries: []svmlane.Binary{{
			Name: "qenex bench", Path: qenex,
			Args: append([]string{"bench", "--gokvm", "/bin/gokvm", "--qemu", qemuPath}, args...),
		}},
		Files:     files,
		Artefacts: []string{"lean/vmlinux", "lean/bzImage", "initramfs-tiny.cpio", "initramfs-busybox.cpio", "initramfs-bench.cpio"},
		Timeout:   30 * time.Minute,
	}, func(_ int, text string) { fmt.Println(text) })
	if err != nil {
		return err
	}
	if len(results) != 1 || !results[0].Ran || results[0].ExitCode != 0 {
		return fmt.Errorf("the bench did not end well: %+v", results)
	}
	return nil
}

func build(ctx context.Context, path, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// Where programs are, here and in the machine.
const (
	qemuPath  = "/usr/bin/qemu-system-x86_64"
	iperfPath = "/usr/bin/iperf3"
)

// qemuFiles lists QEMU, its libraries and the firmware of its x86 machines.
func qemuFiles(ctx context.Context) (map[string]string, error) {
	files := make(map[string]string)
	if err := svmlane.Linked(ctx, files, qemuPath); err != nil {
		return nil, err
	}
	for _, pattern := range []string{"/usr/share/seabios/bios*.bin", "/usr/share/seabios/vgabios-stdvga.bin", "/usr/share/qemu/*.bin", "/usr/share/qemu/*.rom"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			if strings.Contains(f, "openbios") || strings.Contains(f, "skiboot") || strings.Contains(f, "opensbi") || strings.Contains(f, "edk2") {
				continue // firmware of other processors
			}
			files[f] = f
		}
	}
	if len(files) < 10 {
		return nil, errors.New("QEMU's libraries and firmware were not found")
	}
	return files, nil
}
