package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/qenex/qenex-kernel/scheduler/host"
	"golang.org/x/sys/unix"
)

// cgroups is the hierarchy of cgroups that shares out the CPUs. Its zero value has none.
type cgroups struct {
	Mount string `json:"mount"` // "": there is none
	V2    bool   `json:"v2"`
	Sets  string `json:"sets"` // where cpusets are, "" if unknown
	Sets2 bool   `json:"sets2"`
	proc  string // "/proc" but for tests
	files files
}

// files is what cgroups need of a file system, so that tests can stand in for a kernel.
type files interface {
	ReadFile(name string) ([]byte, error)
	WriteFile(name, text string) error
	Mkdir(name string) error
	Remove(name string) error
}

type osFiles struct{}

func (osFiles) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }
func (osFiles) Mkdir(name string) error              { return os.Mkdir(name, 0o755) }
func (osFiles) Remove(name string) error             { return unix.Rmdir(name) }
func (osFiles) WriteFile(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// findCgroups looks for the hierarchies below root, at the places where systemd, elogind and Docker mount them.
func findCgroups(root string, f files) cgroups {
	c := cgroups{proc: "/proc", files: f}
	for _, name := range []string{"", "unified"} {
		dir := filepath.Join(root, name)
		b, err := f.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			continue
		}
		if have := strings.Fields(string(b)); has(have, "cpu") {
			c.Mount, c.V2 = dir, true
		}
		if has(strings.Fields(string(b)), "cpuset") {
			c.Sets, c.Sets2 = dir, true
		}
	}
	for _, name := range []string{"cpu", "cpu,cpuacct", "cpuacct,cpu"} {
		dir := filepath.Join(root, name)
		if _, err := f.ReadFile(filepath.Join(dir, "tasks")); err == nil && c.Mount == "" {
			c.Mount = dir
		}
	}
	if _, err := f.ReadFile(filepath.Join(root, "cpuset", "tasks")); err == nil && c.Sets == "" {
		c.Sets = filepath.Join(root, "cpuset")
	}
	return c
}

func has(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}

// of returns the cgroup of a thread, "" if there are no cgroups or it is out of sight.
func (c *cgroups) of(tid int) (string, error) { return c.path(tid, c.Mount, "cpu", c.V2) }

func (c *cgroups) path(tid int, mount, controller string, v2 bool) (string, error) {
	if mount == "" {
		return "", nil
	}
	b, err := c.files.ReadFile(c.proc + "/" + strconv.Itoa(tid) + "/cgroup")
	if err != nil {
		return "", fmt.Errorf("reading the cgroup of thread %d: %w", tid, err)
	}
	for line := range strings.Lines(string(b)) {
		part := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(part) != 3 || !strings.HasPrefix(part[2], "/") || strings.Contains(part[2]+"/", "/../") {
			continue // "/.." is outside of this process's cgroup namespace
		}
		if v2 && part[0] == "0" || !v2 && has(strings.Split(part[1], ","), controller) {
			return filepath.Join(mount, part[2]), nil
		}
	}
	return "", nil
}

// left returns those of some CPUs that are online and in the cpuset of a thread.
func (c *cgroups) left(tid int, cpus []int) []int {
	var have []int
	name := "/cpuset.effective_cpus"
	if c.Sets2 {
		name = "/cpuset.cpus.effective"
	}
	dir, err := c.path(tid, c.Sets, "cpuset", c.Sets2)
	for ; err == nil && dir != "" && strings.HasPrefix(dir, c.Sets); dir = filepath.Dir(dir) {
		// With cgroup v2 a group may be without the file: then its parent's is meant.
		if b, err := c.files.ReadFile(dir + name); err == nil {
			have, _ = host.ParseList(strings.TrimSpace(string(b)))
			break
		}
	}
	return slices.DeleteFunc(slices.Clone(cpus), func(id int) bool {
		b, err := os.ReadFile("/sys/devices/system/cpu/cpu" + strconv.Itoa(id) + "/online")
		offline := err == nil && strings.TrimSpace(string(b)) == "0" // CPUs that cannot go offline have no such file
		return offline || have != nil && !slices.Contains(have, id)
	})
}

