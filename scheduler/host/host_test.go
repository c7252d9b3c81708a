package host

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

// tree makes a sysfs from names and contents.
func tree(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, content := range files {
		m[name] = &fstest.MapFile{Data: []byte(content + "\n"), Mode: 0o444}
	}
	return m
}

// machine is two packages of one node, each with two cores of two threads, as Linux numbers them.
func machine() map[string]string {
	files := map[string]string{"cpu/online": "0-7", "node/node0/cpulist": "0-1,4-5", "node/node1/cpulist": "2-3,6-7"}
	for i, cores := range []string{"0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"} {
		dir := "cpu/cpu" + string(rune('0'+i)) + "/"
		pkg := i % 4 / 2
		files[dir+"topology/core_cpus_list"] = cores
		files[dir+"topology/physical_package_id"] = []string{"0", "1"}[pkg]
		files[dir+"cache/index0/level"] = "1"
		files[dir+"cache/index0/shared_cpu_list"] = cores
		files[dir+"cache/index3/level"] = "3"
		files[dir+"cache/index3/shared_cpu_list"] = []string{"0-1,4-5", "2-3,6-7"}[pkg]
		files[dir+"cpu_capacity"] = "1024"
	}
	return files
}

func TestRead(t *testing.T) {
	with := func(changes map[string]string, gone ...string) map[string]string {
		files := machine()
		for name, content := range changes {
			files[name] = content
		}
		for name := range files {
			for _, g := range gone {
				if strings.Contains(name, g) {
					delete(files, name)
				}
			}
		}
		return files
	}
	two := func(a, b CPU) []CPU { a.ID, b.ID = 0, 1; return []CPU{a, b} }
	for _, c := range []struct {
		name    string
		files   map[string]string
		devices map[string]string
		allowed []int
		want    []CPU
		err     string
	}{
		{name: "all", files: machine(), want: Synthetic(2, 1, 1, 2, 2).CPUs},
		{name: "a cpuset", files: machine(), allowed: []int{5, 3, 1, 99}, want: []CPU{
			{1, 0, 0, 0, 0, 1}, {3, 1, 1, 1, 1, 1}, {5, 0, 0, 0, 0, 1}}},
		{name: "offline", files: with(map[string]string{"cpu/online": "0,6"}), want: []CPU{{0, 0, 0, 0, 0, 1}, {6, 1, 1, 1, 1, 1}}},
		{name: "offline, told by each CPU", files: with(map[string]string{"cpu/cpu1/online": "0", "cpu/cpu2/online": "1"}, "cpu/online"),
			allowed: []int{0, 1, 2}, want: []CPU{{0, 0, 0, 0, 0, 1}, {2, 1, 1, 1, 1, 1}}},
		{name: "old names", files: map[string]string{"cpu/online": "0-1", "cpu/cpu0/topology/thread_siblings_list": "0-1",
			"cpu/cpu1/topology/thread_siblings_list": "0-1"}, want: two(CPU{Capacity: 1}, CPU{Capacity: 1})},
		{name: "caches hidden", files: with(nil, "cache"), want: Synthetic(2, 1, 1, 2, 2).CPUs},
		{name: "caches hidden, dies shown", files: map[string]string{"cpu/online": "0-1", "cpu/cpu0/topology/die_cpus_list": "0",
			"cpu/cpu1/topology/die_cpus_list": "1"}, want: two(CPU{Capacity: 1}, CPU{Core: 1, LLC: 1, Capacity: 1})},
		{name: "nodes hidden", files: with(nil, "node"), want: Synthetic(2, 1, 1, 2, 2).CPUs},
		{name: "only instructions cached together", files: map[string]string{"cpu/online": "0-1",
			"cpu/cpu0/cache/index0/level": "1", "cpu/cpu0/cache/index0/type": "Data", "cpu/cpu0/cache/index0/shared_cpu_list": "0",
			"cpu/cpu0/cache/index1/level": "1", "cpu/cpu0/cache/index1/type": "Instruction", "cpu/cpu0/cache/index1/shared_cpu_list": "0-1",
			"cpu/cpu1/cache/index0/level": "1", "cpu/cpu1/cache/index0/type": "Data", "cpu/cpu1/cache/index0/shared_cpu_list": "1"},
			want: two(CPU{Capacity: 1}, CPU{Core: 1, LLC: 1, Capacity: 1})},
		{name: "package unknown to the firmware", files: map[string]string{"cpu/online": "0", "cpu/cpu0/topology/physical_package_id": "-1"},
			want: []CPU{{Capacity: 1}}},
		{name: "all hidden but the CPUs", files: map[string]string{"cpu/online": "0-1"}, want: two(CPU{Capacity: 1}, CPU{Core: 1, Capacity: 1})},
		{name: "all hidden", allowed: []int{1, 0, 1, -3}, want: two(CPU{Capacity: 1}, CPU{Core: 1, Capacity: 1})},
		{name: "big and small", files: map[string]string{"cpu/online": "0-1", "cpu/cpu0/cpu_capacity": "512", "cpu/cpu1/cpu_capacity": "1024"},
			want: two(CPU{Capacity: 0.5}, CPU{Core: 1, Capacity: 1})},
		{name: "only the small allowed", files: map[string]string{"cpu/online": "0-1", "cpu/cpu0/cpu_capacity": "512", "cpu/cpu1/cpu_capacity": "1024"},
			allowed: []int{0}, want: []CPU{{Capacity: 1}}},
		{name: "frequencies", files: map[string]string{"cpu/online": "0-1", "cpu/cpu0/cpufreq/cpuinfo_max_freq": "4000000",
			"cpu/cpu1/cpufreq/cpuinfo_max_freq": "3000000"}, want: two(CPU{Capacity: 1}, CPU{Core: 1, Capacity: 0.75})},
		{name: "a frequency missing", files: map[string]string{"cpu/online": "0-1", "cpu/cpu0/cpufreq/cpuinfo_max_freq": "4000000"},
			want: two(CPU{Capacity: 1}, CPU{Core: 1, Capacity: 1})},
		{name: "hybrid", files: map[string]string{"cpu/online": "0-1"}, devices: map[string]string{"cpu_core/cpus": "0", "cpu_atom/cpus": "1"},
			want: two(CPU{Capacity: 1}, CPU{Core: 1, Capacity: atomCapacity})},
		{name: "only efficient cores allowed", files: map[string]string{"cpu/online": "0-1"}, allowed: []int{1},
			devices: map[string]string{"cpu_atom/cpus": "1"}, want: []CPU{{ID: 1, Capacity: 1}}},

		{name: "empty", err: ErrNoCPU.Error()},
		{name: "nothing online", files: map[string]string{"cpu/online": ""}, err: ErrNoCPU.Error()},
		{name: "none allowed", files: machine(), allowed: []int{}, err: ErrNoCPU.Error()},
		{name: "none allowed online", files: machine(), allowed: []int{8}, err: ErrNoCPU.Error()},
		{name: "malformed list", files: with(map[string]string{"cpu/online": "0-"}), err: "cpu/online"},
		{name: "malformed siblings", files: with(map[string]string{"cpu/cpu3/topology/core_cpus_list": "all"}), err: "cpu/cpu3/topology/core_cpus_list"},
		{name: "malformed cache", files: with(map[string]string{"cpu/cpu3/cache/index3/level": "L3"}), err: "cpu/cpu3/cache/index3/level"},
		{name: "malformed node", files: with(map[string]string{"node/node1/cpulist": "1-x"}), err: "node/node1/cpulist"},
		{name: "malformed package", files: with(map[string]string{"cpu/cpu0/topology/physical_package_id": "one"}), err: "physical_package_id"},
		{name: "malformed capacity", files: with(map[string]string{"cpu/cpu2/cpu_capacity": "NaN"}), err: "cpu/cpu2/cpu_capacity"},
		{name: "no capacity", files: with(map[string]string{"cpu/cpu2/cpu_capacity": "0"}), err: "cpu/cpu2/cpu_capacity"},
		{name: "malformed kinds", files: map[string]string{"cpu/online": "0"}, devices: map[string]string{"cpu_atom/cpus": "?"}, err: "cpu_atom/cpus"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var devices fs.FS
			if c.devices != nil {
				devices = tree(c.devices)
			}
			got, err := read(tree(c.files), devices, c.allowed)
			switch {
			case c.err != "":
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, must name %q", err, c.err)
				}
			case err != nil:
				t.Fatal(err)
			case !reflect.DeepEqual(got.CPUs, c.want):
				t.Errorf("got  %+v\nwant %+v", got.CPUs, c.want)
			case got.Check() != nil:
				t.Error(got.Check())
			}
		})
	}
}

