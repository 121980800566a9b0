/* kqueue.c: the poller where the kernel speaks kevent: macOS, FreeBSD, NetBSD, OpenBSD, DragonFly.
 * One wait is one kevent(). The poller adds a single knote of its own, for wake(), whose events the caller never
 * sees: EVFILT_USER where the running kernel has it, else the READ knote of a socket pair. */
#include "poller/poller.h"

#if KQN_HAVE_KQUEUE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

#include "poller/fork.h"
#include "poller/timeout.h"
#include "poller/wakeup.h"

/* NetBSD: the numbers of changes and of events are size_t, elsewhere int. */
#ifdef __NetBSD__
#define COUNT(count) ((size_t)(count))
#else
#define COUNT(count) (count)
#endif

struct kqn_poller {
    int fd;                   /* the kqueue; owned */
    int wake_filter;          /* EVFILT_USER, or EVFILT_READ of wakeup.read_fd */
    uintptr_t wake_ident;     /* 0, or wakeup.read_fd */
    struct kqn_wakeup wakeup; /* opened where there is no EVFILT_USER */
};

static const struct timespec at_once = {0, 0};

static int queue_open(void)
{
#ifdef __NetBSD__
    int fd = kqueue1(O_CLOEXEC);
    return fd < 0 ? -errno : fd;
#else
    int fd = kqueue();
    if (fd < 0)
        return -errno;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
#endif
}

#ifdef EVFILT_USER
/* NOTE_TRIGGER travels alone: FreeBSD takes an EV_CLEAR beside it for a command to forget the trigger. */
static int user_event_trigger(int fd)
{
    struct kevent change;
    kqn_event_set(&change, 0, EVFILT_USER, 0, 0);
    change.fflags = NOTE_TRIGGER;
    return kevent(fd, &change, 1, NULL, 0, &at_once) < 0 ? -errno : 0;
}

/* Whether wake() can use EVFILT_USER, which is then registered. The header may promise what an older kernel does not
 * have (NetBSD got it in 10, OpenBSD in 7.8), so it is added, triggered and taken out once. Without EV_CLEAR it
 * would stay triggered. */
static bool user_event_open(int fd)
{
    struct kevent change, event;
    kqn_event_set(&change, 0, EVFILT_USER, EV_ADD | EV_CLEAR, 0);
    if (kevent(fd, &change, 1, NULL, 0, &at_once) < 0)
        return false;
    if (user_event_trigger(fd) == 0 && kevent(fd, NULL, 0, &event, 1, &at_once) == 1 && !(event.flags & EV_ERROR) &&
        event.filter == EVFILT_USER)
        return true;
    kqn_event_set(&change, 0, EVFILT_USER, EV_DELETE, 0);
    kevent(fd, &change, 1, NULL, 0, &at_once);
    return false;
}
#endif

static int wake_open(struct kqn_poller *poller)
{
#ifdef EVFILT_USER
    if (user_event_open(poller->fd)) {
        poller->wake_filter = EVFILT_USER;
        return 0;
    }
#endif
    int rc = kqn_wakeup_open(&poller->wakeup);
    if (rc < 0)
        return rc;
    struct kevent change;
    kqn_event_set(&change, poller->wakeup.read_fd, EVFILT_READ, EV_ADD, 0);
    if (kevent(poller->fd, &change, 1, NULL, 0, &at_once) < 0) {
        rc = -errno;
        kqn_wakeup_close(&poller->wakeup);
        return rc;
    }
    poller->wake_filter = EVFILT_READ;
    poller->wake_ident = (uintptr_t)poller->wakeup.read_fd;
    return 0;
}

int kqn_poller_open(struct kqn_poller **out, enum kqn_poller_kind kind)
{
    if (!kqn_poller_available(kind))
        return -ENOSYS;
    int rc = kqn_fork_watch();
    if (rc < 0)
        return rc;
    struct kqn_poller *poller = calloc(1, sizeof(*poller));
    if (poller == NULL)
        return -ENOMEM;
    poller->wakeup.read_fd = -1;
    rc = queue_open();
    if (rc < 0)
        goto fail_queue;
    poller->fd = rc;
    rc = wake_open(poller);
    if (rc < 0)
        goto fail_wake;
    *out = poller;
    return 0;

fail_wake:
    close(poller->fd);
fail_queue:
    free(poller);
    return rc;
}

/* Takes the wake-up's own event out of the array; it is there at most once. */
static int remove_wake(struct kqn_poller *poller, struct kevent *events, int count)
{
    for (int i = 0; i < count; i++) {
        if (events[i].ident != poller->wake_ident || (int)events[i].filter != poller->wake_filter)
            continue;
        if (poller->wakeup.read_fd >= 0)
            kqn_wakeup_take(&poller->wakeup);
        memmove(&events[i], &events[i + 1], (size_t)(count - i - 1) * sizeof(*events));
        return count - 1;
    }
    return count;
}

int kqn_poller_wait(struct kqn_poller *poller, const struct kevent *changes, int change_count, struct kevent *events,
                    int max_events, int64_t timeout_ns)
{
    if (max_events < 1 || change_count < 0 || change_count > max_events)
        return -EINVAL;
    struct timespec spec;
    int count = kevent(poller->fd, changes, COUNT(change_count), events, COUNT(max_events),
                       kqn_timeout_spec(&spec, timeout_ns));
    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    return remove_wake(poller, events, count);
}

int kqn_poller_wake(struct kqn_poller *poller)
{
#ifdef EVFILT_USER
    if (poller->wakeup.read_fd < 0)
        return user_event_trigger(poller->fd);
#endif
    return kqn_wakeup_send(&poller->wakeup);
}

/* close() itself drops the knotes of a kqueue. */
void kqn_poller_forget(struct kqn_poller *poller, int fd)
{
    (void)poller;
    (void)fd;
}

void kqn_poller_close(struct kqn_poller *poller)
{
    if (poller == NULL)
        return;
    close(poller->fd);
    kqn_wakeup_close(&poller->wakeup);
    free(poller);
}
#endif
