#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* accept4() */
#endif
#include "core/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <stdio.h>
#include <sys/prctl.h>
#else
#include <sys/sysctl.h>
#endif
#if defined(__APPLE__)
#include <limits.h>
#endif

#include "api.h"

static int result_of(int rc)
{
    return rc < 0 ? -errno : rc;
}

int64_t kqn_sys_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

uint64_t kqn_sys_wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void kqn_sys_sleep_ns(int64_t duration_ns)
{
    struct timespec duration = {.tv_sec = duration_ns / 1000000000, .tv_nsec = duration_ns % 1000000000};
    nanosleep(&duration, NULL);
}

int64_t kqn_sys_thread_cpu_ns(void)
{
    struct timespec used = {0};
#if defined(CLOCK_THREAD_CPUTIME_ID)
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
#endif
    return (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
}

void kqn_sys_want_precise_timers(void)
{
#if defined(__linux__)
    prctl(PR_SET_TIMERSLACK, 1UL); /* Linux lets a thread oversleep by 50 us, to save power */
#endif
}

void *kqn_sys_alloc(size_t size)
{
    return malloc(size);
}

void *kqn_sys_alloc_lines(size_t size)
{
    void *memory;
    return posix_memalign(&memory, KQN_LINE_BYTES, size) == 0 ? memory : NULL;
}

void *kqn_sys_realloc(void *memory, size_t size)
{
    return realloc(memory, size);
}

void kqn_sys_free(void *memory)
{
    free(memory);
}

#if defined(__APPLE__) /* has neither SOCK_NONBLOCK nor accept4() */
static int make_nonblocking_cloexec(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}
#endif

/* Takes a new descriptor, or a failure with its errno, out of the range of the standard ones. */
static int above_standard(int fd)
{
    if (fd < 0)
        return -errno;
    if (fd > STDERR_FILENO)
        return fd;
    int moved = result_of(fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    close(fd);
    return moved;
}

int kqn_sys_socket(int family)
{
#if defined(__APPLE__)
    int fd = above_standard(socket(family, SOCK_STREAM, 0));
    return fd < 0 ? fd : make_nonblocking_cloexec(fd);
#else
    return above_standard(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
#endif
}

static int set_option(int fd, int level, int option, int value)
{
    return result_of(setsockopt(fd, level, option, &value, sizeof(value)));
}

/* Set once on the listener: every system hands TCP_NODELAY and SO_NOSIGPIPE on to what it accepts. */
int kqn_sys_listener_options(int fd, int family)
{
    int rc = 0;
#if defined(SO_NOSIGPIPE)
    rc = set_option(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
    if (rc < 0 || family == AF_UNIX)
        return rc;
    rc = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (rc == 0)
        rc = set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    /* OpenBSD: always v6 only, and the option can't be changed. The BSDs' default is v6 only, macOS' and Linux' not. */
    if (rc == 0 && family == AF_INET6)
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    return rc;
}

int kqn_sys_bind(int fd, const union kqn_address *address, socklen_t len)
{
    return result_of(bind(fd, &address->any, len));
}

int kqn_sys_listen(int fd, int backlog)
{
    return result_of(listen(fd, backlog));
}

int64_t kqn_sys_backlog_limit(void)
{
#if defined(__linux__)
    long long limit = -ENOENT;
    FILE *file = fopen("/proc/sys/net/core/somaxconn", "re");
    if (file && fscanf(file, "%lld", &limit) != 1)
        limit = -EINVAL;
    if (file)
        fclose(file);
    return limit;
#elif defined(__NetBSD__)
    return SOMAXCONN; /* fixed when the kernel was compiled */
#else
    int limit = 0;
    size_t size = sizeof(limit);
#if defined(__OpenBSD__) /* names its settings by number */
    int name[] = {CTL_KERN, KERN_SOMAXCONN};
    return sysctl(name, 2, &limit, &size, NULL, 0) < 0 ? -errno : limit;
#elif defined(__FreeBSD__)
    return sysctlbyname("kern.ipc.soacceptqueue", &limit, &size, NULL, 0) < 0 ? -errno : limit;
#else /* macOS, DragonFly */
    return sysctlbyname("kern.ipc.somaxconn", &limit, &size, NULL, 0) < 0 ? -errno : limit;
#endif
#endif
}

int kqn_sys_connect(int fd, const union kqn_address *address, socklen_t len)
{
    return result_of(connect(fd, &address->any, len));
}

int kqn_sys_local_address(int fd, union kqn_address *out)
{
    socklen_t len = sizeof(*out);
    return result_of(getsockname(fd, &out->any, &len));
}

int kqn_sys_accept(int fd, union kqn_address *peer)
{
    socklen_t len = sizeof(*peer);
    peer->any.sa_family = AF_UNSPEC; /* macOS: a peer that has gone may leave no address at all */
#if defined(__APPLE__)
    int accepted = above_standard(accept(fd, &peer->any, &len));
    if (accepted < 0)
        return accepted;
    /* Of a connection that has broken already, fcntl() may fail. */
    return make_nonblocking_cloexec(accepted) < 0 ? -ECONNABORTED : accepted;
#elif defined(__NetBSD__) && __NetBSD_Version__ < 800000000
    return above_standard(paccept(fd, &peer->any, &len, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
#else
    return above_standard(accept4(fd, &peer->any, &len, SOCK_NONBLOCK | SOCK_CLOEXEC));
#endif
}

ssize_t kqn_sys_read(int fd, void *bytes, size_t len)
{
#if defined(__linux__)
    ssize_t n = recv(fd, bytes, len, 0); /* the same, by a shorter way through the kernel: 1 to 2 % of a message */
#else
    ssize_t n = read(fd, bytes, len);
#endif
    return n < 0 ? -errno : n;
}

ssize_t kqn_sys_write(int fd, const void *bytes, size_t len)
{
#if defined(__APPLE__)
    ssize_t n = write(fd, bytes, len); /* MSG_NOSIGNAL came with macOS 11; SO_NOSIGPIPE is as old as kqueue */
#else
    ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
#endif
    return n < 0 ? -errno : n;
}

ssize_t kqn_sys_write_two(int fd, const void *first, size_t first_len, const void *second, size_t second_len)
{
    if (first_len == 0)
        return kqn_sys_write(fd, second, second_len);
    struct iovec pieces[] = {{(void *)(uintptr_t)first, first_len}, {(void *)(uintptr_t)second, second_len}};
#if defined(__APPLE__)
    ssize_t n = writev(fd, pieces, 2);
#else
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};
    ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
#endif
    return n < 0 ? -errno : n;
}

int kqn_sys_client_options(int fd, int family)
{
    int rc = 0;
#if defined(SO_NOSIGPIPE)
    rc = set_option(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
    return rc < 0 || family == AF_UNIX ? rc : set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

int kqn_sys_bind_source(int fd, const union kqn_address *address, socklen_t len)
{
#if defined(IP_BIND_ADDRESS_NO_PORT)
    set_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1); /* an older kernel takes a port: as good as elsewhere */
#endif
    return kqn_sys_bind(fd, address, len);
}

int kqn_sys_socket_error(int fd)
{
    int error = 0;
    socklen_t len = sizeof(error);
    int rc = getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    return rc < 0 ? -errno : -error;
}

int kqn_sys_check_connected(int fd)
{
    union kqn_address peer, own;
    socklen_t peer_len = sizeof(peer), own_len = sizeof(own);
    if (getpeername(fd, &peer.any, &peer_len) < 0 || getsockname(fd, &own.any, &own_len) < 0)
        return errno == EINVAL ? -ECONNRESET : -errno; /* macOS: the connection has come and gone */
    /* A connect to a port of this machine that nobody listens on may be given that very port as its own. */
    bool has_port = own.any.sa_family == AF_INET || own.any.sa_family == AF_INET6;
    return has_port && own_len == peer_len && memcmp(&own, &peer, own_len) == 0 ? -ECONNREFUSED : 0;
}

ssize_t kqn_sys_readable(int fd)
{
    int bytes = 0;
#if defined(__APPLE__)
    socklen_t len = sizeof(bytes);
    return getsockopt(fd, SOL_SOCKET, SO_NREAD, &bytes, &len) < 0 ? -errno : bytes;
#else
    return ioctl(fd, FIONREAD, &bytes) < 0 ? -errno : bytes;
#endif
}

ssize_t kqn_sys_unsent(int fd)
{
    int bytes = 0;
#if defined(__APPLE__)
    socklen_t len = sizeof(bytes);
    return getsockopt(fd, SOL_SOCKET, SO_NWRITE, &bytes, &len) < 0 ? -errno : bytes;
#elif defined(__linux__)
    return ioctl(fd, TIOCOUTQ, &bytes) < 0 ? -errno : bytes;
#elif defined(FIONWRITE)
    return ioctl(fd, FIONWRITE, &bytes) < 0 ? -errno : bytes;
#else
    (void)fd;
    (void)bytes;
    return -ENOTSUP;
#endif
}

int kqn_sys_shutdown_write(int fd)
{
    return result_of(shutdown(fd, SHUT_WR));
}

int kqn_sys_shutdown_both(int fd)
{
    return result_of(shutdown(fd, SHUT_RDWR));
}

int kqn_sys_close(int fd)
{
    return result_of(close(fd));
}

int kqn_sys_file_id(const char *path, struct kqn_file_id *out)
{
    struct stat info;
    if (lstat(path, &info) < 0)
        return -errno;
    out->device = (uint64_t)info.st_dev;
    out->inode = (uint64_t)info.st_ino;
    out->is_socket = S_ISSOCK(info.st_mode);
    return 0;
}

int kqn_sys_unlink(const char *path)
{
    return result_of(unlink(path));
}

#if defined(__x86_64__)
#define PROCESSOR "x86_64"
#elif defined(__aarch64__)
#define PROCESSOR "arm64"
#else
#define PROCESSOR "another processor"
#endif
#define TEXT_OF(macro) TEXT(macro)
#define TEXT(token) #token

const char *kqn_build_target(void)
{
#if defined(__APPLE__)
    return PROCESSOR "-macos " TEXT_OF(__ENVIRONMENT_MAC_OS_X_VERSION_MIN_REQUIRED__);
#elif defined(__linux__)
    return PROCESSOR "-linux";
#elif defined(__FreeBSD__)
    return PROCESSOR "-freebsd " TEXT_OF(__FreeBSD__);
#elif defined(__NetBSD__)
    return PROCESSOR "-netbsd";
#elif defined(__OpenBSD__)
    return PROCESSOR "-openbsd";
#elif defined(__DragonFly__)
    return PROCESSOR "-dragonfly";
#else
    return PROCESSOR "-another system";
#endif
}

/* What the system lets one process have, whatever its hard limit says. */
static rlim_t system_ceiling(void)
{
#if defined(__APPLE__)
    int per_process = 0;
    size_t size = sizeof(per_process);
    if (sysctlbyname("kern.maxfilesperproc", &per_process, &size, NULL, 0) == 0 && per_process > 0)
        return (rlim_t)per_process;
    return OPEN_MAX;
#else
    return RLIM_INFINITY;
#endif
}

int64_t kqn_sys_raise_descriptor_limit(int64_t wanted)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    rlim_t ceiling = system_ceiling();
    rlim_t target = limit.rlim_max;
    if (target > ceiling)
        target = ceiling;
    if (target == RLIM_INFINITY || target > INT32_MAX)
        target = INT32_MAX;
    if (wanted > 0 && (rlim_t)wanted < target)
        target = (rlim_t)wanted;
    /* macOS: what the limits promise may still be refused (EINVAL), so ask for less until something is granted. */
    while (limit.rlim_cur != RLIM_INFINITY && target > limit.rlim_cur) {
        struct rlimit raised = {.rlim_cur = target, .rlim_max = limit.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
            break;
        target = target > 10240 ? 10240 : target / 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    if (limit.rlim_cur > ceiling)
        limit.rlim_cur = ceiling;
    return limit.rlim_cur > INT32_MAX ? INT32_MAX : (int64_t)limit.rlim_cur;
}
