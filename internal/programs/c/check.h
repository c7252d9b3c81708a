// What the checking programs share: named behaviours, each tried in a child and a directory of its own, and each
// printing one line, "name: what happened", that is the same in every run on every Linux.
#ifndef CHECK_H
#define CHECK_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct check {
	const char *name;
	void (*run)(void);
};

// T begins the behaviour called n.
#define T(n)                                                                                                           \
	static void run_##n(void);                                                                                     \
	static const struct check check_##n = {#n, run_##n};                                                           \
	__attribute__((section("checks"), used)) static const struct check *const entry_##n = &check_##n;              \
	static void run_##n(void)

// say adds to the line of the behaviour that runs.
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

// R says a call's result in words: its value, or its error's name.
const char *R(long result);

// OK is R for results whose value means nothing, such as descriptors.
const char *OK(long result);

// sig names a signal.
const char *sig(int number);

// status says how a child ended.
const char *status(int wait_status);

// put makes a file of the text, or ends the behaviour.
void put(const char *path, const char *text);

// need ends the behaviour with the error's name unless result is a success; it returns result.
long need(long result);

// in runs f in a child and returns the wait status.
int in(void (*f)(void));

// until waits until *p is not 0.
void until(volatile int *p);

// page returns n fresh pages, zeroed, readable and writable.
char *pages(size_t n, int flags);

#endif
