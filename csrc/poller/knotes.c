/* knotes.c: kevent's rules where the kernel has no kevent.
 * The table holds what is registered; a backend (readiness.h) tells who is ready. In the steady state a wait is one
 * call of the backend, and an event costs no system call.
 *
 * A change alters an entry; the backend is told once for a run of adjacent changes of one descriptor, and only if
 * what there is to watch has changed. If it refuses, every change of the run that asked for more comes back with the
 * reason, the others hold, and the table says what is true.
 * The poller's own descriptor for wake() is watched without a knote, so it brings no event. */
#include "poller/poller.h"

#if !KQN_HAVE_KQUEUE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "poller/fork.h"
#include "poller/readiness.h"
#include "poller/wakeup.h"

struct kqn_poller {
    const struct kqn_readiness *readiness;
    void *backend; /* owned; the readiness functions' own */
    struct kqn_table table;
    struct kqn_wakeup wakeup;
    struct kqn_ready ready[KQN_READY_MAX];
};

struct run { /* adjacent changes of one descriptor */
    const struct kevent *changes;
    int count;
    int fd;
};

static const struct kqn_readiness *readiness_of(enum kqn_poller_kind kind)
{
    if (kind == KQN_POLLER_AUTO)
        kind = kqn_poller_default();
#if KQN_HAVE_EPOLL
    if (kind == KQN_POLLER_EPOLL)
        return &kqn_epoll;
#endif
    return kind == KQN_POLLER_POLL ? &kqn_poll : &kqn_select;
}

