// Pipes, polling, descriptors that carry events.
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

static char buf[70000];
static int p[2];

T(pipe_eof) { need(pipe(p)); close(p[1]); say("%s", R(read(p[0], buf, 1))); }
T(pipe_sigpipe) { need(pipe(p)); close(p[0]); say("%s", R(write(p[1], "x", 1))); }
T(pipe_epipe) { signal(SIGPIPE, SIG_IGN); need(pipe(p)); close(p[0]); say("%s", R(write(p[1], "x", 1))); }
T(pipe_nonblock_empty) { need(pipe2(p, O_NONBLOCK)); say("%s", R(read(p[0], buf, 1))); }
T(pipe_nonblock_full)
{
	long n = 0, r;
	need(pipe2(p, O_NONBLOCK));
	while ((r = write(p[1], buf, 4096)) > 0)
		n += r;
	say("%ld %s", n, R(r));
}
T(pipe_partial_write) { need(pipe2(p, O_NONBLOCK)); say("%s", R(write(p[1], buf, 70000))); }
T(pipe_wrong_end) { need(pipe(p)); say("%s %s", R(write(p[0], "x", 1)), R(read(p[1], buf, 1))); }
T(pipe_bad_flags) { say("%s", R(pipe2(p, 0x12345))); }
T(pipe_bad_pointer) { say("%s", R(syscall(SYS_pipe, 8))); }
T(pipe_cloexec) { need(pipe2(p, O_CLOEXEC)); say("%s %s", R(fcntl(p[0], F_GETFD)), R(fcntl(p[1], F_GETFL))); }
T(pipe_fionread) { int n; need(pipe(p)); need(write(p[1], "abc", 3)); need(ioctl(p[0], FIONREAD, &n)); say("%d", n); }
T(pipe_across_fork)
{
	need(pipe(p));
	if (fork() == 0) {
		need(write(p[1], "child", 5));
		_exit(0);
	}
	say("%s ", R(read(p[0], buf, 9)));
	say("%.5s", buf);
}
T(splice_pipe_to_file)
{
	need(pipe(p));
	need(write(p[1], "abcdef", 6));
	int f = need(open("f", O_CREAT | O_RDWR, 0644));
	say("%s ", R(splice(p[0], 0, f, 0, 4, 0)));
	pread(f, buf, 9, 0);
	say("%.4s", buf);
}
T(splice_no_pipe) { put("a", "x"); int f = need(open("a", O_RDWR)); say("%s", R(splice(f, 0, f, 0, 4, 0))); }
T(splice_file_to_pipe) { put("a", "abc"); need(pipe(p)); loff_t o = 1; say("%s ", R(splice(need(open("a", O_RDONLY)), &o, p[1], 0, 9, 0))); say("%ld", (long)o); }
T(splice_offset_on_pipe) { loff_t o = 0; put("a", "x"); need(pipe(p)); say("%s", R(splice(p[0], &o, need(open("a", O_RDWR)), 0, 1, 0))); }
T(tee_keeps)
{
	int q[2];
	need(pipe(p));
	need(pipe(q));
	need(write(p[1], "abc", 3));
	say("%s ", R(tee(p[0], q[1], 10, 0)));
	say("%s %s", R(read(p[0], buf, 9)), R(read(q[0], buf, 9)));
}
T(tee_same_pipe) { need(pipe(p)); say("%s", R(tee(p[0], p[1], 10, 0))); }
T(vmsplice_write) { need(pipe(p)); struct iovec v = {"abcd", 4}; say("%s ", R(vmsplice(p[1], &v, 1, 0))); say("%s", R(ioctl(p[0], FIONREAD, buf))); }
T(poll_ready) { need(pipe(p)); need(write(p[1], "x", 1)); struct pollfd f[2] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}}; say("%s ", R(poll(f, 2, -1))); say("%x %x", f[0].revents, f[1].revents); }
T(poll_timeout) { need(pipe(p)); struct pollfd f = {p[0], POLLIN, 0}; say("%s", R(poll(&f, 1, 10))); }
T(poll_hup) { need(pipe(p)); close(p[1]); struct pollfd f = {p[0], POLLIN, 0}; say("%s ", R(poll(&f, 1, -1))); say("%x", f.revents); }
T(poll_err) { need(pipe(p)); close(p[0]); struct pollfd f = {p[1], POLLOUT, 0}; say("%s ", R(poll(&f, 1, -1))); say("%x", f.revents); }
T(poll_invalid) { struct pollfd f = {99, POLLIN, 0}; say("%s ", R(poll(&f, 1, -1))); say("%x", f.revents); }
T(poll_negative_fd) { struct pollfd f = {-1, POLLIN, 7}; say("%s ", R(poll(&f, 1, 0))); say("%x", f.revents); }
T(poll_regular_file) { put("a", ""); struct pollfd f = {need(open("a", O_RDONLY)), POLLIN | POLLOUT, 0}; say("%s ", R(poll(&f, 1, 0))); say("%x", f.revents); }
T(ppoll_bad_time) { struct timespec t = {0, 2000000000}; say("%s", R(ppoll(0, 0, &t, 0))); }
T(select_ready) { fd_set s; FD_ZERO(&s); need(pipe(p)); need(write(p[1], "x", 1)); FD_SET(p[0], &s); say("%s ", R(select(p[0] + 1, &s, 0, 0, 0))); say("%d", FD_ISSET(p[0], &s)); }
/* Linux forgets descriptors past the end of the process's table, which depends on its ancestors and has 64 entries at least, so
   that a select of one there alone never ends. */
