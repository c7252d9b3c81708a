// The main program of a checking program: runs all behaviours, or those named, in the order of their source.
// A file that includes this is the one with main.
#include "check.h"
#include <sched.h>
#include <stdarg.h>
#include <ftw.h>
#include <sys/prctl.h>

extern const struct check *const __start_checks[];
extern const struct check *const __stop_checks[];

static char *line; // shared with the child
#define LINE 4096

void say(const char *format, ...)
{
	va_list a;
	size_t n = strlen(line);

	va_start(a, format);
	vsnprintf(line + n, LINE - n, format, a);
	va_end(a);
}

const char *R(long r)
{
	static char b[16][64];
	static int i;

	if (r == -1) {
		const char *e = strerrorname_np(errno);
		if (e)
			return e;
	}
	i = (i + 1) % 16;
	snprintf(b[i], sizeof b[i], "%ld", r);
	return b[i];
}

const char *OK(long r) { return r == -1 ? R(r) : "ok"; }

const char *sig(int n)
{
	static char b[8][32];
	static int i;
	const char *s = sigabbrev_np(n);

	i = (i + 1) % 8;
	if (s)
		snprintf(b[i], sizeof b[i], "SIG%s", s);
	else
		snprintf(b[i], sizeof b[i], "signal %d", n);
	return b[i];
}

const char *status(int w)
{
	static char b[8][64];
	static int i;

	i = (i + 1) % 8;
	if (WIFEXITED(w))
		snprintf(b[i], sizeof b[i], "exit %d", WEXITSTATUS(w));
	else if (WIFSIGNALED(w))
		snprintf(b[i], sizeof b[i], "died of %s", sig(WTERMSIG(w)));
	else if (WIFSTOPPED(w))
		snprintf(b[i], sizeof b[i], "stopped by %s", sig(WSTOPSIG(w)));
	else
		snprintf(b[i], sizeof b[i], "continued");
	return b[i];
}

long need(long r)
{
	if (r == -1) {
		say("cannot prepare: %s", R(r));
		_exit(0);
	}
	return r;
}

void put(const char *path, const char *text)
{
	int f = need(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));

	need(write(f, text, strlen(text)));
	close(f);
}

int in(void (*f)(void))
{
	int w;
	pid_t p = need(fork());

	if (p == 0) {
		f();
		_exit(0);
	}
	need(waitpid(p, &w, 0));
	return w;
}

void until(volatile int *p)
{
	while (!__atomic_load_n(p, __ATOMIC_ACQUIRE))
		sched_yield();
}

char *pages(size_t n, int flags)
{
	char *p = mmap(0, n * 4096, PROT_READ | PROT_WRITE, flags ? flags : MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	need(p == MAP_FAILED ? -1 : 0);
	return p;
}

static int removed(const char *path, const struct stat *s, int type, struct FTW *f)
{
	(void)s, (void)type, (void)f;
	return remove(path);
}

int main(int argc, char **argv)
{
	char dir[] = "/tmp/check-XXXXXX";
	const char *seconds = getenv("CHECK_SECONDS"); // for a slow machine
	const struct check *const *c;

	setvbuf(stdout, 0, _IOLBF, 0);
	umask(022);
	// A background job of a shell begins with some signals ignored.
	for (int n = 1; n <= SIGRTMAX; n++)
		signal(n, SIG_DFL);
	if (!mkdtemp(dir) || chdir(dir)) {
		perror(dir);
		return 2;
	}
	line = pages(1, MAP_SHARED | MAP_ANONYMOUS);
	for (c = __start_checks; c < __stop_checks; c++) {
		int w = 0, i, wanted = argc < 2;

		for (i = 1; i < argc; i++)
			wanted |= !strcmp(argv[i], (*c)->name);
		if (!wanted)
			continue;
		line[0] = 0;
		if (mkdir("d", 0755)) {
			perror("mkdir d");
			return 2;
		}
		pid_t p = fork();
		if (p < 0) {
			perror("fork");
			return 2;
		}
		if (p == 0) {
			if (chdir("d"))
				_exit(3);
			setpgid(0, 0);
			alarm(seconds ? atoi(seconds) : 60);
			(*c)->run();
			_exit(0);
		}
		waitpid(p, &w, 0);
		kill(-p, SIGKILL);
		if (w)
			printf("%s: %s%s[%s]\n", (*c)->name, line, *line ? " " : "", status(w));
		else
			printf("%s: %s\n", (*c)->name, line);
		nftw("d", removed, 16, FTW_DEPTH | FTW_PHYS);
	}
	if (chdir("/") || rmdir(dir))
		perror(dir);
	return 0;
}
