package vnethdr

import (
	"strings"
	"testing"
)

func TestParsePut(t *testing.T) {
	in := [Size]byte{1, 4, 2, 1, 4, 3, 6, 5, 8, 7, 1, 0}
	h := Parse(&in)
	if want := (Header{Flags: 1, GSO: 4, HdrLen: 0x102, GSOSize: 0x304, CsumStart: 0x506, CsumOffset: 0x708}); h != want {
		t.Fatalf("%+v, want %+v", h, want)
	}
	var out [Size]byte
	if h.Put(&out); out != in {
		t.Fatalf("% x, want % x", out, in)
	}
}

func TestCheck(t *testing.T) {
	const all = Csum | TSO4 | TSO6
	for _, c := range []struct {
		name  string
		in    Header
		frame int
		may   Offloads
		out   Header
		err   string
	}{
		{"nothing to do", Header{}, 60, 0, Header{}, ""},
		{"fields without their flags", Header{Flags: 0xfe, HdrLen: 9, GSOSize: 9, CsumStart: 9, CsumOffset: 9}, 60, 0, Header{}, ""},
		{"checksum", Header{Flags: NeedsCsum, CsumStart: 34, CsumOffset: 16}, 54, all, Header{Flags: NeedsCsum, CsumStart: 34, CsumOffset: 16}, ""},
		{"checksum at the end", Header{Flags: NeedsCsum, CsumStart: 34, CsumOffset: 16}, 52, all, Header{Flags: NeedsCsum, CsumStart: 34, CsumOffset: 16}, ""},
		{"checksum beyond the end", Header{Flags: NeedsCsum, CsumStart: 34, CsumOffset: 16}, 51, all, Header{}, "byte 52 of a frame of 51"},
		{"checksum far away", Header{Flags: NeedsCsum, CsumStart: 0xffff, CsumOffset: 0xffff}, 65549, all, Header{}, "byte 131072"},
		{"checksum not negotiated", Header{Flags: NeedsCsum, CsumStart: 34, CsumOffset: 16}, 60, TSO4, Header{}, "not negotiated"},
		{"segments", Header{Flags: NeedsCsum, GSO: GSOTCPv4, HdrLen: 54, GSOSize: 1460, CsumStart: 34, CsumOffset: 16}, 4000, all,
			Header{Flags: NeedsCsum, GSO: GSOTCPv4, HdrLen: 54, GSOSize: 1460, CsumStart: 34, CsumOffset: 16}, ""},
		{"a hint beyond the end", Header{Flags: NeedsCsum, GSO: GSOTCPv6, HdrLen: 5000, GSOSize: 1460}, 4000, all,
			Header{Flags: NeedsCsum, GSO: GSOTCPv6, HdrLen: 4000, GSOSize: 1460}, ""},
		{"segments of nothing", Header{Flags: NeedsCsum, GSO: GSOTCPv4}, 4000, all, Header{}, "0 bytes"},
		{"segments with a checksum", Header{GSO: GSOTCPv4, GSOSize: 1}, 4000, all, Header{}, "of its own"},
		{"TSO4 not negotiated", Header{Flags: NeedsCsum, GSO: GSOTCPv4, GSOSize: 1460}, 4000, Csum | TSO6, Header{}, "0x1"},
		{"TSO6 not negotiated", Header{Flags: NeedsCsum, GSO: GSOTCPv6, GSOSize: 1460}, 4000, Csum | TSO4, Header{}, "0x4"},
		{"UFO", Header{Flags: NeedsCsum, GSO: 3, GSOSize: 1460}, 4000, all, Header{}, "0x3"},
		{"ECN", Header{Flags: NeedsCsum, GSO: GSOTCPv4 | 0x80, GSOSize: 1460}, 4000, all, Header{}, "0x81"},
	} {
		h := c.in
		err := h.Check(c.frame, c.may)
		if c.err == "" && (err != nil || h != c.out) {
			t.Errorf("%s: %+v, %v; want %+v", c.name, h, err, c.out)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.err)
		}
	}
}

// FuzzCheck: what Check lets through stays within the frame.
func FuzzCheck(f *testing.F) {
	f.Add([]byte{1, 1, 54, 0, 180, 5, 34, 0, 16, 0, 1, 0}, 1500, uint8(7))
	f.Fuzz(func(t *testing.T, b []byte, frame int, may uint8) {
		if len(b) < Size {
			return
		}
		h := Parse((*[Size]byte)(b))
		if h.Check(frame, Offloads(may)) != nil {
			return
		}
		if h.Flags != 0 && int(h.CsumStart)+int(h.CsumOffset)+2 > frame || h.GSO != 0 && (h.GSOSize == 0 || int(h.HdrLen) > max(frame, 0)) {
			t.Fatalf("%+v let through for a frame of %d bytes", h, frame)
		}
	})
}
