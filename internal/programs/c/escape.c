// escape tries to reach what is outside of its root and says so when it can. Its arguments: a host file's path, the text in it,
// the path of a host unix socket, the name of an abstract one, a host TCP port, a host process id, and the number of the
// host's root device.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *path, *secret;
static int tricks;

static void escaped(const char *how, const char *what) { printf("ESCAPED: %s %s\n", how, what); }

static void holds(int f, const char *how, const char *name)
{
	static char b[65536];
	tricks++;
	if (f < 0)
		return;
	int n = pread(f, b, sizeof b - 1, 0);
	if (n > 0 && memmem(b, n, secret, strlen(secret)))
		escaped(how, name);
	close(f);
}

static void try_path(const char *how, const char *name) { holds(open(name, O_RDONLY | O_NONBLOCK), how, name); }

static void try_under(const char *how, const char *prefix)
{
	char b[8192];
	snprintf(b, sizeof b, "%s%s", prefix, path);
	try_path(how, b);
}

static void dots(const char *how, const char *start)
{
	char up[4096] = "";
	strcat(up, start);
	for (int i = 0; i < 40; i++) {
		strcat(up, "/..");
		try_under(how, up);
	}
}

static void in_proc(void)
{
	static const char *const parts[] = {"root", "cwd", "root/..", "cwd/..", "cwd/../../../../../.."};
	char b[512];
	struct dirent *e;
	DIR *d = opendir("/proc");
	try_under("proc of", "/proc/self/root");
	while (d && (e = readdir(d))) {
		for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++) {
			snprintf(b, sizeof b, "/proc/%s/%s", e->d_name, parts[i]);
			try_under("proc of a process", b);
		}
		for (int f = 0; f < 64; f++) {
			snprintf(b, sizeof b, "/proc/%s/fd/%d", e->d_name, f);
			try_path("descriptor of a process", b);
			strcat(b, "/..");
			try_under("descriptor of a process", b);
		}
	}
	try_path("kernel memory", "/proc/kcore");
	int f = open("/proc/sys/kernel/core_pattern", O_WRONLY);
	tricks++;
	if (f >= 0 && write(f, "|/bin/true", 10) > 0)
		escaped("wrote", "core_pattern");
	f = open("/proc/sysrq-trigger", O_WRONLY);
	tricks++;
	if (f >= 0 && write(f, "h", 1) > 0)
		escaped("wrote", "sysrq-trigger");
}

static void inherited(void)
{
	char b[64], t[4096];
	for (int f = 3; f < 4096; f++) {
		tricks++;
		if (fcntl(f, F_GETFD) < 0)
			continue;
		snprintf(b, sizeof b, "/proc/self/fd/%d", f);
		int n = readlink(b, t, sizeof t - 1);
		t[n < 0 ? 0 : n] = 0;
		escaped("inherited descriptor", t);
		holds(openat(f, path + 1, O_RDONLY), "through inherited descriptor", b);
	}
}

static void devices(unsigned long root)
{
	static const char *const names[] = {"/dev/kvm", "/dev/mem", "/dev/kmem", "/dev/port", "/dev/net/tun", "/dev/fuse", "/dev/vhost-net", "/dev/vda", "/dev/vda1", "/dev/sda", "/dev/nvme0n1", "/dev/loop-control", "/dev/userfaultfd", "/dev/cpu/0/msr"};
	char b[64];
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		tricks++;
		if (strcmp(names[i], "/dev/net/tun") && strcmp(names[i], "/dev/fuse") && open(names[i], O_RDWR) >= 0)
			escaped("opened", names[i]);
	}
	static const int numbers[][3] = {{1, 1, 0}, {1, 2, 0}, {1, 4, 0}, {10, 232, 0}, {10, 237, 0}, {8, 0, 1}, {8, 1, 1}, {254, 0, 1}, {254, 1, 1}, {253, 0, 1}, {259, 0, 1}, {7, 0, 1}};
	for (unsigned i = 0; i <= sizeof numbers / sizeof *numbers; i++) {
		dev_t d = i < 12 ? makedev(numbers[i][0], numbers[i][1]) : root;
		snprintf(b, sizeof b, "/tmp/dev%u", i);
		tricks++;
		int f = mknod(b, (i < 12 && !numbers[i][2] ? S_IFCHR : S_IFBLK) | 0666, d) == 0 ? open(b, O_RDONLY | O_NONBLOCK) : -1;
		if (f >= 0)
			escaped("opened device made by mknod", b);
	}
}

static void mounts(void)
{
	static const char *const types[] = {"ext4", "xfs", "btrfs", "overlay", "devtmpfs", "9p", "virtiofs", "nfs", "fuse", "sysfs", "proc", "tmpfs", "cgroup"};
	mkdir("/tmp/m", 0755);
	for (unsigned i = 0; i < sizeof types / sizeof *types; i++) {
		mount("/dev/vda", "/tmp/m", types[i], 0, i == 3 ? "lowerdir=/" : 0);
		try_under("mount", "/tmp/m");
		dots("mount", "/tmp/m");
		if (access("/tmp/m/kvm", F_OK) == 0 && open("/tmp/m/kvm", O_RDWR) >= 0)
			escaped("opened kvm by", types[i]);
		umount2("/tmp/m", MNT_DETACH);
	}
	mount("/", "/tmp/m", 0, MS_BIND | MS_REC, 0);
	try_under("bind mount", "/tmp/m/..");
	mount("/proc/1/root", "/tmp/m", 0, MS_BIND, 0);
	try_under("bind mount of a root", "/tmp/m");
	umount2("/tmp/m", MNT_DETACH);
	umount2("/", MNT_DETACH);
	try_under("unmounted root", "");
}

