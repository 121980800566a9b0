/* poller.h: kevent() on every system.
 * One wait hands in the turn's changes and takes out its events; no caller learns which system it runs on. On macOS
 * and the BSDs these are the system's own kqueue() and kevent(); elsewhere knotes.c keeps kevent's rules over epoll,
 * poll or select.
 *
 * The smallest kevent that an event loop needs:
 * - Filters EVFILT_READ and EVFILT_WRITE of sockets, both level-triggered. Compare them for equality only: NetBSD's
 *   are unsigned and start at 0.
 * - Flags of a change: EV_ADD, EV_DELETE, EV_ENABLE, EV_DISABLE. EV_ADD does not enable a disabled knote, so "on" is
 *   always EV_ADD|EV_ENABLE. Every change carries its true udata: some systems store that of an EV_ENABLE too.
 * - Flags of an event, to be tested by bit: EV_EOF, with the socket's error in fflags where it has one, does not mean
 *   that nothing is left to read; EV_ERROR is a change that failed, with its errno in data. `data` is else a hint.
 * - A failed change comes back with its ident, filter and udata; the other changes are applied, and this wait does
 *   not wait and brings nothing but such records.
 * - A descriptor's knotes go when it is closed, in every process that shares the file; kqn_poller_forget() first. */
#ifndef KQN_POLLER_H
#define KQN_POLLER_H
#include <stdint.h>
#include <string.h>

#include "api.h"

#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__) || defined(__DragonFly__)
#define KQN_HAVE_KQUEUE 1
#include <sys/types.h>
/* NetBSD's header wants sys/types.h first. */
#include <sys/event.h>
#else
#define KQN_HAVE_KQUEUE 0
struct kevent { /* macOS's six fields */
    uintptr_t ident;
    int16_t filter;
    uint16_t flags;
    uint32_t fflags;
    intptr_t data;
    void *udata;
};
/* The values are FreeBSD's. */
enum {
    EVFILT_READ = -1,
    EVFILT_WRITE = -2
};
enum {
    EV_ADD = 0x1,
    EV_DELETE = 0x2,
    EV_ENABLE = 0x4,
    EV_DISABLE = 0x8,
    EV_ERROR = 0x4000,
    EV_EOF = 0x8000,
};
#endif

enum {
    KQN_READY_MAX =
        1024, /* where kevent() is ours, one wait looks at so many ready descriptors; the others come next */
};

struct kqn_poller; /* owns one kernel queue; one thread waits, any thread may wake it */

/* 0 or -errno; the caller owns *out. -ENOSYS: this system has no such poller. */
int kqn_poller_open(struct kqn_poller **out, enum kqn_poller_kind kind);

/* Hands in the changes, then waits for events and takes them out: their number, or -errno. A signal ends the wait
 * with 0 events; the changes are then in. It may also end early with fewer events than are ready, or with none.
 * -EINVAL: max_events is below 1 or below change_count. */
int kqn_poller_wait(struct kqn_poller *poller, const struct kevent *changes, int change_count, struct kevent *events,
                    int max_events, int64_t timeout_ns); /* negative: no limit */

/* From any thread: a wait in progress, or else the next one, returns. 0 or -errno. */
int kqn_poller_wake(struct kqn_poller *poller);

/* To be called before the waiting thread closes a descriptor that it registered. */
void kqn_poller_forget(struct kqn_poller *poller, int fd);

/* Frees; NULL is allowed. No thread may be waiting. */
void kqn_poller_close(struct kqn_poller *poller);

/* Fills one change. udata is a number, never a pointer: the kernel may return it after its owner has gone.
 * NetBSD < 10: udata is an intptr_t, elsewhere a void pointer. */
static inline void kqn_event_set(struct kevent *event, int fd, int filter, unsigned flags, uint64_t udata)
{
    memset(event, 0, sizeof(*event)); /* FreeBSD: fields that nobody names (ext) must be 0 */
    event->ident = (uintptr_t)fd;
    event->filter = (__typeof__(event->filter))filter;
    event->flags = (__typeof__(event->flags))flags;
    event->udata = (__typeof__(event->udata))(uintptr_t)udata;
}

static inline uint64_t kqn_event_udata(const struct kevent *event)
{
    return (uint64_t)(uintptr_t)event->udata;
}
_Static_assert(sizeof(void *) == 8, "udata carries a slot's index and its generation, 64 bits");
#endif
