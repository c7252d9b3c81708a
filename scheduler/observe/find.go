package observe

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/scheduler/host"
)

// maxLook is how long a process may go without another look at its descriptors, if their number stays the same.
const maxLook = 30 * time.Second

// Watcher finds and reads items, and remembers what makes the next time cheap: what each process was, and open files of the threads that it
// reads. Any goroutine may use it. Close closes the files.
type Watcher struct {
	proc string // a directory like /proc
	mu   sync.Mutex

	known    map[int]*process   // by PID; protected by mu
	readings map[place]*reading // protected by mu
	kept     int                // files kept open; protected by mu
	opened   bool               // a file was opened by name since the last reading began; protected by mu
	buf      [16384]byte        // protected by mu
}

// NewWatcher watches this host.
func NewWatcher() *Watcher { return newWatcher("/proc") }

func newWatcher(proc string) *Watcher {
	return &Watcher{proc: proc, known: map[int]*process{}, readings: map[place]*reading{}}
}

var shared = NewWatcher()

// Find returns all KVM guests of this host that this user may see: the processes that hold vCPU descriptors. Threads that are named as QEMU,
// Firecracker, Cloud Hypervisor, crosvm, kvmtool and QENEX name those of vCPUs become one item each; a process without such names becomes one Whole item.
// They are sorted by PID and vCPU. It uses a Watcher that the program shares.
func Find() ([]Item, error) { return shared.Find() }

// process is what is known of one.
type process struct {
	fds    signature
	guest  bool          // it holds vCPUs
	looked time.Time     // when that was found out
	age    time.Duration // how old it was then
	birth  uint64

	// Of guests only.
	name   string
	names  map[int]string // of its threads
	pins   map[int][]int  // where its threads were confined when first seen
	pin    []int          // where its first thread was
	placed bool           // it was a Whole item, so that a scheduler may have moved threads not seen before
}

// signature tells whether the same process still has as many descriptors: the inode of a process's directory is made anew for another one.
type signature struct {
	inode uint64
	count int64 // descriptors, from Linux 6.2; before, always 0
	mtime unix.Timespec
	uid   uint32
}

// Find is as the function Find.
func (w *Watcher) Find() ([]Item, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pids, err := numbers(w.proc)
	if err != nil {
		return nil, fmt.Errorf("looking for guests: %w", err)
	}
	var self unix.Stat_t
	counted := unix.Stat(w.proc+"/self/fd", &self) == nil && self.Size > 0
	now := time.Now()
	known := make(map[int]*process, len(pids))
	var items []Item
	for _, pid := range pids {
		p := w.look(pid, now, counted)
		if p == nil {
			continue
		}
		known[pid] = p
		if p.guest {
			items = append(items, w.items(pid, p)...)
		}
	}
	w.known = known
	w.forget()
	return items, nil
}

// look returns what a process is, from memory if nothing hints at a change; nil if it is gone.
func (w *Watcher) look(pid int, now time.Time, counted bool) *process {
	dir := w.proc + "/" + strconv.Itoa(pid)
	var st unix.Stat_t
	if unix.Stat(dir+"/fd", &st) != nil {
		return nil
	}
	fds := signature{st.Ino, st.Size, st.Mtim, st.Uid}
	p := w.known[pid]
	if p != nil && p.fds == fds && (counted && fds.count == 0 || now.Sub(p.looked) < min(p.age/2, maxLook)) {
		return p
	}
	birth, age, err := w.birth(pid)
	if err != nil {
		return nil
	}
	if p == nil || p.birth != birth {
		p = &process{birth: birth, names: map[int]string{}, pins: map[int][]int{}}
	}
	p.fds, p.looked, p.age = fds, now, age
	p.guest = holdsVCPU(dir + "/fd")
	if p.guest {
		if p.name == "" {
			p.name = fmt.Sprintf("%s[%d]", programName(dir), pid)
			p.pin = confined(pid)
		}
		clear(p.names) // threads name themselves after they have started
	}
	return p
}

