#include "textflag.h"

// Calls of the tiny ABI (guestkernel/tiny.go).
#define EXIT  $0
#define WRITE $1
#define CLOCK $2

#define SYS(n) \
	MOVL n, AX \
	SYSCALL

#define END QUAD $0xF1F1F1F1F1F1F1F1

#define PROGRAM(name, n) \
	DATA ·table+(n*8)(SB)/8, $name(SB)

PROGRAM(·hello, 0)
PROGRAM(·registers, 1)
PROGRAM(·clock, 2)
PROGRAM(·spin, 3)
PROGRAM(·touch, 4)
PROGRAM(·scribble, 5)
PROGRAM(·switch, 6)
PROGRAM(·read, 7)
PROGRAM(·fill, 8)
PROGRAM(·tally, 9)
GLOBL ·table(SB), NOPTR, $80

// hello writes a line and exits with the length that was written.
TEXT ·hello(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $0x000A6F6C6C6568, AX // "hello\n"
	PUSHQ AX
	MOVQ SP, DI
	MOVL $6, SI
	SYS(WRITE)
	MOVQ AX, DI
	SYS(EXIT)
	END

// registers makes system calls for ever with a value of its own in each register. It exits with 1 if one has changed.
TEXT ·registers(SB), NOSPLIT|NOFRAME, $0-0
	JMP  begin // vet believes that BP is a frame pointer, up to a jump
begin:
	MOVQ SP, R8
	MOVQ $0x1111, BX
	MOVQ $0x2222, BP
	MOVQ $0x3333, DX
	MOVQ $0x4444, SI
	MOVQ $0x5555, DI
	MOVQ $0x6666, R9
	MOVQ $0x7777, R10
	MOVQ $0x8888, R12
	MOVQ $0x9999, R13
	MOVQ $0xAAAA, R14
	MOVQ $0xBBBB, R15
again:
	STC
	SYS(CLOCK)
	JCC  bad
	CMPQ SP, R8
	JNE  bad
	CMPQ BX, $0x1111
	JNE  bad
	CMPQ BP, $0x2222
	JNE  bad
	CMPQ DX, $0x3333
	JNE  bad
	CMPQ SI, $0x4444
	JNE  bad
	CMPQ DI, $0x5555
	JNE  bad
	CMPQ R9, $0x6666
	JNE  bad
	CMPQ R10, $0x7777
	JNE  bad
	CMPQ R12, $0x8888
	JNE  bad
	CMPQ R13, $0x9999
	JNE  bad
	CMPQ R14, $0xAAAA
	JNE  bad
	CMPQ R15, $0xBBBB
	JNE  bad
	JMP  again
bad:
	MOVL $1, DI
	SYS(EXIT)
	END

// clock makes RDI system calls and exits with 0.
TEXT ·clock(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ DI, BX
again:
	SYS(CLOCK)
	DECQ BX
	JNZ  again
	XORL DI, DI
	SYS(EXIT)
	END

// spin counts in RBX for ever and exits with 1 if a vector register has changed: YMM7 and, with RSI not 0, ZMM20 hold RDI in each quarter, YMM0 and
// ZMM16 hold zeros; each only for a while, so that there are many combinations of components in use.
TEXT ·spin(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ DI, X1
	VPBROADCASTQ X1, Y7
	VPXOR Y0, Y0, Y0
	TESTQ SI, SI
	JZ   again
	VPBROADCASTQ X1, Z20
	VPXORQ Z16, Z16, Z16
again:
	INCQ BX
	VPBROADCASTQ X1, Y2
	VPCMPEQQ Y2, Y7, Y2
	VPMOVMSKB Y2, AX
	CMPL AX, $-1
	JNE  bad
	VPTEST Y0, Y0
	JNZ  bad
	TESTQ SI, SI
	JZ   next
	VPBROADCASTQ X1, Z21
	VPCMPEQQ Z21, Z20, K1
	KMOVB K1, AX
	CMPL AX, $0xFF
	JNE  bad
	VPTESTMQ Z16, Z16, K2
	KMOVB K2, AX
	TESTL AX, AX
	JNZ  bad
next:
	TESTL $0xFFFF, BX
	JNZ  again
	SYS(CLOCK)
	JMP  again
bad:
	MOVL $1, DI
	SYS(EXIT)
	END

// touch adds 1 to the first byte of each of RSI pages from RDI on, and exits with the sum of what they held.
TEXT ·touch(SB), NOSPLIT|NOFRAME, $0-0
	XORL DX, DX
again:
	MOVBQZX (DI), AX
	ADDQ AX, DX
	INCB (DI)
	ADDQ $4096, DI
	DECQ SI
	JNZ  again
	MOVQ DX, DI
	SYS(EXIT)
	END

// scribble writes the low half of RDX, counting up, to each of RSI 32-bit words from RDI on, again and again, with system calls in between.
TEXT ·scribble(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ DI, R8
	MOVQ SI, R9
again:
	MOVQ R8, DI
	MOVQ R9, SI
words:
	MOVL DX, (DI)
	INCL DX
	ANDL $3, DX
	ADDQ $4, DI
	DECQ SI
	JNZ  words
	SYS(CLOCK)
	INCL DX
	JMP again
	END

// switch is two contexts in one thread that hand the CPU to each other through the core's switch, until the number at 8(R15) has gone down to
// 0. R12 and R13 are the areas of this context and the other, 16(R15) is the switch's address, 24(R15) counts what has come out wrong.
// RBX is a histogram of 4096 32-bit numbers: the time of each switch in units of 8 TSC ticks, with 0(R15) as the time of the last departure.
// It exits with what 24(R15) holds. R14 is this context's FS base.
TEXT ·switch(SB), NOSPLIT|NOFRAME, $0-0
again:
	RDTSC
	SUBL 0(R15), AX
	SHRL $3, AX
	CMPL AX, $4095
	JLS  small
	MOVL $4095, AX
small:
	INCL (BX)(AX*4)
	RDFSBASEQ AX
	CMPQ AX, R14
	JEQ  right
	INCQ 24(R15)
right:
	DECQ 8(R15)
	JZ   done
	MOVQ R12, DI
	MOVQ R13, SI
	MOVQ 16(R15), R8
	RDTSC
	MOVL AX, 0(R15)
	CALL R8
	JMP  again
done:
	MOVQ 24(R15), DI
	SYS(EXIT)
	END

// read exits with the 64-bit number at RDI.
TEXT ·read(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ (DI), DI
	SYS(EXIT)
	END

// fill zeroes the page at RDI with a vector register that held RSI just before, and exits with 1 if something else is in the page then; else it makes a
// system call and does it again.
TEXT ·fill(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ DI, R8
again:
	MOVQ SI, X0
	PUNPCKLQDQ X0, X0
	MOVOU X0, -16(SP)
	PXOR X0, X0
	MOVQ R8, R9
	MOVL $256, CX
store:
	MOVOU X0, (R9)
	ADDQ $16, R9
	DECL CX
	JNZ  store
	MOVQ R8, R9
	MOVL $512, CX
check:
	CMPQ (R9), $0
	JNE  bad
	ADDQ $8, R9
	DECL CX
	JNZ  check
	SYS(CLOCK)
	JMP  again
bad:
	MOVL $1, DI
	SYS(EXIT)
	END

// tally counts its system calls in RBX and in XMM0, and exits with 1 when the two differ.
TEXT ·tally(SB), NOSPLIT|NOFRAME, $0-0
	XORL BX, BX
	PXOR X0, X0
	MOVL $1, AX
	MOVQ AX, X1
again:
	SYS(CLOCK)
	INCQ BX
	PADDQ X1, X0
	MOVQ X0, AX
	CMPQ AX, BX
	JEQ  again
	MOVL $1, DI
	SYS(EXIT)
	END
