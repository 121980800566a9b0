/* inside.c: the judge's look into the server's own structures, after each turn and whenever nothing can go on. */
#include <string.h>

#include "fibers.h"
#include "judge.h"
#include "poller.h"
#include "server/connection.h"
#include "sockets.h"
#include "world.h"

enum {
    IDLE_TURNS_MAX = 60,
    LOOP_BYTES = 256 * 1024, /* of a loop's slab and of its poller's tables */
    HOOK_BYTES = 4 * 1024 * 1024,
};

static const struct kqn_worker *worker_at(int loop)
{
    return &judge.server->workers[loop];
}

/* --- Each connection --- */

static bool has_complete_message(const struct kqn_conn *conn)
{
    struct kqn_frame frame;
    size_t scanned = 0;
    return conn->in && kqn_framing_next(&judge.server->framing, conn->in->bytes + conn->in->begin,
                                        kqn_buffer_len(conn->in), false, &scanned, &frame) != 0;
}

/* What it must be waiting for: enum kqn_want. */
static unsigned due_wishes(const struct kqn_conn *conn)
{
    bool waits = conn->out || conn->has_more;
    unsigned write = waits && !conn->starved ? KQN_WANT_WRITE : 0;
    if (conn->state == KQN_CONN_HALF_CLOSED)
        return write;
    bool reads = conn->state == KQN_CONN_LINGERING || (conn->state == KQN_CONN_OPEN && !waits);
    return write | (reads ? KQN_WANT_READ : KQN_WANT_READ_KEPT);
}

static void check_conn(const struct kqn_conn *conn)
{
    int fd = conn->watch.fd;
    const struct socket *socket = socket_at(fd);
    bool waits =
        conn->state == KQN_CONN_HALF_CLOSED || conn->state == KQN_CONN_DRAINING || conn->state == KQN_CONN_FINISHING;
    if (!socket || socket->kind != SOCKET_CONNECTION || conn->state == KQN_CONN_ENDED)
        world_fail("fd %d is in the slab in state %d", fd, conn->state);
    else if (conn->in_batch != 0)
        world_fail("fd %d has %d messages in no batch", fd, conn->in_batch);
    else if (waits && !conn->out && !conn->has_more)
        world_fail("fd %d is in state %d and owed nothing", fd, conn->state);
    else if (conn->state == KQN_CONN_OPEN && !conn->out && !conn->has_more && has_complete_message(conn))
        world_fail("fd %d holds a complete message, nothing is unwritten, and it waits for no turn", fd);
    else if (conn->watch.wanted != due_wishes(conn))
        world_fail("fd %d in state %d waits for %u, not for %u", fd, conn->state, conn->watch.wanted, due_wishes(conn));
    else if (!conn->watch.dirty && conn->watch.told != conn->watch.wanted)
        world_fail("fd %d wants %u, and nobody will tell it", fd, conn->watch.wanted);
    else if (conn->out && kqn_buffer_len(conn->out) == 0)
        world_fail("fd %d holds an empty buffer", fd);
}

static void check_buffers(const struct kqn_worker *worker)
{
    const struct kqn_pool *pool = &worker->loop.pool;
    size_t held = kqn_buffer_block_bytes(worker->scratch);
    uint32_t lingering = 0, starved = 0, index = 0;
    const struct kqn_conn *conn;
    while ((conn = kqn_worker_next_conn(worker, &index))) {
        held += kqn_buffer_block_bytes(conn->in) + kqn_buffer_block_bytes(conn->out);
        lingering += conn->state == KQN_CONN_LINGERING;
        starved += conn->starved;
    }
    if (held != pool->taken_bytes)
        world_fail("%zu bytes of buffers are taken, and %zu held", pool->taken_bytes, held);
    if (pool->taken_bytes > pool->limit_bytes || pool->kept_bytes > KQN_POOL_KEPT_BYTES)
        world_fail("%zu bytes of buffers are taken and %zu kept", pool->taken_bytes, pool->kept_bytes);
    if (lingering != worker->lingering || starved != worker->starved)
        world_fail("%u linger and %u are starved, not %u and %u", lingering, starved, worker->lingering,
                   worker->starved);
    if (worker->scratch->end > 0 || worker->scratch->mark > 0 || worker->batch.count > 0 || worker->answering)
        world_fail("the turn has left answers or messages behind");
}