// enables tells whether the children of a group do not have the cpu controller yet, and a group made there would give it to them.
func (c *cgroups) enables(parent string) (bool, error) {
	if !c.V2 {
		return false, nil
	}
	have, err := c.files.ReadFile(parent + "/cgroup.subtree_control")
	return !has(strings.Fields(string(have)), "cpu"), err
}

// create makes a group below another one, which threads of that one may join; with cgroup v2 a threaded one.
func (c *cgroups) create(dir string, enable bool) error {
	err := c.files.Mkdir(dir)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err == nil && c.V2 {
		if err = c.files.WriteFile(dir+"/cgroup.type", "threaded"); err == nil && enable {
			err = c.files.WriteFile(filepath.Dir(dir)+"/cgroup.subtree_control", "+cpu")
		}
		if err != nil {
			err = errors.Join(err, c.files.Remove(dir))
		}
	}
	if err != nil {
		return fmt.Errorf("making cgroup %s: %w", dir, err)
	}
	return nil
}

// setWeight takes a weight on the scale of cgroup v2: 100 is that of a thread of nice 0.
func (c *cgroups) setWeight(dir string, weight int) error {
	name, text := "/cpu.shares", strconv.Itoa(max(2, weight*1024/100))
	if c.V2 {
		name, text = "/cpu.weight", strconv.Itoa(weight)
	}
	if err := c.files.WriteFile(dir+name, text); err != nil {
		return fmt.Errorf("setting the weight of cgroup %s to %d: %w", dir, weight, err)
	}
	return nil
}

// setQuota takes CPUs; 0 is no limit.
func (c *cgroups) setQuota(dir string, quota float64) error {
	const period = 100000 // µs, the kernel's own
	name, text, none := "/cpu.cfs_quota_us", strconv.Itoa(max(1000, int(quota*period))), "-1"
	if c.V2 {
		name, text, none = "/cpu.max", text+" "+strconv.Itoa(period), "max"
	}
	if quota == 0 {
		text = none
	}
	if err := c.files.WriteFile(dir+name, text); err != nil {
		return fmt.Errorf("limiting cgroup %s to %g CPUs: %w", dir, quota, err)
	}
	return nil
}

// members names the file that lists the threads of a group, and takes new ones.
func (c *cgroups) members(dir string) string {
	if c.V2 {
		return dir + "/cgroup.threads"
	}
	return dir + "/tasks"
}

func (c *cgroups) join(dir string, tid int) error {
	if err := c.files.WriteFile(c.members(dir), strconv.Itoa(tid)); err != nil {
		return fmt.Errorf("moving thread %d to cgroup %s: %w", tid, dir, err)
	}
	return nil
}

// remove takes a group away. Threads that were born in it go to its parent.
func (c *cgroups) remove(dir string) error {
	var err error
	for range 100 { // each time around for threads born meanwhile
		if err = c.files.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		b, e := c.files.ReadFile(c.members(dir))
		if e != nil {
			return fmt.Errorf("emptying cgroup %s: %w", dir, e)
		}
		for _, text := range strings.Fields(string(b)) {
			if tid, e := strconv.Atoi(text); e == nil {
				if e := c.join(filepath.Dir(dir), tid); e != nil && !gone(e) {
					err = errors.Join(err, e)
				}
			}
		}
	}
	return fmt.Errorf("removing cgroup %s: %w", dir, err)
}

// disable takes the cpu controller from a group's children again. If one of them hands it on by now, it stays.
func (c *cgroups) disable(dir string) error {
	if err := c.files.WriteFile(dir+"/cgroup.subtree_control", "-cpu"); err != nil && !errors.Is(err, unix.EBUSY) && !gone(err) {
		return fmt.Errorf("taking the cpu controller from the children of %s: %w", dir, err)
	}
	return nil
}
