// measure times one thing by the clock that it sees and prints "figure: " and a number; for some a second line of the kind.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void figure(double v) { printf("figure: %.3f\n", v); }

static int hello(long n)
{
	(void)n;
	return write(1, "hello\n", 6) != 6;
}

// Nanoseconds for each of n calls.
static int getpid_loop(long n)
{
	double t;
	for (long i = 0; i < n / 10; i++)
		syscall(SYS_getpid);
	t = now();
	for (long i = 0; i < n; i++)
		syscall(SYS_getpid);
	figure((now() - t) / n);
	return 0;
}

// Nanoseconds for each page of n MiB: touched for the first time, and again.
static int touch(long n)
{
	long size = n << 20;
	char *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		fail("mmap");
	for (int pass = 0; pass < 2; pass++) {
		double t = now();
		for (long i = 0; i < size; i += 4096)
			((volatile char *)p)[i] = 1;
		figure((now() - t) / (size / 4096));
	}
	return 0;
}

// Nanoseconds for each of n round trips of a byte between two processes.
static int ping_pong(long n)
{
	int a[2], b[2];
	char x = 0;
	if (pipe(a) || pipe(b))
		fail("pipe");
	pid_t c = fork();
	if (c < 0)
		fail("fork");
	if (c == 0) {
		close(a[1]);
		while (read(a[0], &x, 1) == 1)
			if (write(b[1], &x, 1) != 1)
				break;
		_exit(0);
	}
	double t = 0;
	for (long i = -n / 10; i < n; i++) {
		if (i == 0)
			t = now();
		if (write(a[1], &x, 1) != 1 || read(b[0], &x, 1) != 1)
			fail("ping");
	}
	figure((now() - t) / n);
	close(a[1]);
	waitpid(c, 0, 0);
	return 0;
}

static uint32_t turn(uint32_t x, int n) { return x >> n | x << (32 - n); }
static uint32_t k[64];

// block is the compression function of SHA-256 (FIPS 180-4, 6.2.2).
static void block(uint32_t *h, const unsigned char *p)
{
	uint32_t w[64], v[8];
	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
	for (int i = 16; i < 64; i++)
		w[i] = (turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10) + w[i - 7] + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 16];
	memcpy(v, h, sizeof v);
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = v[7] + (turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
		uint32_t t2 = (turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
		memmove(v + 1, v, 28);
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += v[i];
}

// Milliseconds to hash n MiB, without the padding at the end: what counts is the work.
static int sha256(long n)
{
	static unsigned char buf[1 << 20];
	uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	for (int i = 0, p = 2; i < 64; p++) { // the constants: fractions of the cube roots of the first 64 primes
		int prime = 1;
		for (int q = 2; q * q <= p; q++)
			prime &= p % q != 0;
		if (!prime)
			continue;
		unsigned __int128 lo = 0, hi = (unsigned __int128)8 << 32; // the largest r with r^3 <= p * 2^96
		while (hi - lo > 1) {
			unsigned __int128 r = (lo + hi) / 2;
			if (r * r * r <= (unsigned __int128)p << 96)
				lo = r;
			else
				hi = r;
		}
		k[i++] = lo;
	}
	for (unsigned i = 0; i < sizeof buf; i++)
		buf[i] = i * 7;
	double t = now();
	for (long i = 0; i < n; i++)
		for (unsigned at = 0; at < sizeof buf; at += 64)
			block(h, buf + at);
	figure((now() - t) / 1e6);
	printf("%08x\n", h[0]);
	return 0;
}

static pthread_barrier_t barrier;
static void *thread(void *p)
{
	pthread_barrier_wait(&barrier);
	return p;
}

// Nanoseconds to make each of n threads, all alive at once, and to see it end.
static int threads(long n)
{
	pthread_attr_t a;
	pthread_t *t = calloc(n, sizeof *t);
	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, 64 << 10);
	pthread_barrier_init(&barrier, 0, n + 1);
	double from = now();
	for (long i = 0; i < n; i++)
		if (pthread_create(&t[i], &a, thread, 0))
			fail("pthread_create");
	pthread_barrier_wait(&barrier);
	for (long i = 0; i < n; i++)
		pthread_join(t[i], 0);
	figure((now() - from) / n);
	return 0;
}

// Says that it is there and sleeps.
static int idle(long n)
{
	(void)n;
	puts("ready");
	fflush(stdout);
	while (pause()) {
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(long n);
	} all[] = {{"hello", hello}, {"getpid", getpid_loop}, {"touch", touch}, {"pipe", ping_pong}, {"sha256", sha256}, {"threads", threads}, {"idle", idle}};
	int stay = argc == 4 && !strcmp(argv[1], "stay"); // as the first process of a kernel: it must not end
	for (unsigned i = 0; argc - stay == 3 && i < sizeof all / sizeof *all; i++)
		if (!strcmp(argv[1 + stay], all[i].name)) {
			int code = all[i].run(atol(argv[2 + stay]));
			if (!stay)
				return code;
			printf("measured\n");
			fflush(stdout);
			for (;;)
				pause();
		}
	fprintf(stderr, "usage: measure [stay] WHAT N\n");
	return 2;
}
