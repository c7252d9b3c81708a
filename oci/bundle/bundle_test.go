package bundle

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/qenex/qenex-kernel/guestkernel/sentry"
)

const good = `{"ociVersion":"1.0.2","process":{"terminal":true,"user":{"uid":1,"gid":2,"additionalGids":[3]},"args":["sh","-c","x"],"env":["A=b"],"cwd":"/w/",
"capabilities":{"bounding":["CAP_CHOWN","CAP_CHECKPOINT_RESTORE"],"permitted":["CAP_KILL"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":20,"soft":10}],"noNewPrivileges":true},
"root":{"path":"rootfs","readonly":true},"hostname":"h",
"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/dev","type":"tmpfs","options":["nosuid","mode=755"]},
{"destination":"/data","type":"none","source":"data","options":["rbind","ro"]},{"destination":"/run","type":"tmpfs","options":["size=65536k","nodev","strictatime"]}],
"linux":{"resources":{"memory":{"limit":1048576},"cpu":{"quota":150000,"period":100000}},"namespaces":[{"type":"network"},{"type":"pid","path":"/proc/1/ns/pid"}],"maskedPaths":["/proc/kcore"]}}`

func TestSandbox(t *testing.T) {
	s, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	got, warnings, err := Sandbox("/b", s)
	if err != nil {
		t.Fatal(err)
	}
	want := sentry.Spec{
		Args: []string{"sh", "-c", "x"}, Env: []string{"A=b"}, Dir: "/w", UID: 1, GID: 2, Groups: []uint32{3}, TTY: true, NoNewPrivs: true,
		Capabilities: &sentry.Capabilities{Bounding: 1 | 1<<40, Permitted: 1 << 5}, Rlimits: []sentry.Rlimit{{Type: syscall.RLIMIT_NOFILE, Soft: 10, Hard: 20}},
		Root: "/b/rootfs", RootReadonly: true, Hostname: "h", NoDefaultMounts: true, Memory: 1 << 20, CPUs: 2, MaskedPaths: []string{"/proc/kcore"},
		Mounts: []sentry.Mount{
			{Type: sentry.MountProc, Target: "/proc"}, {Type: sentry.MountDev, Target: "/dev"},
			{Type: sentry.MountBind, Target: "/data", Source: "/b/data", ReadOnly: true},
			{Type: sentry.MountTmpfs, Target: "/run", Options: []string{"size=65536k", "nodev"}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "/proc/1/ns/pid") {
		t.Errorf("warnings %q", warnings)
	}
}

func TestNetwork(t *testing.T) {
	for text, want := range map[string]sentry.Net{
		`"linux":{}`: sentry.NetHostLoopback,
		`"linux":{"namespaces":[{"type":"network"}]}`:                                                        sentry.NetNone,
		`"linux":{"namespaces":[{"type":"network","path":"/n"}]}`:                                            sentry.NetUser,
		`"linux":{"namespaces":[{"type":"network"}]},"hooks":{"prestart":[{"path":"/h"}]}`:                   sentry.NetUser,
		`"linux":{"namespaces":[{"type":"network"}]},"annotations":{"org.qenex.net":"user"}`:                 sentry.NetUser,
		`"linux":{"namespaces":[{"type":"network","path":"/n"}]},"annotations":{"org.qenex.net":"none"}`:     sentry.NetNone,
		`"annotations":{"org.qenex.net":"host-loopback"},"linux":{"namespaces":[{"type":"network"}]}`:        sentry.NetHostLoopback,
		`"linux":{"namespaces":[{"type":"mount"},{"type":"uts"}]},"annotations":{"org.example":"something"}`: sentry.NetHostLoopback,
	} {
		s, err := Parse([]byte(`{"ociVersion":"1.1.0","root":{"path":"r"},"process":{"cwd":"/","args":["x"]},` + text + `}`))
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := Sandbox("/b", s)
		if err != nil || got.Net != want {
			t.Errorf("%s: network %v, %v; want %v", text, got.Net, err, want)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ old, new, want string }{
		{`"1.0.2"`, `"2.0.0"`, "ociVersion"},
		{`"path":"rootfs",`, ``, "root.path"},
		{`"cwd":"/w/"`, `"cwd":"w"`, "cwd"},
		{`["sh","-c","x"]`, `[]`, "args"},
		{`["sh","-c","x"]`, `["s\u0000h"]`, "zero byte"},
		{`"/data"`, `"data"`, "destination"},
		{`"CAP_KILL"`, `"CAP_FLY"`, "CAP_FLY"},
		{`RLIMIT_NOFILE`, `RLIMIT_X`, "RLIMIT_X"},
		{`"soft":10`, `"soft":30`, "above"},
		{`"type":"proc"`, `"type":"ext4"`, "ext4"},
		{`"source":"data",`, ``, "no source"},
		{`"hostname":"h"`, `"hooks":{"poststop":[{"path":"h"}]}`, "hook"},
		{`"hostname":"h"`, `"hooks":{"poststop":[{"path":"/h","timeout":-1}]}`, "timeout"},
		{`"hostname":"h"`, `"annotations":{"org.qenex.net":"all"}`, "org.qenex.net"},
		{`{"ociVersion"`, `["ociVersion"`, "config.json"},
	} {
		text := strings.Replace(good, tt.old, tt.new, 1)
		if text == good {
			t.Fatalf("%q is not in the configuration", tt.old)
		}
		s, err := Parse([]byte(text))
		if err == nil {
			_, _, err = Sandbox("/b", s)
		}
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q in it", tt.new, err, tt.want)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no config.json: %v", err)
	}
	file := filepath.Join(dir, "config.json")
	for _, tt := range []struct {
		make func() error
		want error
	}{
		{func() error { return syscall.Mkfifo(file, 0o600) }, ErrInvalid},
		{func() error { return os.WriteFile(file, make([]byte, maxConfig+1), 0o600) }, ErrInvalid},
		{func() error { return os.WriteFile(file, []byte(good), 0o600) }, nil},
	} {
		_ = os.Remove(file)
		if err := tt.make(); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); !errors.Is(err, tt.want) {
			t.Errorf("%v, want %v", err, tt.want)
		}
	}
	if err := os.WriteFile(file, []byte(`{"args":["x"],"cwd":"/","capabilities":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := LoadProcess(file); err != nil || p.Args[0] != "x" {
		t.Errorf("%+v, %v", p, err)
	}
}

// FuzzParse parses and turns any bytes.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"ociVersion":"1.","root":{"path":"/"},"process":{"args":[""],"cwd":"/"},"mounts":[{"destination":"/","type":"bind","source":"."}],"hooks":{}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		spec, _, err := Sandbox("/bundle", s)
		if err != nil {
			return
		}
		if len(spec.Args) == 0 || !filepath.IsAbs(spec.Root) || !filepath.IsAbs(spec.Dir) {
			t.Errorf("%+v", spec)
		}
		for _, m := range spec.Mounts {
			if !filepath.IsAbs(m.Target) || m.Type == sentry.MountBind && !filepath.IsAbs(m.Source) {
				t.Errorf("%+v", m)
			}
		}
		if _, err := json.Marshal(spec.Args); err != nil {
			t.Error(err)
		}
	})
}
