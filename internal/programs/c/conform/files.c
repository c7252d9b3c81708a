// Files, directories, links, permissions.
#include "check.h"
#include <dirent.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <linux/openat2.h>
#include <utime.h>

static char buf[8192];

T(open_missing) { say("%s", OK(open("nope", O_RDONLY))); }
T(open_empty_name) { say("%s", OK(open("", O_RDONLY))); }
T(open_bad_pointer) { say("%s", OK(open((char *)8, O_RDONLY))); }
T(open_excl) { put("f", ""); say("%s", OK(open("f", O_CREAT | O_EXCL | O_WRONLY, 0644))); }
T(open_excl_dangling_link) { need(symlink("x", "l")); say("%s", OK(open("l", O_CREAT | O_EXCL | O_WRONLY, 0644))); }
T(open_creat_dangling_link)
{
	need(symlink("x", "l"));
	say("%s ", OK(open("l", O_CREAT | O_WRONLY, 0644)));
	say("%s", R(access("x", F_OK)));
}
T(open_dir_write) { say("%s", OK(open(".", O_WRONLY))); }
T(open_directory_on_file) { put("f", ""); say("%s", OK(open("f", O_RDONLY | O_DIRECTORY))); }
T(open_slash_on_file) { put("f", ""); say("%s", OK(open("f/", O_RDONLY))); }
T(open_nofollow) { put("f", ""); need(symlink("f", "l")); say("%s", OK(open("l", O_RDONLY | O_NOFOLLOW))); }
T(open_path_on_link)
{
	struct stat s;
	need(symlink("f", "l"));
	int f = need(open("l", O_PATH | O_NOFOLLOW));
	need(fstat(f, &s));
	say("link %d read %s", S_ISLNK(s.st_mode), R(read(f, buf, 1)));
}
T(open_through_file) { put("f", ""); say("%s", OK(open("f/x", O_RDONLY))); }
T(open_loop) { need(symlink("b", "a")); need(symlink("a", "b")); say("%s", OK(open("a", O_RDONLY))); }
T(open_long_name) { memset(buf, 'n', 256); buf[256] = 0; say("%s", OK(open(buf, O_CREAT | O_WRONLY, 0644))); }
T(open_name_of_255) { memset(buf, 'n', 255); buf[255] = 0; say("%s", OK(open(buf, O_CREAT | O_WRONLY, 0644))); }
T(open_long_path) { memset(buf, '/', 4100); buf[4100] = 0; say("%s", OK(open(buf, O_RDONLY))); }
T(open_trunc) { struct stat s; put("f", "12345"); need(open("f", O_RDWR | O_TRUNC)); need(stat("f", &s)); say("%ld", (long)s.st_size); }
T(open_append)
{
	put("f", "abc");
	int f = need(open("f", O_RDWR | O_APPEND));
	lseek(f, 0, SEEK_SET);
	need(write(f, "de", 2));
	say("at %s ", R(lseek(f, 0, SEEK_CUR)));
	say("pread %s", R(pread(f, buf, 10, 0)));
}
T(open_tmpfile)
{
	int f = open(".", O_TMPFILE | O_RDWR, 0600);
	say("%s", OK(f));
}
T(open_mode_bits) { struct stat s; need(open("f", O_CREAT | O_WRONLY, 07777)); need(stat("f", &s)); say("%o", s.st_mode); }
T(openat_absolute_bad_dir) { say("%s", OK(openat(-1, "/", O_RDONLY))); }
T(openat_relative_bad_dir) { say("%s", OK(openat(-1, "x", O_RDONLY))); }
T(openat_file_as_dir) { put("f", ""); say("%s", OK(openat(need(open("f", O_RDONLY)), "x", O_RDONLY))); }
T(openat2_plain)
{
	struct open_how h = {.flags = O_RDONLY};
	put("f", "");
	say("%s", OK(syscall(SYS_openat2, AT_FDCWD, "f", &h, sizeof h)));
}
T(openat2_beneath)
{
	struct open_how h = {.flags = O_RDONLY, .resolve = RESOLVE_BENEATH};
	say("%s", OK(syscall(SYS_openat2, AT_FDCWD, "../d", &h, sizeof h)));
}
T(openat2_short_struct)
{
	struct open_how h = {0};
	say("%s", OK(syscall(SYS_openat2, AT_FDCWD, ".", &h, 8)));
}
T(creat_in_missing_dir) { say("%s", OK(creat("a/b", 0644))); }
T(read_dir) { say("%s", R(read(need(open(".", O_RDONLY)), buf, 10))); }
T(read_write_only) { say("%s", R(read(need(open("f", O_CREAT | O_WRONLY, 0644)), buf, 1))); }
T(write_read_only) { put("f", ""); say("%s", R(write(need(open("f", O_RDONLY)), "x", 1))); }
T(read_closed) { say("%s", R(read(99, buf, 1))); }
T(read_bad_pointer) { put("f", "abc"); say("%s", R(read(need(open("f", O_RDONLY)), (void *)8, 3))); }
T(read_over_end_of_page)
{
	put("f", "0123456789");
	char *p = pages(2, 0);
	need(munmap(p + 4096, 4096));
	say("%s", R(read(need(open("f", O_RDONLY)), p + 4092, 10)));
}
T(write_bad_pointer) { say("%s", R(write(need(open("f", O_CREAT | O_WRONLY, 0644)), (void *)8, 3))); }
T(write_zero) { say("%s", R(write(need(open("f", O_CREAT | O_WRONLY, 0644)), 0, 0))); }
T(close_twice) { int f = need(open(".", O_RDONLY)); close(f); say("%s", R(close(f))); }
T(lseek_set_negative) { put("f", "abc"); say("%s", R(lseek(need(open("f", O_RDONLY)), -1, SEEK_SET))); }
T(lseek_end) { put("f", "abc"); say("%s", R(lseek(need(open("f", O_RDONLY)), 5, SEEK_END))); }
T(lseek_bad_whence) { put("f", "abc"); say("%s", R(lseek(need(open("f", O_RDONLY)), 0, 77))); }
T(lseek_pipe) { int p[2]; need(pipe(p)); say("%s", R(lseek(p[0], 0, SEEK_CUR))); }
T(lseek_hole_past_end) { put("f", "abc"); say("%s", R(lseek(need(open("f", O_RDONLY)), 10, SEEK_HOLE))); }
T(pread_negative) { put("f", "abc"); say("%s", R(pread(need(open("f", O_RDONLY)), buf, 1, -1))); }
T(pread_past_end) { put("f", "abc"); say("%s", R(pread(need(open("f", O_RDONLY)), buf, 9, 100))); }
T(pwrite_extends)
{
	struct stat s;
	int f = need(open("f", O_CREAT | O_RDWR, 0644));
	say("%s ", R(pwrite(f, "x", 1, 9999)));
	need(fstat(f, &s));
	need(pread(f, buf, 1, 5000));
	say("size %ld byte %d", (long)s.st_size, buf[0]);
}
T(readv_order)
{
	put("f", "abcdef");
	char a[3] = "", b[5] = "";
	struct iovec v[2] = {{a, 2}, {b, 4}};
	say("%s ", R(readv(need(open("f", O_RDONLY)), v, 2)));
	say("%s %s", a, b);
}
T(readv_too_many) { struct iovec v[1]; put("f", ""); say("%s", R(readv(need(open("f", O_RDONLY)), v, 1025))); }
T(writev_none) { struct iovec v[1]; say("%s", R(writev(need(open("f", O_CREAT | O_WRONLY, 0644)), v, 0))); }
T(preadv2_current)
{
	put("f", "abcdef");
	int f = need(open("f", O_RDONLY));
	struct iovec v = {buf, 2};
	need(lseek(f, 2, SEEK_SET));
	say("%s ", R(preadv2(f, &v, 1, -1, 0)));
	say("%.2s at %s", buf, R(lseek(f, 0, SEEK_CUR)));
}
T(preadv2_bad_flag) { struct iovec v = {buf, 2}; put("f", "x"); say("%s", R(preadv2(need(open("f", O_RDONLY)), &v, 1, 0, 0x4000))); }
T(pwritev2_append)
{
	put("f", "abc");
	int f = need(open("f", O_RDWR));
	struct iovec v = {"de", 2};
	say("%s ", R(pwritev2(f, &v, 1, 0, RWF_APPEND)));
	say("%s", R(lseek(f, 0, SEEK_END)));
}
T(truncate_grow) { put("f", "abc"); struct stat s; need(truncate("f", 10)); need(stat("f", &s)); say("%ld", (long)s.st_size); }
T(truncate_negative) { put("f", "abc"); say("%s", R(truncate("f", -1))); }
T(truncate_dir) { say("%s", R(truncate(".", 0))); }
T(ftruncate_read_only) { put("f", "abc"); say("%s", R(ftruncate(need(open("f", O_RDONLY)), 0))); }
T(fallocate_keep_size)
{
	struct stat s;
	int f = need(open("f", O_CREAT | O_RDWR, 0644));
	say("%s ", R(fallocate(f, FALLOC_FL_KEEP_SIZE, 0, 8192)));
	need(fstat(f, &s));
	say("%ld", (long)s.st_size);
}
T(fallocate_plain)
{
	struct stat s;
	int f = need(open("f", O_CREAT | O_RDWR, 0644));
	say("%s ", R(fallocate(f, 0, 0, 8192)));
	need(fstat(f, &s));
	say("%ld", (long)s.st_size);
}
T(fallocate_negative) { say("%s", R(fallocate(need(open("f", O_CREAT | O_RDWR, 0644)), 0, -1, 1))); }
T(stat_size_and_links) { struct stat s; put("f", "12"); need(link("f", "g")); need(stat("g", &s)); say("%ld %ld %o", (long)s.st_size, (long)s.st_nlink, s.st_mode); }
T(stat_missing_directory) { struct stat s; say("%s", R(stat("a/b", &s))); }
T(lstat_link_size) { struct stat s; need(symlink("target", "l")); need(lstat("l", &s)); say("%ld %o", (long)s.st_size, s.st_mode & S_IFMT); }
T(fstatat_empty_path) { struct stat s; int f = need(open(".", O_RDONLY)); say("%s", R(fstatat(f, "", &s, AT_EMPTY_PATH))); }
T(fstatat_empty_without_flag) { struct stat s; say("%s", R(fstatat(AT_FDCWD, "", &s, 0))); }
T(fstatat_bad_flag) { struct stat s; say("%s", R(fstatat(AT_FDCWD, ".", &s, 0x40000))); }
T(statx_size)
{
	struct statx x;
	put("f", "123");
	say("%s ", R(statx(AT_FDCWD, "f", 0, STATX_SIZE | STATX_TYPE, &x)));
	say("%ld %o", (long)x.stx_size, x.stx_mode & S_IFMT);
}
T(statx_bad_flags) { struct statx x; say("%s", R(statx(AT_FDCWD, ".", 0x6000, STATX_SIZE, &x))); }
T(access_missing) { say("%s", R(access("x", F_OK))); }
T(access_bad_mode) { say("%s", R(access(".", 64))); }
T(access_root_exec) { put("f", ""); say("%s", R(access("f", X_OK))); }
T(mkdir_exists) { say("%s", R(mkdir(".", 0755))); }
T(mkdir_slash) { say("%s", R(mkdir("a/", 0755))); }
T(mkdir_missing_parent) { say("%s", R(mkdir("a/b", 0755))); }
T(mkdir_links) { struct stat s; need(mkdir("a", 0755)); need(mkdir("a/b", 0700)); need(stat("a/b", &s)); say("%o", s.st_mode); }
T(mkdir_sticky) { struct stat s; need(mkdir("a", 01777)); need(stat("a", &s)); say("%o", s.st_mode); }
T(mkdir_over_dangling_link) { need(symlink("x", "l")); say("%s", R(mkdir("l", 0755))); }
T(rmdir_not_empty) { need(mkdir("a", 0755)); put("a/f", ""); say("%s", R(rmdir("a"))); }
T(rmdir_file) { put("f", ""); say("%s", R(rmdir("f"))); }
T(rmdir_dot) { need(mkdir("a", 0755)); say("%s", R(rmdir("a/."))); }
T(rmdir_dotdot) { need(mkdir("a", 0755)); need(mkdir("a/b", 0755)); say("%s", R(rmdir("a/b/.."))); }
T(unlink_dir) { need(mkdir("a", 0755)); say("%s", R(unlink("a"))); }
T(unlink_open)
{
	struct stat s;
	put("f", "abc");
	int f = need(open("f", O_RDWR));
	need(unlink("f"));
	need(fstat(f, &s));
	say("links %ld read %s", (long)s.st_nlink, R(read(f, buf, 9)));
}
T(unlinkat_removedir) { need(mkdir("a", 0755)); say("%s", R(unlinkat(AT_FDCWD, "a", AT_REMOVEDIR))); }
T(unlinkat_bad_flag) { put("f", ""); say("%s", R(unlinkat(AT_FDCWD, "f", 1))); }
T(link_dir) { need(mkdir("a", 0755)); say("%s", R(link("a", "b"))); }
T(link_exists) { put("a", ""); put("b", ""); say("%s", R(link("a", "b"))); }
T(link_of_symlink) { struct stat s; need(symlink("x", "a")); need(link("a", "b")); need(lstat("b", &s)); say("%o", s.st_mode & S_IFMT); }
T(linkat_follow) { struct stat s; put("x", ""); need(symlink("x", "a")); need(linkat(AT_FDCWD, "a", AT_FDCWD, "b", AT_SYMLINK_FOLLOW)); need(lstat("b", &s)); say("%o", s.st_mode & S_IFMT); }
T(symlink_empty_target) { say("%s", R(symlink("", "l"))); }
T(symlink_exists) { put("l", ""); say("%s", R(symlink("x", "l"))); }
T(readlink_truncates) { need(symlink("abcdef", "l")); memset(buf, '.', 8); say("%s ", R(readlink("l", buf, 3))); say("%.5s", buf); }
T(readlink_file) { put("f", ""); say("%s", R(readlink("f", buf, 3))); }
T(readlink_zero_size) { need(symlink("a", "l")); say("%s", R(syscall(SYS_readlink, "l", buf, 0))); }
T(rename_over_file) { put("a", "1"); put("b", "22"); need(rename("a", "b")); struct stat s; need(stat("b", &s)); say("%ld %s", (long)s.st_size, R(access("a", F_OK))); }
T(rename_file_over_dir) { put("a", ""); need(mkdir("b", 0755)); say("%s", R(rename("a", "b"))); }
T(rename_dir_over_file) { put("a", ""); need(mkdir("b", 0755)); say("%s", R(rename("b", "a"))); }
T(rename_dir_over_full) { need(mkdir("a", 0755)); need(mkdir("b", 0755)); put("b/f", ""); say("%s", R(rename("a", "b"))); }
T(rename_dir_over_empty) { need(mkdir("a", 0755)); need(mkdir("b", 0755)); say("%s", R(rename("a", "b"))); }
T(rename_into_itself) { need(mkdir("a", 0755)); say("%s", R(rename("a", "a/b"))); }
T(rename_onto_parent) { need(mkdir("a", 0755)); need(mkdir("a/b", 0755)); say("%s", R(rename("a/b", "a"))); }
T(rename_same_inode) { put("a", ""); need(link("a", "b")); say("%s ", R(rename("a", "b"))); say("%s", R(access("a", F_OK))); }
T(rename_missing) { say("%s", R(rename("a", "b"))); }
T(rename_dot) { say("%s", R(rename(".", "b"))); }
T(renameat2_noreplace) { put("a", ""); put("b", ""); say("%s", R(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE))); }
T(renameat2_exchange)
{
	struct stat s;
	put("a", "1");
	put("b", "22");
	say("%s ", R(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE)));
	need(stat("a", &s));
	say("%ld", (long)s.st_size);
}
T(renameat2_both) { put("a", ""); put("b", ""); say("%s", R(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE | RENAME_NOREPLACE))); }
T(chmod_bits) { struct stat s; put("f", ""); need(chmod("f", 04711)); need(stat("f", &s)); say("%o", s.st_mode); }
T(chmod_missing) { say("%s", R(chmod("f", 0644))); }
T(chmod_write_clears_suid)
{
	struct stat s;
	put("f", "");
	need(chown("f", 1000, 1000));
	need(chmod("f", 06777));
	if (fork() == 0) {
		need(setgid(2000));
		need(setuid(2000));
		need(write(need(open("f", O_WRONLY)), "x", 1));
		_exit(0);
	}
	wait(0);
	need(stat("f", &s));
	say("%o", s.st_mode);
}
T(chown_clears_suid) { struct stat s; put("f", ""); need(chmod("f", 06755)); need(chown("f", 5, 6)); need(stat("f", &s)); say("%o %d %d", s.st_mode, s.st_uid, s.st_gid); }
T(chown_keep) { struct stat s; put("f", ""); need(chown("f", 5, 6)); need(chown("f", -1, 7)); need(stat("f", &s)); say("%d %d", s.st_uid, s.st_gid); }
T(lchown_link) { struct stat s; put("f", ""); need(symlink("f", "l")); need(lchown("l", 9, 9)); need(stat("f", &s)); say("%d ", s.st_uid); need(lstat("l", &s)); say("%d", s.st_uid); }
T(setgid_dir_inherits) { struct stat s; need(mkdir("a", 0755)); need(chown("a", 0, 77)); need(chmod("a", 02755)); need(mkdir("a/b", 0755)); need(stat("a/b", &s)); say("%o %d", s.st_mode, s.st_gid); }
T(umask_returns_old) { umask(027); say("%o ", umask(0)); say("%o", umask(022)); }
T(umask_applies) { struct stat s; umask(077); need(open("f", O_CREAT | O_WRONLY, 0666)); need(stat("f", &s)); say("%o", s.st_mode); }
static void as_nobody(void (*f)(void))
{
	need(chmod(".", 0777));
	if (fork() == 0) {
		need(setgid(65534));
		need(setuid(65534));
		f();
		_exit(0);
	}
	wait(0);
}
static void open_f(void) { say("%s %s", OK(open("f", O_RDONLY)), OK(open("f", O_WRONLY))); }
T(perm_read_only_other) { put("f", "x"); need(chmod("f", 0644)); as_nobody(open_f); }
T(perm_no_access) { put("f", "x"); need(chmod("f", 0600)); as_nobody(open_f); }
static void open_af(void) { say("%s", OK(open("a/f", O_RDONLY))); }
T(perm_no_search) { need(mkdir("a", 0700)); put("a/f", "x"); as_nobody(open_af); }
static void unlink_af(void) { say("%s", R(unlink("a/f"))); }
T(perm_sticky_unlink) { need(mkdir("a", 0777)); need(chmod("a", 01777)); put("a/f", "x"); as_nobody(unlink_af); }
static void mk_ax(void) { say("%s", R(mkdir("a/x", 0755))); }
T(perm_dir_write) { need(mkdir("a", 0755)); as_nobody(mk_ax); }
static void chown_f(void) { say("%s %s", R(chown("f", 65534, 65534)), R(chmod("f", 0777))); }
T(perm_chown_other) { put("f", "x"); as_nobody(chown_f); }
static void exec_f(void) { execl("./f", "f", (char *)0); say("%s", R(-1)); }
T(perm_exec_not_executable) { put("f", "#!/bin/sh\n"); exec_f(); }
static void kill1(void) { say("%s", R(kill(getppid(), 0))); }
T(perm_kill_root) { as_nobody(kill1); }
T(mknod_fifo) { struct stat s; need(mknod("p", S_IFIFO | 0644, 0)); need(stat("p", &s)); say("%o", s.st_mode); }
T(mknod_regular) { struct stat s; need(mknod("p", S_IFREG | 0600, 0)); need(stat("p", &s)); say("%o", s.st_mode); }
T(mknod_bad_type) { say("%s", R(mknod("p", S_IFDIR | 0600, 0))); }
T(fifo_open_write_nonblock) { need(mkfifo("p", 0644)); say("%s", OK(open("p", O_WRONLY | O_NONBLOCK))); }
T(fifo_open_read_nonblock) { need(mkfifo("p", 0644)); int f = need(open("p", O_RDONLY | O_NONBLOCK)); say("%s", R(read(f, buf, 1))); }
T(getdents_names)
{
	put("b", "");
	put("a", "");
	need(mkdir("c", 0755));
	struct dirent **l;
	int n = scandir(".", &l, 0, alphasort);
	for (int i = 0; i < n; i++)
		say("%s:%d ", l[i]->d_name, l[i]->d_type);
}
T(getdents_small_buffer) { put("a", ""); say("%s", R(syscall(SYS_getdents64, need(open(".", O_RDONLY)), buf, 8))); }
T(getdents_file) { put("a", ""); say("%s", R(syscall(SYS_getdents64, need(open("a", O_RDONLY)), buf, 800))); }
T(getdents_removed_dir)
{
	need(mkdir("a", 0755));
	int f = need(open("a", O_RDONLY));
	need(rmdir("a"));
	say("%s", R(syscall(SYS_getdents64, f, buf, 800)));
}
T(getcwd_removed) { need(mkdir("a", 0755)); need(chdir("a")); need(rmdir("../a")); say("%s %s", getcwd(buf, 100) ? "ok" : R(-1), OK(open("x", O_CREAT | O_WRONLY, 0644))); }
T(getcwd_small) { say("%s", getcwd(buf, 2) ? "ok" : R(-1)); }
T(chdir_file) { put("f", ""); say("%s", R(chdir("f"))); }
T(fchdir_file) { put("f", ""); say("%s", R(fchdir(need(open("f", O_RDONLY))))); }
T(chroot_then_dotdot) { need(mkdir("a", 0755)); need(mkdir("a/in", 0755)); need(chroot("a")); need(chdir("/")); say("%s %s", R(chdir("../../..")), R(access("in", F_OK))); }
T(utimens_set)
{
	struct stat s;
	struct timespec t[2] = {{1000, 5}, {2000, 7}};
	put("f", "");
	need(utimensat(AT_FDCWD, "f", t, 0));
	need(stat("f", &s));
	say("%ld.%ld %ld.%ld", s.st_atim.tv_sec, s.st_atim.tv_nsec, s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
}
T(utimens_omit)
{
	struct stat s;
	struct timespec t[2] = {{1000, 5}, {2000, 7}}, o[2] = {{0, UTIME_OMIT}, {3000, 1}};
	put("f", "");
	need(utimensat(AT_FDCWD, "f", t, 0));
	need(utimensat(AT_FDCWD, "f", o, 0));
	need(stat("f", &s));
	say("%ld %ld", s.st_atim.tv_sec, s.st_mtim.tv_sec);
}
T(utimens_bad_nsec) { struct timespec t[2] = {{1, 2000000000}, {1, 0}}; put("f", ""); say("%s", R(utimensat(AT_FDCWD, "f", t, 0))); }
T(xattr_user)
{
	put("f", "");
	say("%s ", R(setxattr("f", "user.a", "hello", 5, 0)));
	say("%s ", R(getxattr("f", "user.a", buf, 100)));
	say("%.5s %s", buf, R(listxattr("f", buf, 100)));
}
T(xattr_create_exists) { put("f", ""); need(setxattr("f", "user.a", "x", 1, 0)); say("%s", R(setxattr("f", "user.a", "x", 1, XATTR_CREATE))); }
T(xattr_missing) { put("f", ""); say("%s", R(getxattr("f", "user.a", buf, 100))); }
T(xattr_replace_missing) { put("f", ""); say("%s", R(setxattr("f", "user.a", "x", 1, XATTR_REPLACE))); }
T(xattr_small_buffer) { put("f", ""); need(setxattr("f", "user.a", "hello", 5, 0)); say("%s", R(getxattr("f", "user.a", buf, 2))); }
T(xattr_unknown_namespace) { put("f", ""); say("%s", R(setxattr("f", "nosuch.a", "x", 1, 0))); }
T(xattr_remove) { put("f", ""); need(setxattr("f", "user.a", "x", 1, 0)); say("%s ", R(removexattr("f", "user.a"))); say("%s", R(removexattr("f", "user.a"))); }
T(sendfile_moves)
{
	put("a", "abcdef");
	off_t o = 2;
	int b = need(open("b", O_CREAT | O_RDWR, 0644));
	say("%s ", R(sendfile(b, need(open("a", O_RDONLY)), &o, 3)));
	pread(b, buf, 9, 0);
	say("%.3s %ld", buf, (long)o);
}
T(sendfile_append) { put("a", "abc"); put("b", ""); say("%s", R(sendfile(need(open("b", O_WRONLY | O_APPEND)), need(open("a", O_RDONLY)), 0, 3))); }
T(copy_file_range_moves)
{
	put("a", "abcdef");
	int b = need(open("b", O_CREAT | O_RDWR, 0644));
	say("%s ", R(copy_file_range(need(open("a", O_RDONLY)), 0, b, 0, 4, 0)));
	pread(b, buf, 9, 0);
	say("%.4s", buf);
}
T(copy_file_range_bad_flag) { put("a", "a"); put("b", ""); say("%s", R(copy_file_range(need(open("a", O_RDONLY)), 0, need(open("b", O_WRONLY)), 0, 4, 1))); }
T(fsync_pipe) { int p[2]; need(pipe(p)); say("%s", R(fsync(p[0]))); }
T(fsync_file) { put("f", "x"); int f = need(open("f", O_RDWR)); say("%s %s", R(fsync(f)), R(fdatasync(f))); }
T(sync_file_range_file) { put("f", "x"); say("%s", R(sync_file_range(need(open("f", O_RDWR)), 0, 0, SYNC_FILE_RANGE_WRITE))); }
T(fadvise_bad) { put("f", "x"); say("%d %d", posix_fadvise(need(open("f", O_RDONLY)), 0, 0, 99), posix_fadvise(need(open("f", O_RDONLY)), 0, 0, POSIX_FADV_DONTNEED)); }
T(readahead_write_only) { put("f", "x"); say("%s", R(readahead(need(open("f", O_WRONLY)), 0, 1))); }
T(statfs_missing) { struct statfs s; say("%s", R(statfs("x", &s))); }
T(statfs_name_max) { struct statfs s; need(statfs(".", &s)); say("%ld", (long)s.f_namelen); }
T(statfs_proc) { struct statfs s; need(statfs("/proc", &s)); say("%lx", (long)s.f_type); }
T(dev_null) { int f = need(open("/dev/null", O_RDWR)); say("%s %s", R(write(f, "abc", 3)), R(read(f, buf, 3))); }
T(dev_zero) { int f = need(open("/dev/zero", O_RDWR)); buf[0] = 7; say("%s ", R(read(f, buf, 3))); say("%d", buf[0]); }
T(dev_full) { int f = need(open("/dev/full", O_RDWR)); say("%s %s", R(write(f, "abc", 3)), R(read(f, buf, 3))); }
T(dev_null_id) { struct stat s; need(stat("/dev/null", &s)); say("%d:%d %o", major(s.st_rdev), minor(s.st_rdev), s.st_mode & S_IFMT); }
T(dup_lowest) { int a = need(open(".", O_RDONLY)), b = need(dup(a)), c = need(dup(a)); close(b); say("%d %d", dup(a) == b, c > b); }
T(dup2_same) { say("%s %s", R(dup2(1, 1)), R(dup2(99, 99))); }
T(dup3_same) { say("%s", R(dup3(1, 1, 0))); }
T(dup3_cloexec) { need(dup3(1, 50, O_CLOEXEC)); say("%s", R(fcntl(50, F_GETFD))); }
T(dup_shares_offset) { put("f", "abc"); int a = need(open("f", O_RDONLY)), b = need(dup(a)); need(read(a, buf, 2)); say("%s", R(lseek(b, 0, SEEK_CUR))); }
T(fcntl_dupfd_min) { say("%s %s", R(fcntl(1, F_DUPFD, 40)), R(fcntl(1, F_DUPFD, 40))); }
T(fcntl_dupfd_too_high) { say("%s", R(fcntl(1, F_DUPFD, 1 << 30))); }
T(fcntl_getfl) { put("f", ""); int f = need(open("f", O_RDWR | O_APPEND | O_NONBLOCK)); say("%o", fcntl(f, F_GETFL) & ~0100000); }
T(fcntl_setfl_ignores) { put("f", ""); int f = need(open("f", O_RDONLY)); need(fcntl(f, F_SETFL, O_RDWR | O_APPEND)); say("%o", fcntl(f, F_GETFL) & ~0100000); }
T(fcntl_bad_command) { say("%s", R(fcntl(1, 9999))); }
T(fcntl_pipe_size) { int p[2]; need(pipe(p)); say("%s %s", R(fcntl(p[0], F_GETPIPE_SZ)), R(fcntl(p[0], F_SETPIPE_SZ, 100000))); }
T(lock_conflict)
{
	put("f", "abc");
	int f = need(open("f", O_RDWR));
	struct flock l = {.l_type = F_WRLCK, .l_start = 1, .l_len = 2}, q = {.l_type = F_RDLCK};
	need(fcntl(f, F_SETLK, &l));
	pid_t parent = getpid();
	if (fork() == 0) {
		say("%s ", R(fcntl(f, F_GETLK, &q)));
		say("%d %ld %ld %d %s", q.l_type, (long)q.l_start, (long)q.l_len, q.l_pid == parent, R(fcntl(f, F_SETLK, &l)));
		_exit(0);
	}
	wait(0);
}
T(lock_released_by_close_of_other_fd)
{
	put("f", "abc");
	int f = need(open("f", O_RDWR));
	struct flock l = {.l_type = F_WRLCK};
	need(fcntl(f, F_SETLK, &l));
	close(need(open("f", O_RDONLY)));
	if (fork() == 0) {
		say("%s", R(fcntl(f, F_SETLK, &l)));
		_exit(0);
	}
	wait(0);
}
T(lock_needs_write_mode) { put("f", "a"); struct flock l = {.l_type = F_WRLCK}; say("%s", R(fcntl(need(open("f", O_RDONLY)), F_SETLK, &l))); }
T(lock_ofd_conflict)
{
	put("f", "abc");
	struct flock l = {.l_type = F_WRLCK};
	need(fcntl(need(open("f", O_RDWR)), F_OFD_SETLK, &l));
	say("%s", R(fcntl(need(open("f", O_RDWR)), F_OFD_SETLK, &l)));
}
T(flock_conflict) { put("f", ""); need(flock(need(open("f", O_RDONLY)), LOCK_EX)); say("%s", R(flock(need(open("f", O_RDONLY)), LOCK_EX | LOCK_NB))); }
T(flock_shared_by_dup) { put("f", ""); int f = need(open("f", O_RDONLY)); need(flock(f, LOCK_EX)); say("%s", R(flock(dup(f), LOCK_EX | LOCK_NB))); }
T(flock_bad) { put("f", ""); say("%s", R(flock(need(open("f", O_RDONLY)), 77))); }
T(lease) { put("f", ""); say("%s", R(fcntl(need(open("f", O_RDONLY)), F_GETLEASE))); }
T(ioctl_fionread) { put("f", "abcde"); int n = 0; int f = need(open("f", O_RDONLY)); need(read(f, buf, 2)); say("%s ", R(ioctl(f, FIONREAD, &n))); say("%d", n); }
T(ioctl_tty_on_file) { put("f", ""); say("%s", R(ioctl(need(open("f", O_RDONLY)), TIOCGWINSZ, buf))); }
T(ioctl_bad_fd) { say("%s", R(ioctl(99, FIONREAD, buf))); }
T(close_range_closes) { need(dup2(1, 60)); need(dup2(1, 61)); say("%s ", R(syscall(SYS_close_range, 60, 70, 0))); say("%s", R(fcntl(60, F_GETFD))); }
T(close_range_backwards) { say("%s", R(syscall(SYS_close_range, 70, 60, 0))); }
T(memfd_seal)
{
	int f = need(memfd_create("m", MFD_ALLOW_SEALING));
	need(ftruncate(f, 100));
	say("%s ", R(fcntl(f, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE)));
	say("%s %s %s %s", R(ftruncate(f, 50)), R(ftruncate(f, 200)), R(write(f, "x", 1)), R(fcntl(f, F_GET_SEALS)));
}
T(memfd_unsealable) { say("%s", R(fcntl(need(memfd_create("m", 0)), F_ADD_SEALS, F_SEAL_SHRINK))); }
T(memfd_long_name) { memset(buf, 'a', 300); buf[300] = 0; say("%s", OK(memfd_create(buf, 0))); }
T(faccessat2_effective) { put("f", ""); say("%s", R(syscall(SYS_faccessat2, AT_FDCWD, "f", R_OK, AT_EACCESS))); }
T(fchmodat_nofollow) { put("f", ""); need(symlink("f", "l")); say("%s", R(fchmodat(AT_FDCWD, "l", 0600, AT_SYMLINK_NOFOLLOW))); }
T(proc_self_exe) { say("%d", readlink("/proc/self/exe", buf, 4096) > 0); }
T(proc_self_fd_link) { int p[2]; char n[40]; need(pipe(p)); snprintf(n, 40, "/proc/self/fd/%d", p[0]); need(readlink(n, buf, 100)); say("%.5s", buf); }
T(proc_fd_reopen) { put("f", "abc"); int f = need(open("f", O_RDONLY)); char n[40]; snprintf(n, 40, "/proc/self/fd/%d", f); need(unlink("f")); say("%s", OK(open(n, O_RDONLY))); }
T(proc_cmdline) { int f = need(open("/proc/self/cmdline", O_RDONLY)); say("%d", read(f, buf, 100) > 0); }
T(proc_write_refused) { say("%s", OK(open("/proc/self/stat", O_WRONLY))); }
