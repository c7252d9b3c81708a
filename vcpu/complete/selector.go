package complete

import "encoding/binary"

// descriptor is a segment descriptor of a GDT or LDT (SDM vol. 3A, 3.4.5).
type descriptor uint64

func (d descriptor) typ() uint8     { return uint8(d >> 40 & 15) }
func (d descriptor) isSystem() bool { return d>>44&1 == 0 }
func (d descriptor) dpl() uint8     { return uint8(d >> 45 & 3) }

func (d descriptor) isCode() bool       { return !d.isSystem() && d.typ()&8 != 0 }
func (d descriptor) isConforming() bool { return d.isCode() && d.typ()&4 != 0 }

// readable and writable are about code and data segments.
func (d descriptor) readable() bool { return !d.isCode() || d.typ()&2 != 0 }
func (d descriptor) writable() bool { return !d.isCode() && d.typ()&2 != 0 }

// limit is the limit in bytes.
func (d descriptor) limit() uint32 {
	l := uint32(d&0xffff) | uint32(d>>32&0xf0000)
	if d>>55&1 != 0 {
		l = l<<12 | 0xfff
	}
	return l
}

// selected reads the selector operand and its descriptor. ok is false if the
// selector is null, beyond its table, or may not be seen at this CPL.
func (x *exec) selected() (d descriptor, ok bool, err error) {
	if !x.cpu.protected() {
		return 0, false, exUD
	}
	sel, err := x.rmUint(2)
	if err != nil || sel&^3 == 0 {
		return 0, false, err
	}
	t := x.cpu.GDT
	if sel&4 != 0 {
		t = x.cpu.LDT
	}
	offset := uint32(sel &^ 7)
	if offset+7 > t.Limit {
		return 0, false, nil
	}
	var b [8]byte
	if err := x.readSystem(t.Base+uint64(offset), b[:]); err != nil {
		return 0, false, err
	}
	d = descriptor(binary.LittleEndian.Uint64(b[:]))
	visible := d.isConforming() || max(x.cpu.CPL, uint8(sel&3)) <= d.dpl()
	return d, visible, nil
}

// verify is VERR and VERW: ZF says whether the segment may be read or written.
// That VERW also clears buffers on some processors shows nowhere.
func verify(x *exec, write bool) error {
	x.name = "verr"
	if write {
		x.name = "verw"
	}
	d, ok, err := x.selected()
	if err != nil {
		return err
	}
	ok = ok && !d.isSystem() && (!write && d.readable() || write && d.writable())
	x.setFlags(FlagZF, flagIf(ok, FlagZF))
	return nil
}

// lar loads access rights. Of system descriptors it accepts those with rights of
// their own kind; in IA-32e mode the 16-bit ones do not exist.
func lar(x *exec) error {
	const types, types64 = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<9 | 1<<11 | 1<<12, 1<<2 | 1<<9 | 1<<11 | 1<<12
	return x.describe(types, types64, func(d descriptor) uint64 { return uint64(d>>32) & 0x00ff_ff00 })
}

// lsl loads the limit, of system descriptors that have one.
func lsl(x *exec) error {
	const types, types64 = 1<<1 | 1<<2 | 1<<3 | 1<<9 | 1<<11, 1<<2 | 1<<9 | 1<<11
	return x.describe(types, types64, func(d descriptor) uint64 { return uint64(d.limit()) })
}

// describe is the frame of LAR and LSL: ZF says whether the register was loaded.
func (x *exec) describe(types, types64 uint32, value func(descriptor) uint64) error {
	d, ok, err := x.selected()
	if err != nil {
		return err
	}
	if x.cpu.EFER&eferLMA != 0 {
		types = types64
	}
	if d.isSystem() && types>>d.typ()&1 == 0 {
		ok = false
	}
	x.setFlags(FlagZF, flagIf(ok, FlagZF))
	if ok {
		x.setGPR(x.reg, x.opBytes(), value(d))
	}
	return nil
}
