package sentry

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/memutil"
	"gvisor.dev/gvisor/pkg/rand"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/loader"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	"gvisor.dev/gvisor/pkg/sentry/strace"
	_ "gvisor.dev/gvisor/pkg/sentry/syscalls/linux" // the system calls
	sentrytime "gvisor.dev/gvisor/pkg/sentry/time"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/qenex/qenex-kernel/usernet"
)

// gcPercent trades memory for fewer collections: a sandbox's heap is small beside its guest's memory.
const gcPercent = 400

// processOnce prepares what the Sentry keeps per process.
var processOnce = sync.OnceValue(func() error {
	debug.SetGCPercent(gcPercent)
	cpuid.Initialize()
	seccheck.Initialize()
	if err := rand.Init(); err != nil {
		return fmt.Errorf("reading random bytes: %w", err)
	}
	if err := usage.Init(); err != nil {
		return fmt.Errorf("setting up memory accounting: %w", err)
	}
	return nil
})

// setLog sends the Sentry's log to the file, or nowhere.
func setLog(spec *Spec) error {
	if spec.Debug == "" {
		log.SetTarget(discard{})
		return nil
	}
	f, err := os.OpenFile(spec.Debug, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: f}})
	log.SetLevel(log.Debug)
	if spec.Strace {
		strace.Initialize()
		strace.EnableAll(strace.SinkTypeLog)
	}
	return nil
}

// discard is a log emitter that keeps nothing.
type discard struct{}

// Emit implements log.Emitter.
func (discard) Emit(int, log.Level, time.Time, string, ...any) {}

// newMemory makes the file that holds all guest memory.
func newMemory() (*pgalloc.MemoryFile, error) {
	fd, err := memutil.CreateMemFD("qenex-guest", 0)
	if err != nil {
		return nil, fmt.Errorf("creating the guest's memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "qenex-guest")
	mf, err := pgalloc.NewMemoryFile(f, pgalloc.MemoryFileOpts{DisableIMAWorkAround: true})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("setting up the guest's memory file: %w", err)
	}
	return mf, nil
}

// newKernel makes a Sentry kernel with its memory, clocks, network and file-system types, and no task. The gateway is nil without
// a network.
func newKernel(spec *Spec, b *backend) (*kernel.Kernel, *usernet.Gateway, error) {
	cpus := spec.CPUs
	if cpus == 0 {
		cpus = runtime.NumCPU()
	}
	k := &kernel.Kernel{Platform: b, AllowSUID: true}
	mf, err := newMemory()
	if err != nil {
		return nil, nil, err
	}
	k.SetMemoryFile(mf)
	if spec.Memory != 0 {
		usage.MinimumTotalMemoryBytes = spec.Memory
		usage.MaximumTotalMemoryBytes = spec.Memory
	}
	vdso, err := loader.PrepareVDSO(mf)
	if err != nil {
		return nil, nil, fmt.Errorf("building the VDSO: %w", err)
	}
	tk := kernel.NewTimekeeper()
	params := kernel.NewVDSOParamPage(mf, vdso.ParamPage.FileRange())
	tk.SetClocks(sentrytime.NewCalibratedClocks(false), params)

	userns := auth.NewRootUserNamespace()
	netns, gateway, err := newNetwork(spec, tk, userns, k)
	if err != nil {
		return nil, nil, err
	}
	hostname := spec.Hostname
	if hostname == "" {
		hostname = "qenex"
	}
	domainname := spec.Domainname
	if domainname == "" {
		domainname = "(none)"
	}
	if err := k.Init(kernel.InitKernelArgs{
		FeatureSet:           cpuid.HostFeatureSet().Fixed(),
		Timekeeper:           tk,
		RootUserNamespace:    userns,
		RootNetworkNamespace: netns,
		ApplicationCores:     uint(cpus),
		Vdso:                 vdso,
		VdsoParams:           params,
		RootUTSNamespace:     kernel.NewUTSNamespace(hostname, domainname, userns),
		RootIPCNamespace:     kernel.NewIPCNamespace(userns),
		RootPIDNamespace:     kernel.NewRootPIDNamespace(userns),
		Cgroup2FSInit:        cgroup2fs.NewFilesystem,
	}); err != nil {
		return nil, nil, fmt.Errorf("initialising the Sentry kernel: %w", err)
	}
	if err := registerFilesystems(k.VFS()); err != nil {
		return nil, nil, err
	}
	hostfs, err := host.NewFilesystem(k.VFS())
	if err != nil {
		return nil, nil, fmt.Errorf("making the file system of passed files: %w", err)
	}
	defer hostfs.DecRef(k.SupervisorContext())
	k.SetHostMount(k.VFS().NewDisconnectedMount(hostfs, nil, &vfs.MountOptions{}))
	k.RegisterContainerName(containerID, containerID)
	return k, gateway, nil
}

// containerID is the name of the only container of a kernel.
const containerID = "qenex"
