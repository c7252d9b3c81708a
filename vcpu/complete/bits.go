package complete

import "math/bits"

// bitOps count bits, byte-swap and add with one flag.
var bitOps = map[opcode]entry{
	map0F | 0xb8:   {name: "popcnt", run: popcnt, modrm: true},
	map0F | 0xbc:   {name: "tzcnt", run: tzcnt, modrm: true},
	map0F | 0xbd:   {name: "lzcnt", run: lzcnt, modrm: true},
	map0F38 | 0xf0: {name: "movbe", run: movbeOrCRC32, modrm: true},
	map0F38 | 0xf1: {name: "movbe", run: movbeOrCRC32, modrm: true},
	map0F38 | 0xf6: {name: "adcx", run: addCarry, modrm: true},
}

func popcnt(x *exec) error {
	if x.rep != 0xf3 {
		return x.unserved()
	}
	size := x.opBytes()
	v, err := x.rmUint(size)
	if err != nil {
		return err
	}
	x.setGPR(x.reg, size, uint64(bits.OnesCount64(v)))
	x.setFlags(arithFlags, flagIf(v == 0, FlagZF))
	return nil
}

// tzcnt serves F3 0F BC only; without F3 it is BSF.
func tzcnt(x *exec) error {
	return x.countZeros(func(v uint64, size int) int {
		return min(bits.TrailingZeros64(v), 8*size)
	})
}

// lzcnt serves F3 0F BD only; without F3 it is BSR.
func lzcnt(x *exec) error {
	return x.countZeros(func(v uint64, size int) int {
		return bits.LeadingZeros64(v) - (64 - 8*size)
	})
}

func (x *exec) countZeros(count func(v uint64, size int) int) error {
	if x.rep != 0xf3 {
		return x.unserved()
	}
	size := x.opBytes()
	v, err := x.rmUint(size)
	if err != nil {
		return err
	}
	n := count(v, size)
	x.setGPR(x.reg, size, uint64(n))
	x.setFlags(FlagCF|FlagZF, flagIf(v == 0, FlagCF)|flagIf(n == 0, FlagZF))
	return nil
}

// movbeOrCRC32 is 0F 38 F0 and F1: CRC32 with F2, else MOVBE.
func movbeOrCRC32(x *exec) error {
	if x.rep == 0xf2 {
		return crc32c(x)
	}
	if x.rep != 0 || !x.isMem {
		return x.unserved()
	}
	size := x.opBytes()
	if x.opcode == map0F38|0xf1 {
		return x.storeUint(size, swapBytes(x.gpr(x.reg, size), size))
	}
	v, err := x.loadUint(size)
	if err != nil {
		return err
	}
	x.setGPR(x.reg, size, swapBytes(v, size))
	return nil
}

func swapBytes(v uint64, size int) uint64 {
	return bits.ReverseBytes64(v) >> (64 - 8*size)
}

// crc32c accumulates CRC-32C (polynomial 11EDC6F41, bit-reflected) over a source
// of 1, 2, 4 or 8 bytes in a 32-bit value.
func crc32c(x *exec) error {
	x.name = "crc32"
	size := 1
	if x.opcode == map0F38|0xf1 {
		size = x.opBytes()
	}
	v, err := x.rmUint(size)
	if err != nil {
		return err
	}
	const reversed = 0x82f63b78
	crc := uint32(x.cpu.GPR[x.reg])
	for ; size > 0; size-- {
		crc ^= uint32(v & 0xff)
		v >>= 8
		for range 8 {
			crc = crc>>1 ^ reversed&-(crc&1)
		}
	}
	x.cpu.GPR[x.reg] = uint64(crc)
	return nil
}

// addCarry is ADCX, which adds with CF and changes CF only, and ADOX, the same
// with OF.
func addCarry(x *exec) error {
	flag := FlagCF
	switch x.mandatory() {
	case 0x66:
	case 0xf3:
		x.name, flag = "adox", FlagOF
	default:
		return x.unserved()
	}
	size := 4
	if x.rex&rexW != 0 {
		size = 8
	}
	v, err := x.rmUint(size)
	if err != nil {
		return err
	}
	var carry uint64
	if x.cpu.RFLAGS&flag != 0 {
		carry = 1
	}
	sum, out := bits.Add64(x.gpr(x.reg, size), v, carry)
	if size == 4 {
		out = sum >> 32
	}
	x.setGPR(x.reg, size, sum)
	x.setFlags(flag, flagIf(out != 0, flag))
	return nil
}