// birth returns when a process started, in ticks since boot, and how long ago that was.
func (w *Watcher) birth(pid int) (uint64, time.Duration, error) {
	b, err := os.ReadFile(w.proc + "/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	s, err := parseStat(b)
	if err != nil {
		return 0, 0, err
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return 0, 0, err
	}
	return s.birth, max(0, time.Duration(up.Nano())-time.Duration(min(s.birth, math.MaxInt64/uint64(tick)))*tick), nil
}

// holdsVCPU tells whether a process has a vCPU among its descriptors. Those of others cannot be seen.
func holdsVCPU(dir string) bool {
	fds, err := numbers(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(dir + "/" + strconv.Itoa(fd)); err == nil && strings.HasPrefix(to, "anon_inode:kvm-vcpu") {
			return true
		}
	}
	return false
}

// items makes the items of a guest.
func (w *Watcher) items(pid int, p *process) []Item {
	dir := w.proc + "/" + strconv.Itoa(pid) + "/task"
	tids, err := numbers(dir)
	if err != nil || len(tids) == 0 {
		return nil
	}
	whole := Item{Name: p.name, PID: pid, Birth: p.birth, TIDs: tids, Whole: true, VM: strconv.Itoa(pid),
		Tenant: strconv.FormatUint(uint64(p.fds.uid), 10), Pin: p.pin}
	items := map[int][]Item{} // by number of vCPU: two VMs in one process have each number twice
	vcpus := 0
	for tid := range p.names {
		if _, ok := slices.BinarySearch(tids, tid); !ok {
			delete(p.names, tid)
			delete(p.pins, tid)
		}
	}
	for _, tid := range tids {
		name, ok := p.names[tid]
		if !ok {
			b, _ := os.ReadFile(dir + "/" + strconv.Itoa(tid) + "/comm")
			name = strings.TrimSuffix(string(b), "\n")
			p.names[tid] = name
		}
		n, ok := vcpuNumber(name)
		if !ok {
			continue
		}
		if _, ok := p.pins[tid]; !ok {
			p.pins[tid] = p.pin
			if !p.placed {
				p.pins[tid] = confined(tid)
			}
		}
		it := whole
		it.TIDs, it.Whole, it.Pin = []int{tid}, false, p.pins[tid]
		it.Name = fmt.Sprintf("%s/vcpu%d", p.name, n)
		if len(items[n]) > 0 {
			it.Name += "." + strconv.Itoa(tid)
		}
		items[n] = append(items[n], it)
		vcpus++
	}
	if vcpus == 0 {
		p.placed = true
		return []Item{whole}
	}
	var all []Item
	for _, its := range items {
		all = append(all, its...)
	}
	for i := range all {
		if vcpus > 1 {
			all[i].Gang = pid
		}
	}
	number := func(it Item) int { n, _ := vcpuNumber(p.names[it.TIDs[0]]); return n }
	slices.SortFunc(all, func(a, b Item) int {
		if d := number(a) - number(b); d != 0 {
			return d
		}
		return a.TIDs[0] - b.TIDs[0]
	})
	return all
}

// confined returns the CPUs that a thread may use, nil if those are all that are online, or not known.
func confined(tid int) []int {
	var set unix.CPUSet
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil || unix.SchedGetaffinity(tid, &set) != nil {
		return nil
	}
	online, err := host.ParseList(string(b))
	if err != nil {
		return nil
	}
	may := slices.Clone(online)
	may = slices.DeleteFunc(may, func(id int) bool { return !set.IsSet(id) })
	if len(may) == len(online) || len(may) == 0 {
		return nil
	}
	return may
}

// numbers returns the entries of a directory that are numbers, sorted.
func numbers(dir string) ([]int, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	ns := make([]int, 0, len(names))
	for _, name := range names {
		if n, err := strconv.ParseUint(name, 10, 31); err == nil {
			ns = append(ns, int(n))
		}
	}
	slices.Sort(ns)
	return ns, nil
}
