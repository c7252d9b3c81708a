package balloon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/qenex/qenex-kernel/virtio"
)

// statNames are the names of statistics by their tags (virtio 1.2, 5.5.6.4).
var statNames = [...]string{
	"swap_in_bytes", "swap_out_bytes", "major_faults", "minor_faults", "free_bytes", "total_bytes", "available_bytes",
	"disk_caches_bytes", "hugetlb_allocations", "hugetlb_failures",
}

const (
	statSize = 10 // bytes: a tag of 16 bits and a value of 64
	// maxStats bounds the entries that are looked at.
	maxStats = 64
)

// ErrNoStatistics says that no statistics can be had: the driver does not run, or does not give any.
var ErrNoStatistics = errors.New("the guest's balloon driver gives no statistics")

// Statistics are what the guest says of its memory.
type Statistics struct {
	Time   time.Time         // when it said so; zero if it never did
	Values map[string]uint64 // by name: those that it gave and that are known
}

// Statistics returns a copy of the latest statistics.
func (d *Device) Statistics() Statistics {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Statistics{Time: d.stats.Time, Values: maps.Clone(d.stats.Values)}
}

// Refresh asks the guest for statistics and returns them when they have come. A guest need not answer.
func (d *Device) Refresh(ctx context.Context) (Statistics, error) {
	d.mu.Lock()
	if d.env == nil {
		d.mu.Unlock()
		return Statistics{}, ErrNoStatistics
	}
	fresh := d.fresh
	d.mu.Unlock()
	select {
	case d.wanted <- struct{}{}:
	default: // asked already
	}
	select {
	case <-fresh:
		return d.Statistics(), nil
	case <-ctx.Done():
		return Statistics{}, errors.Join(ErrNoStatistics, ctx.Err())
	}
}

// serveStats serves the statistics queue: the driver gives a buffer with statistics, and when that is given back, one with newer ones
// (virtio 1.2, 5.5.6.3). The first one comes unasked.
func (d *Device) serveStats(q *virtio.Queue) error {
	for asked := false; ; asked = true {
		c, err := q.Next()
		for c == nil && err == nil {
			if err = q.Wait(); err == nil {
				c, err = q.Next()
			}
		}
		if err != nil {
			return err
		}
		if c.WriteLen() > 0 {
			return fmt.Errorf("%w: statistics in a buffer of %d writable bytes", virtio.ErrProtocol, c.WriteLen())
		}
		d.take(c, asked)
		select {
		case <-d.wanted:
		case <-q.Stopping():
			return virtio.ErrStopped
		}
		q.Done(c, 0)
		q.Flush()
	}
}

// take copies the statistics of a buffer, and wakes whoever waits for them if they were asked for.
func (d *Device) take(c *virtio.Chain, asked bool) {
	var buf [statSize * maxStats]byte
	n, _ := c.Read(buf[:]) // nothing to read is no statistics
	values := map[string]uint64{}
	for b := buf[:n]; len(b) >= statSize; b = b[statSize:] {
		if tag := int(binary.LittleEndian.Uint16(b)); tag < len(statNames) {
			values[statNames[tag]] = binary.LittleEndian.Uint64(b[2:])
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(values) > 0 {
		d.stats = Statistics{Time: time.Now(), Values: values}
	}
	if asked {
		close(d.fresh)
		d.fresh = make(chan struct{})
	}
}
