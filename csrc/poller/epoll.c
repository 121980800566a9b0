/* epoll.c: readiness by epoll.
 * A descriptor is one registration, of both knotes, and none at all while nothing is watched: EPOLLHUP and EPOLLERR
 * can't be masked, and a connection that has ended would spin the loop.
 *
 * epoll registers a file under the number that it had then. close() ends that only when no dup and no forked child
 * holds the file any more; until then its events keep coming, for a number that may belong to another file, and no
 * call reaches the registration. So each one carries the generation of its entry: events of an older one are dropped,
 * and as the last resort all that the table still watches is moved to a new epoll instance. */
#include "poller/readiness.h"

#if KQN_HAVE_EPOLL
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "poller/fork.h"
#include "poller/timeout.h"

_Static_assert((unsigned)EPOLLIN == KQN_READY_READ, "epoll's events are handed on as they are");
_Static_assert((unsigned)EPOLLOUT == KQN_READY_WRITE, "");
_Static_assert((unsigned)EPOLLERR == KQN_READY_ERROR, "");
_Static_assert((unsigned)EPOLLHUP == KQN_READY_HANGUP, "");
_Static_assert((unsigned)EPOLLRDHUP == KQN_READY_EOF, "");

struct epoll {
    struct kqn_table *table; /* borrowed */
    int fd;                  /* owned */
    bool in_milliseconds;    /* the kernel has no epoll_pwait2() */
    struct epoll_event events[KQN_READY_MAX];
};

static int epoll_open(void **out, struct kqn_table *table)
{
    struct epoll *epoll = calloc(1, sizeof(*epoll));
    if (epoll == NULL)
        return -ENOMEM;
    epoll->table = table;
    epoll->fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll->fd < 0) {
        int error = errno;
        free(epoll);
        return -error;
    }
    *out = epoll;
    return 0;
}

/* 0 or -errno. */
static int control(int epoll_fd, int operation, int fd, const struct kqn_entry *entry, unsigned wanted)
{
    struct epoll_event event = {.data.u64 = (uint32_t)fd | (uint64_t)entry->generation << 32};
    if (wanted & KQN_KNOTE_READ)
        event.events |= EPOLLIN | EPOLLRDHUP;
    if (wanted & KQN_KNOTE_WRITE)
        event.events |= EPOLLOUT;
    return epoll_ctl(epoll_fd, operation, fd, &event) < 0 ? -errno : 0;
}

static int epoll_watch(void *backend, int fd, struct kqn_entry *entry, unsigned wanted)
{
    struct epoll *epoll = backend;
    int operation = EPOLL_CTL_MOD;
    if (wanted == 0)
        operation = EPOLL_CTL_DEL;
    else if (entry->watched == 0)
        operation = EPOLL_CTL_ADD;
    int rc = control(epoll->fd, operation, fd, entry, wanted);
    if (rc == -EEXIST) /* forgotten, and yet not closed: the old registration becomes the new one */
        rc = control(epoll->fd, EPOLL_CTL_MOD, fd, entry, wanted);
    if (rc == 0)
        entry->watched = (uint8_t)wanted;
    return rc;
}

static int wait_some(struct epoll *epoll, int max, int64_t timeout_ns)
{
#ifdef SYS_epoll_pwait2
    if (timeout_ns > 0 && !epoll->in_milliseconds) {
        struct timespec spec;
        kqn_timeout_spec(&spec, timeout_ns);
        long count = syscall(SYS_epoll_pwait2, epoll->fd, epoll->events, max, &spec, NULL, 0);
        if (count >= 0 || (errno != ENOSYS && errno != EPERM))
            return (int)count;
        epoll->in_milliseconds = true; /* Linux < 5.11, or a sandbox that does not know the call */
    }
#endif
    int timeout_ms = timeout_ns < 0 ? -1 : (int)((kqn_timeout_clamp(timeout_ns) + 999999) / 1000000);
    return epoll_wait(epoll->fd, epoll->events, max, timeout_ms);
}

/* Registers in another instance all that is watched. */
static int copy_watches(struct epoll *epoll, int new_fd)
{
    for (int fd = 0; fd < kqn_table_limit(epoll->table); fd++) {
        struct kqn_entry *entry = kqn_table_find(epoll->table, fd);
        if (entry == NULL || entry->watched == 0)
            continue;
        int rc = control(new_fd, EPOLL_CTL_ADD, fd, entry, entry->watched);
        if (rc == -EBADF)
            kqn_table_drop(epoll->table, entry); /* closed without forget(), as its knotes would be on a kqueue */
        else if (rc < 0)
            return rc;
    }
    return 0;
}

/* The last resort. Levels are told anew, so no event is lost. */
static int rebuild(struct epoll *epoll)
{
    int new_fd = epoll_create1(EPOLL_CLOEXEC);
    if (new_fd < 0)
        return -errno;
    int rc = copy_watches(epoll, new_fd);
    if (rc < 0) {
        close(new_fd);
        return rc;
    }
    close(epoll->fd);
    epoll->fd = new_fd;
    return 0;
}

/* Whether a registration that the table has dropped is gone. As long as nothing is watched under its number, a
 * registration of that number can only be the stale one; it is found if the number still is that file's. */
static bool remove_stale(struct epoll *epoll, int fd, const struct kqn_entry *entry)
{
    return entry->watched == 0 && control(epoll->fd, EPOLL_CTL_DEL, fd, entry, 0) == 0;
}

/* Without descriptors or memory for a new instance, stale events go on ending each wait at once; a moment's sleep
 * keeps the loop from spinning until there are some. */
static void pause_a_moment(void)
{
    struct timespec moment = {.tv_nsec = 1000000};
    nanosleep(&moment, NULL);
}

static int epoll_wait_ready(void *backend, struct kqn_ready *ready, int max, int64_t timeout_ns)
{
    struct epoll *epoll = backend;
    int event_count = wait_some(epoll, max < KQN_READY_MAX ? max : KQN_READY_MAX, timeout_ns);
    if (event_count < 0)
        return -errno;
    const struct kqn_table table = *epoll->table; /* a copy stays in registers */
    struct kqn_ready *next = ready;
    bool is_stale = false;
    for (const struct epoll_event *event = epoll->events, *end = event + event_count; event < end; event++) {
        uint64_t data = event->data.u64;
        int fd = (int)(uint32_t)data;
        struct kqn_entry *entry = kqn_table_at(&table, fd);
        if (entry->generation == (uint32_t)(data >> 32))
            *next++ = (struct kqn_ready){.entry = entry, .fd = fd, .conditions = event->events};
        else if (!remove_stale(epoll, fd, entry))
            is_stale = true;
    }
    if (is_stale && rebuild(epoll) < 0 && next == ready)
        pause_a_moment();
    return (int)(next - ready);
}

static void epoll_forget(void *backend, int fd, struct kqn_entry *entry)
{
    struct epoll *epoll = backend;
    if (entry->watched != 0 && kqn_fork_happened())
        control(epoll->fd, EPOLL_CTL_DEL, fd, entry, 0);
}

static void epoll_close(void *backend)
{
    struct epoll *epoll = backend;
    close(epoll->fd);
    free(epoll);
}

const struct kqn_readiness kqn_epoll = {
    .open = epoll_open,
    .watch = epoll_watch,
    .wait = epoll_wait_ready,
    .forget = epoll_forget,
    .close = epoll_close,
};
#endif
