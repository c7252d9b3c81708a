package vcpu

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nameThread names the calling thread, as tools that list threads or place them know those of vCPUs: vcpu0, vcpu1...
func nameThread(id int) {
	var name [16]byte // with the zero behind it
	copy(name[:15], fmt.Sprintf("vcpu%d", id))
	_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name)), 0) // without a name it runs as well
}
