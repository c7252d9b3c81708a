package kvm

import (
	"errors"
	"fmt"
	"runtime"
)

// dirtyLog pins bitmap while call passes its address to the kernel through field.
func (v *VM) dirtyLog(field *uint64, bitmap []byte, call func() error) error {
	if len(bitmap) == 0 {
		return errors.New("KVM_GET_DIRTY_LOG: empty bitmap")
	}
	var pin runtime.Pinner
	pin.Pin(&bitmap[0])
	defer pin.Unpin()
	*field = addressOf(bitmap)
	return call()
}

const maxMSRRanges = 16

type msrFilterRange struct {
	Flags  uint32
	Count  uint32
	Base   uint32
	_      uint32
	Bitmap uint64
}

func (v *VM) setMSRFilter(ranges []MSRRange) error {
	arg := struct {
		Flags  uint32 // KVM_MSR_FILTER_DEFAULT_ALLOW is 0
		_      uint32
		Ranges [maxMSRRanges]msrFilterRange
	}{}
	if len(ranges) > maxMSRRanges {
		return fmt.Errorf("KVM_X86_SET_MSR_FILTER: %d ranges, at most %d", len(ranges), maxMSRRanges)
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	for i, r := range ranges {
		if len(r.Bitmap) == 0 {
			return fmt.Errorf("KVM_X86_SET_MSR_FILTER: range %d at %#x has no bitmap", i, r.Base)
		}
		pin.Pin(&r.Bitmap[0])
		arg.Ranges[i] = msrFilterRange{Flags: r.Flags, Count: uint32(len(r.Bitmap) * 8), Base: r.Base, Bitmap: addressOf(r.Bitmap)}
	}
	return set(v.fd, "KVM_X86_SET_MSR_FILTER", 0xC6, &arg)
}