static void chroots(void)
{
	if (fork() == 0) {
		mkdir("/tmp/c", 0755);
		int f = open("/", O_RDONLY | O_DIRECTORY);
		if (chroot("/tmp/c") == 0 && fchdir(f) == 0) {
			for (int i = 0; i < 64; i++)
				if (chdir(".."))
					break;
			holds(open(path + 1, O_RDONLY), "chroot and fchdir", path);
			if (chroot(".") == 0)
				try_path("chroot of the topmost", path);
		}
		_exit(0);
	}
	wait(0);
	tricks += 3;
	if (fork() == 0) {
		if (unshare(CLONE_NEWNS) == 0 && mkdir("/tmp/p", 0755) == 0 && syscall(SYS_pivot_root, "/", "/tmp/p") == 0)
			try_under("pivot_root", "/tmp/p");
		unshare(CLONE_NEWUSER);
		for (const char *const *n = (const char *const[]){"mnt", "net", "pid", "user", 0}; *n; n++) {
			char b[64];
			snprintf(b, sizeof b, "/proc/1/ns/%s", *n);
			setns(open(b, O_RDONLY), 0);
			try_path("setns", path);
		}
		_exit(0);
	}
	wait(0);
	tricks += 5;
}

static void links(void)
{
	symlink(path, "/tmp/l1");
	try_path("symbolic link", "/tmp/l1");
	try_path("link in the root", "/link-out");
	try_path("relative link in the root", "/link-up");
	link(path, "/tmp/l2");
	try_path("hard link", "/tmp/l2");
	linkat(AT_FDCWD, "/proc/self/exe", AT_FDCWD, "/tmp/l3", AT_SYMLINK_FOLLOW);
	rename(path, "/tmp/l4");
	try_path("rename", "/tmp/l4");
	try_under("link that is a directory", "/link-root");
	struct { struct file_handle h; unsigned char b[128]; } h = {.h = {.handle_bytes = 8, .handle_type = 1}};
	for (unsigned i = 0; i < 64; i++) {
		memcpy(h.h.f_handle, &i, 4);
		holds(open_by_handle_at(AT_FDCWD, &h.h, O_RDONLY), "file handle", "");
	}
}

static void sockets(const char *un, const char *abstract, int port)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct sockaddr_in i = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	strncpy(a.sun_path, un, sizeof a.sun_path - 1);
	tricks += 3;
	if (connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, sizeof a) == 0)
		escaped("connected to", un);
	memset(a.sun_path, 0, sizeof a.sun_path);
	strncpy(a.sun_path + 1, abstract, sizeof a.sun_path - 2);
	if (connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(abstract)) == 0)
		escaped("connected to abstract", abstract);
	if (connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&i, sizeof i) == 0)
		escaped("connected to", "the host's loopback");
}

static void processes(int pid)
{
	char b[16], c[16] = "0123456789abcde";
	struct iovec l = {b, 16}, r = {c, 16};
	tricks += 4;
	if (kill(pid, 0) == 0)
		escaped("signalled", "a host process");
	if (ptrace(PTRACE_ATTACH, pid, 0, 0) == 0 || ptrace(PTRACE_SEIZE, pid, 0, 0) == 0)
		escaped("traced", "a host process");
	if (process_vm_readv(pid, &l, 1, &r, 1, 0) > 0)
		escaped("read the memory of", "a host process");
	if (syscall(SYS_pidfd_open, pid, 0) >= 0)
		escaped("opened", "a host process");
}

static void machine(void)
{
	struct timeval t = {86400, 0};
	tricks += 3;
	sethostname("escaped", 7);
	settimeofday(&t, 0);
	syscall(SYS_reboot, 0xfee1dead, 672274793, 0x89abcdef, 0); // CAD off: harmless where it works
	syscall(SYS_swapoff, "/dev/vda");
	syscall(SYS_delete_module, "x", 0);
}

int main(int argc, char **argv)
{
	if (argc != 8) {
		fprintf(stderr, "usage: escape FILE TEXT SOCKET ABSTRACT PORT PID DEVICE\n");
		return 2;
	}
	path = argv[1];
	secret = argv[2];
	mkdir("/tmp", 0755);
	inherited();
	try_path("absolute path", path);
	dots("dots", "");
	dots("dots", "/proc/self/cwd");
	dots("dots", "/mnt");
	links();
	in_proc();
	sockets(argv[3], argv[4], atoi(argv[5]));
	processes(atoi(argv[6]));
	devices(strtoul(argv[7], 0, 10));
	machine();
	chroots();
	mounts();
	// What is written to the root must not reach the host's directory.
	int f = open("/file", O_WRONLY | O_TRUNC);
	if (f >= 0)
		write(f, "changed", 7);
	unlink("/link-out");
	mkdir("/made-by-guest", 0755);
	f = open("/mnt/file", O_WRONLY);
	if (f >= 0 && write(f, "changed", 7) > 0)
		escaped("wrote", "the read-only mount");
	if (mkdir("/mnt/made-by-guest", 0755) == 0)
		escaped("made a directory in", "the read-only mount");
	printf("%d tricks\n", tricks);
	return 0;
}
