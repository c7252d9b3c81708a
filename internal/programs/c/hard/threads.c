// Threads: local storage, segment bases, futexes, locks of the dead, clocks.
#include "check.h"
#include <asm/prctl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <sys/time.h>

static __thread long mine = 5;
static __thread char large[10000];
static volatile int alive, go;
static void *tls(void *p)
{
	long bad = mine != 5;
	mine = (long)p;
	large[9999] = (long)p;
	__atomic_fetch_add(&alive, 1, __ATOMIC_SEQ_CST);
	while (!go)
		usleep(1000);
	bad += mine != (long)p || large[9999] != (char)(long)p;
	return (void *)bad;
}
T(threads_300)
{
	enum { N = 300 };
	static pthread_t t[N];
	long bad = 0;
	void *r;
	pthread_attr_t a;
	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, 64 << 10);
	for (long i = 0; i < N; i++)
		bad += pthread_create(&t[i], &a, tls, (void *)i) != 0;
	while (alive < N)
		sched_yield();
	go = 1;
	for (int i = 0; i < N; i++) {
		pthread_join(t[i], &r);
		bad += (long)r;
	}
	say("%ld bad", bad);
}
static void *nothing(void *p) { return p; }
T(threads_one_after_another_1000)
{
	long bad = 0;
	for (long i = 0; i < 1000; i++) {
		pthread_t t;
		void *r = 0;
		bad += pthread_create(&t, 0, nothing, (void *)i) != 0 || pthread_join(t, &r) != 0 || r != (void *)i;
	}
	say("%ld bad", bad);
}
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static long shared, turn;
static void *locked(void *p) { (void)p; for (int i = 0; i < 5000; i++) { pthread_mutex_lock(&mutex); shared++; pthread_mutex_unlock(&mutex); } return 0; }
T(mutex_of_eight_threads) { pthread_t t[8]; for (int i = 0; i < 8; i++) pthread_create(&t[i], 0, locked, 0); for (int i = 0; i < 8; i++) pthread_join(t[i], 0); say("%ld", shared); }
static void *pong(void *p) { for (int i = 0; i < 2000; i++) { pthread_mutex_lock(&mutex); while (turn % 2 != (long)p) pthread_cond_wait(&cond, &mutex); turn++; pthread_cond_broadcast(&cond); pthread_mutex_unlock(&mutex); } return 0; }
T(condition_ping_pong) { pthread_t t[2]; for (long i = 0; i < 2; i++) pthread_create(&t[i], 0, pong, (void *)i); for (int i = 0; i < 2; i++) pthread_join(t[i], 0); say("%ld", turn); }
static pthread_barrier_t barrier;
static void *at_barrier(void *p) { long n = 0; for (int i = 0; i < 100; i++) n += pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD; (void)p; return (void *)n; }
T(barrier_of_ten) { pthread_t t[10]; long n = 0; void *r; pthread_barrier_init(&barrier, 0, 10); for (int i = 0; i < 10; i++) pthread_create(&t[i], 0, at_barrier, 0); for (int i = 0; i < 10; i++) { pthread_join(t[i], &r); n += (long)r; } say("%ld", n); }
static void *die_holding(void *p) { pthread_mutex_lock(p); return 0; }
T(robust_mutex_of_a_dead_thread)
{
	pthread_mutexattr_t a;
	pthread_mutex_t m;
	pthread_t t;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&m, &a);
	pthread_create(&t, 0, die_holding, &m);
	pthread_join(t, 0);
	say("%s ", strerrorname_np(pthread_mutex_lock(&m)));
	say("%d %d", pthread_mutex_consistent(&m), pthread_mutex_unlock(&m));
}
T(robust_mutex_of_a_killed_process)
{
	pthread_mutexattr_t a;
	pthread_mutex_t *m = (void *)pages(1, MAP_SHARED | MAP_ANONYMOUS);
	int w;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(m, &a);
	pid_t c = need(fork());
	if (c == 0) {
		pthread_mutex_lock(m);
		raise(SIGKILL);
	}
	need(waitpid(c, &w, 0));
	say("%s", strerrorname_np(pthread_mutex_lock(m)));
}
T(semaphore_between_processes)
{
	sem_t *s = (void *)pages(1, MAP_SHARED | MAP_ANONYMOUS);
	int w;
	sem_init(s, 1, 0);
	pid_t c = need(fork());
	if (c == 0) {
		for (int i = 0; i < 500; i++)
			sem_wait(s);
		_exit(0);
	}
	for (int i = 0; i < 500; i++)
		sem_post(s);
	need(waitpid(c, &w, 0));
	say("%s", status(w));
}
static void *spinner(void *p) { (void)p; for (;;) {} return 0; }
static void exit_with_threads(void) { pthread_t t; for (int i = 0; i < 4; i++) pthread_create(&t, 0, spinner, 0); usleep(5000); _exit(6); }
T(exit_ends_spinning_threads) { say("%s", status(in(exit_with_threads))); }
static void exec_with_threads(void) { pthread_t t; for (int i = 0; i < 4; i++) pthread_create(&t, 0, spinner, 0); usleep(5000); execl("/bin/sh", "sh", "-c", "exit 8", (char *)0); }
T(exec_ends_spinning_threads) { say("%s", status(in(exec_with_threads))); }
static void killed_with_threads(void) { pthread_t t; for (int i = 0; i < 4; i++) pthread_create(&t, 0, spinner, 0); usleep(5000); kill(getpid(), SIGKILL); for (;;) pause(); }
T(kill_ends_spinning_threads) { say("%s", status(in(killed_with_threads))); }
static void *segv(void *p) { *(volatile char *)p = 1; return 0; }
static void thread_faults(void) { pthread_t t; pthread_create(&t, 0, segv, 0); pthread_join(t, 0); _exit(0); }
T(fault_of_one_thread_kills_all) { say("%s", status(in(thread_faults))); }
static void exec_from_thread_body(void) { execl("/bin/sh", "sh", "-c", "exit 9", (char *)0); }
static void *exec_thread(void *p) { (void)p; exec_from_thread_body(); return 0; }
static void exec_from_thread(void) { pthread_t t; pthread_create(&t, 0, exec_thread, 0); for (;;) pause(); }
T(exec_from_a_thread) { say("%s", status(in(exec_from_thread))); }
static volatile int hits[8];
static __thread int index_of_thread;
static void hit(int n) { (void)n; hits[index_of_thread]++; }
static void *takes_signals(void *p) { index_of_thread = (long)p; __atomic_fetch_add(&alive, 1, __ATOMIC_SEQ_CST); while (hits[index_of_thread] < 50) {} return 0; }
T(signals_to_each_of_eight_threads)
{
	pthread_t t[8];
	signal(SIGUSR1, hit);
	for (long i = 0; i < 8; i++)
		pthread_create(&t[i], 0, takes_signals, (void *)i);
	while (alive < 8)
		sched_yield();
	for (int i = 0; i < 8; i++)
		while (hits[i] < 50) {
			pthread_kill(t[i], SIGUSR1);
			sched_yield();
		}
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], 0);
	say("all");
}

