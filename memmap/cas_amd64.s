#include "textflag.h"

// func cas128(p *byte, old, repl [2]uint64) (was [2]uint64, ok bool)
TEXT ·cas128(SB), NOSPLIT, $0-57
	MOVQ p+0(FP), DI
	MOVQ old_0+8(FP), AX
	MOVQ old_1+16(FP), DX
	MOVQ repl_0+24(FP), BX
	MOVQ repl_1+32(FP), CX
	LOCK
	CMPXCHG16B (DI)
	SETEQ ok+56(FP)
	MOVQ AX, was_0+40(FP)
	MOVQ DX, was_1+48(FP)
	RET