static void check_memory(void)
{
    int64_t each = (int64_t)judge.server->share_of_memory + 2 * KQN_POOL_KEPT_BYTES + LOOP_BYTES;
    if (judge.has_hook)
        each += HOOK_BYTES + 8 * (int64_t)judge.hook_bytes;
    if (world.live_bytes > judge.base_bytes + each * judge.server->worker_count)
        world_fail("%lld bytes are allocated", (long long)world.live_bytes);
}

static void check_count(void)
{
    int open = 0;
    for (int i = 0; i < clients.count; i++)
        open += clients.list[i].fd >= 0;
    int counted = atomic_load(&judge.server->open_connections);
    if (open != counted || counted > judge.settings.max_connections)
        world_fail("%d connections are open, %d counted, of at most %d", open, counted, judge.settings.max_connections);
}

/* Turns in which nothing moves, at one moment, with nothing going wrong: a few are fair, many are a spin. */
static void check_spin(int loop)
{
    struct idleness *idle = &judge.idle[loop];
    bool moves =
        idle->progress != world.progress || idle->faults != world.faults || world.now_ns - idle->now_ns > 1000000;
    idle->turns = moves ? 0 : idle->turns + 1;
    if (moves)
        idle->now_ns = world.now_ns;
    idle->progress = world.progress;
    idle->faults = world.faults;
    if (idle->turns > IDLE_TURNS_MAX)
        world_fail("loop %d spins", loop);
}

void judge_turn(int loop)
{
    const struct kqn_worker *worker = worker_at(loop);
    uint32_t index = 0;
    const struct kqn_conn *conn;
    while ((conn = kqn_worker_next_conn(worker, &index)))
        check_conn(conn);
    check_buffers(worker);
    check_memory();
    check_count();
    check_spin(loop);
    judge_sums();
    judge.turn_calls = 0;
}

/* --- When nothing can go on --- */

/* Nobody will come back to it by itself: so there must be nothing to do for it. */
static void check_rest(const struct kqn_conn *conn)
{
    const struct client *client = sockets.list[conn->watch.fd].client;
    bool owes = model_owes(&client->model, client->written);
    bool has_room = client->written - client->taken < client->out_room;
    bool has_input = client->sent > client->read || (client->has_half_closed && !client->end_is_read);
    if (conn->starved)
        return;
    if (client->is_reset)
        world_fail("client %d was reset, and the server does not look", client->index);
    else if (owes && has_room)
        world_fail("client %d is owed answers and takes them, and nothing wakes the server", client->index);
    else if (has_input && (client->server_shut || !owes))
        world_fail("client %d has sent something, and nothing wakes the server", client->index);
    else if (!owes && !client->server_shut && (client->end_is_read || client->model.is_over))
        world_fail("client %d is owed nothing more, and is not let go", client->index);
}

/* What the poller has is what the loop believes. READ_KEPT may be a wish alone: one that never read has no knote. */
static void check_knotes(int loop, const struct kqn_conn *conn)
{
    unsigned knotes = fake_poller_knotes(loop, conn->watch.fd), told = conn->watch.told;
    bool reads = knotes & KNOTE_READ_ENABLED, writes = knotes & KNOTE_WRITE;
    bool is_true = reads == ((told & KQN_WANT_READ) != 0) && writes == ((told & KQN_WANT_WRITE) != 0) &&
                   (told != KQN_WANT_NOTHING || !(knotes & KNOTE_READ));
    if (!(knotes & KNOTE_UNKNOWN) && !conn->watch.dirty && !is_true)
        world_fail("fd %d has knotes %u, and was told %u", conn->watch.fd, knotes, told);
}

void judge_quiescence(void)
{
    const struct kqn_listener *listener = &judge.server->listener;
    if (clients.queue_len > 0 && sockets_listen() && !listener->paused && !fiber_has_ended(0))
        world_fail("clients wait to be accepted, and nothing wakes the server");
    for (int loop = 0; loop < judge.server->worker_count; loop++) {
        const struct kqn_worker *worker = worker_at(loop);
        uint32_t index = 0;
        const struct kqn_conn *conn;
        if (fiber_has_ended(loop))
            continue;
        if (worker->inbox && atomic_load(&worker->inbox->put) != atomic_load(&worker->inbox->taken))
            world_fail("clients wait in an inbox, and nothing wakes loop %d", loop);
        while ((conn = kqn_worker_next_conn(worker, &index))) {
            check_knotes(loop, conn);
            check_rest(conn);
        }
    }
}
