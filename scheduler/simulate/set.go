package simulate

import "math/bits"

// MaxCPUs is how many CPUs a simulated host may have.
const MaxCPUs = 256

// set is a set of CPUs, by index.
type set [MaxCPUs / 64]uint64

func (s *set) add(i int32)      { s[i>>6] |= 1 << (i & 63) }
func (s *set) remove(i int32)   { s[i>>6] &^= 1 << (i & 63) }
func (s *set) has(i int32) bool { return s[i>>6]>>(i&63)&1 != 0 }
func (s *set) empty() bool      { return s[0]|s[1]|s[2]|s[3] == 0 }

func (s set) and(t set) set {
	for i := range s {
		s[i] &= t[i]
	}
	return s
}

func (s set) without(t set) set {
	for i := range s {
		s[i] &^= t[i]
	}
	return s
}

// each calls f with the members in order, until it says false.
func (s set) each(f func(i int32) bool) {
	for w, word := range s {
		for ; word != 0; word &= word - 1 {
			if !f(int32(w<<6 + bits.TrailingZeros64(word))) {
				return
			}
		}
	}
}

// first returns the least member, or -1.
func (s set) first() int32 {
	for w, word := range s {
		if word != 0 {
			return int32(w<<6 + bits.TrailingZeros64(word))
		}
	}
	return -1
}
