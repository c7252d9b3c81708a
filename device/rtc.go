package device

import (
	"fmt"
	"sync"
	"time"
)

// The RTC's ports and its ISA interrupt.
const (
	RTCBase = 0x70
	RTCIRQ  = 8
)

// CMOS addresses (Motorola MC146818A data sheet; the PC's use of the RAM behind
// it as in Ralf Brown's CMOS list).
const (
	cmosSec     = 0x00
	cmosMin     = 0x02
	cmosHour    = 0x04
	cmosWeekday = 0x06 // 1 is Sunday
	cmosDay     = 0x07
	cmosMonth   = 0x08
	cmosYear    = 0x09 // of the century
	cmosA       = 0x0a
	cmosB       = 0x0b
	cmosC       = 0x0c
	cmosD       = 0x0d

	cmosBase640   = 0x15 // memory below 640 KiB, in KiB
	cmosExt       = 0x17 // memory above 1 MiB, in KiB, up to 64 MiB
	cmosSumFirst  = 0x10 // the checksum covers these
	cmosSumLast   = 0x2d
	cmosSum       = 0x2e // high byte first
	cmosExt2      = 0x30 // the same as cmosExt
	cmosCentury   = 0x32
	cmosAbove16M  = 0x34 // memory between 16 MiB and 4 GiB, in 64 KiB
	cmosAbove4G   = 0x5b // memory above 4 GiB, in 64 KiB, three bytes
	cmosIndexMask = 0x7f // bit 7 of the index port masks the NMI

	rtcAInit = 0x26 // 32768 Hz time base, 1024 Hz periodic rate
	rtcAUIP  = 0x80
	rtcB24h  = 0x02
	rtcBDM   = 0x04 // binary, not BCD
	rtcBSet  = 0x80 // time stands still and may be written
	rtcDVRT  = 0x80 // the battery is good
	rtcPM    = 0x80 // of the hour, in 12-hour mode
)

// rtcUIP is how long before each second UIP announces the update: a guest that reads
// UIP clear has at least this long to read the time. Polling it costs no more either.
const rtcUIP = 244 * time.Microsecond

// rtcFields is a broken-down time as the clock's registers hold it.
type rtcFields struct {
	Sec, Min, Hour, Weekday, Day, Month, Year, Century int
}

// RTC is an MC146818A clock in UTC with its 128 bytes of CMOS RAM. Setting the time
// changes the guest's offset from the host's clock, never the host's. It has no
// interrupt: alarm and rate registers keep what is written and nothing comes of it,
// register C reads 0. The weekday follows from the date; writing it has no effect.
type RTC struct {
	clock func() time.Time

	mu     sync.Mutex // guards all below
	index  byte
	ram    [128]byte // the time's addresses in it are not used
	offset int64     // seconds the guest's clock is ahead of clock
	frozen rtcFields // while register B has SET
}

// NewRTC returns a clock that follows clock, time.Now if nil. lowMem and highMem are
// the bytes of guest RAM below and above 4 GiB, for the memory size fields in CMOS.
func NewRTC(clock func() time.Time, lowMem, highMem uint64) *RTC {
	if clock == nil {
		clock = time.Now
	}
	r := &RTC{clock: clock}
	r.ram[cmosA] = rtcAInit
	r.ram[cmosB] = rtcB24h

	const kib, mib = 1 << 10, 1 << 20
	above := func(mem, base, unit, limit uint64) uint64 {
		if mem < base {
			return 0
		}
		return min((mem-base)/unit, limit)
	}
	put := func(at int, v uint64, n int) {
		for i := range n {
			r.ram[at+i] = byte(v >> (8 * i))
		}
	}
	put(cmosBase640, above(min(lowMem, 640*kib), 0, kib, 640), 2)
	put(cmosExt, above(lowMem, mib, kib, 0xffff), 2)
	put(cmosExt2, above(lowMem, mib, kib, 0xffff), 2)
	put(cmosAbove16M, above(lowMem, 16*mib, 64*kib, 0xffff), 2)
	put(cmosAbove4G, above(highMem, 0, 64*kib, 0xffffff), 3)
	var sum uint16
	for _, v := range r.ram[cmosSumFirst : cmosSumLast+1] {
		sum += uint16(v)
	}
	r.ram[cmosSum], r.ram[cmosSum+1] = byte(sum>>8), byte(sum)
	return r
}

// Registrations returns the clock's two ports. irq is RTCIRQ for the record, or -1.
func (r *RTC) Registrations(irq int) []Registration {
	return []Registration{{Name: "rtc", Base: RTCBase, Size: 2, IRQ: irq, Handler: Bytes{In: r.in, Out: r.out}}}
}

