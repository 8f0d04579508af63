/* Stands between a program and the C library (LD_PRELOAD) and lets the n-th call that touches a file go wrong.

   The program under test is not changed and does not know. fault_arm(n, how, error) starts counting; the n-th
   call from then on fails with the error, or the process is killed before it, after it, or with half of it
   done, as if the power had gone. fault_count() says how many calls were seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, FAIL, KILL_BEFORE, KILL_AFTER, KILL_HALFWAY };

static int armed, at, how, seen, error;

void fault_arm(int n, int what, int number) { seen = 0, at = n, how = what, error = number, armed = 1; }
int fault_count(void) { armed = 0; return seen; }

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

/* What happens to this call: NOTHING unless it is the one that was asked for. */
static int fate(void) { return armed && ++seen == at ? how : NOTHING; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAULTY(name, call)                                  \
    {                                                       \
        int what = fate();                                  \
        if (what == FAIL) { errno = error; return -1; }     \
        if (what == KILL_BEFORE) die();                     \
        __auto_type result = REAL(name) call;               \
        if (what != NOTHING) die();                         \
        return result;                                      \
    }

ssize_t write(int fd, const void *data, size_t size) {
    int what = fate();
    if (what == FAIL) { errno = error; return -1; }
    if (what == KILL_BEFORE) die();
    ssize_t result = REAL(write)(fd, data, what == KILL_HALFWAY ? size / 2 : size);
    if (what != NOTHING) die();
    return result;
}
ssize_t readv(int fd, const struct iovec *into, int count) FAULTY(readv, (fd, into, count))
int fsync(int fd) FAULTY(fsync, (fd))
int rename(const char *old, const char *new) FAULTY(rename, (old, new))
int renameat(int a, const char *old, int b, const char *new) FAULTY(renameat, (a, old, b, new))
int link(const char *old, const char *new) FAULTY(link, (old, new))
int linkat(int a, const char *old, int b, const char *new, int flags) FAULTY(linkat, (a, old, b, new, flags))
int unlink(const char *name) FAULTY(unlink, (name))

int open(const char *name, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    FAULTY(open, (name, flags, mode))
}
int open64(const char *name, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    FAULTY(open64, (name, flags, mode))
}
