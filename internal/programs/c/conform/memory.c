// Mappings, shared memory, System V IPC.
#include "check.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/uio.h>

#define P 4096

static const char *M(void *p) { return p == MAP_FAILED ? R(-1) : "ok"; }
static int file(long size) { int f = need(open("m", O_CREAT | O_RDWR, 0644)); need(ftruncate(f, size)); return f; }
static volatile char sink;

T(mmap_zero_length) { say("%s", M(mmap(0, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))); }
T(mmap_no_type) { say("%s", M(mmap(0, P, PROT_READ, MAP_ANONYMOUS, -1, 0))); }
T(mmap_bad_fd) { say("%s", M(mmap(0, P, PROT_READ, MAP_PRIVATE, -1, 0))); }
T(mmap_unaligned_offset) { say("%s", M(mmap(0, P, PROT_READ, MAP_PRIVATE, file(P), 1))); }
T(mmap_unaligned_fixed) { say("%s", M(mmap((void *)0x10000001, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0))); }
T(mmap_too_long) { say("%s", M(mmap(0, 1L << 50, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))); }
T(mmap_length_overflow) { say("%s", M(mmap(0, -1UL, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))); }
T(mmap_fixed_kernel_half) { say("%s", M(mmap((void *)0xffff800000000000, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0))); }
T(mmap_hint_kernel_half) { say("%s", M(mmap((void *)0xffff800000000000, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))); }
T(mmap_fixed_noreplace) { char *p = pages(1, 0); say("%s", M(mmap(p, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0))); }
T(mmap_last_user_page) { say("%s", M(mmap((void *)0x7fffffffe000, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0))); }
T(mmap_guard_page_of_user_space) { say("%s", M(mmap((void *)0x7ffffffff000, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0))); }
T(mmap_write_shared_of_read_only_file) { file(P); say("%s", M(mmap(0, P, PROT_READ | PROT_WRITE, MAP_SHARED, need(open("m", O_RDONLY)), 0))); }
T(mmap_private_of_read_only_file) { file(P); char *p = mmap(0, P, PROT_READ | PROT_WRITE, MAP_PRIVATE, need(open("m", O_RDONLY)), 0); *p = 1; say("%d", *p); }
T(mmap_write_only_file) { put("w", "x"); say("%s", M(mmap(0, P, PROT_WRITE, MAP_SHARED, need(open("w", O_WRONLY)), 0))); }
T(mmap_directory) { say("%s", M(mmap(0, P, PROT_READ, MAP_SHARED, need(open(".", O_RDONLY)), 0))); }
T(mmap_pipe) { int p[2]; need(pipe(p)); say("%s", M(mmap(0, P, PROT_READ, MAP_SHARED, p[0], 0))); }
T(mmap_shared_write_reaches_file)
{
	char b[4] = "";
	int f = file(P);
	char *p = mmap(0, P, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
	memcpy(p, "abc", 3);
	pread(f, b, 3, 0);
	say("%s", b);
}
T(mmap_private_write_stays) { char b[4] = ""; int f = file(P); char *p = mmap(0, P, PROT_READ | PROT_WRITE, MAP_PRIVATE, f, 0); memcpy(p, "abc", 3); need(pread(f, b, 3, 0)); say("%d", b[0]); }
T(mmap_file_write_reaches_shared) { int f = file(P); char *p = mmap(0, P, PROT_READ, MAP_SHARED, f, 0); sink = *p; need(pwrite(f, "z", 1, 0)); say("%c", *p); }
T(mmap_tail_is_zero) { int f = file(0); need(write(f, "abc", 3)); char *p = mmap(0, P, PROT_READ, MAP_SHARED, f, 0); say("%d %d", p[3], p[4095]); }
static char *beyond;
static void touch(void) { sink = *beyond; }
static void scribble(void) { *beyond = 1; }
T(mmap_past_end_of_file) { beyond = (char *)mmap(0, 3 * P, PROT_READ, MAP_SHARED, file(P), 0) + 2 * P; say("%s", status(in(touch))); }
T(mmap_after_truncate) { int f = file(2 * P); beyond = (char *)mmap(0, 2 * P, PROT_READ, MAP_SHARED, f, 0) + P; sink = *beyond; need(ftruncate(f, 10)); say("%s", status(in(touch))); }
T(mmap_prot_none) { beyond = mmap(0, P, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); say("%s", status(in(touch))); }
T(mmap_write_only_reads) { beyond = mmap(0, P, PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); say("%s", status(in(touch))); }
T(mmap_null_page) { beyond = 0; say("%s", status(in(touch))); }
T(mprotect_read_only) { beyond = pages(1, 0); need(mprotect(beyond, P, PROT_READ)); say("%s %s", status(in(scribble)), status(in(touch))); }
T(mprotect_hole) { char *p = pages(3, 0); need(munmap(p + P, P)); say("%s", R(mprotect(p, 3 * P, PROT_READ))); }
T(mprotect_unaligned) { char *p = pages(1, 0); say("%s", R(mprotect(p + 1, P, PROT_READ))); }
T(mprotect_zero) { char *p = pages(1, 0); say("%s", R(mprotect(p, 0, PROT_READ))); }
T(mprotect_write_of_read_only_file) { file(P); char *p = mmap(0, P, PROT_READ, MAP_SHARED, need(open("m", O_RDONLY)), 0); say("%s", R(mprotect(p, P, PROT_READ | PROT_WRITE))); }
T(munmap_unaligned) { char *p = pages(1, 0); say("%s", R(munmap(p + 1, P))); }
T(munmap_zero) { char *p = pages(1, 0); say("%s", R(munmap(p, 0))); }
T(munmap_nothing) { char *p = pages(1, 0); need(munmap(p, P)); say("%s", R(munmap(p, P))); }
T(munmap_middle) { beyond = pages(3, 0); need(munmap(beyond + P, P)); beyond[0] = beyond[2 * P] = 1; beyond += P; say("%s", status(in(touch))); }
T(mremap_grow_moves_data) { char *p = pages(1, 0); p[5] = 'x'; p = mremap(p, P, 100 * P, MREMAP_MAYMOVE); say("%s %c %d", M(p), p[5], p[99 * P]); }
T(mremap_shrink) { char *p = pages(4, 0); say("%d ", mremap(p, 4 * P, P, 0) == p); beyond = p + P; say("%s", status(in(touch))); }
T(mremap_no_room) { char *p = pages(2, 0); say("%s", M(mremap(p, P, 2 * P, 0))); }
T(mremap_fixed) { char *p = pages(1, 0), *q = pages(1, 0); *p = 'a'; say("%d ", mremap(p, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, q) == q); beyond = p; say("%c %s", *q, status(in(touch))); }
T(mremap_unmapped) { char *p = pages(1, 0); need(munmap(p, P)); say("%s", M(mremap(p, P, 2 * P, MREMAP_MAYMOVE))); }
T(mremap_zero_new) { char *p = pages(1, 0); say("%s", M(mremap(p, P, 0, MREMAP_MAYMOVE))); }
T(madvise_dontneed_zeroes) { char *p = pages(1, 0); *p = 9; say("%s ", R(madvise(p, P, MADV_DONTNEED))); say("%d", *p); }
T(madvise_dontneed_private_file) { int f = file(P); need(pwrite(f, "a", 1, 0)); char *p = mmap(0, P, PROT_READ | PROT_WRITE, MAP_PRIVATE, f, 0); *p = 'b'; need(madvise(p, P, MADV_DONTNEED)); say("%c", *p); }
T(madvise_unaligned) { char *p = pages(1, 0); say("%s", R(madvise(p + 1, P, MADV_DONTNEED))); }
T(madvise_hole) { char *p = pages(3, 0); need(munmap(p + P, P)); p[2 * P] = 1; say("%s ", R(madvise(p, 3 * P, MADV_DONTNEED))); say("%d", p[2 * P]); }
T(madvise_bad) { char *p = pages(1, 0); say("%s", R(madvise(p, P, 9999))); }
T(madvise_wipeonfork) { char *p = pages(1, 0); *p = 1; say("%s ", R(madvise(p, P, MADV_WIPEONFORK))); }
static char *child_page;
static void print_child_page(void) { say("%d ", *child_page); }
T(madvise_dontfork) { child_page = pages(1, 0); need(madvise(child_page, P, MADV_DONTFORK)); say("%s", status(in(print_child_page))); }
T(msync_hole) { char *p = pages(1, 0); need(munmap(p, P)); say("%s", R(msync(p, P, MS_SYNC))); }
T(msync_both) { char *p = pages(1, 0); say("%s", R(msync(p, P, MS_SYNC | MS_ASYNC))); }
T(mincore_hole) { unsigned char v[1]; char *p = pages(1, 0); need(munmap(p, P)); say("%s", R(mincore(p, P, v))); }
T(mincore_touched) { unsigned char v[1]; char *p = pages(1, 0); *p = 1; say("%s ", R(mincore(p, P, v))); say("%d", v[0] & 1); }
T(mlock_pages) { char *p = pages(1, 0); say("%s %s", R(mlock(p, P)), R(munlock(p, P))); }
T(mlock_hole) { char *p = pages(1, 0); need(munmap(p, P)); say("%s", R(mlock(p, P))); }
T(mlock2_bad_flag) { char *p = pages(1, 0); say("%s", R(mlock2(p, P, 8))); }
T(brk_grows) { char *a = sbrk(0), *b = sbrk(3 * P); b[3 * P - 1] = 1; say("%d %d", a == b, (char *)sbrk(0) - a == 3 * P); }
T(brk_too_far) { say("%d", (char *)syscall(SYS_brk, 1L << 48) == (char *)sbrk(0)); }
T(rlimit_as_stops_mmap) { struct rlimit l = {1 << 28, 1 << 28}; need(setrlimit(RLIMIT_AS, &l)); say("%s", M(mmap(0, 1 << 29, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))); }
T(rlimit_data_stops_brk) { struct rlimit l = {1 << 20, 1 << 20}; need(setrlimit(RLIMIT_DATA, &l)); say("%s", M(sbrk(1 << 24))); }
T(shared_anonymous_across_fork) { child_page = pages(1, MAP_SHARED | MAP_ANONYMOUS); if (fork() == 0) { *child_page = 5; _exit(0); } wait(0); say("%d", *child_page); }
T(private_anonymous_across_fork) { child_page = pages(1, 0); if (fork() == 0) { *child_page = 5; _exit(0); } wait(0); say("%d", *child_page); }
T(process_vm_readv_child)
{
	static char src[8] = "parent", dst[8];
	struct iovec l = {dst, 7}, r = {src, 7};
	pid_t c = need(fork());
	if (c == 0) {
		pause();
		_exit(0);
	}
	say("%s ", R(process_vm_readv(c, &l, 1, &r, 1, 0)));
	say("%s", dst);
	kill(c, SIGKILL);
}
T(process_vm_readv_missing) { struct iovec v = {0, 0}; say("%s", R(process_vm_readv(99999999, &v, 1, &v, 1, 0))); }
T(membarrier_query) { say("%d", syscall(SYS_membarrier, 0, 0, 0) >= 0); }
T(pkey_alloc_flags) { say("%s", R(syscall(SYS_pkey_alloc, 1, 0))); }
T(shm_segment)
{
	int id = need(shmget(IPC_PRIVATE, 5000, IPC_CREAT | 0600));
	struct shmid_ds d;
	char *p = shmat(id, 0, 0);
	p[4999] = 3;
	need(shmctl(id, IPC_STAT, &d));
	say("%ld %ld ", (long)d.shm_segsz, (long)d.shm_nattch);
	need(shmdt(p));
	need(shmctl(id, IPC_RMID, 0));
	say("%s", M(shmat(id, 0, 0)));
}
T(shm_exists) { int id = need(shmget(0x51e4e7, 100, IPC_CREAT | 0600)); say("%s ", OK(shmget(0x51e4e7, 100, IPC_CREAT | IPC_EXCL | 0600))); say("%s", OK(shmget(0x51e4e7, 100000, 0))); shmctl(id, IPC_RMID, 0); }
T(shm_missing) { say("%s", OK(shmget(0x51e4e8, 100, 0))); }
T(shmdt_wrong) { char *p = pages(1, 0); say("%s", R(shmdt(p))); }
T(sem_operations)
{
	int id = need(semget(IPC_PRIVATE, 2, 0600));
	struct sembuf up = {0, 2, 0}, down = {0, -3, IPC_NOWAIT}, big = {5, 1, 0};
	need(semop(id, &up, 1));
	say("%s ", R(semctl(id, 0, GETVAL)));
	say("%s %s", R(semop(id, &down, 1)), R(semop(id, &big, 1)));
	need(semctl(id, 0, IPC_RMID));
	say(" %s", R(semop(id, &up, 1)));
}
T(sem_undo)
{
	int id = need(semget(IPC_PRIVATE, 1, 0600));
	if (fork() == 0) {
		struct sembuf up = {0, 2, SEM_UNDO};
		need(semop(id, &up, 1));
		_exit(0);
	}
	wait(0);
	say("%s", R(semctl(id, 0, GETVAL)));
	semctl(id, 0, IPC_RMID);
}
T(sem_removed_while_waiting)
{
	int id = need(semget(IPC_PRIVATE, 1, 0600));
	struct sembuf down = {0, -1, 0};
	pid_t c = need(fork());
	if (c == 0) {
		say("%s", R(semop(id, &down, 1)));
		_exit(0);
	}
	while (semctl(id, 0, GETNCNT) == 0)
		usleep(1000);
	need(semctl(id, 0, IPC_RMID));
	wait(0);
}
T(msg_queue)
{
	struct { long type; char text[8]; } m = {3, "three"}, n = {1, "one"}, r = {0, ""};
	int id = need(msgget(IPC_PRIVATE, 0600));
	need(msgsnd(id, &m, 6, 0));
	need(msgsnd(id, &n, 4, 0));
	say("%s ", R(msgrcv(id, &r, 8, 1, 0)));
	say("%s %s %s ", r.text, R(msgrcv(id, &r, 2, 0, IPC_NOWAIT)), R(msgrcv(id, &r, 8, 7, IPC_NOWAIT)));
	say("%s", R(msgctl(id, IPC_RMID, 0)));
}
T(msg_bad_type) { struct { long type; char text[8]; } m = {0, "x"}; int id = need(msgget(IPC_PRIVATE, 0600)); say("%s", R(msgsnd(id, &m, 1, 0))); msgctl(id, IPC_RMID, 0); }