func (r *RTC) in(off uint64) byte {
	if off == 0 {
		return 0xff // the index port is write-only
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.index {
	case cmosA:
		v := r.ram[cmosA] &^ rtcAUIP
		if r.ram[cmosB]&rtcBSet == 0 && r.now().Nanosecond() >= int(time.Second-rtcUIP) {
			v |= rtcAUIP
		}
		return v
	case cmosC:
		return 0
	case cmosD:
		return rtcDVRT
	}
	if f := r.fields(); f.at(r.index) != nil {
		return r.encode(r.index, *f.at(r.index))
	}
	return r.ram[r.index]
}

func (r *RTC) out(off uint64, v byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if off == 0 {
		r.index = v & cmosIndexMask
		return
	}
	switch r.index {
	case cmosA:
		r.ram[cmosA] = v &^ rtcAUIP
		return
	case cmosB:
		f, was := r.fields(), r.ram[cmosB]
		r.ram[cmosB] = v
		if v&rtcBSet != 0 {
			r.frozen = f
		} else if was&rtcBSet != 0 {
			r.set(f)
		}
		return
	case cmosC, cmosD:
		return
	}
	f := r.fields()
	if f.at(r.index) == nil {
		r.ram[r.index] = v
		return
	}
	*f.at(r.index) = r.decode(r.index, v)
	if r.ram[cmosB]&rtcBSet != 0 {
		r.frozen = f
	} else {
		r.set(f)
	}
}

// now is the guest's time.
func (r *RTC) now() time.Time {
	t := r.clock()
	return time.Unix(t.Unix()+r.offset, int64(t.Nanosecond())).UTC()
}

// fields is what the time registers show.
func (r *RTC) fields() rtcFields {
	if r.ram[cmosB]&rtcBSet != 0 {
		return r.frozen
	}
	t := r.now()
	return rtcFields{
		Sec: t.Second(), Min: t.Minute(), Hour: t.Hour(), Weekday: int(t.Weekday()) + 1,
		Day: t.Day(), Month: int(t.Month()), Year: t.Year() % 100, Century: t.Year() / 100 % 100,
	}
}

// set makes f the guest's time. Values out of range carry over as in time.Date.
func (r *RTC) set(f rtcFields) {
	t := time.Date(f.Century*100+f.Year, time.Month(f.Month), f.Day, f.Hour, f.Min, f.Sec, 0, time.UTC)
	r.offset = t.Unix() - r.clock().Unix()
}

// at returns the field behind a CMOS address, nil if there is none.
func (f *rtcFields) at(addr byte) *int {
	switch addr {
	case cmosSec:
		return &f.Sec
	case cmosMin:
		return &f.Min
	case cmosHour:
		return &f.Hour
	case cmosWeekday:
		return &f.Weekday
	case cmosDay:
		return &f.Day
	case cmosMonth:
		return &f.Month
	case cmosYear:
		return &f.Year
	case cmosCentury:
		return &f.Century
	}
	return nil
}

// encode gives the register value of a field in the format that register B selects.
func (r *RTC) encode(addr byte, v int) byte {
	var pm byte
	if addr == cmosHour && r.ram[cmosB]&rtcB24h == 0 {
		if v >= 12 {
			pm = rtcPM
		}
		if v %= 12; v == 0 {
			v = 12
		}
	}
	if r.ram[cmosB]&rtcBDM == 0 {
		v = v/10<<4 | v%10
	}
	return byte(v) | pm
}

// decode is the reverse of encode; bytes that mean nothing give some small number.
func (r *RTC) decode(addr, v byte) int {
	half := addr == cmosHour && r.ram[cmosB]&rtcB24h == 0
	pm := half && v&rtcPM != 0
	if pm {
		v &^= rtcPM
	}
	n := int(v)
	if r.ram[cmosB]&rtcBDM == 0 {
		n = int(v>>4)*10 + int(v&0x0f)
	}
	if half {
		n %= 12
	}
	if pm {
		n += 12
	}
	return n
}

// RTCState is an RTC's state in a snapshot. The time is kept as an offset from the
// host's clock, so a restored guest reads the time it is, not the time it was.
type RTCState struct {
	Index  byte
	RAM    []byte // 128 bytes
	Offset int64  // seconds
	Frozen [8]int // second, minute, hour, weekday, day, month, year, century while register B has SET
}

// Save returns the present state.
func (r *RTC) Save() RTCState {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.frozen
	return RTCState{
		Index: r.index, RAM: append([]byte(nil), r.ram[:]...), Offset: r.offset,
		Frozen: [8]int{f.Sec, f.Min, f.Hour, f.Weekday, f.Day, f.Month, f.Year, f.Century},
	}
}

// Load replaces the state. On an error (ErrState) nothing has changed.
func (r *RTC) Load(st RTCState) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(st.RAM) != len(r.ram) {
		return fmt.Errorf("device: rtc: %w: CMOS has %d bytes, not %d", ErrState, len(st.RAM), len(r.ram))
	}
	for _, v := range st.Frozen {
		if v < 0 || v > 0xff {
			return fmt.Errorf("device: rtc: %w: %d in a time register", ErrState, v)
		}
	}
	r.index, r.offset = st.Index&cmosIndexMask, st.Offset
	copy(r.ram[:], st.RAM)
	r.ram[cmosA] &^= rtcAUIP
	f := st.Frozen
	r.frozen = rtcFields{f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]}
	return nil
}
