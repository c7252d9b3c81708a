package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

func TestRunOnThisHost(t *testing.T) {
	kvmtest.NoLeaks(t)
	kvmtest.Open(t)
	begin := time.Now()
	r, err := Run(t.Context())
	took := time.Since(begin)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := r.Text(&text, false); err != nil {
		t.Fatal(err)
	}
	t.Logf("in %v\n%s", took, text.String())
	if !r.KVM.Present || !r.KVM.Permission || !r.KVM.Usable || r.KVM.API != 12 {
		t.Errorf("KVM %+v", r.KVM)
	}
	if r.Measured == nil || r.Measured.CPL0LoopNS <= 0 || r.Measured.PortExitCPL0NS <= 0 {
		t.Fatalf("measured %+v", r.Measured)
	}
	_, err = os.Stat("/sys/module/kvm_pvm")
	soft := err == nil
	if soft != (r.KVM.Kind == KindSoftware) || r.KVM.Kind == KindUnknown || soft != (r.RecommendedKernel == KernelLean) {
		t.Errorf("kind %q, kernel %q; this KVM is a software one: %v", r.KVM.Kind, r.RecommendedKernel, soft)
	}
	if !r.Verdict.CanRun || len(r.Verdict.Reasons) > 0 {
		t.Errorf("verdict %+v", r.Verdict)
	}
	if len(r.Capabilities) != len(known) || !r.Capabilities[0].Found {
		t.Errorf("capabilities %+v", r.Capabilities)
	}
	if r.Host.CPUs < 1 || r.Host.MemoryTotalKiB < r.Host.MemoryAvailableKiB || r.Host.MemoryAvailableKiB == 0 {
		t.Errorf("host %+v", r.Host)
	}
	if !strings.Contains(text.String(), "guests can run") || strings.Contains(text.String(), "\x1b") {
		t.Errorf("text:\n%s", text.String())
	}
}

