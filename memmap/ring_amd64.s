#include "textflag.h"

// func swap16(p *byte, v uint16)
TEXT ·swap16(SB), NOSPLIT, $0-10
	MOVQ p+0(FP), DI
	MOVW v+8(FP), AX
	XCHGW AX, (DI)
	RET
