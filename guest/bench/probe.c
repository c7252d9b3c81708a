// probe measures what no common tool does: small messages to and fro over TCP and vsock, and a stream over vsock.
//
//	probe tcp-rr ADDRESS PORT ROUNDS       microseconds a round
//	probe vsock-rr PORT ROUNDS
//	probe vsock-send PORT MIB              MiB a second, until the host has said that all of it has come
//	probe serve-tcp ADDRESS                print a free port, then answer every byte with a byte
//
// Over vsock the guest calls the host (CID 2). The host answers each byte of a round with a byte, and a stream with one at its end.
#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
	fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static struct sockaddr_in tcp_address(const char *address, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
	if (inet_pton(AF_INET, address, &a.sin_addr) != 1)
		die(address);
	return a;
}

static int tcp(const char *address, const char *port)
{
	struct sockaddr_in a = tcp_address(address, port);
	int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	if (s < 0 || connect(s, (struct sockaddr *)&a, sizeof a) || setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one))
		die("connect");
	return s;
}

static int vsock(const char *port)
{
	struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = atoi(port)};
	int s = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (s < 0 || connect(s, (struct sockaddr *)&a, sizeof a))
		die("connect");
	return s;
}

static void rounds(int s, int n)
{
	char c = 'x';
	double begin = 0;
	for (int i = -n / 10; i < n; i++) { // the first tenth warms up
		if (i == 0)
			begin = now();
		if (write(s, &c, 1) != 1 || read(s, &c, 1) != 1)
			die("round");
	}
	printf("%.3f\n", (now() - begin) / n * 1e6);
}

static void stream(int s, long mib)
{
	static char block[256 << 10];
	long left = mib << 20;
	double begin = now();
	while (left > 0) {
		ssize_t n = write(s, block, left < (long)sizeof block ? left : (long)sizeof block);
		if (n <= 0)
			die("write");
		left -= n;
	}
	if (shutdown(s, SHUT_WR) || read(s, block, 1) != 1)
		die("end of stream");
	printf("%.3f\n", mib / (now() - begin));
}

static void serve(const char *address)
{
	struct sockaddr_in a = tcp_address(address, "0");
	socklen_t n = sizeof a;
	int l = socket(AF_INET, SOCK_STREAM, 0), s, one = 1;
	if (l < 0 || bind(l, (struct sockaddr *)&a, n) || listen(l, 8) || getsockname(l, (struct sockaddr *)&a, &n))
		die("listen");
	printf("%d\n", ntohs(a.sin_port));
	fflush(stdout);
	while ((s = accept(l, 0, 0)) >= 0) {
		char c;
		setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		while (read(s, &c, 1) == 1 && write(s, &c, 1) == 1)
			;
		close(s);
	}
	die("accept");
}

int main(int n, char **v)
{
	if (n == 5 && !strcmp(v[1], "tcp-rr"))
		rounds(tcp(v[2], v[3]), atoi(v[4]));
	else if (n == 4 && !strcmp(v[1], "vsock-rr"))
		rounds(vsock(v[2]), atoi(v[3]));
	else if (n == 4 && !strcmp(v[1], "vsock-send"))
		stream(vsock(v[2]), atol(v[3]));
	else if (n == 3 && !strcmp(v[1], "serve-tcp"))
		serve(v[2]);
	else {
		fprintf(stderr, "usage: probe tcp-rr ADDRESS PORT ROUNDS | vsock-rr PORT ROUNDS | vsock-send PORT MIB | serve-tcp ADDRESS\n");
		return 2;
	}
	return 0;
}
