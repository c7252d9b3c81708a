package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// APIVersion is the only version of the KVM API there is.
const APIVersion = 12

// Errors of Open, each wrapped with the path and what to do.
var (
	ErrNoDevice   = errors.New("no KVM device")
	ErrPermission = errors.New("no permission for the KVM device")
	ErrNotKVM     = errors.New("not a usable KVM device")
)

// System is an open /dev/kvm. Its methods may be called from any goroutine.
type System struct {
	fd      *fd
	runSize int // size in bytes of a vCPU's kvm_run mapping
}

// Open opens /dev/kvm. The caller closes the System; VMs made from it outlive it.
func Open() (*System, error) { return OpenPath("/dev/kvm") }

// OpenPath opens the KVM device at path.
func OpenPath(path string) (*System, error) {
	n, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("open %s: %w (%w): load kvm_amd or kvm_intel, or enable virtualization in the firmware or the outer hypervisor", path, ErrNoDevice, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open %s: %w (%w): add your user to the kvm group, or run as root; a container needs the device passed in", path, ErrPermission, err)
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("open %s: %w (%w): name the KVM device, usually /dev/kvm", path, ErrNotKVM, err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s := &System{fd: newFD(n, path)}
	v, err := s.fd.ioctlArg("KVM_GET_API_VERSION", 0x00, 0)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("open %s: %w (%w): name the KVM device, usually /dev/kvm", path, ErrNotKVM, err)
	}
	if v != APIVersion {
		s.Close()
		return nil, fmt.Errorf("open %s: %w: API version %d, need %d: update the host kernel", path, ErrNotKVM, v, APIVersion)
	}
	if s.runSize, err = s.fd.ioctlArg("KVM_GET_VCPU_MMAP_SIZE", 0x04, 0); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close closes the device.
func (s *System) Close() error { return s.fd.close() }

// Check returns what KVM_CHECK_EXTENSION says of c: 0 when it is missing, else 1 or
// a number whose meaning is c's own (a limit, a set of flags).
func (s *System) Check(c Capability) (int, error) {
	return s.fd.ioctlArg("KVM_CHECK_EXTENSION", 0x03, uintptr(c))
}

// Has says whether the capability is there. An ioctl that fails counts as missing.
func (s *System) Has(c Capability) bool {
	n, err := s.Check(c)
	return err == nil && n > 0
}

// CreateVM makes a VM without memory, vCPUs or interrupt chips. The caller closes it.
func (s *System) CreateVM() (*VM, error) {
	n, err := s.fd.ioctlArg("KVM_CREATE_VM", 0x01, 0)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(n)
	return &VM{fd: newFD(n, "VM"), runSize: s.runSize}, nil
}

const maxCPUIDEntries = 256

// SupportedCPUID returns the CPUID leaves that this KVM can give to a guest.
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	return s.cpuid("KVM_GET_SUPPORTED_CPUID", 0x05)
}

// EmulatedCPUID returns the CPUID leaves that this KVM emulates.
func (s *System) EmulatedCPUID() ([]CPUIDEntry, error) {
	return s.cpuid("KVM_GET_EMULATED_CPUID", 0x09)
}

func (s *System) cpuid(name string, nr uintptr) ([]CPUIDEntry, error) {
	buf := cpuidBuffer(maxCPUIDEntries)
	binary.LittleEndian.PutUint32(buf, maxCPUIDEntries)
	if _, err := s.fd.ioctlBuffer(name, dirRead|dirWrite, nr, 8, buf); err != nil {
		return nil, err
	}
	return decodeCPUID(buf)
}

// MSRIndexList returns the MSRs that make up a vCPU's state.
func (s *System) MSRIndexList() ([]uint32, error) {
	return s.msrList("KVM_GET_MSR_INDEX_LIST", 0x02)
}

// MSRFeatureIndexList returns the feature MSRs that this KVM knows.
func (s *System) MSRFeatureIndexList() ([]uint32, error) {
	return s.msrList("KVM_GET_MSR_FEATURE_INDEX_LIST", 0x0A)
}

func (s *System) msrList(name string, nr uintptr) ([]uint32, error) {
	const most = 4096
	buf := make([]byte, 4+4*most)
	binary.LittleEndian.PutUint32(buf, most)
	if _, err := s.fd.ioctlBuffer(name, dirRead|dirWrite, nr, 4, buf); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(buf)
	if n > most {
		return nil, fmt.Errorf("%s: kernel names %d MSRs, at most %d expected", name, n, most)
	}
	list := make([]uint32, n)
	for i := range list {
		list[i] = binary.LittleEndian.Uint32(buf[4+4*i:])
	}
	return list, nil
}

// cpuidEntrySize is sizeof(struct kvm_cpuid_entry2).
const cpuidEntrySize = 40

func cpuidBuffer(n int) []byte { return make([]byte, 8+n*cpuidEntrySize) }

func decodeCPUID(buf []byte) ([]CPUIDEntry, error) {
	n := int(binary.LittleEndian.Uint32(buf))
	if n > (len(buf)-8)/cpuidEntrySize {
		return nil, fmt.Errorf("CPUID: kernel names %d entries, %d fit", n, (len(buf)-8)/cpuidEntrySize)
	}
	entries := make([]CPUIDEntry, n)
	for i := range entries {
		copy(bytesOf(&entries[i]), buf[8+i*cpuidEntrySize:])
	}
	return entries, nil
}

func encodeCPUID(entries []CPUIDEntry) []byte {
	buf := cpuidBuffer(len(entries))
	binary.LittleEndian.PutUint32(buf, uint32(len(entries)))
	for i := range entries {
		copy(buf[8+i*cpuidEntrySize:], bytesOf(&entries[i]))
	}
	return buf
}
