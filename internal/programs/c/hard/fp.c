// The vector registers across everything that may lose them. Loading, the event and storing are one asm block, so that
// no compiled code comes between.
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <sys/time.h>

#define ALL "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define REST ",16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"

enum { SPIN = -1 };

struct regs {
	unsigned char v[32][64];
	uint64_t k[8];
};

// Each block: load, then system call nr or, if that is SPIN, a loop of spins rounds, then store. It returns rax.
static long block256(const struct regs *in, struct regs *out, long nr, long spins)
{
	long rax;
	asm volatile(".irp r," ALL "\n vmovdqu (\\r*64)(%[in]), %%ymm\\r\n .endr\n"
		     "mov %[nr], %%rax\n test %%rax, %%rax\n js 1f\n syscall\n jmp 3f\n"
		     "1: mov %[spins], %%rcx\n 2: dec %%rcx\n jnz 2b\n 3:\n"
		     ".irp r," ALL "\n vmovdqu %%ymm\\r, (\\r*64)(%[out])\n .endr\n vzeroupper\n"
		     : "=&a"(rax)
		     : [in] "r"(in), [out] "r"(out), [nr] "r"(nr), [spins] "r"(spins)
		     : "rcx", "r11", "rdi", "rsi", "rdx", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
		       "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	return rax;
}

static long block512(const struct regs *in, struct regs *out, long nr, long spins)
{
	long rax;
	asm volatile(".irp r," ALL REST "\n vmovdqu64 (\\r*64)(%[in]), %%zmm\\r\n .endr\n"
		     ".irp r,1,2,3,4,5,6,7\n kmovw (2048+\\r*8)(%[in]), %%k\\r\n .endr\n"
		     "mov %[nr], %%rax\n test %%rax, %%rax\n js 1f\n syscall\n jmp 3f\n"
		     "1: mov %[spins], %%rcx\n 2: dec %%rcx\n jnz 2b\n 3:\n"
		     ".irp r," ALL REST "\n vmovdqu64 %%zmm\\r, (\\r*64)(%[out])\n .endr\n"
		     ".irp r,1,2,3,4,5,6,7\n kmovw %%k\\r, (2048+\\r*8)(%[out])\n .endr\n vzeroupper\n"
		     : "=&a"(rax)
		     : [in] "r"(in), [out] "r"(out), [nr] "r"(nr), [spins] "r"(spins)
		     : "rcx", "r11", "rdi", "rsi", "rdx", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
		       "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	return rax;
}

static int has512(void) { return __builtin_cpu_supports("avx512f") != 0; }
static int has256(void) { return __builtin_cpu_supports("avx") != 0; }

// differs runs one block with fresh values and says whether any came back wrong.
static int differs(int wide, unsigned seed, long nr, long spins, long *rax)
{
	struct regs in, out;
	int i, k, n = wide ? 32 : 16, size = wide ? 64 : 32, bad = 0;

	memset(&in, 0, sizeof in);
	for (i = 0; i < n; i++)
		for (k = 0; k < size; k++)
			in.v[i][k] = seed * 7 + i * 67 + k * 3 + 1;
	for (i = 1; i < 8; i++)
		in.k[i] = (seed * 40503 + i * 977) & 0xffff;
	memset(&out, 0, sizeof out);
	*rax = (wide ? block512 : block256)(&in, &out, nr, spins);
	for (i = 0; i < n; i++)
		bad |= memcmp(in.v[i], out.v[i], size) != 0;
	for (i = 1; wide && i < 8; i++)
		bad |= in.k[i] != (out.k[i] & 0xffff);
	return bad;
}

static int wide_now, bad_total, rounds_now;
static long nr_now, spins_now;

static void *worker(void *p)
{
	long rax;
	for (int i = 0; i < rounds_now; i++)
		if (differs(wide_now, (long)p * 1000 + i, nr_now, spins_now, &rax))
			__atomic_fetch_add(&bad_total, 1, __ATOMIC_RELAXED);
	return 0;
}

static void threads(int wide, int n, int rounds, long nr, long spins)
{
	pthread_t t[16];

	if (wide ? !has512() : !has256()) {
		say("not on this processor");
		return;
	}
	wide_now = wide;
	rounds_now = rounds;
	nr_now = nr;
	spins_now = spins;
	for (long i = 0; i < n; i++)
		if (pthread_create(&t[i], 0, worker, (void *)i))
			say("no thread ");
	for (int i = 0; i < n; i++)
		pthread_join(t[i], 0);
	say("%d bad of %d", bad_total, n * rounds);
}

// trash overwrites all vector registers: a signal handler with manners none.
static volatile int trashed;
static void trash(int n)
{
	(void)n;
	trashed++;
	if (has512())
		asm volatile(".irp r," ALL REST "\n vpternlogd $255, %%zmm\\r, %%zmm\\r, %%zmm\\r\n .endr\n"
			     ".irp r,1,2,3,4,5,6,7\n kxnorw %%k\\r, %%k\\r, %%k\\r\n .endr\n" ::: "memory");
	else if (has256())
		asm volatile(".irp r," ALL "\n vcmptrueps %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n" ::: "memory");
}

static void with_timer(int wide)
{
	struct sigaction a = {.sa_handler = trash, .sa_flags = SA_RESTART};
	struct itimerval t = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};
	long rax;
	int bad = 0;

	if (wide ? !has512() : !has256()) {
		say("not on this processor");
		return;
	}
	need(sigaction(SIGALRM, &a, 0));
	need(setitimer(ITIMER_REAL, &t, 0));
	for (int i = 0; trashed < 100; i++)
		bad += differs(wide, i, i % 2 ? SYS_getpid : SPIN, 100000, &rax);
	need(setitimer(ITIMER_REAL, &off, 0));
	say("%d bad", bad);
}

static void with_fork(int wide)
{
	int bad = 0, w;
	long rax;

	if (wide ? !has512() : !has256()) {
		say("not on this processor");
		return;
	}
	for (int i = 0; i < 20; i++) {
		int d = differs(wide, i, SYS_fork, 0, &rax);
		if (rax == 0)
			_exit(d);
		bad += d;
		waitpid(rax, &w, 0);
		bad += w != 0;
	}
	say("%d bad", bad);
}

T(processor_has) { say("avx %d avx2 %d avx512f %d fma %d", has256(), __builtin_cpu_supports("avx2") != 0, has512(), __builtin_cpu_supports("fma") != 0); }
T(avx_across_system_calls) { threads(0, 1, 5000, SYS_getpid, 0); }
T(avx512_across_system_calls) { threads(1, 1, 5000, SYS_getpid, 0); }
T(avx_across_calls_of_six_threads) { threads(0, 6, 1000, SYS_sched_yield, 0); }
T(avx512_across_calls_of_six_threads) { threads(1, 6, 1000, SYS_sched_yield, 0); }
T(avx_across_preemption_of_six_threads) { threads(0, 6, 30, SPIN, 3000000); }
T(avx512_across_preemption_of_six_threads) { threads(1, 6, 30, SPIN, 3000000); }
T(avx_across_signals) { with_timer(0); }
T(avx512_across_signals) { with_timer(1); }
T(avx_across_fork) { with_fork(0); }
T(avx512_across_fork) { with_fork(1); }

T(control_words_at_start)
{
	unsigned m;
	unsigned short c;
	asm volatile("stmxcsr %0\n fnstcw %1" : "=m"(m), "=m"(c));
	say("%x %x", m, c);
}

static void *control_words(void *p)
{
	unsigned m = 0x1f80 | ((long)p & 3) << 13, n;
	unsigned short c = 0x37f | ((long)p & 3) << 10, d;
	long bad = 0;
	for (int i = 0; i < 500; i++) {
		asm volatile("ldmxcsr %0\n fldcw %1" ::"m"(m), "m"(c));
		sched_yield();
		asm volatile("stmxcsr %0\n fnstcw %1" : "=m"(n), "=m"(d));
		bad += (n & ~0x3f) != m || d != c;
	}
	return (void *)bad;
}
T(control_words_per_thread)
{
	pthread_t t[4];
	long bad = 0;
	void *r;
	for (long i = 0; i < 4; i++)
		pthread_create(&t[i], 0, control_words, (void *)i);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &r);
		bad += (long)r;
	}
	say("%ld bad", bad);
}
T(x87_stack_across_calls)
{
	double out;
	asm volatile("fldpi\n fld1\n mov %1, %%eax\n syscall\n fstp %%st(0)\n fstpl %0" : "=m"(out) : "i"(SYS_getpid) : "rax", "rcx", "r11", "st", "st(1)");
	say("%.15f", out);
}
