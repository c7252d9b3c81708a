// Processes, waiting, sessions, limits, scheduling, identities, prctl.
#include "check.h"
#include <sched.h>
#include <grp.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/times.h>
#include <sys/utsname.h>
#include <linux/capability.h>

static int w;
static char buf[4096];
static pid_t child(void (*f)(void))
{
	pid_t p = need(fork());
	if (p == 0) {
		f();
		_exit(0);
	}
	return p;
}
static void nothing(void) {}
static void sleeper(void) { for (;;) pause(); }
static void exit_300(void) { _exit(300); }
static void killed(void) { raise(SIGKILL); }
static void aborted(void) { abort(); }

T(wait_no_child) { say("%s", R(wait(0))); }
T(wait_other_pid) { say("%s", R(waitpid(1, &w, 0))); }
T(wait_exit_code_masked) { waitpid(child(exit_300), &w, 0); say("%s", status(w)); }
T(wait_killed) { waitpid(child(killed), &w, 0); say("%s", status(w)); }
T(wait_aborted) { waitpid(child(aborted), &w, 0); say("%s", status(w & ~0x80)); }
T(wait_nohang) { pid_t c = child(sleeper); say("%s ", R(waitpid(c, &w, WNOHANG))); need(kill(c, SIGTERM)); waitpid(c, &w, 0); say("%s", status(w)); }
T(wait_bad_options) { say("%s", R(waitpid(-1, &w, 0x400))); }
T(wait_bad_pointer) { child(nothing); say("%s", R(syscall(SYS_wait4, -1, 8, 0, 0))); }
static void stop_then_pause(void)
{
	raise(SIGSTOP);
	for (;;)
		pause();
}
T(wait_untraced_continued)
{
	pid_t c = child(stop_then_pause);
	waitpid(c, &w, WUNTRACED);
	say("%s, ", status(w));
	need(kill(c, SIGCONT));
	waitpid(c, &w, WCONTINUED);
	say("%s, ", status(w));
	need(kill(c, SIGTERM));
	waitpid(c, &w, 0);
	say("%s", status(w));
}
T(wait_by_group) { pid_t c = child(sleeper); need(setpgid(c, c)); need(kill(-c, SIGTERM)); say("%d ", waitpid(-c, &w, 0) == c); say("%s", status(w)); }
T(waitid_exited) { siginfo_t i; pid_t c = child(exit_300); need(waitid(P_PID, c, &i, WEXITED)); say("%d %d %d %s", i.si_code, i.si_status, i.si_pid == c, sig(i.si_signo)); }
T(waitid_nowait_keeps) { siginfo_t i; pid_t c = child(nothing); need(waitid(P_PID, c, &i, WEXITED | WNOWAIT)); say("%d", waitpid(c, &w, 0) == c); }
T(waitid_no_options) { siginfo_t i; say("%s", R(waitid(P_ALL, 0, &i, 0))); }
T(waitid_nohang) { siginfo_t i; i.si_pid = 5; child(sleeper); say("%s ", R(waitid(P_ALL, 0, &i, WEXITED | WNOHANG))); say("%d", i.si_pid); }
T(wait_ignored_sigchld) { signal(SIGCHLD, SIG_IGN); child(nothing); say("%s", R(wait(0))); }
T(orphan_reaped_by_subreaper)
{
	int p[2];
	need(pipe(p));
	need(prctl(PR_SET_CHILD_SUBREAPER, 1));
	pid_t c = need(fork());
	if (c == 0) {
		if (fork() == 0) {
			char x;
			read(p[0], &x, 1);
			_exit(getppid() == *(pid_t *)buf ? 7 : 8);
		}
		_exit(0);
	}
	*(pid_t *)buf = getpid();
	waitpid(c, &w, 0);
	need(write(p[1], "x", 1));
	say("%d", wait(&w) > 0);
}
T(exec_missing) { execl("nope", "nope", (char *)0); say("%s", R(-1)); }
T(exec_directory) { execl(".", ".", (char *)0); say("%s", R(-1)); }
T(exec_garbage) { put("f", "garbage"); need(chmod("f", 0755)); execl("./f", "f", (char *)0); say("%s", R(-1)); }
T(exec_empty_file) { put("f", ""); need(chmod("f", 0755)); execl("./f", "f", (char *)0); say("%s", R(-1)); }
T(exec_missing_interpreter) { put("f", "#!/nope\n"); need(chmod("f", 0755)); execl("./f", "f", (char *)0); say("%s", R(-1)); }
T(exec_interpreter_loop) { put("f", "#!./f\n"); need(chmod("f", 0755)); execl("./f", "f", (char *)0); say("%s", R(-1)); }
T(exec_huge_argument)
{
	char *a = pages(40, 0);
	memset(a, 'x', 40 * 4096 - 1);
	execl("/bin/true", "true", a, (char *)0);
	say("%s", R(-1));
}
static void exec_true(void) { execl("/bin/true", "true", (char *)0); _exit(99); }
T(exec_true_code) { waitpid(child(exec_true), &w, 0); say("%s", status(w)); }
static void exec_args(void) { execl("/bin/sh", "sh", "-c", "exit $#", "a", "b", "c", (char *)0); _exit(99); }
T(exec_arguments) { waitpid(child(exec_args), &w, 0); say("%s", status(w)); }
T(exec_script_with_argument) { put("f", "#!/bin/sh -e\nfalse\nexit 9\n"); need(chmod("f", 0755)); pid_t c = need(fork()); if (c == 0) { execl("./f", "f", (char *)0); _exit(99); } waitpid(c, &w, 0); say("%s", status(w)); }
T(exec_keeps_mask)
{
	pid_t c = need(fork());
	if (c == 0) {
		sigset_t s;
		sigemptyset(&s);
		sigaddset(&s, SIGTERM);
		sigprocmask(SIG_BLOCK, &s, 0);
		execl("/bin/sh", "sh", "-c", "kill -TERM $$; exit 5", (char *)0);
		_exit(99);
	}
	waitpid(c, &w, 0);
	say("%s", status(w));
}
T(vfork_shares_memory) { volatile int x = 0; pid_t c = vfork(); if (c == 0) { x = 42; _exit(0); } waitpid(c, &w, 0); say("%d", x); }
static int clone_child(void *p) { *(volatile int *)p = 3; return 6; }
T(clone_vm) { int x = 0; char *s = pages(16, 0); pid_t c = need(clone(clone_child, s + 16 * 4096, CLONE_VM | SIGCHLD, &x)); waitpid(c, &w, 0); say("%d %s", x, status(w)); }
T(clone_thread_without_sighand) { say("%s", R(syscall(SYS_clone, CLONE_THREAD, 0, 0, 0, 0))); }
T(clone_sighand_without_vm) { say("%s", R(syscall(SYS_clone, CLONE_SIGHAND, 0, 0, 0, 0))); }
T(clone_files_shared)
{
	char *s = pages(16, 0);
	int closer(void *p) { close(*(int *)p); return 0; }
	int f = need(open(".", O_RDONLY));
	pid_t c = need(clone(closer, s + 16 * 4096, CLONE_VM | CLONE_FILES | SIGCHLD, &f));
	waitpid(c, &w, 0);
	say("%s", R(fcntl(f, F_GETFD)));
}
T(clone3_short) { say("%s", R(syscall(SYS_clone3, buf, 8))); }
T(unshare_bad) { say("%s", R(unshare(1))); }
T(setpgid_self) { need(setpgid(0, 0)); say("%d", getpgrp() == getpid()); }
T(setpgid_missing_group) { pid_t c = child(sleeper); say("%s", R(setpgid(c, 99999))); }
T(setpgid_negative) { say("%s", R(setpgid(0, -1))); }
T(setpgid_after_exec) { pid_t c = need(fork()); if (c == 0) { execl("/bin/sleep", "sleep", "100", (char *)0); _exit(1); } char n[64]; do { snprintf(n, 64, "/proc/%d/comm", c); int f = open(n, O_RDONLY); buf[0] = 0; if (read(f, buf, 16) < 0) break; close(f); } while (strncmp(buf, "sleep", 5)); say("%s", R(setpgid(c, c))); kill(c, SIGKILL); }
T(setsid_leader) { need(setpgid(0, 0)); say("%s", R(setsid())); }
static void new_session(void) { pid_t s = setsid(); say("%d %d %d", s == getpid(), getsid(0) == s, getpgrp() == s); }
T(setsid_child) { waitpid(child(new_session), &w, 0); }
T(getpgid_missing) { say("%s", R(getpgid(99999999))); }
T(getsid_missing) { say("%s", R(getsid(99999999))); }
T(setpriority_nice) { need(setpriority(PRIO_PROCESS, 0, 5)); say("%s", R(getpriority(PRIO_PROCESS, 0))); }
T(setpriority_clamps) { need(setpriority(PRIO_PROCESS, 0, 100)); say("%s", R(getpriority(PRIO_PROCESS, 0))); }
T(getpriority_bad_which) { say("%s", R(getpriority(9, 0))); }
T(rlimit_nofile)
{
	struct rlimit l = {10, 20}, g;
	need(setrlimit(RLIMIT_NOFILE, &l));
	need(getrlimit(RLIMIT_NOFILE, &g));
	say("%ld %ld %s %s", (long)g.rlim_cur, (long)g.rlim_max, R(dup2(1, 10)), OK(dup2(1, 9)));
}
T(rlimit_cur_above_max) { struct rlimit l = {20, 10}; say("%s", R(setrlimit(RLIMIT_NOFILE, &l))); }
T(rlimit_bad_resource) { struct rlimit l; say("%s", R(getrlimit(99, &l))); }
T(rlimit_fsize) { struct rlimit l = {3, 3}; signal(SIGXFSZ, SIG_IGN); need(setrlimit(RLIMIT_FSIZE, &l)); int f = need(open("f", O_CREAT | O_WRONLY, 0644)); say("%s ", R(write(f, "abcdef", 6))); say("%s", R(write(f, "abc", 3))); }
T(rlimit_fsize_signal) { struct rlimit l = {3, 3}; need(setrlimit(RLIMIT_FSIZE, &l)); int f = need(open("f", O_CREAT | O_WRONLY, 0644)); say("%s", R(pwrite(f, "abcdef", 6, 3))); }
T(prlimit_self) { struct rlimit l; say("%s ", R(prlimit(0, RLIMIT_STACK, 0, &l))); say("%ld", (long)l.rlim_cur); }
T(prlimit_missing) { struct rlimit l; say("%s", R(prlimit(99999999, RLIMIT_STACK, 0, &l))); }
T(getrusage_bad) { struct rusage r; say("%s", R(getrusage(77, &r))); }
T(getrusage_children) { struct rusage r; say("%s", R(getrusage(RUSAGE_CHILDREN, &r))); }
T(times_grow) { struct tms t; clock_t a = times(&t); say("%d", times(&t) >= a); }
T(sched_yield_ok) { say("%s", R(sched_yield())); }
T(sched_getscheduler_self) { say("%s", R(sched_getscheduler(0))); }
T(sched_getscheduler_missing) { say("%s", R(sched_getscheduler(99999999))); }
T(sched_setscheduler_bad) { struct sched_param p = {0}; say("%s", R(sched_setscheduler(0, 77, &p))); }
T(sched_priority_range) { say("%s %s", R(sched_get_priority_max(SCHED_FIFO)), R(sched_get_priority_min(SCHED_OTHER))); }
T(sched_affinity_small) { say("%s", R(syscall(SYS_sched_getaffinity, 0, 1, buf))); }
T(sched_affinity_empty) { memset(buf, 0, 128); say("%s", R(syscall(SYS_sched_setaffinity, 0, 128, buf))); }
T(getcpu_ok) { unsigned c; say("%s", R(syscall(SYS_getcpu, &c, 0, 0))); }
T(uname_fields) { struct utsname u; need(uname(&u)); say("%s %s", u.sysname, u.machine); }
T(sysinfo_unit) { struct sysinfo s; need(sysinfo(&s)); say("%d %d", s.mem_unit, s.totalram > 0); }
T(getrandom_fills) { memset(buf, 0, 256); say("%s ", R(getrandom(buf, 256, 0))); int n = 0; for (int i = 0; i < 256; i++) n += buf[i] != 0; say("%d", n > 200); }
T(getrandom_bad_flag) { say("%s", R(getrandom(buf, 1, 0x80))); }
T(getrandom_bad_pointer) { say("%s", R(getrandom((void *)8, 10, 0))); }
T(setuid_drops)
{
	uid_t r, e, s;
	need(setuid(1000));
	need(getresuid(&r, &e, &s));
	say("%d %d %d %s", r, e, s, R(setuid(0)));
}
T(seteuid_returns) { need(seteuid(1000)); say("%d %s ", geteuid(), R(setuid(2000))); need(seteuid(0)); say("%d", geteuid()); }
T(setresuid_keep) { uid_t r, e, s; need(setresuid(1, -1, 3)); need(getresuid(&r, &e, &s)); say("%d %d %d", r, e, s); }
T(setreuid_swaps_saved) { uid_t r, e, s; need(setreuid(5, 6)); need(getresuid(&r, &e, &s)); say("%d %d %d", r, e, s); }
T(setgid_as_user) { need(setuid(1000)); say("%s", R(setgid(5))); }
T(setgroups_list) { gid_t g[3] = {7, 8, 9}, h[5]; need(setgroups(3, g)); say("%s ", R(getgroups(5, h))); say("%d %d", h[0], h[2]); }
T(setgroups_as_user) { gid_t g = 7; need(setuid(1000)); say("%s", R(setgroups(1, &g))); }
T(getgroups_small) { gid_t g[3] = {7, 8, 9}, h[1]; need(setgroups(3, g)); say("%s", R(getgroups(1, h))); }
T(setfsuid_returns) { say("%d ", setfsuid(5)); say("%d", setfsuid(-1)); }
T(capget_lost_on_setuid) { struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0}; struct __user_cap_data_struct d[2]; need(setuid(1000)); need(syscall(SYS_capget, &h, d)); say("%x %x", d[0].effective, d[0].permitted); }
T(capget_bad_version) { struct __user_cap_header_struct h = {1, 0}; struct __user_cap_data_struct d[2]; say("%s ", R(syscall(SYS_capget, &h, d))); say("%x", h.version); }
T(capset_raise) { struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0}; struct __user_cap_data_struct d[2]; need(setuid(1000)); memset(d, 255, sizeof d); say("%s", R(syscall(SYS_capset, &h, d))); }
T(prctl_name) { need(prctl(PR_SET_NAME, "a-name-that-is-too-long")); need(prctl(PR_GET_NAME, buf)); say("%s", buf); }
T(prctl_pdeathsig) { int s; need(prctl(PR_SET_PDEATHSIG, SIGUSR1)); need(prctl(PR_GET_PDEATHSIG, &s)); say("%s %s", sig(s), R(prctl(PR_SET_PDEATHSIG, 999))); }
T(prctl_dumpable) { say("%s ", R(prctl(PR_GET_DUMPABLE))); need(prctl(PR_SET_DUMPABLE, 0)); say("%s", R(prctl(PR_GET_DUMPABLE))); }
T(prctl_no_new_privs) { say("%s ", R(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0))); need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); say("%s", R(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0))); }
T(prctl_keepcaps) { need(prctl(PR_SET_KEEPCAPS, 1)); say("%s", R(prctl(PR_GET_KEEPCAPS))); }
T(prctl_bad) { say("%s", R(prctl(9999, 0, 0, 0, 0))); }
T(prctl_capbset_bad) { say("%s", R(prctl(PR_CAPBSET_READ, 999))); }
T(personality_query) { say("%s", R(personality(0xffffffff))); }
T(seccomp_strict) { if (fork() == 0) { prctl(PR_SET_SECCOMP, 1); syscall(SYS_getpid); syscall(SYS_exit, 0); } wait(&w); say("%s", status(w)); }
T(ptrace_traceme_stop)
{
	pid_t c = need(fork());
	if (c == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGUSR1);
		_exit(2);
	}
	waitpid(c, &w, 0);
	say("%s, ", status(w));
	need(ptrace(PTRACE_CONT, c, 0, 0));
	waitpid(c, &w, 0);
	say("%s", status(w));
}
T(ptrace_peek_poke)
{
	static volatile long word = 77;
	pid_t c = need(fork());
	if (c == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(word);
	}
	waitpid(c, &w, 0);
	say("%ld ", ptrace(PTRACE_PEEKDATA, c, &word, 0));
	need(ptrace(PTRACE_POKEDATA, c, &word, 33L));
	need(ptrace(PTRACE_CONT, c, 0, 0));
	waitpid(c, &w, 0);
	say("%s %ld", status(w), word);
}
T(ptrace_syscall_stops)
{
	int n = 0;
	pid_t c = need(fork());
	if (c == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		syscall(SYS_getpid);
		syscall(SYS_getpid);
		syscall(SYS_exit_group, 0);
	}
	waitpid(c, &w, 0);
	while (need(ptrace(PTRACE_SYSCALL, c, 0, 0)) == 0 && waitpid(c, &w, 0) == c && WIFSTOPPED(w))
		n++;
	say("%d %s", n, status(w));
}
T(ptrace_missing) { say("%s", R(ptrace(PTRACE_ATTACH, 99999999, 0, 0))); }
T(exit_group_from_thread_like_child) { pid_t c = need(fork()); if (c == 0) syscall(SYS_exit, 9); waitpid(c, &w, 0); say("%s", status(w)); }
T(syscall_number_too_big) { say("%s", R(syscall(100000))); }
T(syscall_number_negative) { say("%s", R(syscall(-5))); }
T(setns_not_a_namespace) { put("f", ""); say("%s", R(setns(need(open("f", O_RDONLY)), 0))); }
T(reboot_bad_magic) { say("%s", R(syscall(SYS_reboot, 1, 2, 3, 0))); }
T(sethostname_as_user) { need(setuid(1000)); say("%s", R(sethostname("x", 1))); }
T(mount_as_user) { need(setuid(1000)); say("%s", R(syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0))); }
T(chroot_as_user) { need(setuid(1000)); say("%s", R(chroot("/"))); }
T(acct_as_user) { need(setuid(1000)); say("%s", R(syscall(SYS_acct, 0))); }
