/* kqueue.c: poller.h over the simulated system, with a kqueue's own rules.
 * Level-triggered knotes; EV_ADD does not enable a disabled one; a failed change comes back as an EV_ERROR record, and
 * the wait then brings nothing else; EV_EOF comes while bytes are still there, with the socket's error in fflags; a
 * close takes the knotes along.
 * Faults put events in another order, double them, keep them back, make them up, and bring those of connections that
 * have gone. */
#include <errno.h>
#include <string.h>

#include "disturb.h"
#include "fibers.h"
#include "judge.h"
#include "poller.h"
#include "poller/poller.h"
#include "sockets.h"
#include "world.h"

struct knote {
    bool is_registered;
    bool is_enabled;
    uint64_t udata;
};

struct kqn_poller {
    struct knote knotes[MAX_DESCRIPTORS][2]; /* [1]: WRITE */
    struct gone gone;
    bool is_woken;
    int turn; /* the number that the next look begins with */
};

static struct kqn_poller *pollers[MAX_LOOPS];

void fake_poller_begin(void)
{
    memset(pollers, 0, sizeof(pollers));
}

int fake_poller_count(void)
{
    int count = 0;
    for (int i = 0; i < MAX_LOOPS; i++)
        count += pollers[i] != NULL;
    return count;
}

int kqn_poller_open(struct kqn_poller **out, enum kqn_poller_kind kind)
{
    (void)kind;
    int error = world_failure(CALL_QUEUE);
    if (error)
        return -error;
    struct kqn_poller *poller = world_alloc(sizeof(*poller));
    if (!poller)
        return -ENOMEM;
    memset(poller, 0, sizeof(*poller));
    int place = 0;
    while (pollers[place])
        place++;
    *out = pollers[place] = poller;
    return 0;
}

void kqn_poller_close(struct kqn_poller *poller)
{
    for (int i = 0; i < MAX_LOOPS; i++)
        if (poller && pollers[i] == poller)
            pollers[i] = NULL;
    world_free(poller);
}

int kqn_poller_wake(struct kqn_poller *poller)
{
    world_trace("wake", -1, 0);
    poller->is_woken = true;
    return 0;
}

void kqn_poller_forget(struct kqn_poller *poller, int fd)
{
    (void)poller;
    (void)fd;
}

/* --- Knotes --- */

void fake_poller_dropped(int fd)
{
    for (int i = 0; i < MAX_LOOPS; i++) {
        for (int write = 0; pollers[i] && write < 2; write++) {
            struct knote *knote = &pollers[i]->knotes[fd][write];
            if (knote->is_registered)
                remember_gone(&pollers[i]->gone, fd, write ? EVFILT_WRITE : EVFILT_READ, knote->udata);
            *knote = (struct knote){0};
        }
    }
}

unsigned fake_poller_knotes(int loop, int fd)
{
    const struct knote *knotes = pollers[loop]->knotes[fd];
    return (knotes[0].is_registered ? KNOTE_READ : 0) | (knotes[0].is_enabled ? KNOTE_READ_ENABLED : 0) |
           (knotes[1].is_registered ? KNOTE_WRITE : 0);
}

/* A change that fails. One that takes something away does so only where that has gone already. */
static int refuse(struct kqn_poller *poller, const struct kevent *change, int error)
{
    int fd = (int)change->ident;
    if (change->flags & (EV_DELETE | EV_DISABLE)) {
        poller->knotes[fd][change->filter == EVFILT_WRITE] = (struct knote){0};
        return ENOENT;
    }
    if (sockets.list[fd].client)
        sockets.list[fd].client->was_refused = true;
    return error;
}

