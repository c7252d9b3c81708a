package bench

import (
	"context"
	"debug/buildinfo"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// describeHost finds out what can be found; what cannot stays empty.
func describeHost(ctx context.Context, soft bool, peers []peer) Host {
	h := Host{Time: time.Now(), CPUs: runtime.NumCPU(), SoftwareKVM: soft, LoadBefore: loadAverage(), Versions: make(map[string]string)}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	text, _ := os.ReadFile("/proc/cpuinfo")
	for l := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(name) == "model name" {
			h.CPU = strings.TrimSpace(value)
			break
		}
	}
	h.noteVersions(ctx, peers)
	return h
}

// noteVersions asks peers what they are.
func (h *Host) noteVersions(ctx context.Context, peers []peer) {
	for _, p := range peers {
		ofModule := p.name == gokvmName || p.name == systrapName || p.name == ptraceName
		if !ofModule || p.missing != "" {
			continue
		}
		if info, err := buildinfo.ReadFile(p.path); err == nil {
			h.Versions[p.name] = info.Main.Path + " " + info.Main.Version
		}
	}
	flag := map[string]string{qenexName: "version", microvmName: "--version", pcName: "--version", linuxName: "--version"}
	for _, p := range peers {
		if flag[p.name] == "" || p.missing != "" {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		out, err := exec.CommandContext(ctx, p.path, flag[p.name]).Output()
		cancel()
		if line, _, _ := strings.Cut(string(out), "\n"); err == nil {
			h.Versions[p.name] = strings.Map(printable, line)
		}
	}
}

// loadAverage returns the three averages of /proc/loadavg.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], " ")
}
