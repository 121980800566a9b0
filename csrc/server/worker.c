#include "server/worker.h"

#include <errno.h>
#include <string.h>

#include "core/sys.h"
#include "server/connection.h"
#include "server/reply.h"
#include "server/server.h"
#include "server/sweep.h"

static const int64_t ms_ns = 1000000;
static const int64_t quick_sweep_ms = 50; /* so that a stop is not held up by those who linger, nor the starved long */

int kqn_worker_open(struct kqn_worker *worker, struct kqn_server *server, int index)
{
    *worker = (struct kqn_worker){.server = server, .index = index};
    pthread_mutex_init(&worker->published_lock, NULL);
    size_t headroom = server->prefix_len > KQN_COPIED_PARTIAL_MAX ? server->prefix_len : KQN_COPIED_PARTIAL_MAX;
    int rc = kqn_journal_open(&worker->journal, server->log_rate);
    if (rc == 0)
        rc = kqn_loop_open(&worker->loop, server->poller, server->batch, sizeof(struct kqn_conn));
    if (rc < 0)
        goto fail;
    rc = -ENOMEM;
    worker->input_block = kqn_sys_alloc(headroom + server->read_size + server->suffix_len);
    worker->scratch = kqn_pool_take(&worker->loop.pool, KQN_SCRATCH_BYTES);
    if (!worker->input_block || !worker->scratch)
        goto fail;
    worker->loop.pool.limit_bytes = worker->loop.pool.taken_bytes + server->share_of_memory;
    worker->input = worker->input_block + headroom;
    if (server->replies_in_place)
        memcpy(worker->input - server->prefix_len, server->prefix, server->prefix_len);
    if (index > 0) {
        worker->inbox = kqn_sys_alloc_lines(sizeof(*worker->inbox));
        if (!worker->inbox)
            goto fail;
        memset(worker->inbox, 0, sizeof(*worker->inbox));
    }
    return 0;
fail:
    kqn_worker_close(worker);
    return rc;
}

void kqn_worker_close(struct kqn_worker *worker)
{
    struct kqn_client client;
    while (worker->inbox && kqn_inbox_take(worker->inbox, &client))
        kqn_sys_close(client.fd);
    uint32_t index = 0;
    struct kqn_watch *watch;
    while ((watch = kqn_slab_next(&worker->loop.watches, &index)))
        kqn_sys_close(watch->fd);
    if (worker->batch.entries)
        kqn_batch_close(&worker->batch);
    kqn_pool_give(&worker->loop.pool, worker->scratch);
    kqn_loop_close(&worker->loop);
    kqn_journal_close(&worker->journal);
    kqn_sys_free(worker->input_block);
    kqn_sys_free(worker->inbox);
    pthread_mutex_destroy(&worker->published_lock);
}

/* The listener's own word belongs to loop 0: no other may read it. */
static bool is_listener(const struct kqn_worker *worker, const struct kqn_watch *watch)
{
    return worker->index == 0 && watch == worker->server->listener.watch;
}

/* In loop 0 the listener stands among them. */
struct kqn_conn *kqn_worker_next_conn(const struct kqn_worker *worker, uint32_t *index)
{
    struct kqn_watch *watch = kqn_slab_next(&worker->loop.watches, index);
    if (watch && is_listener(worker, watch))
        watch = kqn_slab_next(&worker->loop.watches, index);
    return (struct kqn_conn *)watch;
}

static void journal_client(struct kqn_worker *worker, enum kqn_record_kind kind, int fd, const struct kqn_peer *peer,
                           enum kqn_reason reason)
{
    if (!kqn_journal_allows(&worker->journal, kind))
        return;
    struct kqn_record *record = kqn_journal_begin(&worker->journal, kind);
    if (!record)
        return;
    record->fd = fd;
    record->reason = reason;
    kqn_peer_text(peer, record->peer);
    kqn_journal_commit(&worker->journal);
}

/* A connection is no more: whoever waits for that may accept again. */
static void uncount_connection(struct kqn_worker *worker, enum kqn_reason reason)
{
    struct kqn_server *server = worker->server;
    worker->stats.closed[reason]++;
    atomic_fetch_sub(&server->open_connections, 1);
    if (atomic_load(&server->accept_waits) && atomic_exchange(&server->accept_waits, false) && worker->index > 0)
        kqn_poller_wake(server->workers[0].loop.poller);
}

