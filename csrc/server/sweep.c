#include "server/sweep.h"

#include "core/sys.h"
#include "server/connection.h"
#include "server/server.h"

enum {
    LINGER_MS = 1000,
};

static const int64_t ms_ns = 1000000;

int64_t kqn_sweep_interval_ns(const struct kqn_server *server)
{
    const uint32_t timeouts_ms[] = {server->idle_timeout_ms, server->message_timeout_ms, server->write_timeout_ms};
    uint32_t interval_ms = 1000;
    for (size_t i = 0; i < sizeof(timeouts_ms) / sizeof(timeouts_ms[0]); i++)
        if (timeouts_ms[i] > 0 && timeouts_ms[i] / 4 < interval_ms)
            interval_ms = timeouts_ms[i] / 4;
    return (interval_ms < 10 ? 10 : interval_ms) * ms_ns;
}

/* Whether events may still wait behind those of this turn, whose array was full. After a pause of the whole process
 * there may be more of them than one turn takes, and nobody must be judged idle whose input is there. As ready
 * descriptors take turns, so many full turns in a row have seen them all. */
static bool events_wait(struct kqn_worker *worker)
{
    int most = worker->loop.batch < KQN_READY_MAX ? worker->loop.batch : KQN_READY_MAX;
    uint32_t turns_for_all = worker->loop.watches.taken_count / (uint32_t)most + 1;
    bool is_full = worker->loop.event_count >= most;
    worker->full_turns = is_full && worker->full_turns < turns_for_all ? worker->full_turns + 1 : 0;
    return worker->full_turns > 0;
}

/* Whether a timeout (0: never) has passed since a stamp, which lies in the future if it was set after the wait. */
static bool has_passed(const struct kqn_worker *worker, uint32_t timeout_ms, uint32_t since_ms)
{
    return timeout_ms > 0 && (int32_t)(worker->waited_ms - since_ms) >= (int32_t)timeout_ms;
}

/* Counted from the last sweep, and not from when this one was due: that may have been sooner, for the starved. */
static uint32_t lateness_ms(const struct kqn_worker *worker)
{
    int64_t late_ns = worker->loop.now_ns - worker->swept_ns - worker->server->sweep_ns;
    return late_ns > 0 ? (uint32_t)(late_ns / ms_ns) : 0;
}

static uint32_t forgiven(const struct kqn_worker *worker, uint32_t since_ms)
{
    int32_t age_ms = (int32_t)(worker->now_ms - since_ms);
    if (age_ms <= 0)
        return since_ms;
    return since_ms + (worker->sweep_late_ms < (uint32_t)age_ms ? worker->sweep_late_ms : (uint32_t)age_ms);
}

/* Time in which the loop stood still counts for nobody: what peers sent and took meanwhile only the next turns will
 * see. Linux: a pause of the process ends epoll_wait() with EINTR, before it has looked; and a turn that was stopped
 * in its middle goes on with its old stamp. */
static void forgive_lateness(const struct kqn_worker *worker, struct kqn_conn *conn)
{
    conn->begun_ms = forgiven(worker, conn->begun_ms);
    conn->progress_ms = forgiven(worker, conn->progress_ms);
}

/* A kernel lets us write on only when much of its own buffer is free (Linux: a third, over a MiB), so that a slow
 * reader may go long without a write though it takes byte after byte. */
static void see_what_peer_took(const struct kqn_worker *worker, struct kqn_conn *conn)
{
    int32_t unsent = (int32_t)kqn_sys_unsent(conn->watch.fd);
    if (unsent >= 0 && unsent < conn->unsent)
        conn->progress_ms = worker->waited_ms;
    conn->unsent = unsent;
}

/* Whether the kernel still has answers for the peer; what is sent to a unix socket lies with the peer at once. Input
 * that comes after a close resets the connection, and takes them away. */
static bool is_owed_by_kernel(const struct kqn_conn *conn)
{
    return !kqn_peer_is_unix(&conn->peer) && kqn_sys_unsent(conn->watch.fd) > 0;
}

/* A second is enough for those who have our end. Those who still take answers have a timeout's time in all, and in a
 * stop what is left of its grace. */
static bool has_lingered(const struct kqn_worker *worker, const struct kqn_conn *conn)
{
    if (!has_passed(worker, LINGER_MS, conn->progress_ms))
        return false;
    return has_passed(worker, worker->server->write_timeout_ms, conn->progress_ms) ||
           has_passed(worker, worker->server->idle_timeout_ms, conn->progress_ms) || !is_owed_by_kernel(conn);
}

static void judge(struct kqn_worker *worker, struct kqn_conn *conn)
{
    const struct kqn_server *server = worker->server;
    bool holds_unfinished = conn->state == KQN_CONN_OPEN && conn->in && !conn->out && !conn->has_more;
    if (conn->state == KQN_CONN_LINGERING) {
        if (has_lingered(worker, conn))
            kqn_conn_end(worker, conn, conn->reason);
    } else if (conn->out && has_passed(worker, server->write_timeout_ms, conn->progress_ms)) {
        kqn_conn_end(worker, conn, KQN_REASON_WRITE_TIMEOUT);
    } else if (holds_unfinished && has_passed(worker, server->message_timeout_ms, conn->begun_ms)) {
        kqn_conn_end(worker, conn, KQN_REASON_MESSAGE_TIMEOUT);
    } else if (has_passed(worker, server->idle_timeout_ms, conn->progress_ms)) {
        kqn_conn_end(worker, conn, KQN_REASON_IDLE);
    }
}

void kqn_sweep(struct kqn_worker *worker)
{
    int64_t now_ns = worker->loop.now_ns;
    if (now_ns < worker->sweep_due_ns)
        return;
    if (worker->full_turns == 0)
        worker->sweep_late_ms = lateness_ms(worker); /* the turns for events that wait do not stand still */
    if (events_wait(worker))
        return;
    worker->swept_ns = now_ns;
    worker->sweep_due_ns = now_ns + worker->server->sweep_ns;
    uint32_t index = 0;
    struct kqn_conn *conn;
    while ((conn = kqn_worker_next_conn(worker, &index))) {
        kqn_conn_feed(worker, conn);
        forgive_lateness(worker, conn);
        if (conn->out)
            see_what_peer_took(worker, conn);
        judge(worker, conn);
    }
}
