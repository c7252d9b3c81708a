// Faults as a program sees them: signal, code, address; and what a handler may change.
#include "check.h"
#include <setjmp.h>
#include <sys/ucontext.h>
#include <ucontext.h>

static sigjmp_buf env;
static siginfo_t got;
static ucontext_t seen;
static char alternate[65536] __attribute__((aligned(64)));

static void catcher(int n, siginfo_t *i, void *c)
{
	asm volatile("pushfq\n andl $~0x40000, (%%rsp)\n popfq" ::: "memory", "cc"); // alignment checks are over
	(void)n;
	got = *i;
	memcpy(&seen, c, sizeof seen);
	siglongjmp(env, 1);
}

static void catch_all(void)
{
	static const int which[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE};
	struct sigaction a = {.sa_sigaction = catcher, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	stack_t s = {.ss_sp = alternate, .ss_size = sizeof alternate};

	need(sigaltstack(&s, 0));
	for (unsigned i = 0; i < sizeof which / sizeof *which; i++)
		need(sigaction(which[i], &a, 0));
}

// TRY runs statements and says what signal they raised, and its address relative to base.
#define TRY(base, ...)                                                                                                 \
	do {                                                                                                           \
		catch_all();                                                                                           \
		if (sigsetjmp(env, 1) == 0) {                                                                          \
			__VA_ARGS__;                                                                                   \
			say("no fault ");                                                                              \
		} else {                                                                                               \
			say("%s code %d addr %lx ", sig(got.si_signo), got.si_code, (long)((char *)got.si_addr - (char *)(base))); \
		}                                                                                                      \
	} while (0)
#define READ(p) (void)*(volatile char *)(p)
#define WRITE(p) (void)(*(volatile char *)(p) = 1)
#define CALL(p) ((void (*)(void))(p))()

static void unmask(int exceptions) { unsigned m = 0x1f80 & ~(exceptions << 7); asm volatile("ldmxcsr %0" ::"m"(m)); }

static char *mapping(int prot) { char *p = pages(4, 0); need(mprotect(p, 4 * 4096, prot)); return p; }
static char *hole(void) { char *p = pages(4, 0); need(munmap(p, 4 * 4096)); return p; }

T(segv_read_unmapped) { char *p = hole(); TRY(p, READ(p + 5)); }
T(segv_write_unmapped) { char *p = hole(); TRY(p, WRITE(p + 4095)); }
T(segv_call_unmapped) { char *p = hole(); TRY(p, CALL(p + 7)); }
T(segv_read_none) { char *p = mapping(PROT_NONE); TRY(p, READ(p + 5)); }
T(segv_write_read_only) { char *p = mapping(PROT_READ); TRY(p, READ(p)); TRY(p, WRITE(p + 4100)); }
T(segv_call_data) { char *p = pages(1, 0); *p = 0xc3; TRY(p, CALL(p)); }
T(segv_write_code) { TRY(&run_segv_read_none, WRITE(&run_segv_read_none)); }
T(segv_null) { TRY(0, READ(0)); TRY(0, CALL(0)); }
T(segv_straddles_pages) { char *p = pages(2, 0); need(munmap(p + 4096, 4096)); TRY(p, *(volatile uint64_t *)(p + 4092) = 1); }
T(segv_kernel_half_read) { char *p = (char *)0xffff800000000000; TRY(p, READ(p)); p = (char *)0xffffffff81000000; TRY(p, READ(p)); p = (char *)0xffffffffffffffff; TRY(p, READ(p)); }
T(segv_kernel_half_write) { char *p = (char *)0xffff888000000000; TRY(p, WRITE(p)); p = (char *)0xfffffffffffff000; TRY(p, WRITE(p)); }
T(segv_kernel_half_jump) { char *volatile p = (char *)0xffff800000000000; TRY(p, CALL(p)); p = (char *)0xfffffe0000000000; TRY(p, CALL(p)); p = (char *)0xfffffffffffffff0; TRY(p, CALL(p)); }
T(segv_non_canonical_read) { TRY(0, READ(0x800000000000)); TRY(0, READ(0xdead000000000000)); }
T(segv_non_canonical_write) { TRY(0, WRITE(0x7fff800000000000)); }
T(segv_non_canonical_jump) { TRY(0, CALL(0x800000000000)); TRY(0, CALL(0x1234567812345678)); }
T(segv_non_canonical_stack) { TRY(0, asm volatile("mov %%rsp, %%rbx\n movabs $0x8000000000000000, %%rsp\n push %%rax\n mov %%rbx, %%rsp" ::: "rbx", "memory")); }
T(segv_last_page_of_user_space) { char *p = (char *)0x7ffffffff000; TRY(p, READ(p)); TRY(p, READ(p + 4095)); TRY(p, CALL(p + 4090)); }
T(bus_past_end) { int f = need(open("m", O_CREAT | O_RDWR, 0644)); need(ftruncate(f, 100)); char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0); TRY(p, READ(p + 4095)); TRY(p, READ(p + 4096)); TRY(p, WRITE(p + 5000)); }
T(bus_after_truncate) { int f = need(open("m", O_CREAT | O_RDWR, 0644)); need(ftruncate(f, 8192)); char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0); WRITE(p + 4096); need(ftruncate(f, 4096)); TRY(p, READ(p + 4096)); need(ftruncate(f, 8192)); TRY(p, READ(p + 4096)); say("%d", p[4096]); }
T(bus_private_after_truncate) { int f = need(open("m", O_CREAT | O_RDWR, 0644)); need(ftruncate(f, 8192)); char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, f, 0); WRITE(p + 4096); need(ftruncate(f, 10)); TRY(p, READ(p + 4096)); }
T(bus_alignment_check) { static volatile long v[2]; TRY(got.si_addr, asm volatile("pushfq\n orl $0x40000, (%%rsp)\n popfq\n mov 1(%0), %%eax\n pushfq\n andl $~0x40000, (%%rsp)\n popfq" ::"r"(v) : "rax", "memory", "cc")); }
T(ill_ud2) { extern char ud2_at[]; TRY(ud2_at, asm volatile(".globl ud2_at\nud2_at: ud2")); }
T(ill_bad_encodings) { TRY(got.si_addr, asm volatile(".byte 0x06")); TRY(got.si_addr, asm volatile(".byte 0x0f, 0x0a")); TRY(got.si_addr, asm volatile(".byte 0xf0, 0x90")); TRY(got.si_addr, asm volatile(".byte 0xce")); }
T(trap_int3) { extern char int3_at[]; TRY(0, asm volatile(".globl int3_at\nint3_at: int3")); say("rip +%ld", (long)(seen.uc_mcontext.gregs[REG_RIP] - (long)int3_at)); }
T(trap_int3_long_form) { extern char cd03_at[]; TRY(0, asm volatile(".globl cd03_at\ncd03_at: .byte 0xcd, 3")); say("rip +%ld", (long)(seen.uc_mcontext.gregs[REG_RIP] - (long)cd03_at)); }
T(trap_icebp) { TRY(got.si_addr, asm volatile(".byte 0xf1")); }
T(fpe_divide_by_zero) { extern char div_at[]; TRY(div_at, asm volatile("xor %%ecx, %%ecx\n mov $1, %%eax\n cltd\n .globl div_at\ndiv_at: idiv %%ecx" ::: "rax", "rdx", "rcx")); }
T(fpe_divide_overflow) { TRY(got.si_addr, asm volatile("mov $0x80000000, %%eax\n cltd\n mov $-1, %%ecx\n idiv %%ecx" ::: "rax", "rdx", "rcx")); }
T(fpe_sse_divide) { double z = 0; unmask(4); TRY(got.si_addr, volatile double r = 1 / *(volatile double *)&z; (void)r); }
T(fpe_sse_invalid) { double z = 0; unmask(1); TRY(got.si_addr, volatile double r = *(volatile double *)&z / *(volatile double *)&z; (void)r); }
T(fpe_sse_inexact) { double z = 3; unmask(32); TRY(got.si_addr, volatile double r = 1 / *(volatile double *)&z; (void)r); }
T(fpe_x87_divide) { unsigned short c = 0x37f & ~4; TRY(got.si_addr, asm volatile("fldcw %0\n fld1\n fldz\n fdivrp\n fwait" ::"m"(c))); asm volatile("fninit"); }
T(trapno_of_faults)
{
	char *q = mapping(PROT_READ), *p = hole();
	TRY(p, READ(p));
	say("trap %ld cr2 %d, ", (long)seen.uc_mcontext.gregs[REG_TRAPNO], (char *)seen.uc_mcontext.gregs[REG_CR2] == p);
	TRY(q, WRITE(q));
	say("trap %ld", (long)seen.uc_mcontext.gregs[REG_TRAPNO]);
}
T(faulting_rip_is_exact) { extern char load_at[]; char *p = hole(); TRY(p, asm volatile(".globl load_at\nload_at: mov (%0), %%al" ::"r"(p) : "rax")); say("%d", (char *)seen.uc_mcontext.gregs[REG_RIP] == load_at); }
T(registers_in_frame)
{
	char *p = hole();
	TRY(p, asm volatile("mov $1, %%rax\n mov $2, %%rbx\n mov $3, %%rcx\n mov $4, %%rdx\n mov $5, %%rsi\n mov $8, %%r8\n mov $9, %%r9\n mov $10, %%r10\n mov $11, %%r11\n mov $12, %%r12\n mov $13, %%r13\n mov $14, %%r14\n mov $15, %%r15\n movb $0, (%%rdi)" ::"D"(p) : "rax", "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory"));
	greg_t *g = seen.uc_mcontext.gregs;
	say("%lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld", g[REG_RAX], g[REG_RBX], g[REG_RCX], g[REG_RDX], g[REG_RSI], g[REG_R8], g[REG_R9], g[REG_R10], g[REG_R11], g[REG_R12], g[REG_R13], g[REG_R14], g[REG_R15]);
	say(" cs %x", (int)(g[REG_CSGSFS] & 0xffff));
}

