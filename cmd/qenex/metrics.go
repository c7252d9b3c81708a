package main

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/qenex/qenex-kernel/fleet"
)

// Metrics implements fleet.Machine.
func (g *guest) Metrics() []fleet.Metric {
	s := g.Status()
	list := []fleet.Metric{
		{Name: "up", Help: "The machine exists.", Kind: fleet.Gauge, Value: 1},
		{Name: "paused", Help: "The machine is paused.", Kind: fleet.Gauge, Value: truth(s.State == fleet.StatePaused)},
		{Name: "agent_ready", Help: "The agent in the guest answers.", Kind: fleet.Gauge, Value: truth(s.Agent == "ready")},
		{Name: "boots_total", Help: "Machines built, more than 1 after restarts.", Kind: fleet.Counter, Value: float64(s.Boots)},
		{Name: "uptime_seconds", Help: "Since the machine was made.", Kind: fleet.Gauge, Value: time.Since(g.began).Seconds()},
	}
	g.mu.Lock()
	if g.m != nil {
		if r, err := g.m.Report(); err == nil {
			list = append(list, counters("exits_total", "Exits of virtual CPUs since the last boot.", "reason", r.Exits)...)
			list = append(list, counters("completed_instructions_total", "Instructions finished in user space since the last boot.", "instruction", r.Completions)...)
			list = append(list,
				fleet.Metric{Name: "memory_guest_bytes", Help: "Guest memory that has been touched.", Kind: fleet.Gauge, Value: float64(r.Memory.Guest) * 1024},
				fleet.Metric{Name: "memory_vmm_bytes", Help: "Resident memory of the machine's process beside the guest's.", Kind: fleet.Gauge, Value: float64(r.Memory.VMM) * 1024},
				fleet.Metric{Name: "console_dropped_bytes_total", Help: "Console output that was dropped.", Kind: fleet.Counter, Value: float64(r.ConsoleDropped)})
		}
	}
	g.mu.Unlock()
	return append(list, g.dev.metrics()...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func counters(name, help, label string, values map[string]uint64) (list []fleet.Metric) {
	for _, v := range slices.Sorted(maps.Keys(values)) {
		list = append(list, fleet.Metric{Name: name, Help: help, Kind: fleet.Counter, Labels: [][2]string{{label, v}}, Value: float64(values[v])})
	}
	return list
}

// metrics are the counters of the devices.
func (d *devices) metrics() (list []fleet.Metric) {
	type column struct {
		name, help string
		value      func(i int) uint64
	}
	table := func(label string, n int, columns []column) {
		for _, c := range columns {
			for i := range n {
				list = append(list, fleet.Metric{
					Name: c.name, Help: c.help, Kind: fleet.Counter, Labels: [][2]string{{label, fmt.Sprint(i)}}, Value: float64(c.value(i)),
				})
			}
		}
	}
	table("disk", len(d.disks), []column{
		{"disk_reads_total", "Read requests that succeeded.", func(i int) uint64 { return d.disks[i].dev.Stats().Reads }},
		{"disk_writes_total", "Write requests that succeeded.", func(i int) uint64 { return d.disks[i].dev.Stats().Writes }},
		{"disk_flushes_total", "Flushes that succeeded.", func(i int) uint64 { return d.disks[i].dev.Stats().Flushes }},
		{"disk_discards_total", "Discards and zeroings that succeeded.", func(i int) uint64 { return d.disks[i].dev.Stats().Discards }},
		{"disk_read_bytes_total", "Bytes read.", func(i int) uint64 { return d.disks[i].dev.Stats().ReadBytes }},
		{"disk_written_bytes_total", "Bytes written.", func(i int) uint64 { return d.disks[i].dev.Stats().WrittenBytes }},
		{"disk_refused_total", "Requests that broke a rule.", func(i int) uint64 { return d.disks[i].dev.Stats().Refused }},
		{"disk_errors_total", "Requests that the storage failed.", func(i int) uint64 { return d.disks[i].dev.Stats().Errors }},
	})
	if d.nic == nil {
		return list
	}
	s := d.nic.Stats()
	table("nic", 1, []column{
		{"net_sent_frames_total", "Frames that the guest sent.", func(int) uint64 { return s.Sent }},
		{"net_received_frames_total", "Frames for the guest.", func(int) uint64 { return s.Received }},
		{"net_sent_bytes_total", "Bytes that the guest sent.", func(int) uint64 { return s.SentBytes }},
		{"net_received_bytes_total", "Bytes for the guest.", func(int) uint64 { return s.ReceivedBytes }},
		{"net_sent_dropped_total", "Frames of the guest that were dropped.", func(int) uint64 { return s.SentDropped }},
		{"net_received_dropped_total", "Frames for the guest that were dropped.", func(int) uint64 { return s.ReceivedDropped }},
	})
	return list
}
