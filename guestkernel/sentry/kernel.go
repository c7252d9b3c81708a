package sentry

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/memutil"
	"gvisor.dev/gvisor/pkg/rand"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/loader"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/strace"
	_ "gvisor.dev/gvisor/pkg/sentry/syscalls/linux" // the system calls
	sentrytime "gvisor.dev/gvisor/pkg/sentry/time"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/qenex/qenex-kernel/guestkernel/sentry/internal/early"
	"github.com/qenex/qenex-kernel/usernet"
)

// gcPercent trades memory for fewer collections: a sandbox's heap is small beside its guest's memory.
const gcPercent = 400

// processOnce prepares what the Sentry keeps per process. The Sentry's security events (seccheck) stay uninitialised: nobody listens,
// and making their tables takes milliseconds.
var processOnce = sync.OnceValue(func() error {
	debug.SetGCPercent(gcPercent)
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
		early.LogTo(nil)
		return nil
	}
	f, err := os.OpenFile(spec.Debug, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	early.LogTo(log.GoogleEmitter{Writer: &log.Writer{Next: f}})
	log.SetLevel(log.Debug)
	if spec.Strace {
		strace.Initialize()
		strace.EnableAll(strace.SinkTypeLog)
	}
	return nil
}

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

// newKernel makes a Sentry kernel with its memory, clocks, network and file-system types, and no task. It does not wait for the backend.
// The gateway is nil without a network.
func newKernel(spec *Spec, b *backend) (k *kernel.Kernel, gateway *usernet.Gateway, err error) {
	k = &kernel.Kernel{Platform: b, AllowSUID: true}
	mf, err := newMemory()
	if err != nil {
		return nil, nil, err
	}
	k.SetMemoryFile(mf)
	b.memory = mf
	if spec.Memory != 0 {
		usage.MinimumTotalMemoryBytes = spec.Memory
		usage.MaximumTotalMemoryBytes = spec.Memory
	}
	if err := processOnce(); err != nil {
		return nil, nil, err
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
	defer func() {
		if err != nil && gateway != nil {
			gateway.Close()
		}
	}()
	if err := k.Init(kernel.InitKernelArgs{
		FeatureSet:           early.CPU(), // fixed already
		Timekeeper:           tk,
		RootUserNamespace:    userns,
		RootNetworkNamespace: netns,
		ApplicationCores:     uint(spec.cpus()),
		Vdso:                 vdso,
		VdsoParams:           params,
		RootUTSNamespace:     kernel.NewUTSNamespace(orElse(spec.Hostname, "qenex"), orElse(spec.Domainname, "(none)"), userns),
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

// cpus is how many processors the guest sees.
func (spec *Spec) cpus() int {
	if spec.CPUs == 0 {
		return runtime.NumCPU()
	}
	return spec.CPUs
}

// orElse is s, or what else there is if s is empty.
func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// containerID is the name of the only container of a kernel.
const containerID = "qenex"
