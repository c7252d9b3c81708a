//go:build linux

#include "textflag.h"

// Offsets in State.
#define FLAGS 128
#define FX    144

// func enter(ctx *State, code uint64)
//
// Frame: 0 code, 8 ctx, 16 scratch, 24 MXCSR, 28 FCW. RSP is never changed, so
// signals find a good stack; the code page holds no Go code, so the runtime does
// not preempt there. As an ABI0 function this may change every register but SP
// and (restored by the assembler's epilogue) BP; the caller's wrapper restores
// R14 and X15.
TEXT ·enter(SB), NOSPLIT, $64-16
	MOVQ	ctx+0(FP), AX
	MOVQ	code+8(FP), CX
	MOVQ	CX, 0(SP)
	MOVQ	AX, 8(SP)
	STMXCSR	24(SP)
	BYTE $0xD9; BYTE $0x7C; BYTE $0x24; BYTE $28	// fnstcw [rsp+28]
	FXRSTOR64	FX(AX)
	PUSHQ	FLAGS(AX)
	POPFQ
	MOVQ	8(AX), CX
	MOVQ	16(AX), DX
	MOVQ	24(AX), BX
	MOVQ	40(AX), BP
	MOVQ	48(AX), SI
	MOVQ	56(AX), DI
	MOVQ	64(AX), R8
	MOVQ	72(AX), R9
	MOVQ	80(AX), R10
	MOVQ	88(AX), R11
	MOVQ	96(AX), R12
	MOVQ	104(AX), R13
	MOVQ	112(AX), R14
	MOVQ	120(AX), R15
	MOVQ	0(AX), AX
	BYTE $0xFF; BYTE $0x14; BYTE $0x24	// call [rsp]
	MOVQ	AX, 16(SP)
	MOVQ	8(SP), AX
	MOVQ	CX, 8(AX)
	MOVQ	DX, 16(AX)
	MOVQ	BX, 24(AX)
	MOVQ	BP, 40(AX)
	MOVQ	SI, 48(AX)
	MOVQ	DI, 56(AX)
	MOVQ	R8, 64(AX)
	MOVQ	R9, 72(AX)
	MOVQ	R10, 80(AX)
	MOVQ	R11, 88(AX)
	MOVQ	R12, 96(AX)
	MOVQ	R13, 104(AX)
	MOVQ	R14, 112(AX)
	MOVQ	R15, 120(AX)
	MOVQ	16(SP), CX
	MOVQ	CX, 0(AX)
	PUSHFQ
	POPQ	FLAGS(AX)
	CLD
	FXSAVE64	FX(AX)
	BYTE $0xDB; BYTE $0xE2	// fnclex
	BYTE $0xDB; BYTE $0xE3	// fninit
	BYTE $0xD9; BYTE $0x6C; BYTE $0x24; BYTE $28	// fldcw [rsp+28]
	LDMXCSR	24(SP)
	RET

// func CPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)
TEXT ·CPUID(SB), NOSPLIT, $0-24
	MOVL	leaf+0(FP), AX
	MOVL	subleaf+4(FP), CX
	CPUID
	MOVL	AX, eax+8(FP)
	MOVL	BX, ebx+12(FP)
	MOVL	CX, ecx+16(FP)
	MOVL	DX, edx+20(FP)
	RET
