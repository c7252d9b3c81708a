// Mappings that change under a running program, fork's copies, sharing.
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>

#define P 4096L
static __thread sigjmp_buf env;
static volatile int faults;
static void count_and_leave(int n) { (void)n; __atomic_fetch_add(&faults, 1, __ATOMIC_SEQ_CST); siglongjmp(env, 1); }
static void leave_on_faults(void) { struct sigaction a = {.sa_handler = count_and_leave}; need(sigaction(SIGSEGV, &a, 0)); need(sigaction(SIGBUS, &a, 0)); }
#define ATTEMPT(x) do { if (sigsetjmp(env, 1) == 0) { x; } } while (0)

T(cow_through_20_generations)
{
	volatile char *p = pages(64, 0);
	int g, i, w, bad = 0;
	for (i = 0; i < 64; i++)
		p[i * P] = i;
	for (g = 0; g < 20; g++) {
		pid_t c = need(fork());
		if (c == 0) { // the child checks what the parent had, changes all, and goes on as the next generation
			for (i = 0; i < 64; i++) {
				bad += p[i * P] != (char)(i + g);
				p[i * P] = i + g + 1;
			}
			if (bad)
				_exit(1);
			continue;
		}
		for (i = 0; i < 64; i++) // the parent writes too, at once
			if (i % 2)
				p[i * P + 1] = 99;
		need(waitpid(c, &w, 0));
		for (i = 0; i < 64; i++)
			bad += p[i * P] != (char)(i + g);
		if (g == 0)
			say("%d bad, %s", bad, status(w));
		_exit(bad || w);
	}
	_exit(0);
}
T(cow_parent_writes_do_not_show)
{
	volatile char *p = pages(16, 0);
	int a[2], b[2], bad = 0, i, w;
	char x;
	need(pipe(a));
	need(pipe(b));
	for (i = 0; i < 16; i++)
		p[i * P] = 1;
	pid_t c = need(fork());
	if (c == 0) {
		need(read(a[0], &x, 1)); // the parent has written
		for (i = 0; i < 16; i++)
			bad += p[i * P] != 1;
		for (i = 0; i < 16; i++)
			p[i * P] = 3;
		need(write(b[1], "x", 1));
		_exit(bad);
	}
	for (i = 0; i < 16; i++)
		p[i * P] = 2;
	need(write(a[1], "x", 1));
	need(read(b[0], &x, 1));
	for (i = 0; i < 16; i++)
		bad += p[i * P] != 2;
	need(waitpid(c, &w, 0));
	say("%d bad, %s", bad, status(w));
}
static volatile int stop;
static volatile long *counter;
static void *count(void *p) { (void)p; while (!stop) (*counter)++; return 0; }
T(cow_while_a_thread_writes)
{
	pthread_t t;
	int bad = 0, w;
	long last = 0;
	counter = (long *)pages(1, 0);
	pthread_create(&t, 0, count, 0);
	for (int i = 0; i < 50; i++) {
		pid_t c = need(fork());
		if (c == 0) {
			long v = *counter;
			for (int k = 0; k < 100; k++)
				sched_yield();
			_exit(*counter != v);
		}
		need(waitpid(c, &w, 0));
		bad += w != 0;
		long now = *counter;
		bad += now < last; // no increment is lost to an old copy
		last = now;
	}
	stop = 1;
	pthread_join(t, 0);
	say("%d bad", bad);
}
T(fork_of_file_pages)
{
	int f = need(open("m", O_CREAT | O_RDWR, 0644)), w;
	need(ftruncate(f, 2 * P));
	volatile char *s = mmap(0, 2 * P, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0), *v = mmap(0, 2 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE, f, 0);
	v[0] = 1;
	pid_t c = need(fork());
	if (c == 0) {
		s[P] = 7;
		s[0] = 9;
		int seen = v[0];
		v[0] = 2;
		_exit(seen);
	}
	need(waitpid(c, &w, 0));
	say("%s %d %d %d", status(w), s[P], s[0], v[0]);
}
T(mprotect_256_pages)
{
	volatile char *p = pages(256, 0);
	leave_on_faults();
	for (int i = 0; i < 256; i++)
		p[i * P] = 1;
	need(mprotect((char *)p, 256 * P, PROT_READ));
	for (volatile int i = 0; i < 256; i++)
		ATTEMPT(p[i * P] = 2);
	say("%d faults, ", faults);
	need(mprotect((char *)p, 256 * P, PROT_READ | PROT_WRITE));
	int bad = 0;
	for (int i = 0; i < 256; i++) {
		bad += p[i * P] != 1;
		p[i * P] = 3;
	}
	say("%d bad, %d faults", bad, faults);
}
T(mprotect_every_other_page)
{
	volatile char *p = pages(128, 0);
	leave_on_faults();
	for (int i = 0; i < 128; i++)
		p[i * P] = i;
	for (int i = 0; i < 128; i += 2)
		need(mprotect((char *)p + i * P, P, PROT_NONE));
	for (volatile int i = 0; i < 128; i++)
		ATTEMPT(p[i * P] = 1);
	say("%d", faults);
}
T(munmap_then_touch)
{
	volatile char *p = pages(256, 0);
	leave_on_faults();
	for (int i = 0; i < 256; i++)
		p[i * P] = 1;
	need(munmap((char *)p, 256 * P));
	for (volatile int i = 0; i < 256; i++)
		ATTEMPT((void)p[i * P]);
	say("%d faults", faults);
}
T(mremap_leaves_nothing_behind)
{
	volatile char *p = pages(64, 0), *room = pages(64, 0);
	leave_on_faults();
	for (int i = 0; i < 64; i++)
		p[i * P] = i;
	need(mremap((char *)p, 64 * P, 64 * P, MREMAP_MAYMOVE | MREMAP_FIXED, (char *)room) == MAP_FAILED ? -1 : 0);
	int bad = 0;
	for (int i = 0; i < 64; i++)
		bad += room[i * P] != i;
	for (volatile int i = 0; i < 64; i++)
		ATTEMPT((void)p[i * P]);
	say("%d bad, %d faults", bad, faults);
}
T(map_fixed_replaces_100_times)
{
	volatile char *p = pages(8, 0);
	int bad = 0;
	for (int g = 0; g < 100; g++) {
		for (int i = 0; i < 8; i++) {
			bad += p[i * P] != 0;
			p[i * P] = g + 1;
		}
		need(mmap((char *)p, 8 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 : 0);
	}
	say("%d bad", bad);
}
T(map_fixed_file_pages_turn)
{
	int f = need(memfd_create("m", 0)), bad = 0;
	for (int i = 0; i < 16; i++)
		need(pwrite(f, (char[]){i + 1}, 1, i * P));
	volatile char *p = mmap(0, P, PROT_READ, MAP_SHARED, f, 0);
	for (int i = 0; i < 200; i++) {
		need(mmap((char *)p, P, PROT_READ, MAP_SHARED | MAP_FIXED, f, i % 16 * P) == MAP_FAILED ? -1 : 0);
		bad += *p != i % 16 + 1;
	}
	say("%d bad", bad);
}
T(dontneed_reads_zero)
{
	volatile char *p = pages(256, 0);
	int bad = 0;
	for (int g = 0; g < 5; g++) {
		for (int i = 0; i < 256; i++)
			p[i * P + g] = 1;
		need(madvise((char *)p, 256 * P, MADV_DONTNEED));
		for (int i = 0; i < 256; i++)
			bad += p[i * P + g] != 0;
	}
	say("%d bad", bad);
}
static volatile char *watched;
static volatile int ready, done;
static void *reader(void *p) { (void)p; if (sigsetjmp(env, 1) == 0) { ready = 1; for (;;) (void)*watched; } done = 1; return 0; }
static void *writer(void *p) { (void)p; if (sigsetjmp(env, 1) == 0) { ready = 1; for (;;) *watched = 1; } done = 1; return 0; }
T(munmap_seen_by_other_thread) { pthread_t t; leave_on_faults(); watched = pages(1, 0); pthread_create(&t, 0, reader, 0); until(&ready); need(munmap((char *)watched, P)); pthread_join(t, 0); say("%d", done); }
T(mprotect_seen_by_other_thread) { pthread_t t; leave_on_faults(); watched = pages(1, 0); pthread_create(&t, 0, writer, 0); until(&ready); need(mprotect((char *)watched, P, PROT_READ)); char v = *watched; pthread_join(t, 0); say("%d %d", done, v == *watched); }
static volatile int turn, wrong;
static void *follower(void *p)
{
	(void)p;
	for (int seen = 0; seen < 200;) {
		int now = __atomic_load_n(&turn, __ATOMIC_ACQUIRE);
		if (now != seen) {
			seen = now;
			if (*watched != (char)seen)
				wrong++;
			__atomic_store_n(&done, seen, __ATOMIC_RELEASE);
		} else
			sched_yield();
	}
	return 0;
}
T(remap_seen_by_other_thread)
{
	pthread_t t;
	int f = need(memfd_create("m", 0));
	for (int i = 0; i <= 200; i++)
		need(pwrite(f, (char[]){i}, 1, i * P));
	watched = mmap(0, P, PROT_READ, MAP_SHARED, f, 0);
	pthread_create(&t, 0, follower, 0);
	for (int i = 1; i <= 200; i++) {
		need(mmap((char *)watched, P, PROT_READ, MAP_SHARED | MAP_FIXED, f, i * P) == MAP_FAILED ? -1 : 0);
		__atomic_store_n(&turn, i, __ATOMIC_RELEASE);
		while (__atomic_load_n(&done, __ATOMIC_ACQUIRE) != i)
			sched_yield();
	}
	pthread_join(t, 0);
	say("%d wrong", wrong);
}
T(shared_between_processes)
{
	int f = need(memfd_create("m", 0)), w;
	need(ftruncate(f, 64 * P));
	volatile int *a = mmap(0, 64 * P, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
	pid_t c = need(fork());
	if (c == 0) {
		volatile int *b = mmap(0, 64 * P, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
		for (int i = 0; i < 1000; i++) {
			while (__atomic_load_n(&a[0], __ATOMIC_ACQUIRE) != 2 * i + 1)
				sched_yield();
			b[1024 * (1 + i % 63)] += i;
			__atomic_store_n(&b[0], 2 * i + 2, __ATOMIC_RELEASE);
		}
		_exit(0);
	}
	for (int i = 0; i < 1000; i++) {
		__atomic_store_n(&a[0], 2 * i + 1, __ATOMIC_RELEASE);
		while (__atomic_load_n(&a[0], __ATOMIC_ACQUIRE) != 2 * i + 2)
			sched_yield();
	}
	need(waitpid(c, &w, 0));
	long sum = 0;
	for (int i = 1; i < 64; i++)
		sum += a[1024 * i];
	say("%s %ld", status(w), sum);
}
T(sparse_map_of_a_tebibyte)
{
	long size = 1L << 40, bad = 0;
	volatile char *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	need(p == MAP_FAILED ? -1 : 0);
	for (long i = 0; i < 500; i++)
		p[i * (size / 500)] = i;
	for (long i = 0; i < 500; i++)
		bad += p[i * (size / 500)] != (char)i;
	need(munmap((char *)p, size));
	say("%ld bad", bad);
}
T(all_over_user_space)
{
	long bad = 0, n = 0;
	for (int b = 16; b < 47; b++) {
		volatile char *p = mmap((char *)(1UL << b), P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		if (p == MAP_FAILED)
			continue;
		n++;
		*p = b;
		bad += *p != b;
	}
	say("%d %ld bad", n > 25, bad);
}
T(many_maps)
{
	enum { N = 3000 };
	volatile char *p = pages(N, 0);
	long bad = 0;
	for (int i = 0; i < N; i += 2)
		need(mprotect((char *)p + i * P, P, PROT_READ));
	for (int i = 1; i < N; i += 2)
		p[i * P] = i;
	for (int i = 0; i < N; i++)
		bad += p[i * P] != (i % 2 ? (char)i : 0);
	need(munmap((char *)p, N * P));
	say("%ld bad", bad);
}
T(unmap_and_map_again_500_times)
{
	long bad = 0;
	for (int i = 0; i < 500; i++) {
		volatile char *p = pages(16, 0);
		for (int k = 0; k < 16; k++) {
			bad += p[k * P] != 0;
			p[k * P] = 1;
		}
		need(munmap((char *)p, 16 * P));
	}
	say("%ld bad", bad);
}
T(code_written_and_run)
{
	unsigned char *p = mmap(0, P, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int bad = 0;
	for (int i = 0; i < 1000; i++) {
		memcpy(p, "\xb8\0\0\0\0\xc3", 6);
		memcpy(p + 1, &i, 4);
		bad += ((int (*)(void))p)() != i;
	}
	say("%d bad", bad);
}
T(code_through_two_mappings)
{
	int f = need(memfd_create("code", 0)), bad = 0;
	need(ftruncate(f, P));
	char *w = mmap(0, P, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0), *x = mmap(0, P, PROT_READ | PROT_EXEC, MAP_SHARED, f, 0);
	for (int i = 0; i < 1000; i++) {
		memcpy(w, "\xb8\0\0\0\0\xc3", 6);
		memcpy(w + 1, &i, 4);
		asm volatile("cpuid" ::"a"(0) : "rbx", "rcx", "rdx", "memory");
		bad += ((int (*)(void))x)() != i;
	}
	say("%d bad", bad);
}
T(code_made_executable_and_back)
{
	volatile int bad = 0;
	unsigned char *p = (unsigned char *)pages(1, 0);
	leave_on_faults();
	for (volatile int i = 0; i < 50; i++) {
		memcpy(p, "\xb8\0\0\0\0\xc3", 6);
		p[1] = i;
		need(mprotect(p, P, PROT_READ | PROT_EXEC));
		bad += ((int (*)(void))p)() != i;
		need(mprotect(p, P, PROT_READ | PROT_WRITE));
		ATTEMPT(((int (*)(void))p)());
	}
	say("%d bad, %d faults", bad, faults);
}
T(exec_100_times)
{
	int w;
	volatile int bad = 0;
	for (volatile int i = 0; i < 100; i++) {
		pid_t c = vfork();
		if (c == 0) {
			execl("/bin/true", "true", (char *)0);
			_exit(1);
		}
		need(waitpid(c, &w, 0));
		bad += w != 0;
	}
	say("%d bad", bad);
}
T(fork_500_times)
{
	int w, bad = 0;
	volatile char *p = pages(32, 0);
	for (int i = 0; i < 500; i++) {
		p[i % 32 * P] = i;
		pid_t c = need(fork());
		if (c == 0)
			_exit(p[i % 32 * P] & 127);
		need(waitpid(c, &w, 0));
		bad += WEXITSTATUS(w) != (i & 127);
	}
	say("%d bad", bad);
}
