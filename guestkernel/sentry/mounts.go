package sentry

import (
	"fmt"
	"path"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/devices/memdev"
	"gvisor.dev/gvisor/pkg/sentry/devices/ttydev"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/dev"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devtmpfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/gofer"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/mqfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/sys"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// registerFilesystems tells the VFS what can be mounted and which devices exist.
func registerFilesystems(v *vfs.VirtualFilesystem) error {
	user := &vfs.RegisterFilesystemTypeOptions{AllowUserMount: true, AllowUserList: true}
	hidden := &vfs.RegisterFilesystemTypeOptions{}
	v.MustRegisterFilesystemType(cgroup2fs.Name, &cgroup2fs.FilesystemType{}, user)
	v.MustRegisterFilesystemType(devpts.Name, &devpts.FilesystemType{}, user)
	v.MustRegisterFilesystemType(devtmpfs.Name, &devtmpfs.FilesystemType{}, user)
	v.MustRegisterFilesystemType(dev.Name, &dev.FilesystemType{}, hidden)
	v.MustRegisterFilesystemType(gofer.Name, &gofer.FilesystemType{}, hidden)
	v.MustRegisterFilesystemType(overlay.Name, &overlay.FilesystemType{}, user)
	v.MustRegisterFilesystemType(proc.Name, &proc.FilesystemType{}, user)
	v.MustRegisterFilesystemType(sys.Name, &sys.FilesystemType{}, user)
	v.MustRegisterFilesystemType(tmpfs.Name, &tmpfs.FilesystemType{}, user)
	v.MustRegisterFilesystemType(mqfs.Name, &mqfs.FilesystemType{}, user)
	if err := memdev.Register(v); err != nil {
		return fmt.Errorf("registering /dev/null and its like: %w", err)
	}
	if err := ttydev.Register(v); err != nil {
		return fmt.Errorf("registering /dev/tty: %w", err)
	}
	return nil
}

// mounter builds the guest's tree of mounts.
type mounter struct {
	spec  *Spec
	v     *vfs.VirtualFilesystem
	k     *kernel.Kernel
	files *fileServer
	creds *auth.Credentials
	ctx   context.Context
	root  vfs.VirtualDentry // of the tree; set once it exists
}

// mountContext is a context inside a mount namespace.
type mountContext struct {
	context.Context
	mns *vfs.MountNamespace
}

// Value implements context.Context. Who asks for the namespace gets a reference.
func (c mountContext) Value(key any) any {
	if key == vfs.CtxMountNamespace {
		c.mns.IncRef()
		return c.mns
	}
	return c.Context.Value(key)
}

// mountAll makes the mount namespace of the first program. The caller gets one reference to it.
func (m *mounter) mountAll() (*vfs.MountNamespace, error) {
	mns, err := m.mountRoot()
	if err != nil {
		return nil, err
	}
	m.ctx = mountContext{m.ctx, mns}
	m.root = mns.Root(m.ctx)
	defer m.root.DecRef(m.ctx)
	var readonly []*vfs.Mount // sealed at the end: mount points may have to be made in them
	if mnt := m.root.Mount(); mnt.ReadOnly() {
		readonly = append(readonly, mnt)
		if err := m.v.SetMountReadOnly(mnt, false); err != nil {
			return nil, fmt.Errorf("opening the root for mounts: %w", err)
		}
	}
	for _, mt := range m.allMounts() {
		mnt, err := m.mount(mt)
		if err != nil {
			return nil, fmt.Errorf("mounting %s at %s: %w", mt.Type, mt.Target, err)
		}
		if mt.ReadOnly {
			readonly = append(readonly, mnt)
		}
	}
	if m.spec.Net != NetNone {
		if err := m.mountResolvConf(); err != nil {
			return nil, fmt.Errorf("mounting /etc/resolv.conf: %w", err)
		}
	}
	if err := m.setSysctls(); err != nil {
		return nil, err
	}
	for _, p := range m.spec.MaskedPaths {
		if err := m.mask(p); err != nil {
			return nil, fmt.Errorf("hiding %s: %w", p, err)
		}
	}
	for _, p := range m.spec.ReadonlyPaths {
		if err := m.rebindReadonly(p); err != nil {
			return nil, fmt.Errorf("making %s read-only: %w", p, err)
		}
	}
	for _, mnt := range readonly {
		if err := m.v.SetMountReadOnly(mnt, true); err != nil {
			return nil, fmt.Errorf("sealing a read-only mount: %w", err)
		}
	}
	return mns, nil
}

// allMounts are the spec's mounts with the usual ones before them.
func (m *mounter) allMounts() []Mount {
	if m.spec.NoDefaultMounts {
		return m.spec.Mounts
	}
	has := map[string]bool{}
	for _, mt := range m.spec.Mounts {
		has[path.Clean("/"+mt.Target)] = true
	}
	var all []Mount
	for _, mt := range []Mount{
		{Type: MountProc, Target: "/proc"},
		{Type: MountSysfs, Target: "/sys", ReadOnly: true},
		{Type: MountDev, Target: "/dev"},
		{Type: MountDevPts, Target: "/dev/pts"},
		{Type: MountTmpfs, Target: "/dev/shm", Options: []string{"mode=1777"}},
		{Type: MountTmpfs, Target: "/tmp", Options: []string{"mode=1777"}},
	} {
		if !has[mt.Target] {
			all = append(all, mt)
		}
	}
	return append(all, m.spec.Mounts...)
}

// mountRoot mounts the root directory in a new namespace.
func (m *mounter) mountRoot() (*vfs.MountNamespace, error) {
	dir := m.spec.root()
	c := cacheAll
	if m.spec.RootWritable {
		c = cacheChecked
	}
	opts, err := m.files.options(dir, "/", !m.spec.RootWritable, c)
	if err != nil {
		return nil, err
	}
	fsName := gofer.Name
	if !m.spec.RootWritable && !m.spec.RootReadonly {
		var release func()
		if opts, release, err = m.overlay(opts); err != nil {
			return nil, fmt.Errorf("laying memory over %s: %w", dir, err)
		}
		defer release()
		fsName = overlay.Name
	}
	mns, err := m.v.NewMountNamespace(m.ctx, m.creds, "root", fsName, opts, m.k)
	if err != nil {
		return nil, fmt.Errorf("mounting the root %s: %w", dir, err)
	}
	return mns, nil
}

// overlay gives options for memory above the host directory of lowerOpts.
func (m *mounter) overlay(lowerOpts *vfs.MountOptions) (_ *vfs.MountOptions, release func(), _ error) {
	lower, err := m.v.MountDisconnected(m.ctx, m.creds, "", gofer.Name, lowerOpts)
	if err != nil {
		return nil, nil, err
	}
	upper, err := m.v.MountDisconnected(m.ctx, m.creds, "", tmpfs.Name, &vfs.MountOptions{
		GetFilesystemOptions: vfs.GetFilesystemOptions{
			InternalMount: true,
			InternalData:  tmpfs.FilesystemOpts{RootFileType: linux.S_IFDIR, DisableDefaultSizeLimit: true},
		},
	})
	if err != nil {
		lower.DecRef(m.ctx)
		return nil, nil, err
	}
	release = func() {
		lower.DecRef(m.ctx)
		upper.DecRef(m.ctx)
	}
	lowerRoot := vfs.MakeVirtualDentry(lower, lower.Root())
	upperRoot := vfs.MakeVirtualDentry(upper, upper.Root())
	if err := m.copyOwner(lowerRoot, upperRoot); err != nil {
		release()
		return nil, nil, err
	}
	return &vfs.MountOptions{
		GetFilesystemOptions: vfs.GetFilesystemOptions{
			InternalMount: true,
			InternalData:  overlay.FilesystemOptions{UpperRoot: upperRoot, LowerRoots: []vfs.VirtualDentry{lowerRoot}},
		},
	}, release, nil
}

// copyOwner gives directory to the owner and mode of directory from.
func (m *mounter) copyOwner(from, to vfs.VirtualDentry) error {
	const what = linux.STATX_UID | linux.STATX_GID | linux.STATX_MODE
	st, err := m.v.StatAt(m.ctx, m.creds, &vfs.PathOperation{Root: from, Start: from}, &vfs.StatOptions{Mask: what})
	if err != nil {
		return err
	}
	return m.v.SetStatAt(m.ctx, m.creds, &vfs.PathOperation{Root: to, Start: to},
		&vfs.SetStatOptions{Stat: linux.Statx{Mask: what, UID: st.UID, GID: st.GID, Mode: st.Mode &^ linux.S_IFMT}})
}

// mount makes one mount, and its mount point if that is missing.
func (m *mounter) mount(mt Mount) (*vfs.Mount, error) {
	target := path.Clean("/" + mt.Target)
	fsName, opts, err := m.typeOptions(mt, target)
	if err != nil {
		return nil, err
	}
	mnt, err := m.v.MountDisconnected(m.ctx, m.creds, mt.Source, fsName, opts)
	if err != nil {
		return nil, err
	}
	defer mnt.DecRef(m.ctx)
	top := vfs.MakeVirtualDentry(mnt, mnt.Root())
	st, err := m.v.StatAt(m.ctx, m.creds, &vfs.PathOperation{Root: top, Start: top}, &vfs.StatOptions{Mask: linux.STATX_TYPE})
	if err != nil {
		return nil, err
	}
	if err := m.makeMountPoint(target, linux.FileMode(st.Mode).IsDir()); err != nil {
		return nil, err
	}
	if err := m.v.ConnectMountAt(m.ctx, m.creds, mnt, m.at(target, true)); err != nil {
		return nil, err
	}
	return mnt, nil
}

// typeOptions turns a mount into the Sentry's terms.
func (m *mounter) typeOptions(mt Mount, target string) (string, *vfs.MountOptions, error) {
	opts := &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true}}
	name := string(mt.Type)
	switch mt.Type {
	case MountBind:
		var err error
		if opts, err = m.files.options(mt.Source, target, mt.ReadOnly, cacheChecked); err != nil {
			return "", nil, err
		}
		opts.ReadOnly = false // sealed by mountAll
		name = gofer.Name
	case MountTmpfs:
		opts.GetFilesystemOptions.Data = strings.Join(dataOptions(mt.Options), ",")
	case MountDev:
		name = dev.Name
	case MountProc:
		opts.GetFilesystemOptions.InternalData = &proc.InternalData{}
	case MountSysfs:
		name = sys.Name
		opts.GetFilesystemOptions.InternalData = &sys.InternalData{}
	case MountDevPts, MountMqueue, MountCgroup:
	default:
		return "", nil, fmt.Errorf("unknown type of mount %q", mt.Type)
	}
	for _, o := range mt.Options {
		switch o {
		case "noexec":
			opts.Flags.NoExec = true
		case "nosuid":
			opts.Flags.NoSUID = true
		case "noatime":
			opts.Flags.NoATime = true
		}
	}
	return name, opts, nil
}

