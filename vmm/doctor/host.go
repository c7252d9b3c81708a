package doctor

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// host looks at everything but KVM.
func (p place) host() Host {
	h := Host{
		CPUs:      runtime.NumCPU(),
		THP:       selected(p.read("sys", "kernel/mm/transparent_hugepage/enabled")),
		THPShared: selected(p.read("sys", "kernel/mm/transparent_hugepage/shmem_enabled")),
		HugePools: p.hugePools(),
	}
	h.MemoryTotalKiB, h.MemoryAvailableKiB = meminfo(p.read("proc", "meminfo"))
	h.Features = []Check{
		memfd(),
		userfaultfd(),
		p.openable("TUN", "net/tun", Optional, "no tap networking: guests use user-mode networking", "sudo modprobe tun, and access to /dev/net/tun"),
		p.openable("vhost-net", "vhost-net", Performance, "network packets pass through user space", "sudo modprobe vhost_net"),
		p.openable("vhost-vsock", "vhost-vsock", Performance, "vsock passes through user space", "sudo modprobe vhost_vsock"),
		p.openable("TPM", "tpmrm0", Optional, "launches cannot be measured into hardware", "enable the TPM in the firmware; a software TPM serves tests"),
		p.program("swtpm", Optional, "no software TPM for tests and guests", "apt install swtpm"),
		p.setting("KSM", "sys", "kernel/mm/ksm/run", "1", Optional, "equal guest pages are not merged", "echo 1 | sudo tee /sys/kernel/mm/ksm/run"),
		ioUring(),
		p.seccomp(),
	}
	return h
}

func (p place) read(root, name string) string {
	dir := p.sys
	if root == "proc" {
		dir = p.proc
	}
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// selected returns the word in brackets of a "a [b] c" setting; "" if there is none.
func selected(text string) string {
	_, rest, found := strings.Cut(text, "[")
	word, _, closed := strings.Cut(rest, "]")
	if !found || !closed {
		return ""
	}
	return word
}

// meminfo returns MemTotal and MemAvailable in KiB; 0 for what is not said.
func meminfo(text string) (total, available uint64) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = n
		case "MemAvailable:":
			available = n
		}
	}
	return total, available
}

func (p place) hugePools() []HugePool {
	pools := []HugePool{}
	dirs, err := os.ReadDir(filepath.Join(p.sys, "kernel/mm/hugepages"))
	if err != nil {
		return pools
	}
	for _, d := range dirs {
		size := strings.TrimSuffix(strings.TrimPrefix(d.Name(), "hugepages-"), "kB")
		kib, err := strconv.ParseUint(size, 10, 64)
		if err != nil {
			continue
		}
		count := func(name string) uint64 {
			n, err := strconv.ParseUint(p.read("sys", filepath.Join("kernel/mm/hugepages", d.Name(), name)), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
		pools = append(pools, HugePool{PageKiB: kib, Total: count("nr_hugepages"), Free: count("free_hugepages")})
	}
	slices.SortFunc(pools, func(a, b HugePool) int { return int(a.PageKiB) - int(b.PageKiB) })
	return pools
}

// missing fills in what a check's absence means.
func (c Check) missing(cost, fix string) Check {
	c.Found, c.Cost, c.Fix = false, cost, fix
	return c
}

func memfd() Check {
	c := Check{Name: "memfd", Needed: Required}
	fd, err := unix.MemfdCreate("qenex-doctor", unix.MFD_CLOEXEC)
	if err != nil {
		c.Detail = err.Error()
		return c.missing("no guest memory", "allow memfd_create: a seccomp filter or an old kernel denies it")
	}
	unix.Close(fd)
	c.Found = true
	return c
}

// userfaultfd looks for one that catches faults taken in the kernel: KVM's are.
func userfaultfd() Check {
	const userModeOnly = 1 // UFFD_USER_MODE_ONLY
	c := Check{Name: "userfaultfd", Needed: Optional}
	if tryFD(unix.SYS_USERFAULTFD, unix.O_CLOEXEC) == 0 {
		c.Found = true
		return c
	}
	if tryFD(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|userModeOnly) == 0 {
		c.Detail = "user-mode faults only"
	}
	return c.missing("a restored guest's memory cannot be loaded on demand", "run as root, or sudo sysctl vm.unprivileged_userfaultfd=1")
}

// ioUring asks for a ring of no entries, which a kernel with io_uring refuses as invalid.
func ioUring() Check {
	c := Check{Name: "io_uring", Needed: Performance}
	switch e := tryFD(unix.SYS_IO_URING_SETUP, 0); e {
	case unix.ENOSYS, unix.EPERM:
		c.Detail = e.Error()
		return c.missing("disk requests cost a system call each", "sudo sysctl kernel.io_uring_disabled=0, and a kernel with io_uring")
	}
	c.Found = true
	return c
}

// tryFD makes a system call of one argument that returns a descriptor, and closes that.
func tryFD(call, arg uintptr) unix.Errno {
	fd, _, e := unix.Syscall(call, arg, 0, 0)
	if e == 0 {
		unix.Close(int(fd))
	}
	return e
}

// openable looks for a device that this process may open for reading and writing.
func (p place) openable(name, device string, needed Needed, cost, fix string) Check {
	c := Check{Name: name, Needed: needed, Detail: filepath.Join(p.dev, device)}
	fd, err := unix.Open(c.Detail, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		c.Detail = fmt.Sprintf("%s: %v", c.Detail, err)
		return c.missing(cost, fix)
	}
	unix.Close(fd)
	c.Found = true
	return c
}

func (p place) program(name string, needed Needed, cost, fix string) Check {
	c := Check{Name: name, Needed: needed}
	path, err := p.lookPath(name)
	if err != nil {
		return c.missing(cost, fix)
	}
	c.Found, c.Detail = true, path
	return c
}

// setting looks for a kernel setting to have a value.
func (p place) setting(name, root, file, want string, needed Needed, cost, fix string) Check {
	c := Check{Name: name, Needed: needed, Detail: p.read(root, file)}
	if c.Detail != want {
		return c.missing(cost, fix)
	}
	c.Found = true
	return c
}

// seccomp looks whether filters can be installed, and whether this process is under one.
func (p place) seccomp() Check {
	c := Check{Name: "seccomp", Needed: Optional}
	s := bufio.NewScanner(bytes.NewReader([]byte(p.read("proc", "self/status"))))
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), ":")
		if key != "Seccomp" {
			continue
		}
		c.Found = true
		if strings.TrimSpace(value) != "0" {
			c.Detail = "this process is under a filter"
		}
		return c
	}
	return c.missing("the VMM cannot shut itself off from system calls", "use a kernel with CONFIG_SECCOMP_FILTER")
}
