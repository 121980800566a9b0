#include "server/hold.h"

#include <errno.h>
#include <string.h>

static size_t held_bytes(const struct kqn_conn *conn)
{
    return kqn_buffer_block_bytes(conn->in) + kqn_buffer_block_bytes(conn->out);
}

static size_t largest_holding(const struct kqn_worker *worker)
{
    size_t largest = 0;
    uint32_t index = 0;
    const struct kqn_conn *conn;
    while ((conn = kqn_worker_next_conn(worker, &index)))
        if (held_bytes(conn) > largest)
            largest = held_bytes(conn);
    return largest;
}

/* Ends those that hold the most; false: nobody holds anything. Blocks have few sizes, so many may hold the same: to
 * look at all connections again for each of them would take a crowded loop's time, so a sixteenth is made free. */
static bool end_largest_holders(struct kqn_worker *worker)
{
    const struct kqn_pool *pool = &worker->loop.pool;
    size_t largest = largest_holding(worker);
    if (largest == 0)
        return false;
    size_t goal = pool->limit_bytes - pool->limit_bytes / 16;
    uint32_t index = 0;
    struct kqn_conn *conn;
    bool any = false;
    while ((!any || pool->taken_bytes > goal) && (conn = kqn_worker_next_conn(worker, &index))) {
        if (held_bytes(conn) == largest) {
            kqn_conn_end(worker, conn, KQN_REASON_BUFFERED);
            any = true;
        }
    }
    return true;
}

bool kqn_hold_reserve(struct kqn_worker *worker, struct kqn_conn *conn, struct kqn_buffer **slot, size_t extra)
{
    int rc;
    while ((rc = kqn_pool_reserve(&worker->loop.pool, slot, extra)) == -ENOBUFS) {
        if (!end_largest_holders(worker))
            break;
        if (conn->state == KQN_CONN_ENDED)
            return false;
    }
    if (rc < 0)
        kqn_conn_end(worker, conn, rc == -ENOBUFS ? KQN_REASON_BUFFERED : KQN_REASON_ERROR);
    return rc == 0;
}

bool kqn_hold_append(struct kqn_worker *worker, struct kqn_conn *conn, struct kqn_buffer **slot, const void *bytes,
                     size_t len)
{
    return kqn_hold_reserve(worker, conn, slot, len) && kqn_pool_append(&worker->loop.pool, slot, bytes, len) == 0;
}
