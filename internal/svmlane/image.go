package svmlane

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/guest/initramfs"
)

// setup is the part of /init that is always the same: make /dev/kvm, then send the job's output raw through the second
// serial port, since the first carries the kernel's messages.
const setup = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
for m in irqbypass kvm kvm-amd; do
	insmod /modules/$m.ko || echo "svm lane: insmod $m failed"
done
ip link set lo up
stty raw -echo </dev/ttyS1
exec </dev/null >/dev/ttyS1 2>&1
export HOME=/root PATH=/bin QENEX_CACHE=/cache QENEX_REQUIRE_KVM=1
`

// buildImage writes the outer machine's initramfs to name.
func buildImage(name string, h host, s Spec, m marks) error {
	var image initramfs.Image
	for _, dir := range []string{"/dev", "/proc", "/sys", "/tmp", "/root"} {
		image.Dir(dir, 0o755)
	}
	image.CharDev("/dev/console", 0o600, 5, 1)
	for _, name := range []string{"sh", "true"} { // what programs start by these paths
		image.Link("/bin/"+name, "busybox")
	}
	image.Text("/init", setup+disks(len(s.Disks))+job(s.Binaries, m), 0o755)
	files := map[string]string{"/bin/busybox": h.busybox}
	for _, m := range []string{"irqbypass.ko", "kvm.ko", "kvm-amd.ko"} {
		files["/modules/"+m] = filepath.Join(h.modules, m)
	}
	for i, b := range s.Binaries {
		files[binaryPath(i)] = b.Path
		if b.TestData != "" {
			if err := addTree(&image, workDir(i)+"/testdata", b.TestData); err != nil {
				return err
			}
		}
		image.Dir(workDir(i), 0o755)
	}
	for _, a := range s.Artefacts {
		p, err := artefact.Path(a)
		if err != nil {
			return err
		}
		files["/cache/guest/"+a] = p
	}
	for guest, host := range s.Files {
		files[guest] = host
	}
	for guest, host := range files {
		if err := image.File(guest, host, 0o755); err != nil {
			return err
		}
	}
	return image.WriteFile(name)
}

// addTree packs the regular files below the host directory dir under name.
func addTree(image *initramfs.Image, name, dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		return image.File(path.Join(name, filepath.ToSlash(rel)), p, 0o644)
	})
}

func binaryPath(i int) string { return "/test/" + strconv.Itoa(i) + "/program" }
func workDir(i int) string    { return "/test/" + strconv.Itoa(i) }

// disks is the part of /init that waits for the kernel to find the disks.
func disks(n int) string {
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, "until [ -b %s ]; do sleep 0.1; done\n", DiskPath(i))
	}
	return s.String()
}

// job is the part of /init that runs the binaries one after the other and says where each begins and how it ends.
func job(binaries []Binary, m marks) string {
	var s strings.Builder
	for i, b := range binaries {
		fmt.Fprintf(&s, "echo %s\ncd %s\nenv", quote(m.begin(i)), workDir(i))
		for _, e := range b.Env {
			s.WriteString(" " + quote(e))
		}
		s.WriteString(" ./program")
		for _, a := range b.Args {
			s.WriteString(" " + quote(a))
		}
		fmt.Fprintf(&s, "\necho %s$?\n", quote(m.end(i)))
	}
	fmt.Fprintf(&s, "echo %s\npoweroff -f\n", quote(m.done()))
	return s.String()
}

// quote makes one shell word of s.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// sizeMiB is a file's size in MiB, rounded up.
func sizeMiB(name string) (int, error) {
	st, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	return int((st.Size() + 1<<20 - 1) >> 20), nil
}