void kqn_worker_adopt(struct kqn_worker *worker, const struct kqn_client *client)
{
    struct kqn_conn *conn = (struct kqn_conn *)kqn_loop_add(&worker->loop, client->fd);
    if (!conn) {
        kqn_sys_close(client->fd);
        uncount_connection(worker, KQN_REASON_ERROR);
        return;
    }
    conn->peer = client->peer;
    conn->progress_ms = worker->now_ms;
    journal_client(worker, KQN_RECORD_CONNECTED, client->fd, &client->peer, KQN_REASON_EOF);
    kqn_conn_settle(worker, conn);
}

void kqn_worker_deny(struct kqn_worker *worker, const struct kqn_client *client)
{
    kqn_sys_close(client->fd);
    worker->stats.closed[KQN_REASON_DENIED]++;
    journal_client(worker, KQN_RECORD_DISCONNECTED, client->fd, &client->peer, KQN_REASON_DENIED);
}

static void on_event(struct kqn_loop *loop, struct kqn_watch *watch, const struct kevent *event)
{
    struct kqn_worker *worker = kqn_worker_of(loop);
    if (!is_listener(worker, watch))
        kqn_conn_on_event(worker, (struct kqn_conn *)watch, event);
    else if (event->flags & EV_ERROR)
        kqn_listener_fail(&worker->server->listener, worker, (int)event->data);
    else
        worker->listener_ready = true;
}

static void reap(struct kqn_worker *worker)
{
    struct kqn_watch *watch;
    while ((watch = kqn_loop_reap(&worker->loop))) {
        if (is_listener(worker, watch)) {
            worker->server->listener.watch = NULL;
        } else {
            struct kqn_conn *conn = (struct kqn_conn *)watch;
            journal_client(worker, KQN_RECORD_DISCONNECTED, conn->watch.fd, &conn->peer, (enum kqn_reason)conn->reason);
            uncount_connection(worker, (enum kqn_reason)conn->reason);
        }
        kqn_loop_give(&worker->loop, watch);
    }
}

/* Takes in what loop 0 handed over; true: the stop has come, and nobody follows. */
static bool take_inbox(struct kqn_worker *worker)
{
    /* Read first: whoever stood in the inbox before this was set is seen now. */
    bool drain_asked = atomic_load(&worker->server->drain_asked);
    struct kqn_client client;
    while (worker->inbox && kqn_inbox_take(worker->inbox, &client)) {
        worker->stats.handed_over--;
        kqn_worker_adopt(worker, &client);
    }
    return drain_asked;
}

/* Loop 0 listens no more, and every loop is told to drain. */
static void pass_stop_on(struct kqn_worker *worker, int64_t grace_ns)
{
    struct kqn_server *server = worker->server;
    kqn_listener_stop(&server->listener, worker);
    reap(worker); /* closes it before the drain, which may take long: who comes later is refused, and not reset */
    kqn_loop_read_clock(&worker->loop); /* nobody's grace is shortened by what this turn took */
    server->drain_deadline_ns = worker->loop.now_ns + grace_ns;
    atomic_store(&server->drain_asked, true);
    for (int i = 1; i < server->worker_count; i++)
        kqn_poller_wake(server->workers[i].loop.poller);
}

/* Loop 0's part of a turn: new clients, and the stop. */
static void accept_clients(struct kqn_worker *worker)
{
    struct kqn_server *server = worker->server;
    kqn_listener_tick(&server->listener, worker);
    if (worker->listener_ready)
        kqn_listener_accept(&server->listener, worker);
    worker->listener_ready = false;
    if (atomic_load(&server->stop_asked) && !server->listener.stopped)
        pass_stop_on(worker, server->stop_grace_ns);
}

static void drain(struct kqn_worker *worker)
{
    worker->draining = true;
    uint32_t index = 0;
    struct kqn_conn *conn;
    while ((conn = kqn_worker_next_conn(worker, &index)))
        kqn_conn_drain(worker, conn);
    kqn_reply_batch(worker);
}

static void cut(struct kqn_worker *worker)
{
    uint32_t index = 0;
    struct kqn_conn *conn;
    while ((conn = kqn_worker_next_conn(worker, &index)))
        kqn_conn_cut(worker, conn);
}

