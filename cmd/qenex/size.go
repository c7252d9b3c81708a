package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// size is a number of bytes, written with an optional K, M, G or T (powers of 1024); a plain number
// counts MiB, as in other virtual machine monitors.
type size uint64

// UnmarshalText reads a size.
func (s *size) UnmarshalText(text []byte) error {
	str := strings.TrimSuffix(strings.ToUpper(string(text)), "B")
	shift := 20
	if n := len(str); n > 0 {
		if i := strings.IndexByte("KMGT", str[n-1]); i >= 0 {
			shift = 10 * (i + 1)
			str = str[:n-1]
		}
	}
	n, err := strconv.ParseUint(str, 10, 64)
	if err != nil || n > math.MaxUint64>>shift {
		return fmt.Errorf("size %q: write a number with K, M, G or T, as in 512M", text)
	}
	*s = size(n << shift)
	return nil
}
