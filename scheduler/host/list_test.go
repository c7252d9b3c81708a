package host

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParseList(t *testing.T) {
	for _, c := range []struct {
		text string
		want []int
		err  string
	}{
		{"0-3,8", []int{0, 1, 2, 3, 8}, ""},
		{"\n", []int{}, ""},
		{"5\n", []int{5}, ""},
		{"3,1-2,2,1", []int{1, 2, 3}, ""},
		{"65535", []int{65535}, ""},
		{"65536", nil, "from 0 to 65535"},
		{"0-9999999999", nil, "from 0 to 65535"},
		{"3-1", nil, "backwards"},
		{"-1", nil, "not a CPU number"},
		{"1,", nil, "not a CPU number"},
		{"1 2", nil, "not a CPU number"},
		{strings.Repeat("0-65535,", 9) + "0", nil, "again and again"},
	} {
		got, err := ParseList(c.text)
		if !reflect.DeepEqual(got, c.want) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%.40q: %v, %v; must be %v, %q", c.text, got, err, c.want, c.err)
		}
	}
}

func FuzzParseList(f *testing.F) {
	f.Add("0-3,8\n")
	f.Add("0-65535,0-")
	f.Fuzz(func(t *testing.T, text string) {
		ids, err := ParseList(text)
		if err == nil && (!slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) || len(ids) > 0 && (ids[0] < 0 || ids[len(ids)-1] > maxID)) {
			t.Errorf("%q is read as %v", text, ids)
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add("0-1", "0-1", "1", "3", "0-1", "900")
	f.Fuzz(func(t *testing.T, online, siblings, pkg, level, node, capacity string) {
		topology, err := Read(tree(map[string]string{
			"cpu/online": online, "cpu/cpu0/topology/core_cpus_list": siblings, "cpu/cpu0/topology/physical_package_id": pkg,
			"cpu/cpu0/cache/index0/level": level, "cpu/cpu0/cache/index0/shared_cpu_list": siblings,
			"node/node0/cpulist": node, "cpu/cpu0/cpu_capacity": capacity,
		}), nil)
		if err == nil {
			err = topology.Check()
		} else if topology != nil || !strings.Contains(err.Error(), "cpu") && err != ErrNoCPU {
			t.Errorf("%v, with error %v", topology, err)
			return
		} else {
			return
		}
		if err != nil {
			t.Error(err)
		}
	})
}
