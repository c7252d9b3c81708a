package sentry

import (
	"fmt"
	"path"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
)

// withoutEffect are settings that container engines give every container, that only widen what programs without privileges may do, and
// that the Sentry does not have.
var withoutEffect = map[string]bool{"net.ipv4.ping_group_range": true, "net.ipv4.ip_unprivileged_port_start": true}

// setSysctls writes the spec's settings to /proc/sys.
func (m *mounter) setSysctls() error {
	for name, value := range m.spec.Sysctl {
		p := path.Clean("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		if !strings.HasPrefix(p, "/proc/sys/") {
			return fmt.Errorf("%q is not the name of a kernel setting", name)
		}
		fd, err := m.v.OpenAt(m.ctx, m.creds, m.at(p, true), &vfs.OpenOptions{Flags: linux.O_WRONLY})
		if err != nil {
			if withoutEffect[name] {
				continue
			}
			return fmt.Errorf("setting %s: %w (the kernel of native guests may not have it)", name, err)
		}
		_, err = fd.Write(m.ctx, usermem.BytesIOSequence([]byte(value)), vfs.WriteOptions{})
		fd.DecRef(m.ctx)
		if err != nil {
			return fmt.Errorf("setting %s to %q: %w", name, value, err)
		}
	}
	return nil
}
