// Sockets of the unix and inet families, on this machine only.
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static int s[2];
static char buf[70000];
static struct sockaddr_un un(const char *path) { struct sockaddr_un a = {.sun_family = AF_UNIX}; strcpy(a.sun_path, path); return a; }
#define A(x) (struct sockaddr *)&(x), sizeof(x)
static struct sockaddr_in in4(int port) { struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}}; return a; }
static int listener(struct sockaddr_in *a)
{
	socklen_t n = sizeof *a;
	int l = need(socket(AF_INET, SOCK_STREAM, 0));
	*a = in4(0);
	need(bind(l, (struct sockaddr *)a, n));
	need(listen(l, 5));
	need(getsockname(l, (struct sockaddr *)a, &n));
	return l;
}
static int connected(int *other)
{
	struct sockaddr_in a;
	int l = listener(&a), c = need(socket(AF_INET, SOCK_STREAM, 0));
	need(connect(c, A(a)));
	*other = need(accept(l, 0, 0));
	close(l);
	return c;
}
static void pair(int type) { need(socketpair(AF_UNIX, type, 0, s)); }

T(socket_bad_family) { say("%s", OK(socket(123, SOCK_STREAM, 0))); }
T(socket_bad_type) { say("%s", OK(socket(AF_UNIX, 99, 0))); }
T(socket_bad_protocol) { say("%s", OK(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP))); }
T(socketpair_inet) { say("%s", R(socketpair(AF_INET, SOCK_STREAM, 0, s))); }
T(unix_stream_pair) { pair(SOCK_STREAM); need(send(s[0], "abc", 3, 0)); need(send(s[0], "def", 3, 0)); say("%s ", R(recv(s[1], buf, 9, 0))); say("%.6s", buf); }
T(unix_dgram_pair) { pair(SOCK_DGRAM); need(send(s[0], "abc", 3, 0)); need(send(s[0], "def", 3, 0)); say("%s ", R(recv(s[1], buf, 2, 0))); say("%s %.3s", R(recv(s[1], buf, 9, 0)), buf); }
T(unix_dgram_trunc) { pair(SOCK_DGRAM); need(send(s[0], "abcdef", 6, 0)); say("%s", R(recv(s[1], buf, 2, MSG_TRUNC))); }
T(unix_seqpacket_pair) { pair(SOCK_SEQPACKET); need(send(s[0], "abc", 3, 0)); need(send(s[0], "d", 1, 0)); say("%s ", R(recv(s[1], buf, 9, 0))); close(s[0]); say("%s ", R(recv(s[1], buf, 9, 0))); say("%s", R(recv(s[1], buf, 9, 0))); }
T(unix_peek) { pair(SOCK_STREAM); need(send(s[0], "abc", 3, 0)); say("%s ", R(recv(s[1], buf, 9, MSG_PEEK))); say("%s", R(recv(s[1], buf, 9, 0))); }
T(unix_dontwait) { pair(SOCK_STREAM); say("%s", R(recv(s[1], buf, 9, MSG_DONTWAIT))); }
T(unix_eof) { pair(SOCK_STREAM); close(s[0]); say("%s", R(recv(s[1], buf, 9, 0))); }
T(unix_epipe) { pair(SOCK_STREAM); close(s[0]); say("%s", R(send(s[1], buf, 9, MSG_NOSIGNAL))); }
T(unix_sigpipe) { pair(SOCK_STREAM); close(s[0]); say("%s", R(write(s[1], buf, 9))); }
T(unix_shutdown_write) { pair(SOCK_STREAM); need(shutdown(s[0], SHUT_WR)); say("%s %s", R(recv(s[1], buf, 9, 0)), R(send(s[0], "x", 1, MSG_NOSIGNAL))); }
T(unix_shutdown_bad) { pair(SOCK_STREAM); say("%s", R(shutdown(s[0], 9))); }
T(unix_bind_listen_connect)
{
	struct sockaddr_un a = un("sock");
	int l = need(socket(AF_UNIX, SOCK_STREAM, 0)), c = need(socket(AF_UNIX, SOCK_STREAM, 0));
	struct stat st;
	need(bind(l, A(a)));
	need(stat("sock", &st));
	say("%o %s ", st.st_mode & S_IFMT, R(connect(c, A(a))));
	need(listen(l, 1));
	say("%s ", R(connect(c, A(a))));
	int d = need(accept(l, 0, 0));
	need(send(c, "hi", 2, 0));
	say("%s", R(recv(d, buf, 9, 0)));
}
T(unix_bind_twice) { struct sockaddr_un a = un("sock"); need(bind(need(socket(AF_UNIX, SOCK_STREAM, 0)), A(a))); say("%s", R(bind(need(socket(AF_UNIX, SOCK_STREAM, 0)), A(a)))); }
T(unix_connect_missing) { struct sockaddr_un a = un("sock"); say("%s", R(connect(need(socket(AF_UNIX, SOCK_STREAM, 0)), A(a)))); }
T(unix_connect_file) { put("f", ""); struct sockaddr_un a = un("f"); say("%s", R(connect(need(socket(AF_UNIX, SOCK_STREAM, 0)), A(a)))); }
T(unix_connect_wrong_type) { struct sockaddr_un a = un("sock"); need(bind(need(socket(AF_UNIX, SOCK_DGRAM, 0)), A(a))); say("%s", R(connect(need(socket(AF_UNIX, SOCK_STREAM, 0)), A(a)))); }
T(unix_abstract)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "\0qenex-check"};
	socklen_t n = offsetof(struct sockaddr_un, sun_path) + 12;
	int l = need(socket(AF_UNIX, SOCK_STREAM, 0));
	need(bind(l, (void *)&a, n));
	need(listen(l, 1));
	say("%s", R(connect(need(socket(AF_UNIX, SOCK_STREAM, 0)), (void *)&a, n)));
}
T(unix_getsockname_unnamed) { struct sockaddr_un a; socklen_t n = sizeof a; pair(SOCK_STREAM); need(getsockname(s[0], (void *)&a, &n)); say("%d %d", (int)n, a.sun_family); }
T(unix_peercred) { struct { int pid, uid, gid; } c; socklen_t n = sizeof c; pair(SOCK_STREAM); need(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &c, &n)); say("%d %d", c.pid == getpid(), (int)n); }
T(unix_pass_descriptor)
{
	char control[CMSG_SPACE(sizeof(int))] = "", x;
	struct iovec v = {"m", 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	put("f", "passed");
	int f = need(open("f", O_RDONLY));
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &f, sizeof f);
	pair(SOCK_STREAM);
	need(sendmsg(s[0], &m, 0));
	close(f);
	memset(control, 0, sizeof control);
	v.iov_base = &x;
	m.msg_controllen = sizeof control;
	say("%s ", R(recvmsg(s[1], &m, MSG_CMSG_CLOEXEC)));
	memcpy(&f, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof f);
	say("%s ", R(fcntl(f, F_GETFD)));
	say("%s %.6s", R(read(f, buf, 9)), buf);
}
T(unix_pass_bad_descriptor)
{
	char control[CMSG_SPACE(sizeof(int))] = "";
	struct iovec v = {"m", 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int f = 99;
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &f, sizeof f);
	pair(SOCK_STREAM);
	say("%s", R(sendmsg(s[0], &m, 0)));
}
T(unix_control_truncated)
{
	char control[CMSG_SPACE(2 * sizeof(int))] = "", x;
	struct iovec v = {"m", 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int f[2] = {1, 1};
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof f);
	memcpy(CMSG_DATA(c), f, sizeof f);
	pair(SOCK_STREAM);
	need(sendmsg(s[0], &m, 0));
	v.iov_base = &x;
	m.msg_controllen = CMSG_SPACE(0);
	need(recvmsg(s[1], &m, 0));
	say("%x", m.msg_flags & (MSG_CTRUNC | MSG_TRUNC));
}
T(recvmsg_trunc_flag) { pair(SOCK_DGRAM); struct iovec v = {buf, 2}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1}; need(send(s[0], "abcdef", 6, 0)); say("%s ", R(recvmsg(s[1], &m, 0))); say("%x", m.msg_flags); }
T(sendmmsg_counts)
{
	struct iovec v[2] = {{"a", 1}, {"bb", 2}};
	struct mmsghdr m[2] = {{{.msg_iov = &v[0], .msg_iovlen = 1}, 0}, {{.msg_iov = &v[1], .msg_iovlen = 1}, 0}};
	pair(SOCK_DGRAM);
	say("%s ", R(sendmmsg(s[0], m, 2, 0)));
	say("%d %d", m[0].msg_len, m[1].msg_len);
}
T(unix_buffer_full) { long n = 0, r; pair(SOCK_STREAM); while ((r = send(s[0], buf, 1000, MSG_DONTWAIT)) > 0) n++; say("%d %s", n > 10, R(r)); }
T(unix_fionread) { int n; pair(SOCK_STREAM); need(send(s[0], "abc", 3, 0)); need(ioctl(s[1], FIONREAD, &n)); say("%d", n); }
T(unix_poll_hup) { pair(SOCK_STREAM); close(s[0]); struct pollfd f = {s[1], POLLIN | POLLRDHUP, 0}; need(poll(&f, 1, 0)); say("%x", f.revents); }
T(so_type) { int t; socklen_t n = sizeof t; pair(SOCK_SEQPACKET); need(getsockopt(s[0], SOL_SOCKET, SO_TYPE, &t, &n)); say("%d", t); }
T(so_domain_protocol) { int t, u; socklen_t n = sizeof t; int f = need(socket(AF_INET, SOCK_STREAM, 0)); need(getsockopt(f, SOL_SOCKET, SO_DOMAIN, &t, &n)); need(getsockopt(f, SOL_SOCKET, SO_PROTOCOL, &u, &n)); say("%d %d", t, u); }
T(so_unknown_option) { int t; socklen_t n = sizeof t; pair(SOCK_STREAM); say("%s", R(getsockopt(s[0], SOL_SOCKET, 9999, &t, &n))); }
T(so_unknown_level) { int t; socklen_t n = sizeof t; int f = need(socket(AF_INET, SOCK_STREAM, 0)); say("%s", R(getsockopt(f, 9999, 1, &t, &n))); }
T(so_short_option) { char c; int f = need(socket(AF_INET, SOCK_STREAM, 0)); say("%s", R(setsockopt(f, SOL_SOCKET, SO_REUSEADDR, &c, 1))); }
T(so_rcvtimeo) { struct timeval t = {0, 10000}; pair(SOCK_STREAM); need(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t)); say("%s", R(recv(s[0], buf, 1, 0))); }
T(so_not_a_socket) { int t; socklen_t n = sizeof t; say("%s", R(getsockopt(need(open(".", O_RDONLY)), SOL_SOCKET, SO_TYPE, &t, &n))); }
T(tcp_echo) { int o, c = connected(&o); need(send(c, "ping", 4, 0)); say("%s ", R(recv(o, buf, 9, MSG_WAITALL & 0))); need(send(o, "pong!", 5, 0)); say("%s %.5s", R(recv(c, buf, 9, 0)), buf); }
T(tcp_eof) { int o, c = connected(&o); close(o); say("%s", R(recv(c, buf, 9, 0))); }
T(tcp_half_close) { int o, c = connected(&o); need(shutdown(c, SHUT_WR)); say("%s ", R(recv(o, buf, 9, 0))); need(send(o, "late", 4, 0)); say("%s", R(recv(c, buf, 9, 0))); }
T(tcp_refused) { struct sockaddr_in a; close(listener(&a)); say("%s", R(connect(need(socket(AF_INET, SOCK_STREAM, 0)), A(a)))); }
T(tcp_connect_twice) { struct sockaddr_in a; listener(&a); int c = need(socket(AF_INET, SOCK_STREAM, 0)); need(connect(c, A(a))); say("%s", R(connect(c, A(a)))); }
T(tcp_bind_in_use) { struct sockaddr_in a; listener(&a); say("%s", R(bind(need(socket(AF_INET, SOCK_STREAM, 0)), A(a)))); }
T(tcp_bind_twice) { struct sockaddr_in a = in4(0); int f = need(socket(AF_INET, SOCK_STREAM, 0)); need(bind(f, A(a))); say("%s", R(bind(f, A(a)))); }
T(tcp_bind_foreign) { struct sockaddr_in a = in4(0); a.sin_addr.s_addr = inet_addr("8.8.8.8"); say("%s", R(bind(need(socket(AF_INET, SOCK_STREAM, 0)), A(a)))); }
T(tcp_bind_short) { struct sockaddr_in a = in4(0); say("%s", R(bind(need(socket(AF_INET, SOCK_STREAM, 0)), (void *)&a, 4))); }
T(tcp_accept_not_listening) { struct sockaddr_in a = in4(0); int f = need(socket(AF_INET, SOCK_STREAM, 0)); need(bind(f, A(a))); say("%s", R(accept(f, 0, 0))); }
T(tcp_accept_nonblock) { struct sockaddr_in a; int l = listener(&a); need(fcntl(l, F_SETFL, O_NONBLOCK)); say("%s", R(accept(l, 0, 0))); }
T(tcp_accept4_flags) { struct sockaddr_in a; int l = listener(&a); need(connect(need(socket(AF_INET, SOCK_STREAM, 0)), A(a))); int f = need(accept4(l, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)); say("%s %s", R(fcntl(f, F_GETFD)), R(recv(f, buf, 1, 0))); }
T(tcp_accept4_bad_flags) { struct sockaddr_in a; say("%s", R(accept4(listener(&a), 0, 0, 0x77))); }
T(tcp_not_connected) { int f = need(socket(AF_INET, SOCK_STREAM, 0)); struct sockaddr_in a; socklen_t n = sizeof a; say("%s %s %s", R(recv(f, buf, 1, 0)), R(send(f, buf, 1, MSG_NOSIGNAL)), R(getpeername(f, (void *)&a, &n))); }
T(tcp_names) { int o, c = connected(&o); struct sockaddr_in a, b; socklen_t n = sizeof a; need(getsockname(c, (void *)&a, &n)); need(getpeername(o, (void *)&b, &n)); say("%d %s", !memcmp(&a, &b, 8), inet_ntoa(a.sin_addr)); }
T(tcp_nodelay) { int v = 1, o, c = connected(&o); socklen_t n = sizeof v; need(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &v, n)); v = 0; need(getsockopt(c, IPPROTO_TCP, TCP_NODELAY, &v, &n)); say("%d", v); }
T(tcp_peek_trunc) { int o, c = connected(&o); need(send(c, "abcdef", 6, 0)); say("%s ", R(recv(o, buf, 3, MSG_PEEK))); say("%s", R(recv(o, buf, 9, 0))); }
T(tcp_reset) { int o, c = connected(&o); struct linger l = {1, 0}; need(setsockopt(c, SOL_SOCKET, SO_LINGER, &l, sizeof l)); close(c); say("%s", R(recv(o, buf, 9, 0))); }
T(tcp_large_transfer)
{
	int o, c = connected(&o);
	long sum = 0, n, total = 0;
	if (fork() == 0) {
		for (int i = 0; i < 50; i++) {
			memset(buf, i, sizeof buf);
			for (size_t k = 0; k < sizeof buf;)
				k += need(write(c, buf + k, sizeof buf - k));
		}
		_exit(0);
	}
	close(c);
	while ((n = read(o, buf, sizeof buf)) > 0) {
		total += n;
		for (long i = 0; i < n; i++)
			sum += buf[i];
	}
	say("%ld %ld", total, sum);
}
T(tcp_nonblocking_connect) { struct sockaddr_in a; listener(&a); int c = need(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)), e; socklen_t n = sizeof e; long r = connect(c, A(a)); say("%d ", r == 0 || errno == EINPROGRESS); struct pollfd f = {c, POLLOUT, 0}; need(poll(&f, 1, 5000)); need(getsockopt(c, SOL_SOCKET, SO_ERROR, &e, &n)); say("%d", e); }
T(udp_echo)
{
	struct sockaddr_in a = in4(0), from;
	socklen_t n = sizeof a;
	int l = need(socket(AF_INET, SOCK_DGRAM, 0)), c = need(socket(AF_INET, SOCK_DGRAM, 0));
	need(bind(l, A(a)));
	need(getsockname(l, (void *)&a, &n));
	need(sendto(c, "abc", 3, 0, A(a)));
	say("%s ", R(recvfrom(l, buf, 9, 0, (void *)&from, &n)));
	need(sendto(l, "defg", 4, 0, A(from)));
	say("%s", R(recv(c, buf, 9, 0)));
}
T(udp_connected_filters)
{
	struct sockaddr_in a = in4(0), b = in4(0);
	socklen_t n = sizeof a;
	int x = need(socket(AF_INET, SOCK_DGRAM, 0)), y = need(socket(AF_INET, SOCK_DGRAM, 0)), z = need(socket(AF_INET, SOCK_DGRAM, 0));
	need(bind(x, A(a)));
	need(getsockname(x, (void *)&a, &n));
	need(bind(y, A(b)));
	need(getsockname(y, (void *)&b, &n));
	need(connect(x, A(b)));
	need(sendto(z, "other", 5, 0, A(a)));
	need(sendto(y, "peer", 4, 0, A(a)));
	say("%s ", R(recv(x, buf, 9, 0)));
	say("%s", R(recv(x, buf, 9, MSG_DONTWAIT)));
}
T(udp_refused) { struct sockaddr_in a; close(listener(&a)); int c = need(socket(AF_INET, SOCK_DGRAM, 0)); need(connect(c, A(a))); need(send(c, "x", 1, 0)); say("%s", R(recv(c, buf, 1, 0))); }
T(udp_no_destination) { say("%s", R(send(need(socket(AF_INET, SOCK_DGRAM, 0)), "x", 1, 0))); }
T(udp_too_long) { struct sockaddr_in a = in4(9); say("%s", R(sendto(need(socket(AF_INET, SOCK_DGRAM, 0)), buf, 66000, 0, A(a)))); }
T(udp_disconnect) { struct sockaddr_in a = in4(9); struct sockaddr u = {.sa_family = AF_UNSPEC}; socklen_t n = sizeof a; int c = need(socket(AF_INET, SOCK_DGRAM, 0)); need(connect(c, A(a))); say("%s ", R(connect(c, &u, sizeof u))); say("%s", R(getpeername(c, (void *)&a, &n))); }
T(inet6_loopback) { struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}; int f = socket(AF_INET6, SOCK_STREAM, 0); say("%s", f < 0 ? R(f) : R(bind(f, A(a)))); }
T(raw_as_user) { need(setuid(1000)); say("%s", OK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP))); }
T(bind_low_port_as_user) { struct sockaddr_in a = in4(80); need(setuid(1000)); say("%s", R(bind(need(socket(AF_INET, SOCK_STREAM, 0)), A(a)))); }
T(listen_datagram) { say("%s", R(listen(need(socket(AF_INET, SOCK_DGRAM, 0)), 1))); }
T(netlink_route) { say("%s", OK(socket(AF_NETLINK, SOCK_RAW, 0))); }