func TestReportSurvivesJSON(t *testing.T) {
	kvmtest.Open(t)
	r, err := Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]any
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"kvm", "measured", "capabilities", "host", "verdict", "recommended_kernel"} {
		if _, found := back[key]; !found {
			t.Errorf("no %q in the JSON", key)
		}
	}
	if back["verdict"].(map[string]any)["can_run"] != true {
		t.Errorf("verdict %v", back["verdict"])
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	kvmtest.NoLeaks(t)
	kvmtest.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// madeUp builds a host below a temporary directory from paths to file contents; a path that ends in a
// slash is a directory.
func madeUp(t *testing.T, files map[string]string) place {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		dir := filepath.Dir(path)
		if strings.HasSuffix(name, "/") {
			dir = path
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if dir == path {
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return place{
		kvm: filepath.Join(root, "dev/kvm"), dev: filepath.Join(root, "dev"), proc: filepath.Join(root, "proc"), sys: filepath.Join(root, "sys"),
		lookPath: func(string) (string, error) { return "", os.ErrNotExist },
	}
}

func TestWithoutKVM(t *testing.T) {
	kvmtest.NoLeaks(t)
	for _, c := range []struct {
		name  string
		files map[string]string
		want  KVM // Error and Path are not compared
	}{
		{"Intel, module not loaded", map[string]string{"proc/cpuinfo": "flags\t: fpu vmx\n"},
			KVM{Kind: KindUnknown, Fix: "sudo modprobe kvm_intel"}},
		{"AMD, module not loaded", map[string]string{"proc/cpuinfo": "flags\t: fpu svm\n"},
			KVM{Kind: KindUnknown, Fix: "sudo modprobe kvm_amd"}},
		{"VM without nesting", map[string]string{"proc/cpuinfo": "flags\t: fpu hypervisor\n"},
			KVM{Kind: KindUnknown, Nested: true, Fix: "this host is a VM without nested virtualization: have its provider enable that, or use a bare-metal host"}},
		{"firmware", map[string]string{"proc/cpuinfo": "flags\t: fpu\n"},
			KVM{Kind: KindUnknown, Fix: "enable VT-x or AMD-V (SVM) in the firmware settings"}},
		{"no /proc at all", nil,
			KVM{Kind: KindUnknown, Fix: "enable VT-x or AMD-V (SVM) in the firmware settings"}},
		{"a regular file", map[string]string{"dev/kvm": "x", "proc/cpuinfo": "flags: svm\n", "sys/module/kvm_amd/": ""},
			KVM{Present: true, Permission: true, Kind: KindSVM, Module: "kvm_amd", Fix: "name the real KVM device, usually /dev/kvm, and use a Linux kernel with KVM"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := madeUp(t, c.files)
			r, err := run(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			got := r.KVM
			if !strings.Contains(got.Error, p.kvm) || got.Path != p.kvm {
				t.Errorf("path %q, error %q do not name %q", got.Path, got.Error, p.kvm)
			}
			got.Error, got.Path = "", ""
			if got != c.want {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
			if r.Verdict.CanRun || len(r.Verdict.Reasons) != 1 || r.RecommendedKernel != "" || r.Measured != nil {
				t.Errorf("verdict %+v, kernel %q", r.Verdict, r.RecommendedKernel)
			}
			var text bytes.Buffer
			if err := r.Text(&text, true); err != nil {
				t.Fatal(err)
			}
			for _, part := range []string{"guests cannot run", c.want.Fix, "\x1b[31m✗"} {
				if !strings.Contains(text.String(), part) {
					t.Errorf("no %q in\n%s", part, text.String())
				}
			}
		})
	}
}

func TestWithoutPermission(t *testing.T) {
	kvmtest.NoLeaks(t)
	p := madeUp(t, map[string]string{"dev/kvm": "", "sys/module/kvm_intel/": "", "proc/cpuinfo": "flags: vmx\n"})
	if err := os.Chmod(p.kvm, 0); err != nil {
		t.Fatal(err)
	}
	// Others may see the rest of the made-up host.
	root := filepath.Dir(p.dev)
	for _, dir := range []string{filepath.Dir(root), root} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var r Report
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Getuid() == 0 {
			// The capability that overrides permissions goes with the file system user id. The
			// thread is never unlocked, so it ends with this goroutine.
			runtime.LockOSThread()
			if _, err = unix.SetfsuidRetUid(65534); err != nil {
				return
			}
		}
		var kvm KVM
		_, openErr := p.openKVM(&kvm, p.cpuFlags())
		if openErr == nil {
			err = errors.New("a file of mode 0 was opened")
			return
		}
		r.KVM = kvm
		r.conclude(nil, nil)
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	if !r.KVM.Present || r.KVM.Permission || r.KVM.Kind != KindVMX || !strings.Contains(r.KVM.Fix, "usermod -aG kvm") {
		t.Errorf("KVM %+v", r.KVM)
	}
	if r.Verdict.CanRun {
		t.Errorf("verdict %+v", r.Verdict)
	}
}

func TestKind(t *testing.T) {
	soft := &probe.Result{QuickResult: probe.QuickResult{SoftwareKVM: true}}
	hard := &probe.Result{}
	for _, c := range []struct {
		modules, flags string
		measured       *probe.Result
		kind           Kind
		module         string
	}{
		{"kvm_intel", "vmx", hard, KindVMX, "kvm_intel"},
		{"kvm_intel kvm_amd", "svm", hard, KindSVM, "kvm_amd"}, // both built in
		{"kvm_amd kvm_pvm", "svm", soft, KindSoftware, "kvm_pvm"},
		{"kvm_amd kvm_pvm", "svm", hard, KindSVM, "kvm_amd"},
		{"kvm_pvm", "", nil, KindSoftware, "kvm_pvm"},
		{"", "svm", soft, KindSoftware, ""},
		{"", "svm", hard, KindUnknown, ""},
		{"kvm_intel", "", nil, KindUnknown, ""},
	} {
		files := map[string]string{"proc/cpuinfo": "flags\t: " + c.flags + "\n"}
		for _, m := range strings.Fields(c.modules) {
			files["sys/module/"+m+"/"] = ""
		}
		p := madeUp(t, files)
		if kind, module := p.kind(p.cpuFlags(), c.measured); kind != c.kind || module != c.module {
			t.Errorf("modules %q, flags %q: %q by %q, want %q by %q", c.modules, c.flags, kind, module, c.kind, c.module)
		}
	}
}

func TestHost(t *testing.T) {
	p := madeUp(t, map[string]string{
		"sys/kernel/mm/transparent_hugepage/enabled":               "always [madvise] never\n",
		"sys/kernel/mm/transparent_hugepage/shmem_enabled":         "always within_size advise [never] deny force\n",
		"sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "2\n",
		"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages":    "512\n",
		"sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages":  "500\n",
		"sys/kernel/mm/hugepages/unrelated/":                       "",
		"sys/kernel/mm/ksm/run":                                    "1\n",
		"proc/meminfo":                                             "MemTotal: 1000 kB\nMemFree: nonsense kB\nMemAvailable: 900 kB\nshort\n",
		"proc/self/status":                                         "Name:\tx\nSeccomp:\t2\n",
		"dev/net/tun":                                              "",
	})
	h := p.host()
	if h.THP != "madvise" || h.THPShared != "never" || h.MemoryTotalKiB != 1000 || h.MemoryAvailableKiB != 900 {
		t.Errorf("host %+v", h)
	}
	if len(h.HugePools) != 2 || h.HugePools[0] != (HugePool{2048, 512, 500}) || h.HugePools[1] != (HugePool{1048576, 2, 0}) {
		t.Errorf("pools %+v", h.HugePools)
	}
	got := map[string]Check{}
	for _, f := range h.Features {
		got[f.Name] = f
		if !f.Found && (f.Cost == "" || f.Fix == "") {
			t.Errorf("%s is missing without a word on cost or fix", f.Name)
		}
	}
	for name, found := range map[string]bool{"memfd": true, "TUN": true, "KSM": true, "seccomp": true, "TPM": false, "swtpm": false, "vhost-net": false} {
		if got[name].Found != found {
			t.Errorf("%s found: %v, want %v", name, got[name].Found, found)
		}
	}
	if !strings.Contains(got["seccomp"].Detail, "under a filter") || !strings.Contains(got["TPM"].Detail, p.dev) {
		t.Errorf("details %q, %q", got["seccomp"].Detail, got["TPM"].Detail)
	}
}

func TestSelected(t *testing.T) {
	for in, want := range map[string]string{"a [b] c": "b", "[x]": "x", "": "", "none": "", "[open": ""} {
		if got := selected(in); got != want {
			t.Errorf("selected(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestVerdict(t *testing.T) {
	usable := KVM{Usable: true}
	lacks := Check{Name: "KVM_CAP_X", Needed: Required, Cost: "no X", Fix: "get X"}
	slow := &probe.Result{QuickResult: probe.QuickResult{SoftwareKVM: true}, CPL0LoopNS: 2000}
	for _, c := range []struct {
		name   string
		r      Report
		err    error
		can    bool
		kernel string
		say    string
	}{
		{"all well", Report{KVM: usable, Measured: &probe.Result{}}, nil, true, KernelStock, ""},
		{"emulated", Report{KVM: usable, Measured: slow}, nil, true, KernelLean, "lean kernel"},
		{"required missing", Report{KVM: usable, Capabilities: []Check{lacks}}, nil, false, "", "KVM_CAP_X is missing (no X): get X"},
		{"optional missing", Report{KVM: usable, Capabilities: []Check{{Name: "y", Needed: Optional}}}, nil, true, KernelStock, ""},
		{"host feature missing", Report{KVM: usable, Host: Host{Features: []Check{lacks}}}, nil, false, "", "KVM_CAP_X"},
		{"probe fails", Report{KVM: usable}, errors.New("no luck"), false, "", "no luck"},
		{"no KVM", Report{KVM: KVM{Error: "open /dev/kvm: gone", Fix: "find it"}}, nil, false, "", "find it"},
		{"little memory", Report{KVM: usable, Host: Host{MemoryAvailableKiB: 2048}}, nil, true, KernelStock, "only 2 MiB"},
	} {
		c.r.conclude(c.err, nil)
		said := strings.Join(append(c.r.Verdict.Reasons, c.r.Verdict.Advice...), "\n")
		if c.r.Verdict.CanRun != c.can || c.r.RecommendedKernel != c.kernel || !strings.Contains(said, c.say) {
			t.Errorf("%s: verdict %+v, kernel %q", c.name, c.r.Verdict, c.r.RecommendedKernel)
		}
	}
}

func TestIncompleteFiguresDoNotStopGuests(t *testing.T) {
	r := Report{KVM: KVM{Usable: true}, Measured: &probe.Result{}}
	r.conclude(nil, errors.New("clock trouble"))
	if !r.Verdict.CanRun || len(r.Verdict.Advice) != 1 || !strings.Contains(r.Verdict.Advice[0], "clock trouble") {
		t.Errorf("verdict %+v", r.Verdict)
	}
}

func TestMSRWatchIsRequiredWhereEmulated(t *testing.T) {
	for _, emulated := range []bool{false, true} {
		for _, c := range capabilities(nil, emulated) {
			want := Optional
			if emulated {
				want = Required
			}
			if c.Name == "KVM_CAP_X86_MSR_FILTER" && c.Needed != want {
				t.Errorf("emulated %v: %s is %s", emulated, c.Name, c.Needed)
			}
			if c.Found || c.Cost == "" || c.Fix == "" {
				t.Errorf("without a System: %+v", c)
			}
		}
	}
}

func TestDuration(t *testing.T) {
	for ns, want := range map[float64]string{0.281: "0.28 ns", 1500: "1.50 us", 2.5e6: "2.50 ms"} {
		if got := duration(ns); got != want {
			t.Errorf("duration(%v) = %q, want %q", ns, got, want)
		}
	}
}

// BenchmarkRun is how long a user waits for the report.
func BenchmarkRun(b *testing.B) {
	kvmtest.Open(b)
	for b.Loop() {
		if _, err := Run(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
