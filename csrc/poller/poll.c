/* poll.c: readiness by poll().
 * An array of what is watched, without gaps: an entry knows its slot, and the last one moves into a slot that falls
 * free. Each wait costs a look at all of them. The scan starts behind the last descriptor reported, so that a short
 * array of results goes round. */
#define _GNU_SOURCE 1 /* ppoll(), POLLRDHUP */
#include "poller/poller.h"

#if !KQN_HAVE_KQUEUE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>

#include "poller/readiness.h"
#include "poller/timeout.h"

#ifndef POLLRDHUP
#define POLLRDHUP 0 /* the end of input is then found by reading */
#endif
_Static_assert(POLLIN == KQN_READY_READ && POLLOUT == KQN_READY_WRITE && POLLERR == KQN_READY_ERROR &&
                   POLLHUP == KQN_READY_HANGUP,
               "all but POLLRDHUP are handed on as they are");

struct poll {
    struct kqn_table *table; /* borrowed */
    struct pollfd *slots;    /* owned */
    uint32_t count;
    uint32_t capacity;
    uint32_t cursor; /* the slot that the next scan begins with, if there is one */
};

static int poll_open(void **out, struct kqn_table *table)
{
    struct poll *poll = calloc(1, sizeof(*poll));
    if (poll == NULL)
        return -ENOMEM;
    poll->table = table;
    *out = poll;
    return 0;
}

/* Takes a slot for fd. poll() would only say later that the descriptor is closed. */
static int slot_add(struct poll *poll, int fd, struct kqn_entry *entry)
{
    if (fcntl(fd, F_GETFD) < 0)
        return -errno;
    if (poll->count == poll->capacity) {
        uint32_t capacity = poll->capacity == 0 ? 64 : poll->capacity * 2;
        struct pollfd *slots = realloc(poll->slots, capacity * sizeof(*slots));
        if (slots == NULL)
            return -ENOMEM;
        poll->slots = slots;
        poll->capacity = capacity;
    }
    entry->slot = poll->count++;
    poll->slots[entry->slot] = (struct pollfd){.fd = fd};
    return 0;
}

static void slot_remove(struct poll *poll, uint32_t slot)
{
    poll->slots[slot] = poll->slots[--poll->count];
    if (slot < poll->count)
        kqn_table_at(poll->table, poll->slots[slot].fd)->slot = slot;
}

static int poll_watch(void *backend, int fd, struct kqn_entry *entry, unsigned wanted)
{
    struct poll *poll = backend;
    if (wanted == 0) {
        slot_remove(poll, entry->slot);
    } else {
        int rc = entry->watched == 0 ? slot_add(poll, fd, entry) : 0;
        if (rc < 0)
            return rc;
        int events = 0;
        if (wanted & KQN_KNOTE_READ)
            events |= POLLIN | POLLRDHUP;
        if (wanted & KQN_KNOTE_WRITE)
            events |= POLLOUT;
        poll->slots[entry->slot].events = (short)events;
    }
    entry->watched = (uint8_t)wanted;
    return 0;
}

/* The knotes of descriptors that were closed without forget() vanish, as on a kqueue. Backwards, so that what moves
 * into a free slot has been looked at. */
static void remove_closed(struct poll *poll)
{
    for (uint32_t slot = poll->count; slot-- > 0;) {
        if (!(poll->slots[slot].revents & POLLNVAL))
            continue;
        kqn_table_drop(poll->table, kqn_table_at(poll->table, poll->slots[slot].fd));
        slot_remove(poll, slot);
    }
}

static unsigned conditions_of(const struct pollfd *pollfd)
{
    unsigned conditions = (unsigned)pollfd->revents & (POLLIN | POLLOUT | POLLERR | POLLHUP);
    return pollfd->revents & POLLRDHUP ? conditions | KQN_READY_EOF : conditions;
}

/* Reports out of the event_count slots that have something to say: poll() has counted them, so the scan ends within
 * one round. */
static int scan(struct poll *poll, struct kqn_ready *ready, int max, int event_count)
{
    const struct kqn_table table = *poll->table; /* a copy stays in registers, as these do */
    const struct pollfd *slots = poll->slots;
    uint32_t slot_count = poll->count, slot = poll->cursor < slot_count ? poll->cursor : 0;
    struct kqn_ready *next = ready;
    for (const struct kqn_ready *end = ready + max; event_count > 0 && next < end;) {
        const struct pollfd *pollfd = &slots[slot];
        if (++slot == slot_count)
            slot = 0;
        if (pollfd->revents == 0)
            continue;
        event_count--;
        if (pollfd->revents & POLLNVAL)
            continue;
        struct kqn_entry *entry = kqn_table_at(&table, pollfd->fd);
        *next++ = (struct kqn_ready){.entry = entry, .fd = pollfd->fd, .conditions = conditions_of(pollfd)};
    }
    poll->cursor = slot;
    return (int)(next - ready);
}

static int poll_wait(void *backend, struct kqn_ready *ready, int max, int64_t timeout_ns)
{
    struct poll *poll = backend;
    struct timespec spec;
    int event_count = ppoll(poll->slots, poll->count, kqn_timeout_spec(&spec, timeout_ns), NULL);
    if (event_count < 0)
        return -errno;
    int count = scan(poll, ready, max < KQN_READY_MAX ? max : KQN_READY_MAX, event_count);
    if (count < event_count)
        remove_closed(poll);
    return count;
}

static void poll_forget(void *backend, int fd, struct kqn_entry *entry)
{
    (void)fd;
    if (entry->watched != 0)
        slot_remove(backend, entry->slot);
}

static void poll_close(void *backend)
{
    struct poll *poll = backend;
    free(poll->slots);
    free(poll);
}

const struct kqn_readiness kqn_poll = {
    .open = poll_open,
    .watch = poll_watch,
    .wait = poll_wait,
    .forget = poll_forget,
    .close = poll_close,
};
#endif