static int wake_watch(struct kqn_poller *poller)
{
    int fd = poller->wakeup.read_fd;
    struct kqn_entry *entry = kqn_table_add(&poller->table, fd);
    if (entry == NULL)
        return -ENOMEM;
    return poller->readiness->watch(poller->backend, fd, entry, KQN_KNOTE_READ);
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
    poller->readiness = readiness_of(kind);
    rc = poller->readiness->open(&poller->backend, &poller->table);
    if (rc < 0)
        goto fail_backend;
    rc = kqn_wakeup_open(&poller->wakeup);
    if (rc < 0)
        goto fail_wakeup;
    rc = wake_watch(poller);
    if (rc < 0)
        goto fail_watch;
    *out = poller;
    return 0;

fail_watch:
    kqn_wakeup_close(&poller->wakeup);
    kqn_table_free(&poller->table);
fail_wakeup:
    poller->readiness->close(poller->backend);
fail_backend:
    free(poller);
    return rc;
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/* 0: a filter that we do not have. */
static unsigned knote_of(const struct kevent *change)
{
    if (change->filter == EVFILT_READ)
        return KQN_KNOTE_READ;
    return change->filter == EVFILT_WRITE ? KQN_KNOTE_WRITE : 0;
}

/* Systems disagree on what two contrary flags mean together, so they are refused. */
static bool flags_are_valid(unsigned flags)
{
    if (flags == EV_DELETE)
        return true;
    if (flags == 0 || (flags & ~(unsigned)(EV_ADD | EV_ENABLE | EV_DISABLE)))
        return false;
    return !((flags & EV_ENABLE) && (flags & EV_DISABLE));
}

/* What one change makes of its entry: 0, or the errno of its record and nothing has changed.
 * refused: why the backend will not watch more than it does; 0: it will. */
static int change_apply(struct kqn_entry *entry, const struct kevent *change, int refused)
{
    unsigned knote = knote_of(change);
    if (knote == 0 || !flags_are_valid(change->flags))
        return EINVAL;
    if (refused == EBADF || (refused != 0 && (change->flags & (EV_ADD | EV_ENABLE))))
        return refused;
    unsigned registered = entry->registered, enabled = entry->enabled;
    if (!(registered & knote)) {
        if (!(change->flags & EV_ADD))
            return ENOENT;
        registered |= knote;
        enabled |= knote;
    }
    entry->udata[knote == KQN_KNOTE_WRITE] = kqn_event_udata(change);
    if (change->flags & EV_DELETE)
        registered &= ~knote;
    if (change->flags & EV_ENABLE)
        enabled |= knote;
    if (change->flags & (EV_DISABLE | EV_DELETE))
        enabled &= ~knote;
    entry->registered = (uint8_t)registered;
    entry->enabled = (uint8_t)enabled;
    return 0;
}

/* Tells the backend what the run's changes will come to. 0, or the errno for those that ask for more. */
static int run_watch(struct kqn_poller *poller, const struct run *run, struct kqn_entry *entry)
{
    struct kqn_entry planned = *entry;
    for (int i = 0; i < run->count; i++)
        (void)change_apply(&planned, &run->changes[i], 0);
    int rc = 0;
    if (planned.enabled != entry->watched)
        rc = poller->readiness->watch(poller->backend, run->fd, entry, planned.enabled);
    else if (entry->registered == 0 && !is_open(run->fd))
        rc = -EBADF;
    if (rc == -EBADF || rc == -ENOENT)
        kqn_table_drop(&poller->table, entry); /* closed without forget(), and the knotes went with it */
    return -rc;
}

/* The entry of the run's descriptor, or NULL and why in *refused. */
static struct kqn_entry *run_entry(struct kqn_poller *poller, const struct run *run, int *refused)
{
    *refused = EBADF;
    if (run->changes->ident > INT_MAX || run->fd == poller->wakeup.read_fd)
        return NULL;
    struct kqn_entry *entry = kqn_table_find(&poller->table, run->fd);
    if (entry == NULL && is_open(run->fd)) { /* asked first, or a wild number would take memory */
        *refused = ENOMEM;
        entry = kqn_table_add(&poller->table, run->fd);
    }
    return entry;
}

/* Applies the changes, and writes a record for each that fails; the number of records. */
static int run_commit(const struct run *run, struct kqn_entry *entry, int refused, struct kevent *records)
{
    int count = 0;
    for (int i = 0; i < run->count; i++) {
        struct kevent record = run->changes[i];
        int error = change_apply(entry, &record, refused);
        if (error == ENOENT && !is_open(run->fd))
            error = EBADF;
        if (error == 0)
            continue;
        record.flags = EV_ERROR;
        record.data = error;
        records[count++] = record;
    }
    return count;
}

static int run_apply(struct kqn_poller *poller, const struct run *run, struct kevent *records)
{
    int refused;
    struct kqn_entry *entry = run_entry(poller, run, &refused);
    if (entry == NULL)
        return run_commit(run, &(struct kqn_entry){0}, refused, records);
    refused = run_watch(poller, run, entry);
    if (refused == ENOENT) /* the number is another file's now: once more, for that one */
        refused = run_watch(poller, run, entry);
    poller->table.both_count -= entry->enabled == KQN_KNOTE_BOTH;
    int count = run_commit(run, entry, refused, records);
    poller->table.both_count += entry->enabled == KQN_KNOTE_BOTH;
    if (entry->enabled != entry->watched) /* refused: less than was planned, and never more than is watched */
        poller->readiness->watch(poller->backend, run->fd, entry, entry->enabled);
    return count;
}

static int changes_apply(struct kqn_poller *poller, const struct kevent *changes, int change_count,
                         struct kevent *records)
{
    int record_count = 0;
    for (int i = 0; i < change_count;) {
        struct run run = {.changes = &changes[i], .count = 1, .fd = (int)changes[i].ident};
        while (i + run.count < change_count && changes[i + run.count].ident == changes[i].ident)
            run.count++;
        record_count += run_apply(poller, &run, &records[record_count]);
        i += run.count;
    }
    return record_count;
}

/* How many descriptors to ask for, so that their events fit whoever they are: with both knotes enabled a descriptor
 * may bring two. Asking for more and dropping some would not do: epoll puts what it reported behind the others, and
 * those dropped might be the same ones each time. */
static int descriptors_that_fit(int max_events, int both_count)
{
    int count = max_events - both_count;
    if (count < max_events / 2)
        count = max_events / 2;
    return count > 0 ? count : 1;
}

/* Reads the socket's error, once: this takes it from the socket, where a kqueue only looks at it. */
static void error_take(struct kqn_ready *ready)
{
    int error = 0;
    socklen_t size = sizeof(error);
    if (ready->entry->error == 0 && getsockopt(ready->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0)
        ready->entry->error = (uint16_t)error;
    if (ready->entry->error != 0)
        ready->conditions |= KQN_READY_HANGUP; /* a stream does not survive its error */
}

static inline void event_fill(struct kevent *event, const struct kqn_ready *ready, bool is_write)
{
    const struct kqn_entry *entry = ready->entry;
    unsigned end = KQN_READY_HANGUP | (is_write ? KQN_READY_ERROR : KQN_READY_EOF);
    event->ident = (uintptr_t)ready->fd;
    event->filter = is_write ? EVFILT_WRITE : EVFILT_READ;
    event->flags = ready->conditions & end ? EV_EOF : 0;
    event->fflags = entry->error;
    event->data = (ready->conditions & (is_write ? KQN_READY_WRITE : KQN_READY_READ)) != 0; /* a hint */
    event->udata = (void *)(uintptr_t)entry->udata[is_write];
}

/* Both knotes are enabled: either may be due, or both, and there may be one place left. Then they take turns. */
static struct kevent *events_fill_both(struct kevent *event, const struct kevent *end, const struct kqn_ready *ready)
{
    bool reads = (ready->conditions & ~(unsigned)KQN_READY_WRITE) != 0;
    bool writes = (ready->conditions & (KQN_READY_WRITE | KQN_READY_HANGUP | KQN_READY_ERROR)) != 0;
    if (reads && writes && end - event == 1) {
        event_fill(event++, ready, ready->entry->write_first);
        ready->entry->write_first ^= 1;
        return event;
    }
    if (reads)
        event_fill(event++, ready, false);
    if (writes)
        event_fill(event++, ready, true);
    return event;
}

/* Turns who is ready into events. With one knote enabled only its conditions are watched, so it is due. */
static int events_fill(struct kqn_poller *poller, int ready_count, struct kevent *events, int max_events)
{
    struct kevent *event = events;
    const struct kevent *end = events + max_events;
    struct kqn_ready *ready = poller->ready;
    for (const struct kqn_ready *last = ready + ready_count; ready < last && event < end; ready++) {
        if (ready->conditions & KQN_READY_ERROR)
            error_take(ready);
        unsigned enabled = ready->entry->enabled;
        if (enabled == KQN_KNOTE_READ)
            event_fill(event++, ready, false);
        else if (enabled == KQN_KNOTE_WRITE)
            event_fill(event++, ready, true);
        else if (enabled == KQN_KNOTE_BOTH)
            event = events_fill_both(event, end, ready);
        else if (ready->fd == poller->wakeup.read_fd)
            kqn_wakeup_take(&poller->wakeup);
    }
    return (int)(event - events);
}

int kqn_poller_wait(struct kqn_poller *poller, const struct kevent *changes, int change_count, struct kevent *events,
                    int max_events, int64_t timeout_ns)
{
    if (max_events < 1 || change_count < 0 || change_count > max_events)
        return -EINVAL;
    int record_count = changes_apply(poller, changes, change_count, events);
    if (record_count > 0)
        return record_count;
    int wanted = descriptors_that_fit(max_events, poller->table.both_count);
    int ready_count = poller->readiness->wait(poller->backend, poller->ready, wanted, timeout_ns);
    if (ready_count < 0)
        return ready_count == -EINTR ? 0 : ready_count;
    return events_fill(poller, ready_count, events, max_events);
}

int kqn_poller_wake(struct kqn_poller *poller)
{
    return kqn_wakeup_send(&poller->wakeup);
}

void kqn_poller_forget(struct kqn_poller *poller, int fd)
{
    struct kqn_entry *entry = fd < 0 ? NULL : kqn_table_find(&poller->table, fd);
    if (entry == NULL)
        return;
    poller->readiness->forget(poller->backend, fd, entry);
    kqn_table_drop(&poller->table, entry);
}

void kqn_poller_close(struct kqn_poller *poller)
{
    if (poller == NULL)
        return;
    poller->readiness->close(poller->backend);
    kqn_wakeup_close(&poller->wakeup);
    kqn_table_free(&poller->table);
    free(poller);
}
#endif