T(select_bad_fd) { fd_set s; FD_ZERO(&s); FD_SET(63, &s); close(63); say("%s", R(select(64, &s, 0, 0, 0))); }
T(select_negative) { say("%s", R(select(-1, 0, 0, 0, 0))); }
T(epoll_level)
{
	struct epoll_event e = {EPOLLIN, {.u64 = 42}}, g[2];
	int ep = need(epoll_create1(0));
	need(pipe(p));
	need(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e));
	need(write(p[1], "x", 1));
	say("%s ", R(epoll_wait(ep, g, 2, -1)));
	say("%s %x %d", R(epoll_wait(ep, g, 2, -1)), g[0].events, (int)g[0].data.u64);
}
T(epoll_edge)
{
	struct epoll_event e = {EPOLLIN | EPOLLET, {0}}, g[2];
	int ep = need(epoll_create1(0));
	need(pipe(p));
	need(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e));
	need(write(p[1], "x", 1));
	say("%s ", R(epoll_wait(ep, g, 2, -1)));
	say("%s ", R(epoll_wait(ep, g, 2, 0)));
	need(write(p[1], "x", 1));
	say("%s", R(epoll_wait(ep, g, 2, 0)));
}
T(epoll_oneshot)
{
	struct epoll_event e = {EPOLLIN | EPOLLONESHOT, {0}}, g[2];
	int ep = need(epoll_create1(0));
	need(pipe(p));
	need(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e));
	need(write(p[1], "x", 1));
	say("%s ", R(epoll_wait(ep, g, 2, 0)));
	say("%s ", R(epoll_wait(ep, g, 2, 0)));
	need(epoll_ctl(ep, EPOLL_CTL_MOD, p[0], &e));
	say("%s", R(epoll_wait(ep, g, 2, 0)));
}
T(epoll_add_twice) { struct epoll_event e = {EPOLLIN, {0}}; int ep = need(epoll_create1(0)); need(pipe(p)); need(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e)); say("%s", R(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e))); }
T(epoll_del_missing) { int ep = need(epoll_create1(0)); need(pipe(p)); say("%s", R(epoll_ctl(ep, EPOLL_CTL_DEL, p[0], 0))); }
T(epoll_add_file) { struct epoll_event e = {EPOLLIN, {0}}; put("f", ""); say("%s", R(epoll_ctl(need(epoll_create1(0)), EPOLL_CTL_ADD, need(open("f", O_RDONLY)), &e))); }
T(epoll_add_itself) { struct epoll_event e = {EPOLLIN, {0}}; int ep = need(epoll_create1(0)); say("%s", R(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &e))); }
T(epoll_loop) { struct epoll_event e = {EPOLLIN, {0}}; int a = need(epoll_create1(0)), b = need(epoll_create1(0)); need(epoll_ctl(a, EPOLL_CTL_ADD, b, &e)); say("%s", R(epoll_ctl(b, EPOLL_CTL_ADD, a, &e))); }
T(epoll_wait_none) { struct epoll_event g; say("%s", R(epoll_wait(need(epoll_create1(0)), &g, 0, 0))); }
T(epoll_create_zero) { say("%s", R(epoll_create(0))); }
T(epoll_closed_fd_goes)
{
	struct epoll_event e = {EPOLLIN, {0}}, g;
	int ep = need(epoll_create1(0));
	need(pipe(p));
	need(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e));
	need(write(p[1], "x", 1));
	close(p[0]);
	say("%s", R(epoll_wait(ep, &g, 1, 0)));
}
T(eventfd_counts) { uint64_t v = 3; int f = need(eventfd(4, EFD_NONBLOCK)); need(write(f, &v, 8)); say("%s ", R(read(f, &v, 8))); say("%d %s", (int)v, R(read(f, &v, 8))); }
T(eventfd_semaphore) { uint64_t v; int f = need(eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE)); need(read(f, &v, 8)); say("%d ", (int)v); need(read(f, &v, 8)); say("%d %s", (int)v, R(read(f, &v, 8))); }
T(eventfd_max) { uint64_t v = -1; int f = need(eventfd(0, EFD_NONBLOCK)); say("%s ", R(write(f, &v, 8))); v = -2; say("%s ", R(write(f, &v, 8))); v = 1; say("%s", R(write(f, &v, 8))); }
T(eventfd_short) { int f = need(eventfd(1, 0)); say("%s", R(read(f, buf, 4))); }
T(timerfd_fires) { struct itimerspec t = {{0, 0}, {0, 1000000}}; uint64_t n; int f = need(timerfd_create(CLOCK_MONOTONIC, 0)); need(timerfd_settime(f, 0, &t, 0)); say("%s ", R(read(f, &n, 8))); say("%d", (int)n); }
T(timerfd_disarmed) { struct itimerspec t; int f = need(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)); need(timerfd_gettime(f, &t)); say("%ld %s", t.it_value.tv_sec, R(read(f, buf, 8))); }
T(timerfd_bad_clock) { say("%s", R(timerfd_create(77, 0))); }
T(timerfd_bad_time) { struct itimerspec t = {{0, 0}, {0, 2000000000}}; say("%s", R(timerfd_settime(need(timerfd_create(CLOCK_MONOTONIC, 0)), 0, &t, 0))); }
T(timerfd_absolute_past) { struct itimerspec t = {{0, 0}, {0, 1}}; uint64_t n; int f = need(timerfd_create(CLOCK_MONOTONIC, 0)); need(timerfd_settime(f, TFD_TIMER_ABSTIME, &t, 0)); say("%s ", R(read(f, &n, 8))); say("%d", (int)n); }
T(signalfd_reads)
{
	sigset_t s;
	struct signalfd_siginfo i;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	need(sigprocmask(SIG_BLOCK, &s, 0));
	int f = need(signalfd(-1, &s, SFD_NONBLOCK));
	say("%s ", R(read(f, &i, sizeof i)));
	need(kill(getpid(), SIGUSR1));
	say("%s ", R(read(f, &i, sizeof i)));
	say("%s %d", sig(i.ssi_signo), i.ssi_pid == (unsigned)getpid());
}
T(signalfd_short) { sigset_t s; sigemptyset(&s); say("%s", R(read(need(signalfd(-1, &s, SFD_NONBLOCK)), buf, 10))); }
T(inotify_create)
{
	int f = need(inotify_init1(IN_NONBLOCK));
	need(inotify_add_watch(f, ".", IN_CREATE | IN_DELETE | IN_CLOSE_WRITE));
	put("x", "1");
	need(unlink("x"));
	long n = read(f, buf, sizeof buf);
	for (char *q = buf; q < buf + n; q += sizeof(struct inotify_event) + ((struct inotify_event *)q)->len)
		say("%x %s ", ((struct inotify_event *)q)->mask, ((struct inotify_event *)q)->name);
}
T(inotify_move)
{
	put("a", "");
	int f = need(inotify_init1(IN_NONBLOCK));
	need(inotify_add_watch(f, ".", IN_MOVE));
	need(rename("a", "b"));
	long n = read(f, buf, sizeof buf);
	unsigned cookie = 0;
	for (char *q = buf; q < buf + n; q += sizeof(struct inotify_event) + ((struct inotify_event *)q)->len) {
		struct inotify_event *e = (void *)q;
		say("%x %s %d ", e->mask, e->name, cookie == e->cookie);
		cookie = e->cookie;
	}
}
T(inotify_remove_watch) { int f = need(inotify_init1(IN_NONBLOCK)); int w = need(inotify_add_watch(f, ".", IN_CREATE)); need(inotify_rm_watch(f, w)); say("%s ", R(read(f, buf, 99))); say("%x %s", ((struct inotify_event *)buf)->mask, R(inotify_rm_watch(f, w))); }
T(inotify_missing) { say("%s", R(inotify_add_watch(need(inotify_init()), "nope", IN_CREATE))); }
T(inotify_empty) { say("%s", R(read(need(inotify_init1(IN_NONBLOCK)), buf, 99))); }
T(pidfd_open_poll)
{
	pid_t c = need(fork());
	if (c == 0)
		_exit(3);
	int f = syscall(SYS_pidfd_open, c, 0);
	struct pollfd q = {f, POLLIN, 0};
	if (f < 0) {
		say("%s", R(f));
		return;
	}
	say("%s ", R(poll(&q, 1, -1)));
	say("%x", q.revents);
}
T(pidfd_send_signal)
{
	pid_t c = need(fork());
	int w;
	if (c == 0) {
		pause();
		_exit(0);
	}
	int f = syscall(SYS_pidfd_open, c, 0);
	if (f < 0) {
		say("%s", R(f));
		kill(c, SIGKILL);
		return;
	}
	say("%s ", R(syscall(SYS_pidfd_send_signal, f, SIGTERM, 0, 0)));
	need(waitpid(c, &w, 0));
	say("%s", status(w));
}