func TestThis(t *testing.T) {
	topology, err := This()
	if err != nil {
		t.Fatal(err)
	}
	if err := topology.Check(); err != nil {
		t.Error(err)
	}
	allowed, err := affinity()
	if err != nil || len(topology.CPUs) > len(allowed) {
		t.Errorf("%d CPUs, of %d allowed (%v)", len(topology.CPUs), len(allowed), err)
	}
	for i, c := range topology.CPUs {
		if at, ok := topology.Index(c.ID); !ok || at != i {
			t.Errorf("CPU %d is at %d, not %d", c.ID, at, i)
		}
	}
	text, err := json.Marshal(topology)
	if err != nil {
		t.Fatal(err)
	}
	var again Topology
	if err := json.Unmarshal(text, &again); err != nil || !reflect.DeepEqual(&again, topology) {
		t.Errorf("%s reads as %+v, %v", text, again, err)
	}
}

func TestDistance(t *testing.T) {
	s := Synthetic(2, 2, 2, 2, 2) // 16 cores, then their second threads
	for _, c := range []struct {
		j    int
		want float64
	}{{0, 0}, {16, 1}, {1, 2}, {17, 2}, {2, 4}, {3, 4}, {4, 8}, {7, 8}, {8, 16}, {31, 16}} {
		if d := s.Distance(0, c.j); d != c.want || s.Distance(c.j, 0) != c.want {
			t.Errorf("from 0 to %d: %v, must be %v", c.j, d, c.want)
		}
	}
	if _, ok := s.Index(32); ok || len(s.CPUs) != 32 {
		t.Errorf("%d CPUs, must be 32", len(s.CPUs))
	}
	if one := Synthetic(0, -1, 0, 0, 0); len(one.CPUs) != 1 || one.Check() != nil {
		t.Errorf("the smallest host is %+v", one)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		t    *Topology
		want string
	}{
		{nil, ErrNoCPU.Error()},
		{&Topology{}, ErrNoCPU.Error()},
		{&Topology{CPUs: []CPU{{ID: 1, Capacity: 1}, {ID: 0, Capacity: 1}}}, "sorted"},
		{&Topology{CPUs: []CPU{{ID: 1, Capacity: 1}, {ID: 1, Capacity: 1}}}, "once"},
		{&Topology{CPUs: []CPU{{ID: -1, Capacity: 1}}}, "0 or more"},
		{&Topology{CPUs: []CPU{{LLC: -1, Capacity: 1}}}, "0 or more"},
		{&Topology{CPUs: []CPU{{Capacity: math.NaN()}}}, "capacity NaN"},
		{&Topology{CPUs: []CPU{{Capacity: math.Inf(1)}}}, "capacity +Inf"},
		{&Topology{CPUs: []CPU{{}}}, "capacity 0"},
	} {
		if err := c.t.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, must name %q", c.t, err, c.want)
		}
	}
	if !errors.Is((&Topology{}).Check(), ErrNoCPU) {
		t.Error("an empty topology is not ErrNoCPU")
	}
}
