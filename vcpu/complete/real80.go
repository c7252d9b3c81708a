package complete

import (
	"encoding/binary"
	"math/bits"
)

// real80 is a double extended-precision value (SDM vol. 1, 4.2.2).
type real80 struct {
	mant uint64 // with explicit integer bit
	exp  uint16 // sign in bit 15, biased by 16383
}

const (
	bias80    = 16383
	expMask   = 0x7fff
	signBit   = 0x8000
	intBit    = 1 << 63
	quietBit  = 1 << 62
	mantBits  = 63 // fraction bits
	singleF   = 23
	singleExp = 8
	doubleF   = 52
	doubleExp = 11
)

// indefinite is the default NaN.
var indefinite = real80{mant: intBit | quietBit, exp: signBit | expMask}

func real80From(b [16]byte) real80 {
	return real80{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint16(b[8:])}
}

func (v real80) bytes() (b [16]byte) {
	binary.LittleEndian.PutUint64(b[:], v.mant)
	binary.LittleEndian.PutUint16(b[8:], v.exp)
	return b
}

func (v real80) negative() bool { return v.exp&signBit != 0 }

func (v real80) isNaN() bool { return v.exp&expMask == expMask && v.mant<<1 != 0 }

// unsupported says whether the encoding is one the x87 has not known since the
// 80387: an integer bit of 0 with an exponent other than 0.
func (v real80) unsupported() bool { return v.exp&expMask != 0 && v.mant&intBit == 0 }

// real80FromInt converts exactly.
func real80FromInt(i int64) real80 {
	if i == 0 {
		return real80{}
	}
	var sign uint16
	u := uint64(i)
	if i < 0 {
		sign, u = signBit, -u
	}
	lz := bits.LeadingZeros64(u)
	return real80{u << lz, sign | uint16(bias80+63-lz)}
}

// real80FromFloat widens an IEEE value of fbits fraction and ebits exponent bits
// and gives the exception flags of the conversion.
func real80FromFloat(v uint64, fbits, ebits int) (real80, uint16) {
	sign := uint16(v>>(fbits+ebits)&1) << 15
	maxExp := uint64(1)<<ebits - 1
	exp, frac := v>>fbits&maxExp, v&(1<<fbits-1)
	mant := frac << (mantBits - fbits)
	rebias := bias80 - int(maxExp>>1)
	switch {
	case exp == maxExp && frac == 0:
		return real80{intBit, sign | expMask}, 0
	case exp == maxExp:
		var flags uint16
		if mant&quietBit == 0 {
			flags = fswIE
		}
		return real80{mant | intBit | quietBit, sign | expMask}, flags
	case exp == 0 && frac == 0:
		return real80{0, sign}, 0
	case exp == 0:
		lz := bits.LeadingZeros64(mant)
		return real80{mant << lz, sign | uint16(1+rebias-lz)}, fswDE
	}
	return real80{mant | intBit, sign | uint16(int(exp)+rebias)}, 0
}

// float rounds to an IEEE value of fbits fraction and ebits exponent bits. Flags
// are those raised; for unmasked overflow and underflow the caller stores
// nothing. tiny says that the result is below the normal range, which raises UE
// by itself if UE is unmasked. up says that rounding increased the magnitude.
func (v real80) float(fbits, ebits, mode int) (out uint64, flags uint16, tiny, up bool) {
	maxExp := uint64(1)<<ebits - 1
	sign := uint64(v.exp>>15) << (fbits + ebits)
	inf := maxExp << fbits
	quiet := uint64(1) << (fbits - 1)
	switch {
	case v.unsupported():
		return 1<<(fbits+ebits) | inf | quiet, fswIE, false, false
	case v.isNaN():
		if v.mant&quietBit == 0 {
			flags = fswIE
		}
		return sign | inf | quiet | v.mant<<1>>(64-fbits), flags, false, false
	case v.exp&expMask == expMask:
		return sign | inf, 0, false, false
	case v.mant == 0:
		return sign, 0, false, false
	}
	mant, e := v.split()
	e += int(maxExp >> 1)
	shift := mantBits - fbits
	q, inexact, up := round(mant, shift, mode, v.negative())
	tiny = e < 0 || e == 0 && q>>(fbits+1) == 0
	if e >= 1 {
		out = uint64(e-1)<<fbits + q // the integer bit adds 1 to the exponent
	} else {
		out, inexact, up = round(mant, shift+1-e, mode, v.negative())
	}
	if inexact {
		flags |= fswPE
		if tiny {
			flags |= fswUE
		}
	}
	if e >= 1 && (e > int(maxExp) || out >= inf) {
		up = mode == roundNearest || mode == roundUp && !v.negative() || mode == roundDown && v.negative()
		out = inf
		if !up {
			out--
		}
		flags |= fswOE | fswPE
	}
	return sign | out, flags, tiny, up
}

// integer rounds to a signed integer of size bytes; ok is false if it does not
// fit.
func (v real80) integer(size, mode int) (i int64, inexact, up, ok bool) {
	if v.unsupported() || v.exp&expMask == expMask {
		return 0, false, false, false
	}
	if v.mant == 0 {
		return 0, false, false, true
	}
	mant, e := v.split()
	if e > 63 {
		return 0, false, false, false
	}
	q, inexact, up := round(mant, 63-e, mode, v.negative())
	limit := uint64(1) << (8*size - 1)
	if v.negative() {
		return -int64(q), inexact, up, q <= limit
	}
	return int64(q), inexact, up, q < limit
}

// split gives mantissa and unbiased exponent of a finite value. The mantissa of
// a denormal lacks its integer bit, which does not matter: every format is far
// above it.
func (v real80) split() (mant uint64, e int) {
	return v.mant, max(int(v.exp&expMask), 1) - bias80
}

// round drops the low shift >= 0 bits of mant; up says that the result is larger
// in magnitude than mant.
func round(mant uint64, shift, mode int, negative bool) (q uint64, inexact, up bool) {
	if shift == 0 {
		return mant, false, false
	}
	// rest holds the dropped bits, left-aligned, with all below as a sticky 1.
	var rest uint64
	switch {
	case shift < 64:
		q, rest = mant>>shift, mant<<(64-shift)
	case shift == 64:
		rest = mant
	default:
		rest = 1
	}
	if rest == 0 {
		return q, false, false
	}
	switch mode {
	case roundNearest:
		up = rest > 1<<63 || rest == 1<<63 && q&1 != 0
	case roundDown:
		up = negative
	case roundUp:
		up = !negative
	}
	if up {
		q++
	}
	return q, true, up
}
