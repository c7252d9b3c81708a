package pci

// The capability through which the window is accessed from configuration space (virtio 1.2, 4.1.4.9), with offsets from its
// begin: the driver chooses window, offset and length, and then reads or writes the data.
const (
	accessBAR  = 4
	accessOff  = 8
	accessLen  = 12
	accessData = 16
)

// chosen returns what the driver chose; ok is false if it is nothing.
func (t *Transport) chosen(p []byte) (off uint64, n uint32, ok bool) {
	off, n = uint64(t.fn.Word(t.access, accessOff)), t.fn.Word(t.access, accessLen)
	bar := byte(t.fn.Word(t.access, accessBAR))
	ok = bar == 0 && (n == 1 || n == 2 || n == 4) && off%uint64(n) == 0 && off < WindowSize && uint64(n) <= WindowSize-off && uint32(len(p)) >= n
	return off, n, ok
}

func (t *Transport) readAccess(at uint64, p []byte) {
	if at != accessData {
		return
	}
	if off, n, ok := t.chosen(p); ok {
		t.Read(off, p[:n])
	}
}

func (t *Transport) writeAccess(at uint64, p []byte) {
	if at != accessData {
		return
	}
	if off, n, ok := t.chosen(p); ok {
		t.Write(off, p[:n])
	}
}