/* 0 or the errno of the change's record. */
static int apply(struct kqn_poller *poller, const struct kevent *change)
{
    int fd = (int)change->ident;
    if (!socket_at(fd)) {
        world_fail("a change of fd %d, which is not open", fd);
        return EBADF;
    }
    int error = world_failure(CALL_CHANGE);
    if (error)
        return refuse(poller, change, error);
    struct knote *knote = &poller->knotes[fd][change->filter == EVFILT_WRITE];
    if (!knote->is_registered && !(change->flags & EV_ADD))
        return ENOENT;
    if (change->flags & EV_DELETE) {
        *knote = (struct knote){0};
        return 0;
    }
    if (!knote->is_registered)
        *knote = (struct knote){.is_registered = true, .is_enabled = true};
    if (change->flags & EV_ENABLE)
        knote->is_enabled = true;
    if (change->flags & EV_DISABLE)
        knote->is_enabled = false;
    knote->udata = kqn_event_udata(change);
    return 0;
}

static int apply_all(struct kqn_poller *poller, const struct kevent *changes, int change_count, struct kevent *records)
{
    int count = 0;
    for (int i = 0; i < change_count; i++) {
        const struct kevent change = changes[i];
        int error = apply(poller, &change);
        world_trace(change.filter == EVFILT_WRITE ? "change WRITE" : "change READ", (int)change.ident,
                    error ? -error : change.flags);
        if (!error)
            continue;
        records[count] = change;
        records[count].flags = EV_ERROR;
        records[count++].data = error;
    }
    return count;
}

/* --- Events --- */

static bool is_ready(const struct kqn_poller *poller, int fd, int write)
{
    const struct knote *knote = &poller->knotes[fd][write];
    return knote->is_registered && knote->is_enabled && (write ? socket_is_writable(fd) : socket_is_readable(fd));
}

static bool anything_is_ready(void *context)
{
    const struct kqn_poller *poller = context;
    if (poller->is_woken)
        return true;
    for (int fd = FIRST_DESCRIPTOR; fd < sockets.end; fd++)
        if (is_ready(poller, fd, 0) || is_ready(poller, fd, 1))
            return true;
    return false;
}

static void fill(struct kevent *event, int fd, int write, uint64_t udata)
{
    kqn_event_set(event, fd, write ? EVFILT_WRITE : EVFILT_READ, EV_ADD, udata);
    event->data = write ? 1 : (intptr_t)socket_bytes(fd);
    if (socket_has_ended(fd, write)) {
        event->flags |= EV_EOF;
        event->fflags = (uint32_t)socket_error(fd);
    }
}

static int collect(struct kqn_poller *poller, struct kevent *events, int max_events)
{
    int count = 0, numbers = sockets.end - FIRST_DESCRIPTOR;
    poller->turn++;
    for (int i = 0; i < numbers && count < max_events; i++) {
        int fd = FIRST_DESCRIPTOR + (poller->turn + i) % numbers;
        for (int write = 0; write < 2 && count < max_events; write++) {
            const struct knote *knote = &poller->knotes[fd][write];
            bool is_due = is_ready(poller, fd, write)
                              ? !world_fault(FAULT_EVENT_DELAYED)
                              : knote->is_enabled && knote->is_registered && world_fault(FAULT_EVENT_SPURIOUS);
            if (is_due)
                fill(&events[count++], fd, write, knote->udata);
        }
    }
    return count;
}

int kqn_poller_wait(struct kqn_poller *poller, const struct kevent *changes, int change_count, struct kevent *events,
                    int max_events, int64_t timeout_ns)
{
    if (max_events < 1 || change_count < 0 || change_count > max_events)
        world_fail("a wait with %d changes and room for %d events", change_count, max_events);
    judge_turn(world.loop);
    int error = world_failure(CALL_WAIT);
    if (error && error != EINTR) {
        judge_loop_fails(world.loop);
        return -error;
    }
    int count = apply_all(poller, changes, change_count, events);
    if (count == 0 && !error) {
        fiber_wait(anything_is_ready, poller, timeout_ns);
        poller->is_woken = false;
        count = collect(poller, events, max_events);
        count = disturb(&poller->gone, events, count, max_events);
    }
    fiber_wakes();
    world_trace("wait", -1, count);
    return count;
}
