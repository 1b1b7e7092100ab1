// What a process writes below one folder, counted, recorded, and ended or refused at a chosen call. Preloaded into the
// process under test (LD_PRELOAD); does nothing until `shim_arm`.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, FSYNC, RENAME, UNLINK, TRUNCATE, CLOSE, MKDIR };
enum { NOTHING = 0, KILL_BEFORE, KILL_WITHIN, KILL_AFTER, FULL, INTERRUPT, TERMINATE };
#define MAX_FD 65536

static char root[PATH_MAX];
static size_t root_len;
static int log_fd = -1, action;
static long at;
long shim_seen_now;  // calls that wrote, so far
#define seen shim_seen_now
static char tracked[MAX_FD];  // whether an open file or folder lies below `root`
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

// From the next call on: record into the open file `fd` (-1: nowhere), and do `what` at call number `number`, from 1.
void shim_arm(const char *folder, int fd, int what, long number) {
    strncpy(root, folder, sizeof root - 1);
    root_len = strlen(root);
    log_fd = fd, action = what, at = number, seen = 0;
}

static int below(const char *path, char *full) {
    if (!root_len) return 0;
    if (path[0] == '/') snprintf(full, PATH_MAX, "%s", path);
    else {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(full, PATH_MAX, "%s/%s", here, path);
    }
    return !strncmp(full, root, root_len) && (full[root_len] == '/' || !full[root_len]);
}

static void put(const void *data, size_t size) {
    const char *from = data;
    while (size) {
        long done = syscall(SYS_write, log_fd, from, size);
        if (done <= 0) return;
        from += done, size -= (size_t)done;
    }
}

// One record: kind, file, number, lengths of the two texts, the texts.
static void record(int kind, int fd, long number, const void *a, size_t a_len, const void *b, size_t b_len) {
    if (log_fd < 0) return;
    int64_t head[5] = {kind, fd, number, (int64_t)a_len, (int64_t)b_len};
    put(head, sizeof head);
    put(a, a_len);
    put(b, b_len);
}

static void end(void) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }

// Whether the call that begins is to be refused; the process may end here.
static int begins(void) {
    seen++;
    if (action == KILL_BEFORE && seen == at) end();
    if (action == INTERRUPT && seen == at) syscall(SYS_kill, getpid(), SIGINT);
    if (action == TERMINATE && seen == at) syscall(SYS_kill, getpid(), SIGTERM);
    return action == FULL && seen >= at;
}
static void ended(void) { if ((action == KILL_AFTER || action == KILL_WITHIN) && seen == at) end(); }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define LOCKED pthread_mutex_lock(&lock)
#define FREE pthread_mutex_unlock(&lock)

static int opened(int (*real)(int, const char *, int, ...), int dir, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    int ours = (dir == AT_FDCWD || path[0] == '/') && below(path, full);
    int changes = ours && (flags & (O_CREAT | O_TRUNC));
    if (!ours) return real(dir, path, flags, mode);
    LOCKED;
    if (changes && begins()) { FREE; errno = ENOSPC; return -1; }
    int fd = real(dir, path, flags, mode);
    if (fd >= 0 && fd < MAX_FD) {
        tracked[fd] = 1;
        record(OPEN, fd, flags, full, strlen(full), "", 0);
    }
    if (changes) ended();
    FREE;
    return fd;
}

static mode_t mode_of(int flags, va_list list) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; }
#define WITH_MODE va_list list; va_start(list, flags); mode_t mode = mode_of(flags, list); va_end(list)
static int plain_openat(int dir, const char *path, int flags, ...) {
    WITH_MODE;
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

int open(const char *path, int flags, ...) { WITH_MODE; return opened(plain_openat, AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { WITH_MODE; return opened(plain_openat, AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { WITH_MODE; return opened(plain_openat, dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { WITH_MODE; return opened(plain_openat, dir, path, flags, mode); }

static int is_ours(int fd) { return root_len && fd >= 0 && fd < MAX_FD && tracked[fd]; }

ssize_t write(int fd, const void *data, size_t size) {
    if (!is_ours(fd)) return syscall(SYS_write, fd, data, size);
    LOCKED;
    int full = begins();
    size_t part = full || (action == KILL_WITHIN && seen == at) ? size / 2 : size;
    if (full && (seen > at || !part)) { FREE; errno = ENOSPC; return -1; }
    ssize_t done = syscall(SYS_write, fd, data, part);
    if (done > 0) record(WRITE, fd, 0, data, (size_t)done, "", 0);
    ended();
    FREE;
    return done;
}

static int synced(int fd, long call) {
    if (!is_ours(fd)) return (int)syscall(call, fd);
    LOCKED;
    begins();
    int done = (int)syscall(call, fd);
    if (!done) record(FSYNC, fd, 0, "", 0, "", 0);
    ended();
    FREE;
    return done;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

static int cut(int fd, off_t length) {
    if (!is_ours(fd)) return (int)syscall(SYS_ftruncate, fd, length);
    LOCKED;
    begins();
    int done = (int)syscall(SYS_ftruncate, fd, length);
    if (!done) record(TRUNCATE, fd, length, "", 0, "", 0);
    ended();
    FREE;
    return done;
}
int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off_t length) { return cut(fd, length); }

int close(int fd) {
    if (!is_ours(fd)) return (int)syscall(SYS_close, fd);
    LOCKED;
    tracked[fd] = 0;
    record(CLOSE, fd, 0, "", 0, "", 0);
    FREE;
    return (int)syscall(SYS_close, fd);
}

int rename(const char *from, const char *to) {
    char a[PATH_MAX], b[PATH_MAX];
    if (!below(to, b) || !below(from, a)) return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    LOCKED;
    begins();
    int done = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!done) record(RENAME, -1, 0, a, strlen(a), b, strlen(b));
    ended();
    FREE;
    return done;
}

int unlink(const char *path) {
    char full[PATH_MAX];
    if (!below(path, full)) return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    LOCKED;
    begins();
    int done = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (!done) record(UNLINK, -1, 0, full, strlen(full), "", 0);
    ended();
    FREE;
    return done;
}

int mkdir(const char *path, mode_t mode) {
    char full[PATH_MAX];
    if (!below(path, full)) return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    LOCKED;
    if (begins()) { FREE; errno = ENOSPC; return -1; }
    int done = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (!done) record(MKDIR, -1, 0, full, strlen(full), "", 0);
    ended();
    FREE;
    return done;
}
