// Signals, clocks, timers, futexes.
#include "check.h"
#include <limits.h>
#include <linux/futex.h>
#include <setjmp.h>
#include <sys/time.h>

static volatile int count, last, code;
static void on(int n) { count++; last = n; }
static void on_info(int n, siginfo_t *i, void *c) { (void)c; count++; last = n; code = i->si_code; }
static void handle(int n, int flags) { struct sigaction a = {.sa_handler = on, .sa_flags = flags}; need(sigaction(n, &a, 0)); }
static void handle_info(int n, int flags) { struct sigaction a = {.sa_sigaction = on_info, .sa_flags = flags | SA_SIGINFO}; need(sigaction(n, &a, 0)); }
static sigset_t set(int n) { sigset_t s; sigemptyset(&s); if (n) sigaddset(&s, n); return s; }
static void block(int n) { sigset_t s = set(n); need(sigprocmask(SIG_BLOCK, &s, 0)); }
static void unblock(int n) { sigset_t s = set(n); need(sigprocmask(SIG_UNBLOCK, &s, 0)); }

T(sigaction_kill) { struct sigaction a = {.sa_handler = on}; say("%s %s", R(sigaction(SIGKILL, &a, 0)), R(sigaction(SIGSTOP, &a, 0))); }
T(sigaction_bad_number) { struct sigaction a = {.sa_handler = on}; say("%s", R(syscall(SYS_rt_sigaction, 65, &a, 0, 8))); }
T(sigaction_bad_size) { say("%s", R(syscall(SYS_rt_sigaction, 1, 0, 0, 4))); }
T(kill_zero) { say("%s", R(kill(getpid(), 0))); }
T(kill_missing) { say("%s", R(kill(99999999, 0))); }
T(kill_bad_signal) { say("%s", R(kill(getpid(), 65))); }
T(kill_group_missing) { say("%s", R(kill(-99999999, 0))); }
T(tgkill_wrong_group) { say("%s", R(syscall(SYS_tgkill, 1, getpid(), 0))); }
T(raise_handled) { handle(SIGUSR1, 0); raise(SIGUSR1); say("%d %s", count, sig(last)); }
T(siginfo_of_kill) { handle_info(SIGUSR1, 0); need(kill(getpid(), SIGUSR1)); say("%d", code); }
T(siginfo_of_raise) { handle_info(SIGUSR1, 0); raise(SIGUSR1); say("%d", code); }
T(sigqueue_value)
{
	sigset_t s = set(SIGRTMIN);
	siginfo_t i;
	block(SIGRTMIN);
	need(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 5}));
	need(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 6}));
	need(sigwaitinfo(&s, &i));
	say("%d %d ", i.si_value.sival_int, i.si_code);
	need(sigwaitinfo(&s, &i));
	say("%d", i.si_value.sival_int);
}
T(standard_signals_merge) { handle(SIGUSR1, 0); block(SIGUSR1); kill(getpid(), SIGUSR1); kill(getpid(), SIGUSR1); unblock(SIGUSR1); say("%d", count); }
T(realtime_signals_queue) { handle(SIGRTMIN, 0); block(SIGRTMIN); kill(getpid(), SIGRTMIN); kill(getpid(), SIGRTMIN); unblock(SIGRTMIN); say("%d", count); }
T(sigpending_shows) { sigset_t s; block(SIGUSR1); raise(SIGUSR1); need(sigpending(&s)); say("%d %d", sigismember(&s, SIGUSR1), sigismember(&s, SIGUSR2)); }
T(ignored_is_dropped) { sigset_t s; block(SIGUSR1); signal(SIGUSR1, SIG_IGN); raise(SIGUSR1); need(sigpending(&s)); say("%d", sigismember(&s, SIGUSR1)); }
T(sigprocmask_cannot_block_kill) { sigset_t s, o; sigfillset(&s); need(sigprocmask(SIG_SETMASK, &s, 0)); need(sigprocmask(SIG_BLOCK, 0, &o)); say("%d %d %d", sigismember(&o, SIGKILL), sigismember(&o, SIGSTOP), sigismember(&o, SIGTERM)); }
T(sigprocmask_bad_how) { sigset_t s = set(0); say("%s", R(syscall(SYS_rt_sigprocmask, 9, &s, 0, 8))); }
T(resethand) { struct sigaction a; handle(SIGUSR1, SA_RESETHAND); raise(SIGUSR1); need(sigaction(SIGUSR1, 0, &a)); say("%d %d", count, a.sa_handler == SIG_DFL); }
static void nested(int n) { if (++count < 3) raise(n); last = count; }
T(nodefer_nests) { struct sigaction a = {.sa_handler = nested, .sa_flags = SA_NODEFER}; need(sigaction(SIGUSR1, &a, 0)); raise(SIGUSR1); say("%d", count); }
T(handler_mask) { struct sigaction a = {.sa_handler = on}; sigaddset(&a.sa_mask, SIGUSR2); need(sigaction(SIGUSR1, &a, 0)); raise(SIGUSR1); sigset_t o; need(sigprocmask(SIG_BLOCK, 0, &o)); say("%d", sigismember(&o, SIGUSR2)); }
T(pause_eintr) { handle(SIGALRM, 0); ualarm(2000, 0); say("%s", R(pause())); }
static int p[2];
static void alarm_then_write(int n) { static int c; (void)n; if (c++ == 1) write(p[1], "x", 1); else ualarm(5000, 0); }
T(restart_read) { char b; struct sigaction a = {.sa_handler = alarm_then_write, .sa_flags = SA_RESTART}; need(pipe(p)); need(sigaction(SIGALRM, &a, 0)); ualarm(5000, 0); say("%s", R(read(p[0], &b, 1))); }
T(no_restart_read) { char b; need(pipe(p)); handle(SIGALRM, 0); ualarm(5000, 0); say("%s", R(read(p[0], &b, 1))); }
T(no_restart_nanosleep) { struct timespec t = {100, 0}, r = {0, 0}; handle(SIGALRM, SA_RESTART); ualarm(5000, 0); say("%s ", R(nanosleep(&t, &r))); say("%d", r.tv_sec == 99); }
T(sigsuspend_unblocks) { sigset_t none = set(0); handle(SIGUSR1, 0); block(SIGUSR1); raise(SIGUSR1); say("%d ", count); say("%s %d", R(sigsuspend(&none)), count); }
T(sigtimedwait_timeout) { sigset_t s = set(SIGUSR1); struct timespec t = {0, 1000000}; block(SIGUSR1); say("%s", R(sigtimedwait(&s, 0, &t))); }
T(sigaltstack_small) { stack_t s = {.ss_sp = pages(1, 0), .ss_size = 100}; say("%s", R(sigaltstack(&s, 0))); }
T(sigaltstack_disabled) { stack_t s; need(sigaltstack(0, &s)); say("%d", s.ss_flags); }
static void on_alt(int n) { stack_t s; (void)n; sigaltstack(0, &s); code = s.ss_flags; last = (char *)&s > (char *)s.ss_sp && (char *)&s < (char *)s.ss_sp + s.ss_size; }
T(sigaltstack_used) { stack_t s = {.ss_sp = pages(16, 0), .ss_size = 65536}; struct sigaction a = {.sa_handler = on_alt, .sa_flags = SA_ONSTACK}; need(sigaltstack(&s, 0)); need(sigaction(SIGUSR1, &a, 0)); raise(SIGUSR1); say("%d %d", code, last); }
static sigjmp_buf env;
static void jump(int n) { siglongjmp(env, n); }
T(siglongjmp_restores_mask) { sigset_t o; struct sigaction a = {.sa_handler = jump}; need(sigaction(SIGUSR1, &a, 0)); if (sigsetjmp(env, 1) == 0) raise(SIGUSR1); need(sigprocmask(SIG_BLOCK, 0, &o)); say("%d", sigismember(&o, SIGUSR1)); }
T(sigchld_info)
{
	siginfo_t i;
	sigset_t s = set(SIGCHLD);
	block(SIGCHLD);
	if (fork() == 0)
		_exit(7);
	need(sigwaitinfo(&s, &i));
	say("%d %d", i.si_code, i.si_status);
}
static void stopped_group_default(void) { raise(SIGTSTP); }
T(default_of_urg_and_winch) { raise(SIGURG); raise(SIGWINCH); raise(SIGCHLD); raise(SIGCONT); say("alive"); }
T(default_of_each)
{
	for (int n = 1; n < 32; n++) {
		int w;
		if (n == SIGSTOP || n == SIGTSTP || n == SIGTTIN || n == SIGTTOU)
			continue;
		pid_t c = need(fork());
		if (c == 0) {
			kill(getpid(), n);
			_exit(0);
		}
		waitpid(c, &w, 0);
		say("%d:%d ", n, WIFSIGNALED(w) ? WTERMSIG(w) : 0);
	}
}
T(tstp_in_orphaned_group) { int w; pid_t c = need(fork()); if (c == 0) { setsid(); stopped_group_default(); _exit(3); } waitpid(c, &w, WUNTRACED); say("%s", status(w)); }
T(clock_bad) { struct timespec t; say("%s", R(clock_gettime(77, &t))); }
T(clock_monotonic_grows) { struct timespec a, b; int ok = 1; clock_gettime(CLOCK_MONOTONIC, &a); for (int i = 0; i < 1000; i++) { clock_gettime(CLOCK_MONOTONIC, &b); ok &= b.tv_sec > a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec >= a.tv_nsec); a = b; } say("%d", ok); }
T(clock_res) { struct timespec t; need(clock_getres(CLOCK_MONOTONIC, &t)); say("%ld.%ld", t.tv_sec, t.tv_nsec); }
T(clock_settime_as_user) { struct timespec t = {1, 0}; need(setuid(1000)); say("%s", R(clock_settime(CLOCK_REALTIME, &t))); }
T(clock_settime_monotonic) { struct timespec t = {1, 0}; say("%s", R(clock_settime(CLOCK_MONOTONIC, &t))); }
T(nanosleep_bad) { struct timespec t = {0, 1000000000}; say("%s", R(nanosleep(&t, 0))); }
T(nanosleep_negative) { struct timespec t = {-1, 0}; say("%s", R(nanosleep(&t, 0))); }
T(clock_nanosleep_past) { struct timespec t = {1, 0}; say("%d", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0)); }
T(clock_nanosleep_thread_clock) { struct timespec t = {0, 0}; say("%d", clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &t, 0)); }
T(alarm_remaining) { alarm(100); say("%d ", alarm(0)); say("%d", alarm(0)); }
T(setitimer_real) { struct itimerval t = {{0, 1000}, {0, 1000}}; handle(SIGALRM, 0); need(setitimer(ITIMER_REAL, &t, 0)); while (count < 5) pause(); say("5"); }
T(setitimer_virtual) { struct itimerval t = {{0, 0}, {0, 1000}}; handle(SIGVTALRM, 0); need(setitimer(ITIMER_VIRTUAL, &t, 0)); while (!count) {} say("%s", sig(last)); }
T(setitimer_bad) { struct itimerval t = {{0, 0}, {0, 1000000}}; say("%s %s", R(setitimer(ITIMER_REAL, &t, 0)), R(setitimer(9, &t, 0))); }
T(timer_signal)
{
	timer_t t;
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	struct itimerspec s = {{0, 0}, {0, 1000000}};
	handle_info(SIGUSR1, 0);
	need(timer_create(CLOCK_MONOTONIC, &e, &t));
	need(timer_settime(t, 0, &s, 0));
	while (!count)
		pause();
	say("%d", code);
}
T(timer_bad_id) { struct itimerspec s; say("%s", R(syscall(SYS_timer_gettime, 1234, &s))); }
T(timer_bad_notify) { timer_t t; struct sigevent e = {.sigev_notify = 99}; say("%s", R(timer_create(CLOCK_MONOTONIC, &e, &t))); }
T(gettimeofday_bad_pointer) { say("%s", R(syscall(SYS_gettimeofday, 8, 0))); }
T(time_agrees) { time_t a = time(0); struct timespec t; clock_gettime(CLOCK_REALTIME, &t); say("%d", t.tv_sec - a <= 1); }