// dataOptions are the options that a tmpfs itself reads.
func dataOptions(options []string) []string {
	var out []string
	for _, o := range options {
		switch key, _, _ := strings.Cut(o, "="); key {
		case "size", "mode", "uid", "gid":
			out = append(out, o)
		}
	}
	return out
}

// at is path p below the tree's root.
func (m *mounter) at(p string, follow bool) *vfs.PathOperation {
	return &vfs.PathOperation{Root: m.root, Start: m.root, Path: fspath.Parse(p), FollowFinalSymlink: follow}
}

// isDir says whether p is a directory.
func (m *mounter) isDir(p string) (bool, error) {
	st, err := m.v.StatAt(m.ctx, m.creds, m.at(p, true), &vfs.StatOptions{Mask: linux.STATX_TYPE})
	return err == nil && linux.FileMode(st.Mode).IsDir(), err
}

// makeMountPoint makes sure that p exists and is a directory, or a file.
func (m *mounter) makeMountPoint(p string, dir bool) error {
	is, err := m.isDir(p)
	if err == nil {
		if is != dir {
			return fmt.Errorf("mount point %s: a directory can only be mounted on a directory, a file on a file", p)
		}
		return nil
	}
	if !linuxerr.Equals(linuxerr.ENOENT, err) {
		return fmt.Errorf("looking at mount point %s: %w", p, err)
	}
	mk := &vfs.MkdirOptions{Mode: 0o755, ForSyntheticMountpoint: true}
	if err := m.v.MkdirAllAt(m.ctx, path.Dir(p), m.root, m.creds, mk, true); err != nil {
		return fmt.Errorf("making the parents of mount point %s: %w", p, err)
	}
	if dir {
		err = m.v.MkdirAt(m.ctx, m.creds, m.at(p, false), mk)
	} else {
		err = m.v.MknodAt(m.ctx, m.creds, m.at(p, false), &vfs.MknodOptions{Mode: linux.S_IFREG | 0o644})
	}
	if err != nil {
		return fmt.Errorf("making mount point %s: %w", p, err)
	}
	return nil
}

