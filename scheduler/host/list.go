package host

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxID is more than any kernel's CPUs, and keeps "0-4000000000" from filling the memory.
const maxID = 1<<16 - 1

// ParseList reads a list of CPUs as the kernel writes it, "0-3,8", into sorted IDs, each once. An empty text is an empty list.
func ParseList(s string) ([]int, error) {
	ids := []int{}
	s = strings.TrimSpace(s)
	if s == "" {
		return ids, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, err := parseID(from)
		if err != nil {
			return nil, err
		}
		b, err := parseID(to)
		if err != nil {
			return nil, err
		}
		if a > b {
			return nil, fmt.Errorf("CPU range %q runs backwards", part)
		}
		if len(ids) > 4*maxID {
			return nil, fmt.Errorf("CPU list names CPUs again and again: %.60q", s)
		}
		for id := a; id <= b; id++ {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a CPU number from 0 to %d (a CPU list looks like 0-3,8)", s, maxID)
	}
	return int(n), nil
}
