// Instructions that a program may not execute, each tried in a child, and system calls from odd places in odd states.
#include "check.h"
#include <setjmp.h>
#include <ucontext.h>

static int number;
static char *code; // a page that may be written and executed

static void report(int n, siginfo_t *i, void *c) { (void)c; _exit(n << 2 | (i->si_code == SI_KERNEL) << 1 | (i->si_addr == 0)); }

// bytes runs machine code in a child and says what came of it.
static const char *bytes(const char *text, int n)
{
	static char b[64];
	static const int which[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS};
	int w;
	pid_t p;

	code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(code, text, n);
	code[n] = 0xc3;
	p = need(fork());
	if (p == 0) {
		struct sigaction a = {.sa_sigaction = report, .sa_flags = SA_SIGINFO};
		for (int i = 0; i < 6; i++)
			sigaction(which[i], &a, 0);
		((void (*)(void))code)();
		_exit(0);
	}
	need(waitpid(p, &w, 0));
	munmap(code, 4096);
	if (WIFEXITED(w) && WEXITSTATUS(w) == 0)
		return "went through";
	if (WIFEXITED(w))
		snprintf(b, sizeof b, "%s%s", sig(WEXITSTATUS(w) >> 2), WEXITSTATUS(w) & 2 ? " from the kernel" : "");
	else
		snprintf(b, sizeof b, "%s", status(w));
	return b;
}
#define I(name, ...)                                                                                                   \
	T(name)                                                                                                        \
	{                                                                                                              \
		static const unsigned char b[] = {__VA_ARGS__};                                                        \
		say("%s", bytes((const char *)b, sizeof b));                                                           \
	}

I(insn_hlt, 0xf4)
I(insn_cli, 0xfa)
I(insn_sti, 0xfb)
I(insn_in_al, 0xe4, 0x60)
I(insn_in_dx, 0xba, 0xf8, 0x03, 0, 0, 0xec)
I(insn_out_al, 0xe6, 0x80)
I(insn_out_dx, 0xba, 0xf8, 0x03, 0, 0, 0xee)
I(insn_out_dword, 0xba, 0xf8, 0x0c, 0, 0, 0xef)
I(insn_outsb, 0xba, 0xf8, 0x03, 0, 0, 0x6e)
I(insn_rep_insb, 0x31, 0xc9, 0xff, 0xc1, 0xba, 0xf8, 0x03, 0, 0, 0xf3, 0x6c)
I(insn_mov_to_cr0, 0x0f, 0x22, 0xc0)
I(insn_mov_from_cr0, 0x0f, 0x20, 0xc0)
I(insn_mov_to_cr3, 0x0f, 0x22, 0xd8)
I(insn_mov_from_cr3, 0x0f, 0x20, 0xd8)
I(insn_mov_to_cr4, 0x0f, 0x22, 0xe0)
I(insn_mov_to_cr8, 0x44, 0x0f, 0x22, 0xc0)
I(insn_mov_to_dr7, 0x0f, 0x23, 0xf8)
I(insn_mov_from_dr6, 0x0f, 0x21, 0xf0)
I(insn_wrmsr, 0xb9, 0x82, 0, 0, 0xc0, 0x0f, 0x30)
I(insn_rdmsr, 0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32)
I(insn_swapgs, 0x0f, 0x01, 0xf8)
I(insn_sysretq, 0x48, 0x0f, 0x07)
I(insn_sysexit, 0x0f, 0x35)
I(insn_lgdt, 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x0f, 0x01, 0x10)
I(insn_lidt, 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x0f, 0x01, 0x18)
I(insn_lldt, 0x31, 0xc0, 0x0f, 0x00, 0xd0)
I(insn_ltr, 0x31, 0xc0, 0x0f, 0x00, 0xd8)
I(insn_lmsw, 0x31, 0xc0, 0x0f, 0x01, 0xf0)
I(insn_clts, 0x0f, 0x06)
I(insn_invd, 0x0f, 0x08)
I(insn_wbinvd, 0x0f, 0x09)
I(insn_invlpg, 0x0f, 0x01, 0x38)
I(insn_xsetbv, 0x31, 0xc9, 0x31, 0xd2, 0xb8, 3, 0, 0, 0, 0x0f, 0x01, 0xd1)
I(insn_clac, 0x0f, 0x01, 0xca)
I(insn_int1, 0xf1)
I(insn_into, 0xce)
I(insn_ud1, 0x0f, 0xb9, 0xc0)
I(insn_far_jump_to_kernel_code, 0x48, 0x83, 0xec, 0x10, 0xc7, 0x04, 0x24, 0, 0, 0, 0, 0x66, 0xc7, 0x44, 0x24, 4, 0x10, 0, 0xff, 0x2c, 0x24)
I(insn_far_jump_null, 0x48, 0x83, 0xec, 0x10, 0x48, 0xc7, 0x04, 0x24, 0, 0, 0, 0, 0xff, 0x2c, 0x24)
I(insn_far_return_to_kernel, 0x6a, 0x10, 0x6a, 0x00, 0x48, 0xcb)
I(insn_iretq_to_kernel, 0x6a, 0x18, 0x54, 0x9c, 0x6a, 0x10, 0x6a, 0x00, 0x48, 0xcf)
I(insn_iretq_null_cs, 0x6a, 0x2b, 0x54, 0x9c, 0x6a, 0x00, 0x6a, 0x00, 0x48, 0xcf)
I(insn_load_ss_kernel, 0xb8, 0x18, 0, 0, 0, 0x8e, 0xd0)
I(insn_load_ds_kernel, 0xb8, 0x18, 0, 0, 0, 0x8e, 0xd8)
I(insn_load_ss_null, 0x31, 0xc0, 0x8e, 0xd0)
I(insn_load_ds_null, 0x31, 0xc0, 0x8e, 0xd8)
I(insn_load_fs_beyond_gdt, 0xb8, 0xf8, 0xff, 0, 0, 0x8e, 0xe0)
I(insn_popf_iopl, 0x9c, 0x81, 0x0c, 0x24, 0, 0x30, 0, 0, 0x9d, 0xfa)
I(insn_monitor, 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x31, 0xc9, 0x31, 0xd2, 0x0f, 0x01, 0xc8)
I(insn_vmrun, 0x0f, 0x01, 0xd8)
I(insn_cpuid_works, 0x31, 0xc0, 0x53, 0x0f, 0xa2, 0x5b)
I(insn_rdtsc_works, 0x0f, 0x31)
I(insn_prefetch_kernel_half, 0x48, 0xb8, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff, 0x0f, 0x18, 0x08)
I(insn_15_bytes_limit, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90)