// mask hides p, if it exists, under something empty.
func (m *mounter) mask(p string) error {
	dir, err := m.isDir(p)
	if linuxerr.Equals(linuxerr.ENOENT, err) {
		return nil
	}
	if err != nil {
		return err
	}
	kind := linux.FileMode(linux.S_IFREG)
	if dir {
		kind = linux.S_IFDIR
	}
	mnt, err := m.v.MountDisconnected(m.ctx, m.creds, "", tmpfs.Name, &vfs.MountOptions{
		ReadOnly: true,
		GetFilesystemOptions: vfs.GetFilesystemOptions{
			InternalMount: true,
			InternalData:  tmpfs.FilesystemOpts{RootFileType: uint16(kind)},
		},
	})
	if err != nil {
		return err
	}
	defer mnt.DecRef(m.ctx)
	return m.v.ConnectMountAt(m.ctx, m.creds, mnt, m.at(p, true))
}

// rebindReadonly mounts p, if it exists, read-only on itself.
func (m *mounter) rebindReadonly(p string) error {
	if _, err := m.isDir(p); linuxerr.Equals(linuxerr.ENOENT, err) {
		return nil
	}
	if err := m.v.BindAt(m.ctx, m.creds, m.at(p, true), m.at(p, true), false); err != nil {
		return err
	}
	top, err := m.v.GetDentryAt(m.ctx, m.creds, m.at(p, true), &vfs.GetDentryOptions{})
	if err != nil {
		return err
	}
	defer top.DecRef(m.ctx)
	return m.v.SetMountReadOnly(top.Mount(), true)
}