static sigjmp_buf env;
static void no_instruction(int n) { siglongjmp(env, n); }
// has_fsgsbase tries it: what the kernel says of it in the auxiliary vector is another question.
static int has_fsgsbase(void)
{
	long v;
	signal(SIGILL, no_instruction);
	if (sigsetjmp(env, 1))
		return 0;
	asm volatile("rdgsbase %0" : "=r"(v));
	return 1;
}
static long word_gs(void) { long v; asm volatile("mov %%gs:0, %0" : "=r"(v)); return v; }
static int wrong_gs(int n, int use_instruction)
{
	long slot[2] = {n * 1000 + 7, 0}, base;
	int bad = 0;
	if (use_instruction)
		asm volatile("wrgsbase %0" ::"r"(slot));
	else if (syscall(SYS_arch_prctl, ARCH_SET_GS, slot))
		return 1000;
	for (int i = 0; i < 300; i++) {
		bad += word_gs() != slot[0];
		sched_yield();
	}
	if (use_instruction)
		asm volatile("rdgsbase %0" : "=r"(base));
	else
		need(syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
	return bad + (base != (long)slot);
}
static void *gs_by_call(void *p) { return (void *)(long)wrong_gs((long)p, 0); }
static void *gs_by_instruction(void *p) { return (void *)(long)wrong_gs((long)p, 1); }
static void gs(void *(*f)(void *))
{
	pthread_t t[6];
	long bad = 0;
	void *r;
	for (long i = 0; i < 6; i++)
		pthread_create(&t[i], 0, f, (void *)i);
	for (int i = 0; i < 6; i++) {
		pthread_join(t[i], &r);
		bad += (long)r;
	}
	say("%ld bad", bad);
}
T(gs_base_by_arch_prctl) { gs(gs_by_call); }
T(gs_base_by_wrgsbase) { if (has_fsgsbase()) gs(gs_by_instruction); else say("not on this processor"); }
T(fs_base_by_wrfsbase)
{
	long v[64] = {0}, old, now, seen = 0, rd = 0;
	if (!has_fsgsbase()) {
		say("not on this processor");
		return;
	}
	v[0] = 4242;
	asm volatile("rdfsbase %0\n wrfsbase %4\n mov %5, %%eax\n syscall\n mov %%fs:0, %1\n rdfsbase %2\n wrfsbase %0\n mov %2, %3"
		     : "=&r"(old), "=&r"(seen), "=&r"(now), "=&r"(rd)
		     : "r"(v), "i"(SYS_sched_yield)
		     : "rax", "rcx", "r11", "memory");
	say("%ld %d", seen, rd == (long)v);
}
T(fs_base_inherited_by_fork) { int w; mine = 77; pid_t c = need(fork()); if (c == 0) _exit(mine); need(waitpid(c, &w, 0)); say("%s", status(w)); }
T(gs_base_inherited_by_fork) { long v[2] = {66, 0}; int w; if (!has_fsgsbase()) { say("not on this processor"); return; } asm volatile("wrgsbase %0" ::"r"(v)); pid_t c = need(fork()); if (c == 0) _exit(word_gs()); need(waitpid(c, &w, 0)); say("%s", status(w)); }
static long at_signal;
static void read_gs(int n) { (void)n; at_signal = word_gs(); }
T(gs_base_in_signal_handler) { long v[2] = {55, 0}; if (!has_fsgsbase()) { say("not on this processor"); return; } asm volatile("wrgsbase %0" ::"r"(v)); signal(SIGUSR1, read_gs); raise(SIGUSR1); say("%ld %ld", at_signal, word_gs()); }
T(arch_prctl_non_canonical) { say("%s ", R(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x8000000000000000))); say("%s ", R(syscall(SYS_arch_prctl, ARCH_SET_FS, 0xffff800000000000))); say("%s", R(syscall(SYS_arch_prctl, 0x9999, 0))); }
T(wrgsbase_kernel_half) { if (!has_fsgsbase()) { say("not on this processor"); return; } long b; asm volatile("wrgsbase %1\n mov %2, %%eax\n syscall\n rdgsbase %0" : "=&r"(b) : "r"(0xffff800000000000), "i"(SYS_getppid) : "rax", "rcx", "r11", "memory"); say("%lx", b); }

static uint64_t tsc(void) { unsigned a, d; asm volatile("lfence\n rdtsc" : "=a"(a), "=d"(d)); return (uint64_t)d << 32 | a; }
static uint64_t nanoseconds(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000UL + t.tv_nsec; }
static uint64_t last_time;
static void *times(void *p)
{
	long bad = 0;
	uint64_t (*f)(void) = p;
	for (int i = 0; i < 3000; i++) {
		pthread_mutex_lock(&mutex);
		uint64_t now = f();
		bad += now < last_time;
		last_time = now;
		pthread_mutex_unlock(&mutex);
	}
	return (void *)bad;
}
static void monotone(uint64_t (*f)(void))
{
	pthread_t t[4];
	long bad = 0;
	void *r;
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], 0, times, f);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &r);
		bad += (long)r;
	}
	say("%ld backwards", bad);
}
T(rdtsc_monotone_over_threads) { monotone(tsc); }
T(clock_monotone_over_threads) { monotone(nanoseconds); }
T(clock_goes_on_in_sleep) { struct timespec t = {0, 20000000}; uint64_t a = nanoseconds(), c = tsc(); nanosleep(&t, 0); say("%d %d", nanoseconds() - a >= 20000000, tsc() > c); }