static void software_interrupt(int from, int to)
{
	for (int n = from; n <= to; n++) {
		unsigned char b[2] = {0xcd, n};
		number = n;
		say("%d:%s ", n, bytes((char *)b, 2));
	}
}
T(int_0_to_31) { software_interrupt(0, 31); }
T(int_32_to_127) { for (int n = 32, bad = 0; n < 128; n++) { unsigned char b[2] = {0xcd, n}; bad += strcmp(bytes((char *)b, 2), "SIGSEGV from the kernel") != 0; if (n == 127) say("%d odd", bad); } }
T(int_129_to_255) { for (int n = 129, bad = 0; n < 256; n++) { unsigned char b[2] = {0xcd, n}; bad += strcmp(bytes((char *)b, 2), "SIGSEGV from the kernel") != 0; if (n == 255) say("%d odd", bad); } }
// A 32-bit call is a call where the host has them, else a fault; it never does more.
T(int_128)
{
	static const unsigned char b[] = {0xb8, 20, 0, 0, 0, 0xcd, 0x80};
	const char *s = bytes((const char *)b, sizeof b);
	say("%d", !strcmp(s, "went through") || !strncmp(s, "SIGSEGV", 7) || !strncmp(s, "SIGILL", 6));
}
T(after_all_that) { char b[8]; int p[2]; need(pipe(p)); need(write(p[1], "fine", 5)); need(read(p[0], b, 5)); say("%s", b); }