// change makes a ud2 look like a computation: it returns with other registers, behind the instruction.
static void change(int n, siginfo_t *i, void *c)
{
	ucontext_t *u = c;
	(void)n, (void)i;
	u->uc_mcontext.gregs[REG_RIP] += 2;
	u->uc_mcontext.gregs[REG_RAX] = 111;
	u->uc_mcontext.gregs[REG_RCX] = 222;
	u->uc_mcontext.gregs[REG_R11] = 333;
	u->uc_mcontext.gregs[REG_R15] = 444;
	u->uc_mcontext.gregs[REG_EFL] |= 0x401; // DF and CF
	u->uc_mcontext.fpregs->_xmm[9].element[0] = 0x51e4e7;
}
T(handler_changes_registers)
{
	struct sigaction a = {.sa_sigaction = change, .sa_flags = SA_SIGINFO};
	long rax, rcx, r11, r15, fl, x;
	need(sigaction(SIGILL, &a, 0));
	asm volatile("cld\n clc\n ud2\n mov %%r11, %2\n mov %%r15, %3\n pushfq\n pop %4\n cld\n movq %%xmm9, %5\n"
		     : "=a"(rax), "=c"(rcx), "=&r"(r11), "=&r"(r15), "=&r"(fl), "=&r"(x)::"r11", "r15", "memory", "cc", "xmm9");
	say("%ld %ld %ld %ld flags %lx xmm9 %x", rax, rcx, r11, r15, fl & 0x401, (int)x);
}

