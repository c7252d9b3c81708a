// probe measures what no common tool does: small messages to and fro over TCP and vsock, and a stream over vsock.
//
//	probe tcp-rr ADDRESS PORT ROUNDS       microseconds a round
//	probe vsock-rr PORT ROUNDS
//	probe vsock-send PORT MIB              MiB a second, until the host has said that all of it has come
//
// The host answers each byte of a round with a byte, and a stream with one at its end. Over vsock it is called too (CID 2).
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

static int tcp(const char *address, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(port)), .sin_addr.s_addr = inet_addr(address)};
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

int main(int n, char **v)
{
	if (n == 5 && !strcmp(v[1], "tcp-rr"))
		rounds(tcp(v[2], v[3]), atoi(v[4]));
	else if (n == 4 && !strcmp(v[1], "vsock-rr"))
		rounds(vsock(v[2]), atoi(v[3]));
	else if (n == 4 && !strcmp(v[1], "vsock-send"))
		stream(vsock(v[2]), atol(v[3]));
	else {
		fprintf(stderr, "usage: probe tcp-rr ADDRESS PORT ROUNDS | vsock-rr PORT ROUNDS | vsock-send PORT MIB\n");
		return 2;
	}
	return 0;
}
