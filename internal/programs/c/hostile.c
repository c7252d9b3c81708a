// hostile does what a program should not, as its first argument says. It ends with code 0 and "survived" when nothing
// stopped it; what matters is what becomes of everything else.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf env;
static volatile uintptr_t fault_address;
static char alternate[65536];

// leave goes back to where a fault was expected. Its signals are not blocked while it runs: no mask has to be put back.
static void leave(int n, siginfo_t *i, void *c)
{
	(void)c;
	fault_address = (uintptr_t)i->si_addr;
	siglongjmp(env, n);
}

static void leave_on_everything(void)
{
	static const int which[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGALRM, SIGSYS, SIGXCPU};
	struct sigaction a = {.sa_sigaction = leave, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	stack_t s = {.ss_sp = alternate, .ss_size = sizeof alternate};

	sigaltstack(&s, 0);
	for (unsigned i = 0; i < sizeof which / sizeof *which; i++)
		sigaction(which[i], &a, 0);
}

static int can_read(uintptr_t p)
{
	if (sigsetjmp(env, 0))
		return 0;
	(void)*(volatile char *)p;
	return 1;
}

static int can_write(uintptr_t p)
{
	if (sigsetjmp(env, 0))
		return 0;
	*(volatile char *)p = *(volatile char *)p;
	return 1;
}

// sweep calls f with pages all over the half of the kernel and around the end of user space.
static void sweep(void (*f)(uintptr_t page))
{
	static const uintptr_t dense[][2] = {
		{0x7ffffff00000, 0x800000001000},         // the end of user space
		{0xffff800000000000, 0xffff800000100000}, // the beginning of the kernel's half
		{0xffffffff80000000, 0xffffffff80080000}, // where Linux is
		{0xffffffffffc00000, 0xfffffffffffff000}, // the end of everything
	};
	for (unsigned i = 0; i < sizeof dense / sizeof *dense; i++)
		for (uintptr_t p = dense[i][0]; p < dense[i][1]; p += 4096)
			f(p);
	for (uintptr_t slot = 256; slot < 512; slot++) { // both ends of what each top-level entry maps
		uintptr_t base = 0xffff000000000000 | slot << 39;
		for (uintptr_t k = 0; k < 2; k++) {
			f(base + k * 4096);
			f(base + (1UL << 39) - (k + 1) * 4096);
			f(base + (k << 21));
			f(base + (k << 30));
		}
	}
}

static uintptr_t found[4096];
static int n_found;

static void note(uintptr_t p)
{
	if (can_read(p) && n_found < 4096)
		found[n_found++] = p;
}

static int asks(void)
{
	int bad = 0;
	for (int i = 0; i < 2000; i++)
		bad += syscall(SYS_getppid) != getppid();
	return bad;
}

// In a child: write over all that could be found, then ask for services.
static void scribble_found(void)
{
	volatile int writable = 0;
	for (int i = 0; i < n_found; i++)
		writable += can_write(found[i]);
	for (int round = 0; round < 64; round++) {
		for (int i = 0; i < n_found; i++)
			if (sigsetjmp(env, 0) == 0)
				for (int k = 0; k < 512; k++)
					((volatile uint64_t *)found[i])[k] = round == 0 ? 0 : round == 1 ? ~0UL : (uint64_t)random() << 33 | random() * 3;
		if (sigsetjmp(env, 0) == 0)
			asks();
	}
	printf("readable %d writable %d\n", n_found, writable);
}

// A sibling keeps scribbling while another thread of the same program asks for services.
static void *scribbler(void *p)
{
	(void)p;
	for (;;)
		for (int i = 0; i < n_found; i++)
			((volatile uint64_t *)found[i])[random() % 512] = random() % 8;
	return 0;
}

static void *asker(void *p) { asks(); return p; }

static void in_child(void (*f)(void), unsigned seconds)
{
	pid_t c = fork();
	if (c == 0) {
		leave_on_everything();
		alarm(seconds);
		f();
		fflush(stdout);
		_exit(0);
	}
	waitpid(c, 0, 0);
}

static void scribble_beside(void)
{
	pthread_t t;
	signal(SIGALRM, SIG_DFL);
	if (n_found == 0)
		return;
	pthread_create(&t, 0, scribbler, 0);
	for (int i = 0; i < 4; i++) {
		pthread_create(&t, 0, asker, 0);
		pthread_join(t, 0);
	}
}

static void pages_of_the_kernel(void)
{
	leave_on_everything();
	sweep(note);
	in_child(scribble_found, 20);
	in_child(scribble_beside, 5);
}

static void pointer_to_calls(uintptr_t p)
{
	static int f[2] = {-1, -1}, zero = -1;
	if (f[0] < 0 && (pipe2(f, O_NONBLOCK) || (zero = open("/dev/zero", O_RDONLY)) < 0))
		_exit(1);
	read(zero, (void *)p, 4096);
	write(f[1], (void *)p, 16);
	syscall(SYS_uname, p);
	syscall(SYS_futex, p, 1, 1, 0, 0, 0);
	syscall(SYS_mprotect, p, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
	syscall(SYS_munmap, p, 4096);
	syscall(SYS_madvise, p, 4096, MADV_DONTNEED);
	if (p < 0x7f0000000000 || p >= 0x7ffffffff000)
		syscall(SYS_mmap, p, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void pointers_of_the_kernel(void)
{
	for (int slot = 256; slot < 512; slot += 5)
		pointer_to_calls(0xffff000000000000 | (uintptr_t)slot << 39);
	for (uintptr_t p = 0xfffffffffff00000; p < 0xfffffffffffff000; p += 4096)
		pointer_to_calls(p);
	pointer_to_calls(0x7ffffffff000);
	pointer_to_calls(0x7fffffffffff);
	pointer_to_calls(0x800000000000);
	pointer_to_calls(0xfffffffffffff000);
	if (asks())
		puts("wrong answers");
}

static uintptr_t target;
static void jump(void)
{
	struct rlimit l = {1, 1};
	setrlimit(RLIMIT_CPU, &l);
	if (sigsetjmp(env, 0) == 0)
		asm volatile("mov %0, %%rax\n mov $39, %%ecx\n mov $-1, %%r11\n xor %%edx, %%edx\n call *%%rax" ::"r"(target) : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
	asks();
}

static void try_jump(uintptr_t p)
{
	// Without a child first: most pages fault at once.
	if (sigsetjmp(env, 0) == 0) {
		fault_address = 0;
		if (p < 0x800000000000)
			return;
	}
	target = p;
	if (n_found < 4096 && can_read(p))
		found[n_found++] = p;
}

// Jumps into every readable page of the kernel's half, at every offset where code might begin.
static void jumps_to_the_kernel(void)
{
	leave_on_everything();
	sweep(try_jump);
	if (n_found == 0) // none can be read; one may yet be executed
		for (uintptr_t p = 0xffffffffffff0000; p < 0xfffffffffffff000; p += 4096)
			found[n_found++] = p;
	int step = n_found > 8 ? 256 : 17;
	for (int i = 0; i < n_found && i < 64; i++)
		for (int k = 0; k < 4096; k += step) {
			target = found[i] + k;
			in_child(jump, 2);
		}
}

// Overwrites its own mappings, one a child, as /proc/self/maps names them.
static void own_mappings(void)
{
	char line[512];
	uintptr_t from[512], to[512];
	int n = 0;
	FILE *f = fopen("/proc/self/maps", "r");
	while (f && n < 512 && fgets(line, sizeof line, f))
		if (sscanf(line, "%lx-%lx", &from[n], &to[n]) == 2)
			n++;
	for (int i = 0; i < n; i++)
		for (int how = 0; how < 3; how++) {
			pid_t c = fork();
			if (c == 0) {
				alarm(2);
				mprotect((void *)from[i], to[i] - from[i], PROT_READ | PROT_WRITE | PROT_EXEC);
				if (how == 2)
					munmap((void *)from[i], to[i] - from[i]);
				else
					for (uintptr_t p = from[i]; p < to[i]; p++)
						*(volatile char *)p = how ? random() : 0xcc;
				asks();
				_exit(0);
			}
			waitpid(c, 0, 0);
		}
}

// Runs random bytes, a new set in each of many children.
static void random_code(void)
{
	for (int i = 0; i < 300; i++) {
		pid_t c = fork();
		if (c == 0) {
			struct rlimit l = {1, 1};
			struct itimerval t = {{0, 0}, {0, 300000}};
			setrlimit(RLIMIT_CPU, &l);
			setrlimit(RLIMIT_NPROC, &l);
			close(1);
			close(2);
			setitimer(ITIMER_REAL, &t, 0);
			srandom(i);
			unsigned char *p = mmap(0, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			for (int k = 0; k < 4096; k++)
				p[k] = random();
			for (int k = 0; k + 1 < 4096; k++) // no system calls: their effects are not what is tried here
				if (p[k] == 0x0f && (p[k + 1] == 0x05 || p[k + 1] == 0x34))
					p[k] = 0x90;
			if (i % 2) // start with something privileged
				memcpy(p, i % 4 == 1 ? "\xe6\x80\xee\xef\x6c" : "\x0f\x22\xd8\x0f\x30", 5);
			((void (*)(void))p)();
			_exit(0);
		}
		int w;
		waitpid(c, &w, 0);
	}
}

// reap waits for a child, and kills it when its time is over: it may have blocked every other signal.
static void reap(pid_t c, int seconds)
{
	for (int i = 0; i < seconds * 200; i++) {
		if (waitpid(c, 0, WNOHANG))
			return;
		usleep(5000);
	}
	kill(c, SIGKILL);
	waitpid(c, 0, 0);
}

// Calls with random numbers and arguments, none that would end or stop the caller.
static void random_calls(void)
{
	for (int i = 0; i < 40; i++) {
		pid_t c = fork();
		if (c == 0) {
			char *room = mmap(0, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			srandom(i);
			close(1);
			close(2);
			for (int k = 0; k < 400; k++) {
				long a[6];
				for (int j = 0; j < 6; j++)
					switch (random() % 6) {
					case 0: a[j] = random() % 64; break;
					case 1: a[j] = (long)room + random() % 65536; break;
					case 2: a[j] = -1 - random() % 16; break;
					case 3: a[j] = 0xffff800000000000 + random(); break;
					case 4: a[j] = random() << 32 | random(); break;
					default: a[j] = 0;
					}
				long n = random() % 460;
				if (n == SYS_fork || n == SYS_vfork || n == SYS_clone || n == SYS_clone3 || n == SYS_kill || n == SYS_tkill || n == SYS_tgkill || n == SYS_reboot || n == SYS_pause || n == SYS_rt_sigqueueinfo || n == SYS_rt_tgsigqueueinfo)
					continue;
				syscall(n, a[0], a[1], a[2], a[3], a[4], a[5]);
			}
			_exit(0);
		}
		reap(c, 2);
	}
}

static void *forever(void *p) { pause(); return p; }
static void threads(void)
{
	pthread_attr_t a;
	pthread_t t;
	int n = 0;
	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, 16384);
	while (n < 3000 && pthread_create(&t, &a, forever, 0) == 0)
		n++;
	printf("%d threads\n", n);
}

static void *turns(void *p) { for (;;) { asm volatile("" ::: "memory"); } return p; }
static void spinning_threads(void)
{
	pthread_t t;
	for (int i = 0; i < 64; i++)
		pthread_create(&t, 0, turns, 0);
	usleep(300000);
}

static void forks_of_depth(int depth)
{
	int n = 0;
	for (int i = 0; i < 2 && depth; i++) {
		pid_t c = fork();
		if (c == 0) {
			forks_of_depth(depth - 1);
			_exit(0);
		}
		n += c > 0;
	}
	while (n-- > 0)
		wait(0);
}
static void forks(void) { forks_of_depth(8); }
static void forks_without_end(void) { for (;;) if (fork() < 0) usleep(100); }

static void memory(void)
{
	for (;;) {
		char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			break;
		for (int k = 0; k < 1 << 20; k += 4096)
			p[k] = 1;
	}
	printf("%s\n", strerrorname_np(errno));
}

static void maps(void)
{
	int n = 0;
	while (n < 60000) {
		char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED || mprotect(p, 4096, n % 2 ? PROT_READ : PROT_NONE))
			break;
		n++;
	}
	printf("%d\n", n);
}

static void descriptors(void)
{
	struct rlimit l = {1 << 20, 1 << 20};
	int n = 0, p[2];
	setrlimit(RLIMIT_NOFILE, &l);
	while (n < 30000 && pipe(p) == 0)
		n += 2;
	while (n < 40000 && open("/proc/self/status", O_RDONLY) >= 0)
		n++;
	printf("%d %s\n", n > 100, strerrorname_np(errno));
}

static void arguments(void)
{
	static char *argv[1000];
	char *big = malloc(100001);
	memset(big, 'a', 100000);
	big[100000] = 0;
	for (int n = 1; n < 999; n++) {
		argv[n - 1] = big;
		argv[n] = 0;
		if (n % 10 == 0 && fork() == 0) {
			execve("/bin/true", argv, argv);
			_exit(0);
		}
		while (waitpid(-1, 0, WNOHANG) > 0) {}
	}
	while (wait(0) > 0) {}
}

static void links(void)
{
	char dir[] = "/tmp/links-XXXXXX", a[32], b[32];
	if (!mkdtemp(dir) || chdir(dir))
		_exit(1);
	for (int i = 0; i < 2000; i++) {
		snprintf(a, 32, "l%d", i);
		snprintf(b, 32, "l%d", i + 1);
		if (symlink(a, b))
			_exit(1);
	}
	printf("%d %s\n", open("l2000", O_RDONLY), strerrorname_np(errno));
	for (int i = 0; i < 3000; i++)
		if (mkdir("deep", 0755) || chdir("deep"))
			break;
	char *big = malloc(20000);
	printf("%d\n", getcwd(big, 20000) != 0);
}

static int deeper(int n) { volatile char big[4096]; big[n % 4096] = 1; return n < 0 ? 0 : deeper(n + 1) + big[0]; }
static void stack(void) { exit(deeper(0) & 0); }

static void signals(void)
{
	sigset_t s;
	sigfillset(&s);
	sigprocmask(SIG_BLOCK, &s, 0);
	long n = 0;
	while (n < 100000 && sigqueue(getpid(), SIGRTMIN, (union sigval){0}) == 0)
		n++;
	printf("%d\n", n > 10);
}

// Starts every file of the directory named by the environment, to see it fail.
static void execs(void)
{
	const char *dir = getenv("HOSTILE_DIR");
	struct dirent *e;
	int n = 0;
	DIR *d = opendir(dir ? dir : ".");
	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		pid_t c = fork();
		if (c == 0) {
			struct rlimit l = {1, 1};
			char path[4096];
			snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
			setrlimit(RLIMIT_CPU, &l);
			close(1);
			close(2);
			alarm(2);
			execl(path, path, (char *)0);
			_exit(77);
		}
		waitpid(c, 0, 0);
		n++;
	}
	printf("%d tried\n", n);
}

// witness answers each line of its input, after it has looked at its memory and at what calls give it.
static void witness(void)
{
	char line[256];
	uint64_t *p = mmap(0, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (uint64_t i = 0; i < (4 << 20) / 8; i++)
		p[i] = i * 0x9e3779b97f4a7c15;
	setvbuf(stdout, 0, _IONBF, 0);
	while (fgets(line, sizeof line, stdin)) {
		int bad = asks();
		for (uint64_t i = 0; i < (4 << 20) / 8; i++)
			bad += p[i] != i * 0x9e3779b97f4a7c15;
		pid_t c = fork();
		if (c == 0)
			_exit(7);
		int w = 0;
		waitpid(c, &w, 0);
		bad += WEXITSTATUS(w) != 7;
		printf("%s %s", bad ? "BAD" : "fine", line);
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} all[] = {
		{"kernel-pages", pages_of_the_kernel}, {"kernel-pointers", pointers_of_the_kernel}, {"kernel-jumps", jumps_to_the_kernel},
		{"own-mappings", own_mappings}, {"random-code", random_code}, {"random-calls", random_calls}, {"threads", threads},
		{"spinning-threads", spinning_threads}, {"forks", forks}, {"forks-without-end", forks_without_end}, {"memory", memory},
		{"maps", maps}, {"descriptors", descriptors}, {"arguments", arguments}, {"links", links}, {"stack", stack},
		{"signals", signals}, {"execs", execs}, {"witness", witness},
	};
	if (!getenv("HOSTILE_IN_GUEST")) {
		fprintf(stderr, "hostile: not outside of a guest: HOSTILE_IN_GUEST says where it is\n");
		return 2;
	}
	for (unsigned i = 0; argc == 2 && i < sizeof all / sizeof *all; i++)
		if (!strcmp(all[i].name, argv[1])) {
			all[i].run();
			puts("survived");
			return 0;
		}
	fprintf(stderr, "usage: hostile WHAT\n");
	return 2;
}