// The same with x87 and SSE as after reset: the CPU then saves them as not in use (seldom on a software KVM, hence many tries), and yet what the
// handler writes counts.
static void change_unused(int n, siginfo_t *i, void *c)
{
	ucontext_t *u = c;
	(void)n, (void)i;
	u->uc_mcontext.gregs[REG_RIP] += 2;
	u->uc_mcontext.fpregs->cwd = 0x27f;
	u->uc_mcontext.fpregs->_xmm[9].element[0] = 0x51e4e7;
}
T(handler_changes_unused_fp)
{
	static struct { unsigned char legacy[512]; uint64_t header[8]; } init __attribute__((aligned(64)));
	struct sigaction a = {.sa_sigaction = change_unused, .sa_flags = SA_SIGINFO};
	int lost_x87 = 0, lost_sse = 0;
	need(sigaction(SIGILL, &a, 0));
	init.legacy[0] = 0x7f, init.legacy[1] = 0x03, init.legacy[24] = 0x80, init.legacy[25] = 0x1f;
	for (int i = 0; i < 1000; i++) {
		long x;
		unsigned short control;
		asm volatile("xrstor (%[init])\n ud2\n fnstcw %[control]\n movq %%xmm9, %[x]\n fninit\n" : [x] "=r"(x), [control] "=m"(control) : [init] "S"(&init), "a"(3), "d"(0) : "rcx", "r11", "memory", "cc",
			     "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
		lost_x87 += control != 0x27f;
		lost_sse += x != 0x51e4e7;
	}
	say("lost x87 %d SSE %d", lost_x87, lost_sse);
}

static volatile uint64_t forged;
static void forge_flags(int n, siginfo_t *i, void *c)
{
	(void)n, (void)i;
	((ucontext_t *)c)->uc_mcontext.gregs[REG_EFL] |= forged;
	((ucontext_t *)c)->uc_mcontext.gregs[REG_RIP] += 2;
}
T(handler_forges_flags)
{
	static const uint64_t which[] = {0x3000 /* IOPL */, 0x4000 /* NT */, 0x20000 /* VM */, 0x80000 /* VIF */, 0x100000 /* VIP */, 0x200 /* IF */};
	struct sigaction a = {.sa_sigaction = forge_flags, .sa_flags = SA_SIGINFO};
	need(sigaction(SIGILL, &a, 0));
	for (int i = 0; i < 6; i++) {
		long fl;
		forged = which[i];
		asm volatile("ud2\n pushfq\n pop %0\n pushfq\n andq $~0x4000, (%%rsp)\n popfq" : "=r"(fl)::"memory", "cc");
		say("%lx ", fl & (which[i] | 0x3000));
	}
}
static volatile int forged_cs, forged_ss;
static void forge_segments(int n, siginfo_t *i, void *c)
{
	uint64_t *g = (uint64_t *)&((ucontext_t *)c)->uc_mcontext.gregs[REG_CSGSFS];
	(void)n, (void)i;
	*g = (*g & 0x0000ffffffff0000) | forged_cs | (uint64_t)forged_ss << 48;
	((ucontext_t *)c)->uc_mcontext.gregs[REG_RIP] += 2;
	signal(SIGILL, SIG_DFL);
}
static void forged_return(void)
{
	struct sigaction a = {.sa_sigaction = forge_segments, .sa_flags = SA_SIGINFO};
	need(sigaction(SIGILL, &a, 0));
	asm volatile("ud2" ::: "memory");
	_exit(55);
}
// What becomes of a forged CS is the kernel's affair: only that it never gives privilege is fixed.
T(handler_forges_segments)
{
	static const int cs[] = {0x08, 0x10, 0x18, 0x20, 0xfff8, 0}, ok[] = {SIGSEGV, SIGILL, SIGBUS};
	for (int i = 0; i < 6; i++) {
		forged_cs = cs[i];
		forged_ss = 0x2b;
		int w = in(forged_return), fine = WIFEXITED(w) && WEXITSTATUS(w) == 55;
		for (int k = 0; k < 3; k++)
			fine |= WIFSIGNALED(w) && WTERMSIG(w) == ok[k];
		say("%d ", fine);
	}
}
static void bad_sigreturn(void)
{
	asm volatile("mov $0x1000, %%rsp\n mov %0, %%eax\n syscall" ::"i"(SYS_rt_sigreturn) : "rax", "rcx", "r11", "memory");
}
T(sigreturn_without_frame) { say("%s", status(in(bad_sigreturn))); }
static void noncanonical_rip(int n, siginfo_t *i, void *c) { (void)n, (void)i; ((ucontext_t *)c)->uc_mcontext.gregs[REG_RIP] = 0x8000000000000000; }
static void to_noncanonical(void) { struct sigaction a = {.sa_sigaction = noncanonical_rip, .sa_flags = SA_SIGINFO}; need(sigaction(SIGILL, &a, 0)); asm volatile("ud2"); }
T(sigreturn_to_non_canonical) { say("%s", status(in(to_noncanonical))); }
static void kernel_rip(int n, siginfo_t *i, void *c) { (void)n, (void)i; ((ucontext_t *)c)->uc_mcontext.gregs[REG_RIP] = 0xffff800000000000; }
static void to_kernel(void) { struct sigaction a = {.sa_sigaction = kernel_rip, .sa_flags = SA_SIGINFO}; need(sigaction(SIGILL, &a, 0)); asm volatile("ud2"); }
T(sigreturn_to_kernel_half) { say("%s", status(in(to_kernel))); }

static volatile int depth, deepest, on_alternate;
static void nest(int n)
{
	char here;
	stack_t s;
	depth++;
	if (depth > deepest)
		deepest = depth;
	sigaltstack(0, &s);
	on_alternate += (s.ss_flags & SS_ONSTACK) && &here > (char *)s.ss_sp && &here < (char *)s.ss_sp + s.ss_size;
	if (n < SIGRTMIN + 9)
		raise(n + 1);
	depth--;
}
T(nested_signals_on_alternate_stack)
{
	struct sigaction a = {.sa_handler = nest, .sa_flags = SA_ONSTACK};
	stack_t s = {.ss_sp = pages(64, 0), .ss_size = 64 * 4096};
	need(sigaltstack(&s, 0));
	for (int i = 0; i < 10; i++)
		need(sigaction(SIGRTMIN + i, &a, 0));
	raise(SIGRTMIN);
	say("deepest %d, on the stack %d, now %d", deepest, on_alternate, depth);
}
static int overflow(int n) { volatile char big[4096]; big[0] = n; return n < 0 ? 0 : overflow(n + 1) + big[0]; }
T(stack_overflow_caught) { TRY(got.si_addr, overflow(0)); }
static void overflow_uncaught(void) { overflow(0); }
T(stack_overflow_uncaught) { say("%s", status(in(overflow_uncaught))); }
static void fault_in_handler(int n) { (void)n; READ(8); }
static void segv_blocked(void) { sigset_t s; sigemptyset(&s); sigaddset(&s, SIGSEGV); struct sigaction a = {.sa_handler = fault_in_handler}; sigaction(SIGSEGV, &a, 0); READ(8); }
T(segv_while_blocked_kills) { say("%s", status(in(segv_blocked))); }
static void segv_ignored(void) { signal(SIGSEGV, SIG_IGN); READ(8); }
T(segv_while_ignored_kills) { say("%s", status(in(segv_ignored))); }
static void no_stack_for_frame(void) { signal(SIGUSR1, fault_in_handler); asm volatile("mov $0x1000, %%rsp\n mov %0, %%eax\n mov %1, %%edi\n mov %2, %%esi\n syscall\n ud2" ::"i"(SYS_kill), "r"(getpid()), "i"(SIGUSR1) : "memory", "rax", "rdi", "rsi"); }
T(signal_without_stack_kills) { say("%s", status(in(no_stack_for_frame))); }

static volatile int steps, trace_codes;
static void step(int n, siginfo_t *i, void *c) { (void)n, (void)c; steps++; trace_codes += i->si_code == TRAP_TRACE; }
static void stepping(void) { struct sigaction a = {.sa_sigaction = step, .sa_flags = SA_SIGINFO}; need(sigaction(SIGTRAP, &a, 0)); }
#define TF_ON "pushfq\n orl $0x100, (%%rsp)\n popfq\n"
#define TF_OFF "pushfq\n andl $~0x100, (%%rsp)\n popfq\n"
T(single_step_counts) { stepping(); asm volatile(TF_ON "nop\n nop\n nop\n nop\n nop\n" TF_OFF ::: "memory", "cc"); say("%d steps, %d with the code", steps, trace_codes); }
T(single_step_over_branches) { stepping(); asm volatile(TF_ON "mov $10, %%ecx\n 1: dec %%ecx\n jnz 1b\n" TF_OFF ::: "memory", "cc", "rcx"); say("%d", steps); }
T(single_step_over_system_call) { long r; stepping(); asm volatile(TF_ON "mov %1, %%eax\n syscall\n nop\n" TF_OFF : "=&a"(r) : "i"(SYS_getppid) : "memory", "cc", "rcx", "r11"); say("%d right result %d", steps >= 4, r == getppid()); }
T(single_step_over_page_fault) { volatile char *p = pages(1, 0); stepping(); asm volatile(TF_ON "movb $7, (%0)\n nop\n" TF_OFF ::"r"(p) : "memory", "cc"); say("%d %d", steps, *p); }
