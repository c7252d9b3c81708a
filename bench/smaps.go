package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// resident is what a process holds in memory, in bytes.
type resident struct {
	total uint64 // all mappings
	own   uint64 // all but guest RAM: what the monitor itself costs
}

// residentOf reads /proc/PID/smaps of a monitor whose guest has ram bytes.
func residentOf(pid int, ram uint64) (resident, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return resident{}, err
	}
	defer f.Close()
	return parseSmaps(f, ram)
}

// parseSmaps adds up the Rss fields (proc_pid_smaps(5)). Guest RAM is every mapping of a memfd, and every
// writable mapping of at least ram bytes.
func parseSmaps(r io.Reader, ram uint64) (resident, error) {
	var sum resident
	guest, started := false, false
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) == 0 {
			continue
		}
		if from, to, ok := addresses(fields[0]); ok && len(fields) >= 5 {
			memfd := len(fields) > 5 && strings.HasPrefix(fields[5], "/memfd:")
			guest = memfd || strings.HasPrefix(fields[1], "rw") && to-from >= ram
			started = true
			continue
		}
		if fields[0] != "Rss:" || !started {
			continue
		}
		if len(fields) != 3 || fields[2] != "kB" {
			return resident{}, fmt.Errorf("smaps: %q is no size in kB", s.Text())
		}
		kb, err := strconv.ParseUint(fields[1], 10, 50)
		if err != nil {
			return resident{}, fmt.Errorf("smaps: %w", err)
		}
		sum.total += kb << 10
		if !guest {
			sum.own += kb << 10
		}
	}
	return sum, s.Err()
}

// addresses reads "from-to" in hexadecimal.
func addresses(text string) (from, to uint64, ok bool) {
	a, b, ok := strings.Cut(text, "-")
	if !ok {
		return 0, 0, false
	}
	from, err1 := strconv.ParseUint(a, 16, 64)
	to, err2 := strconv.ParseUint(b, 16, 64)
	return from, to, err1 == nil && err2 == nil && from < to
}