T(syscall_clobbers_only_rcx_r11)
{
	long in[13] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, bad = 0, rax, rcx, r11, here;
	(void)in;
	asm volatile("mov $101, %%rbx\n mov $102, %%rdi\n mov $103, %%rsi\n mov $104, %%rdx\n mov $105, %%r8\n mov $106, %%r9\n mov $107, %%r10\n mov $108, %%r12\n mov $109, %%r13\n mov $110, %%r14\n mov $111, %%r15\n"
		     "mov %[nr], %%eax\n syscall\n 1: mov %%rcx, %[rcx]\n mov %%r11, %[r11]\n lea 1b(%%rip), %[here]\n"
		     "xor %%ecx, %%ecx\n cmp $101, %%rbx\n setne %%cl\n add %%ecx, %%ecx\n"
		     "cmp $102, %%rdi\n jne 2f\n cmp $103, %%rsi\n jne 2f\n cmp $104, %%rdx\n jne 2f\n cmp $105, %%r8\n jne 2f\n cmp $106, %%r9\n jne 2f\n cmp $107, %%r10\n jne 2f\n cmp $108, %%r12\n jne 2f\n cmp $109, %%r13\n jne 2f\n cmp $110, %%r14\n jne 2f\n cmp $111, %%r15\n je 3f\n 2: inc %%ecx\n 3:\n"
		     : "=&a"(rax), "=&c"(bad), [rcx] "=m"(rcx), [r11] "=m"(r11), [here] "=&r"(here)
		     : [nr] "i"(SYS_getppid)
		     : "rbx", "rdi", "rsi", "rdx", "r8", "r9", "r10", "r12", "r13", "r14", "r15", "memory", "cc", "r11");
	say("bad %ld rcx %d r11 %lx", bad, rcx == here, r11 & 0x200);
}
static long flags_across(long set)
{
	long after;
	asm volatile("pushfq\n orq %1, (%%rsp)\n popfq\n mov %2, %%eax\n syscall\n pushfq\n pop %0\n pushfq\n andq $~0x44400, (%%rsp)\n popfq" : "=&r"(after) : "r"(set), "i"(SYS_getppid) : "rax", "rcx", "r11", "memory", "cc");
	return after & set;
}
T(syscall_keeps_flags) { say("CF %lx DF %lx ", flags_across(1), flags_across(0x400)); say("AC %lx ID %lx", flags_across(0x40000), flags_across(0x200000)); }
// A software KVM forgets NT (which means nothing to a 64-bit program) when the host is interrupted at that moment: seldom, so one of many tries must keep it.
T(syscall_keeps_nt) { long nt = 0; for (int i = 0; i < 100 && !nt; i++) nt = flags_across(0x4000); say("NT %lx", nt); }
static volatile int traps;
static void trap(int n) { (void)n; traps++; }
T(syscall_with_trap_flag) { signal(SIGTRAP, trap); asm volatile("pushfq\n orl $0x100, (%%rsp)\n popfq\n mov %0, %%eax\n syscall\n pushfq\n andl $~0x100, (%%rsp)\n popfq" ::"i"(SYS_getppid) : "rax", "rcx", "r11", "memory", "cc"); say("%d", traps >= 3); }
T(syscall_with_forged_rcx_r11) { long r; asm volatile("mov $-1, %%rcx\n mov $-1, %%r11\n mov %1, %%eax\n syscall" : "=a"(r) : "i"(SYS_getppid) : "rcx", "r11", "memory"); say("%d", r == getppid()); }
static void page_end(char *page) { ((void (*)(void))page)(); }
static sigjmp_buf env;
static siginfo_t got;
static long rax_then;
static void caught(int n, siginfo_t *i, void *c) { (void)n; got = *i; rax_then = ((ucontext_t *)c)->uc_mcontext.gregs[REG_RAX]; siglongjmp(env, 1); }
T(syscall_at_end_of_page)
{
	struct sigaction a = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
	char *p = mmap(0, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(munmap(p + 4096, 4096));
	memcpy(p + 4089, "\xb8\x6e\0\0\0\x0f\x05", 7); // mov $getppid, %eax; syscall
	need(sigaction(SIGSEGV, &a, 0));
	if (sigsetjmp(env, 1) == 0)
		page_end(p + 4089);
	say("%s addr %lx code %d result %d", sig(got.si_signo), (long)((char *)got.si_addr - p), got.si_code, rax_then == getppid());
}
T(syscall_straddles_pages)
{
	char *p = mmap(0, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(p + 4090, "\xb8\x6e\0\0\0\x0f\x05\xc3", 8);
	say("%d", ((int (*)(void))(p + 4090))() == getppid());
}
static long raw(long n)
{
	long r;
	asm volatile("syscall" : "=a"(r) : "a"(n), "D"(-1L), "S"(0), "d"(0) : "rcx", "r11", "memory");
	return r;
}
T(syscall_odd_numbers) { say("%ld %ld %ld %ld %ld", raw(-1), raw(-100), raw(600), raw(0x7fffffff), raw(-0x80000000L)); }
T(syscall_x32_bit) { say("%ld", raw(0x40000000 + SYS_getppid)); }
T(syscall_high_half_ignored) { say("%d", raw(0x100000000 + SYS_getppid) == getppid()); }
T(syscall_bad_stack) { long r; asm volatile("mov %%rsp, %%rbx\n mov $8, %%rsp\n mov %1, %%eax\n syscall\n mov %%rbx, %%rsp" : "=&a"(r) : "i"(SYS_getppid) : "rbx", "rcx", "r11", "memory"); say("%d", r == getppid()); }
T(red_zone_survives_signals)
{
	struct timespec t;
	long bad = 0;
	timer_t id;
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGTRAP};
	struct itimerspec s = {{0, 200000}, {0, 200000}};
	(void)t;
	signal(SIGTRAP, trap);
	need(timer_create(CLOCK_MONOTONIC, &e, &id));
	need(timer_settime(id, 0, &s, 0));
	while (traps < 100)
		asm volatile("movq $0x77, -8(%%rsp)\n movq $0x78, -120(%%rsp)\n mov $20000, %%ecx\n 1: dec %%ecx\n jnz 1b\n cmpq $0x77, -8(%%rsp)\n je 2f\n inc %0\n 2: cmpq $0x78, -120(%%rsp)\n je 3f\n inc %0\n 3:" : "+r"(bad)::"rcx", "cc", "memory");
	need(timer_delete(id));
	say("%ld bad", bad);
}
