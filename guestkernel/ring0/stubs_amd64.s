// The ring-0 core's code. It is never called here: image.go copies the bytes between the labels into guest memory, once for
// each vCPU, and moves every address in the slot window by the vCPU's slot offset. So the code may not
// use the stack, call, or address anything but the slot.

#include "textflag.h"

// The slot of vCPU 0, as a sign-extended 32-bit address (SlotBase in layout.go).
#define SLOT -0x7FE00000

#define STATE  (SLOT+0x00)
#define SPIN   (SLOT+0x04)
#define RAX    (SLOT+0x08)
#define RBX    (SLOT+0x10)
#define RCX    (SLOT+0x18)
#define RDX    (SLOT+0x20)
#define RSI    (SLOT+0x28)
#define RDI    (SLOT+0x30)
#define RBP    (SLOT+0x38)
#define RSP    (SLOT+0x40)
#define REG8   (SLOT+0x48)
#define REG9   (SLOT+0x50)
#define REG10  (SLOT+0x58)
#define REG11  (SLOT+0x60)
#define REG12  (SLOT+0x68)
#define REG13  (SLOT+0x70)
#define REG14  (SLOT+0x78)
#define REG15  (SLOT+0x80)
#define RIP    (SLOT+0x88)
#define RFLAGS (SLOT+0x90)
#define FSBASE (SLOT+0x98)
#define GSBASE (SLOT+0xA0)

// Slot states (layout.go).
#define REQUEST 1
#define RESUME  2
#define PARKED  3

// The exit port (layout.go).
#define PORT 2

// SAVE stores the program's registers. Up to its end no register has changed, except RCX and R11 by SYSCALL itself.
#define SAVE \
	MOVQ AX, RAX   \
	MOVQ BX, RBX   \
	MOVQ CX, RCX   \
	MOVQ DX, RDX   \
	MOVQ SI, RSI   \
	MOVQ DI, RDI   \
	MOVQ BP, RBP   \
	MOVQ SP, RSP   \
	MOVQ R8, REG8   \
	MOVQ R9, REG9   \
	MOVQ R10, REG10 \
	MOVQ R11, REG11 \
	MOVQ R12, REG12 \
	MOVQ R13, REG13 \
	MOVQ R14, REG14 \
	MOVQ R15, REG15 \
	MOVQ CX, RIP    \
	MOVQ R11, RFLAGS

// WAIT posts the request and waits for the answer: in the guest while the host allows it (SPIN, the number of
// looks), else by an exit. XCHGL orders the post before the look at SPIN.
#define WAIT \
	RDFSBASEQ AX \
	MOVQ AX, FSBASE \
	RDGSBASEQ AX \
	MOVQ AX, GSBASE \
	MOVL $REQUEST, AX \
	XCHGL AX, STATE \
	MOVL SPIN, BX \
spin: \
	CMPL STATE, $RESUME \
	JEQ  resume \
	CMPL SPIN, $0 \
	JEQ  park \
	PAUSE \
	DECL BX \
	JNS spin \
park: \
	MOVL $REQUEST, AX \
	MOVL $PARKED, CX \
	LOCK \
	CMPXCHGL CX, STATE \
	JNE resume

// RESTORE loads what the host left in the slot, all but RSP, RIP and RFLAGS.
#define RESTORE \
	MOVQ FSBASE, AX \
	WRFSBASEQ AX \
	MOVQ GSBASE, AX \
	WRGSBASEQ AX \
	MOVQ RAX, AX \
	MOVQ RBX, BX \
	MOVQ RDX, DX \
	MOVQ RSI, SI \
	MOVQ RDI, DI \
	MOVQ RBP, BP \
	MOVQ REG8, R8 \
	MOVQ REG9, R9 \
	MOVQ REG10, R10 \
	MOVQ REG12, R12 \
	MOVQ REG13, R13 \
	MOVQ REG14, R14 \
	MOVQ REG15, R15

// syscallCPL3 is SYSCALL's target where SYSCALL arrives with CPL 3. All of it runs with the program's rights.
TEXT ·syscallCPL3(SB), NOSPLIT|NOFRAME, $0-0
	SAVE
	WAIT
	BYTE $0xE6; BYTE $PORT // OUT PORT, AL
resume:
	RESTORE
	MOVQ RCX, CX
	MOVQ REG11, R11
	MOVQ $RFLAGS, SP
	POPFQ
	MOVQ RSP, SP
	BYTE $0xFF; BYTE $0x24; BYTE $0x25; LONG $(RIP) // JMP *RIP
	UD2 // the end

// syscallCPL0 is SYSCALL's target where SYSCALL raises the privilege, as the architecture has it. The host has checked that RIP is
// a user address: SYSRET to a non-canonical one faults at CPL 0 on some CPUs (SDM vol. 2, SYSRET).
TEXT ·syscallCPL0(SB), NOSPLIT|NOFRAME, $0-0
	SAVE
	WAIT
	BYTE $0xE6; BYTE $PORT
resume:
	RESTORE
	MOVQ RIP, CX
	MOVQ RFLAGS, R11
	MOVQ RSP, SP
	BYTE $0x48; SYSRET
	UD2 // the end

// contextSwitch runs with the program's rights, and is the same in every address space: it stores what a call must preserve, with the FS base and the
// control words, in the area at RDI, loads the same from the area at RSI, and returns in the other context. Layout: Area.
TEXT ·contextSwitch(SB), NOSPLIT|NOFRAME, $0-0
	JMP  begin // vet believes that BP is a frame pointer, up to a jump
begin:
	MOVQ BX, 0(DI)
	MOVQ BP, 8(DI)
	MOVQ R12, 16(DI)
	MOVQ R13, 24(DI)
	MOVQ R14, 32(DI)
	MOVQ R15, 40(DI)
	MOVQ SP, 48(DI)
	RDFSBASEQ AX
	MOVQ AX, 56(DI)
	STMXCSR 64(DI)
	FSTCW 68(DI)
	MOVQ 0(SI), BX
	MOVQ 8(SI), BP
	MOVQ 16(SI), R12
	MOVQ 24(SI), R13
	MOVQ 32(SI), R14
	MOVQ 40(SI), R15
	MOVQ 48(SI), SP
	MOVQ 56(SI), AX
	WRFSBASEQ AX
	LDMXCSR 64(SI)
	FLDCW 68(SI)
	RET
	UD2 // the end

// func switchAddress() uintptr
TEXT ·switchAddress(SB), NOSPLIT, $0-8
	LEAQ ·contextSwitch(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func stubAddress(e Entry) uintptr
TEXT ·stubAddress(SB), NOSPLIT, $0-16
	LEAQ ·syscallCPL0(SB), AX
	CMPQ e+0(FP), $1 // EntryCPL3
	JNE  done
	LEAQ ·syscallCPL3(SB), AX
done:
	MOVQ AX, ret+8(FP)
	RET