static int word;
static long futex(int *u, int op, int v, void *t) { return syscall(SYS_futex, u, op, v, t, 0, ~0); }
T(futex_wait_wrong_value) { say("%s", R(futex(&word, FUTEX_WAIT, 1, 0))); }
T(futex_wait_timeout) { struct timespec t = {0, 1000000}; say("%s", R(futex(&word, FUTEX_WAIT, 0, &t))); }
T(futex_wake_none) { say("%s", R(futex(&word, FUTEX_WAKE, 1, 0))); }
T(futex_unaligned) { say("%s", R(futex((int *)((char *)&word + 1), FUTEX_WAIT, 0, 0))); }
T(futex_bad_pointer) { say("%s", R(futex((int *)8, FUTEX_WAIT, 0, 0))); }
T(futex_bad_operation) { say("%s", R(futex(&word, 99, 0, 0))); }
T(futex_bitset_zero) { say("%s", R(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 0, 0, 0, 0))); }
T(futex_bad_timeout) { struct timespec t = {0, 2000000000}; say("%s", R(futex(&word, FUTEX_WAIT, 0, &t))); }
T(futex_requeue_wrong_value) { static int other; say("%s", R(syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE, 1, 1, &other, 5))); }
T(futex_wake_op_none) { static int other; say("%s ", R(syscall(SYS_futex, &word, FUTEX_WAKE_OP, 1, 1, &other, FUTEX_OP(FUTEX_OP_SET, 7, FUTEX_OP_CMP_EQ, 0)))); say("%d", other); }
T(futex_shared_wake)
{
	int *s = (int *)pages(1, MAP_SHARED | MAP_ANONYMOUS);
	pid_t c = need(fork());
	if (c == 0) {
		while (*s == 0)
			futex(s, FUTEX_WAIT, 0, 0);
		_exit(*s);
	}
	__atomic_store_n(s, 6, __ATOMIC_RELEASE);
	futex(s, FUTEX_WAKE, 1, 0);
	int w;
	waitpid(c, &w, 0);
	say("%s", status(w));
}
T(futex_lock_pi) { say("%s ", R(futex(&word, FUTEX_LOCK_PI, 0, 0))); say("%d ", word == (int)syscall(SYS_gettid)); say("%s %s", R(futex(&word, FUTEX_LOCK_PI, 0, 0)), R(futex(&word, FUTEX_UNLOCK_PI, 0, 0))); }
T(futex_unlock_pi_not_owner) { word = 1; say("%s", R(futex(&word, FUTEX_UNLOCK_PI, 0, 0))); }
T(robust_list_bad_size) { say("%s", R(syscall(SYS_set_robust_list, &word, 5))); }
T(restart_syscall_alone) { say("%s", R(syscall(SYS_restart_syscall))); }
