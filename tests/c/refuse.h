/* refuse.h: a system that refuses one call. To be included before each file of the core (-include), whose calls then ask
 * first whether they are to fail: each call that can is counted, and the one that is due fails as it would for want of
 * memory or descriptors. Calls of other threads than the one that set this up pass. */
#ifndef KQN_REFUSE_H
#define KQN_REFUSE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/epoll.h>
#endif

/* Whether this call fails, with errno set. */
bool refuses(int error);

#define malloc(size) (refuses(ENOMEM) ? NULL : malloc(size))
#define calloc(count, size) (refuses(ENOMEM) ? NULL : calloc(count, size))
#define realloc(memory, size) (refuses(ENOMEM) ? NULL : realloc(memory, size))
#define posix_memalign(...) (refuses(ENOMEM) ? ENOMEM : posix_memalign(__VA_ARGS__))
#define socketpair(...) (refuses(EMFILE) ? -1 : socketpair(__VA_ARGS__))
#define socket(...) (refuses(EMFILE) ? -1 : socket(__VA_ARGS__))
#define setsockopt(...) (refuses(EINVAL) ? -1 : setsockopt(__VA_ARGS__))
#define getsockopt(...) (refuses(ENOBUFS) ? -1 : getsockopt(__VA_ARGS__))
#define getsockname(...) (refuses(ENOBUFS) ? -1 : getsockname(__VA_ARGS__))
#define getpeername(...) (refuses(ENOBUFS) ? -1 : getpeername(__VA_ARGS__))
#define bind(...) (refuses(EADDRINUSE) ? -1 : bind(__VA_ARGS__))
#define listen(...) (refuses(EADDRINUSE) ? -1 : listen(__VA_ARGS__))
#define connect(...) (refuses(EADDRNOTAVAIL) ? -1 : connect(__VA_ARGS__))
#define accept4(...) (refuses(EMFILE) ? -1 : accept4(__VA_ARGS__))
#define recv(...) (refuses(ETIMEDOUT) ? -1 : recv(__VA_ARGS__))
#define send(...) (refuses(ENOBUFS) ? -1 : send(__VA_ARGS__))
#define sendmsg(...) (refuses(ENOBUFS) ? -1 : sendmsg(__VA_ARGS__))
#define shutdown(...) (refuses(ENOTCONN) ? -1 : shutdown(__VA_ARGS__))
#define getrlimit(...) (refuses(EPERM) ? -1 : getrlimit(__VA_ARGS__))
#define setrlimit(...) (refuses(EPERM) ? -1 : setrlimit(__VA_ARGS__))
#define write(...) (refuses(EAGAIN) ? -1 : write(__VA_ARGS__)) /* a wake-up's byte */
#define epoll_create1(...) (refuses(EMFILE) ? -1 : epoll_create1(__VA_ARGS__))
#define epoll_ctl(...) (refuses(ENOSPC) ? -1 : epoll_ctl(__VA_ARGS__))
#endif
