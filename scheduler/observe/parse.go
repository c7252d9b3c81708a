package observe

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 wherever KVM is.
const tick = 10 * time.Millisecond

// stat is what is of use in /proc/PID/stat.
type stat struct {
	state byte
	ticks uint64 // run, in user space and kernel
	birth uint64 // ticks since boot
	cpu   int    // it is on, or was last on
}

// parseStat reads fields 3, 14, 15, 22 and 39; field 2, a name in brackets, may hold anything.
func parseStat(b []byte) (s stat, err error) {
	rest := b[bytes.LastIndexByte(b, ')')+1:]
	var f []byte
	for n := 3; n <= 39; n++ {
		f, rest = field(rest)
		switch n {
		case 3:
			if len(f) != 1 {
				return stat{}, fmt.Errorf("status %.100q is cut off", b)
			}
			s.state = f[0]
		case 14, 15, 22, 39:
			v, err := strconv.ParseUint(string(f), 10, 62)
			if err != nil {
				return stat{}, fmt.Errorf("field %d of status %.100q is %.20q, must be a number", n, b, f)
			}
			switch n {
			case 14, 15:
				s.ticks = min(s.ticks+v, math.MaxInt64/uint64(tick))
			case 22:
				s.birth = v
			case 39:
				s.cpu = int(min(v, math.MaxInt32))
			}
		}
	}
	return s, nil
}

// parseSchedstat reads "RUN WAIT SLICES", the first two in nanoseconds.
func parseSchedstat(b []byte) (run, wait time.Duration, slices uint64, err error) {
	var v [3]uint64
	rest := b
	for i := range v {
		var f []byte
		f, rest = field(rest)
		if v[i], err = strconv.ParseUint(string(f), 10, 63); err != nil {
			return 0, 0, 0, fmt.Errorf("%.60q is not three numbers", b)
		}
	}
	return time.Duration(v[0]), time.Duration(v[1]), v[2], nil
}

// parseStatus reads the last two lines of /proc/PID/status.
func parseStatus(b []byte) (voluntary, involuntary uint64, err error) {
	if voluntary, err = line(b, "\nvoluntary_ctxt_switches:"); err != nil {
		return 0, 0, err
	}
	involuntary, err = line(b, "\nnonvoluntary_ctxt_switches:")
	return voluntary, involuntary, err
}

func line(b []byte, name string) (uint64, error) {
	at := bytes.LastIndex(b, []byte(name))
	if at < 0 {
		return 0, fmt.Errorf("no line %q", name[1:])
	}
	f, _ := field(b[at+len(name):])
	n, err := strconv.ParseUint(string(f), 10, 64)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("line %q", name[1:]), err)
	}
	return n, nil
}

// field cuts the first word off.
func field(b []byte) (word, rest []byte) {
	b = bytes.TrimLeft(b, " \t\n")
	if i := bytes.IndexAny(b, " \t\n"); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}
