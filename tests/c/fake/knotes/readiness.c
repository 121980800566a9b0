/* readiness.c: who is ready, of the simulated system, under the real knotes.c and table.c.
 * In place of epoll, with its rules: a registration for each descriptor that ends with its close, conditions that are
 * reported whether asked for or not, an error that SO_ERROR takes away. system.c has the other calls that knotes.c
 * makes. */
#include "poller/readiness.h"

#include <errno.h>
#include <string.h>

#include "../fibers.h"
#include "../judge.h"
#include "../poller.h"
#include "../sockets.h"
#include "../world.h"
#include "knotes.h"

struct registration {
    struct kqn_entry *entry;
    unsigned wanted;
    uint32_t owner; /* of the number, then */
};

struct backend {
    struct registration list[MAX_DESCRIPTORS];
    struct kqn_table *table;
    struct gone gone;
    int turn; /* the number that the next look begins with */
};

static struct backend *backends[MAX_LOOPS]; /* in the order of the loops */

void fake_poller_begin(void)
{
    memset(backends, 0, sizeof(backends));
}

int fake_poller_count(void)
{
    int count = 0;
    for (int i = 0; i < MAX_LOOPS; i++)
        count += backends[i] != NULL;
    return count;
}

void fake_poller_dropped(int fd)
{
    for (int i = 0; i < MAX_LOOPS; i++)
        if (backends[i])
            backends[i]->list[fd] = (struct registration){0};
}

unsigned fake_poller_knotes(int loop, int fd)
{
    const struct kqn_entry *entry = kqn_table_find(backends[loop]->table, fd);
    unsigned registered = entry ? entry->registered : 0, enabled = entry ? entry->enabled : 0;
    return (registered & KQN_KNOTE_READ ? KNOTE_READ : 0) | (enabled & KQN_KNOTE_READ ? KNOTE_READ_ENABLED : 0) |
           (registered & KQN_KNOTE_WRITE ? KNOTE_WRITE : 0);
}

struct gone *gone_of_loop(int loop)
{
    return &backends[loop]->gone;
}

static int fake_open(void **out, struct kqn_table *table)
{
    int error = world_failure(CALL_QUEUE);
    struct backend *backend = error ? NULL : world_alloc(sizeof(*backend));
    if (!backend)
        return error ? -error : -ENOMEM;
    memset(backend, 0, sizeof(*backend));
    backend->table = table;
    int place = 0;
    while (backends[place])
        place++;
    *out = backends[place] = backend;
    return 0;
}

static void fake_close(void *closed)
{
    for (int i = 0; i < MAX_LOOPS; i++)
        if (backends[i] == closed)
            backends[i] = NULL;
    world_free(closed);
}

/* --- Registrations --- */

static int fake_watch(void *of, int fd, struct kqn_entry *entry, unsigned wanted)
{
    struct backend *backend = of;
    struct registration *registration = &backend->list[fd];
    const struct socket *socket = socket_at(fd);
    if (entry->watched == wanted)
        world_fail("fd %d is watched for %u already", fd, wanted);
    if (!socket)
        return -EBADF;
    if (entry->watched != 0 && registration->owner != socket->owner)
        return -ENOENT;
    int error = wanted & ~(unsigned)entry->watched ? world_failure(CALL_CHANGE) : 0;
    if (error && socket->client)
        socket->client->was_refused = true;
    world_trace("watch", fd, error ? -error : (int)wanted);
    if (error)
        return -ENOMEM;
    *registration = (struct registration){.entry = entry, .wanted = wanted, .owner = socket->owner};
    entry->watched = (uint8_t)wanted;
    return 0;
}

static void fake_forget(void *of, int fd, struct kqn_entry *entry)
{
    struct backend *backend = of;
    if (entry->registered & KQN_KNOTE_READ)
        remember_gone(&backend->gone, fd, EVFILT_READ, entry->udata[0]);
    if (entry->registered & KQN_KNOTE_WRITE)
        remember_gone(&backend->gone, fd, EVFILT_WRITE, entry->udata[1]);
    backend->list[fd] = (struct registration){0};
}

/* --- Who is ready --- */

static uint32_t conditions_of(int fd, unsigned wanted)
{
    uint32_t conditions = 0;
    if ((wanted & KQN_KNOTE_READ) && socket_is_readable(fd))
        conditions |= KQN_READY_READ;
    if ((wanted & KQN_KNOTE_READ) && socket_has_ended(fd, false))
        conditions |= KQN_READY_EOF;
    if ((wanted & KQN_KNOTE_WRITE) && socket_is_writable(fd))
        conditions |= KQN_READY_WRITE;
    if (wanted && socket_error(fd))
        conditions |= KQN_READY_ERROR;
    if (wanted && socket_has_ended(fd, false) && socket_has_ended(fd, true))
        conditions |= KQN_READY_HANGUP;
    return conditions;
}

static bool anyone_is_ready(void *of)
{
    const struct backend *backend = of;
    for (int fd = FIRST_DESCRIPTOR; fd < sockets.end; fd++)
        if (conditions_of(fd, backend->list[fd].wanted))
            return true;
    return false;
}

/* What is wanted and not so, as a system may say by mistake. */
static uint32_t spurious(unsigned wanted)
{
    bool is_due = wanted && world_fault(FAULT_EVENT_SPURIOUS);
    return !is_due ? 0 : wanted & KQN_KNOTE_READ ? KQN_READY_READ : KQN_READY_WRITE;
}

static int fake_wait(void *of, struct kqn_ready *ready, int max, int64_t timeout_ns)
{
    struct backend *backend = of;
    int error = world_failure(CALL_WAIT);
    if (error && error != EINTR)
        judge_loop_fails(world.loop);
    if (error)
        return -error;
    fiber_wait(anyone_is_ready, backend, timeout_ns);
    int count = 0, numbers = sockets.end - FIRST_DESCRIPTOR;
    backend->turn++;
    for (int i = 0; i < numbers && count < max; i++) {
        int fd = FIRST_DESCRIPTOR + (backend->turn + i) % numbers;
        unsigned wanted = backend->list[fd].wanted;
        uint32_t conditions = conditions_of(fd, wanted);
        if (conditions == 0)
            conditions = spurious(wanted);
        else if (world_fault(FAULT_EVENT_DELAYED))
            conditions = 0;
        if (conditions)
            ready[count++] = (struct kqn_ready){backend->list[fd].entry, fd, conditions};
    }
    return count;
}

#define READINESS                                                                                                      \
    {.open = fake_open, .watch = fake_watch, .wait = fake_wait, .forget = fake_forget, .close = fake_close}
const struct kqn_readiness kqn_epoll = READINESS;
const struct kqn_readiness kqn_poll = READINESS;
const struct kqn_readiness kqn_select = READINESS;
