package complete

import (
	"bytes"
	"testing"
)

func TestFXAreaRoundTrip(t *testing.T) {
	area := make([]byte, fxSize)
	for i := range area {
		area[i] = byte(i*7 + i>>5)
	}
	var f FPU
	f.Load(area)
	out := bytes.Clone(area)
	clear(out[fxFCW:fxMXCSRMask])
	clear(out[fxST:fxEnd])
	out[fxFTW+1] = area[fxFTW+1] // reserved, not ours
	f.Store(out)
	if !bytes.Equal(out, area) {
		t.Errorf("stored % x\nloaded % x", out, area)
	}
	if got := MXCSRMask(area); got != uint32(area[28])|uint32(area[29])<<8|uint32(area[30])<<16|uint32(area[31])<<24 {
		t.Errorf("mask %#x", got)
	}
}