static uint64_t count_open(const struct kqn_worker *worker)
{
    bool has_listener = worker->index == 0 && worker->server->listener.watch;
    return worker->loop.watches.taken_count - has_listener;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Whether the next wait is one that does not sleep. A turn without events leaves the time since which nothing came. */
static bool spins(struct kqn_worker *worker, int64_t now_ns)
{
    if (worker->loop.event_count > 0)
        worker->idle_since_ns = now_ns;
    return worker->spin_pays && now_ns - worker->idle_since_ns < worker->server->spin_ns;
}

/* How long the next wait may take: until the nearest deadline, or for ever (-1). */
static int64_t wait_ns(struct kqn_worker *worker)
{
    const struct kqn_server *server = worker->server;
    int64_t now_ns = kqn_sys_monotonic_ns();
    int64_t due_ns = kqn_journal_due_ns(&worker->journal);
    bool is_quick = worker->starved > 0 || (worker->draining && worker->lingering > 0);
    bool has_timeout = server->idle_timeout_ms > 0 || server->message_timeout_ms > 0 || server->write_timeout_ms > 0;
    if (is_quick)
        worker->sweep_due_ns = earlier(worker->sweep_due_ns, now_ns + quick_sweep_ms * ms_ns);
    if (spins(worker, now_ns))
        return 0;
    if (is_quick || worker->lingering > 0 || (count_open(worker) > 0 && has_timeout))
        due_ns = earlier(due_ns, worker->sweep_due_ns);
    if (worker->index == 0 && server->listener.paused)
        due_ns = earlier(due_ns, server->listener.resume_ns);
    if (worker->draining)
        due_ns = earlier(due_ns, server->drain_deadline_ns);
    if (due_ns == INT64_MAX)
        return -1;
    return due_ns > now_ns ? due_ns - now_ns : 0;
}

/* A loop whose events follow each other closely looks for the next ones before it sleeps: to be woken up takes longer
 * than many a message. Where they come further apart, looking would only burn the processor. */
static void plan_spin(struct kqn_worker *worker)
{
    if (worker->server->spin_ns > 0 && worker->loop.event_count > 0)
        worker->spin_pays = worker->loop.now_ns - worker->idle_since_ns <= worker->server->spin_ns;
}

static void publish_stats(struct kqn_worker *worker, unsigned asked)
{
    struct kqn_stats *stats = &worker->stats;
    stats->open = count_open(worker);
    stats->pending = stats->messages - stats->answered - stats->declined - stats->failed - stats->unanswered;
    stats->log_dropped = worker->journal.dropped;
    stats->turns = worker->loop.turns;
    stats->events = worker->loop.events_taken;
    stats->stale_events = worker->loop.stale_events;
    pthread_mutex_lock(&worker->published_lock);
    worker->published = *stats;
    pthread_mutex_unlock(&worker->published_lock);
    atomic_store(&worker->stats_told, asked);
}

static int turn(struct kqn_worker *worker)
{
    int rc = kqn_loop_wait(&worker->loop, wait_ns(worker));
    if (rc < 0)
        return rc;
    plan_spin(worker);
    kqn_worker_set_stamp(worker);
    worker->waited_ms = (uint32_t)(worker->loop.now_ns / ms_ns);
    kqn_loop_dispatch(&worker->loop, on_event);
    kqn_reply_batch(worker);
    if (worker->orphaned)
        return -ECHILD;
    if (worker->draining && worker->loop.now_ns >= worker->server->drain_deadline_ns)
        cut(worker);
    kqn_sweep(worker);
    reap(worker);
    if (worker->index == 0)
        accept_clients(worker);
    if (take_inbox(worker) && !worker->draining) {
        drain(worker);
        if (!worker->orphaned)
            reap(worker);
    }
    kqn_journal_tick(&worker->journal, worker->loop.now_ns);
    unsigned asked = atomic_load(&worker->stats_asked);
    if (asked != atomic_load_explicit(&worker->stats_told, memory_order_relaxed))
        publish_stats(worker, asked);
    return worker->orphaned ? -ECHILD : 0;
}

/* The poller failed: the loop can't serve any more, and says so. */
static void fail(struct kqn_worker *worker, int error)
{
    struct kqn_record *record = kqn_journal_begin(&worker->journal, KQN_RECORD_LOOP_ERROR);
    if (record) {
        record->error = error;
        kqn_journal_commit(&worker->journal);
    }
    atomic_store(&worker->failed, true);
    /* Without loop 0 nobody would hear of a stop any more. */
    if (worker->index == 0 && !worker->server->listener.stopped)
        pass_stop_on(worker, 0);
    take_inbox(worker);
    uint32_t index = 0;
    struct kqn_conn *conn;
    while ((conn = kqn_worker_next_conn(worker, &index)))
        kqn_conn_end(worker, conn, KQN_REASON_ERROR);
    reap(worker);
}

int kqn_worker_run(struct kqn_worker *worker, int rc)
{
    atomic_store(&worker->running, true);
    while (rc == 0 && !(worker->draining && worker->loop.watches.taken_count == 0))
        rc = turn(worker);
    if (worker->orphaned)
        return rc;
    if (rc < 0)
        fail(worker, -rc);
    kqn_journal_flush(&worker->journal);
    publish_stats(worker, atomic_load(&worker->stats_asked));
    atomic_store(&worker->running, false);
    return rc;
}
