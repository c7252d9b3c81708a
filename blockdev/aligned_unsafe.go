package blockdev

import "unsafe"

// aligned says whether addresses and lengths of all buffers are multiples of align.
func aligned(vec [][]byte, align int64) bool {
	for _, b := range vec {
		if (int64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))|int64(len(b)))&(align-1) != 0 {
			return false
		}
	}
	return true
}
