#include "server/hold.h"

#include <errno.h>

/* The block whose messages are just being answered is out of its connection's hands, and counts all the same. */
static size_t held_bytes(const struct kqn_worker *worker, const struct kqn_conn *conn)
{
    if (conn->state == KQN_CONN_ENDED)
        return 0;
    size_t bytes = kqn_buffer_block_bytes(conn->in) + kqn_buffer_block_bytes(conn->out);
    return conn == worker->answering ? bytes + kqn_buffer_block_bytes(worker->answering_from) : bytes;
}

static struct kqn_conn *largest_holder(const struct kqn_worker *worker)
{
    struct kqn_conn *largest = NULL;
    uint32_t index = 0;
    struct kqn_conn *conn;
    while ((conn = kqn_worker_next_conn(worker, &index)))
        if (!largest || held_bytes(worker, conn) > held_bytes(worker, largest))
            largest = conn;
    return largest;
}

bool kqn_hold_reserve(struct kqn_worker *worker, struct kqn_conn *conn, struct kqn_buffer **slot, size_t extra)
{
    int rc;
    while ((rc = kqn_pool_reserve(&worker->loop.pool, slot, extra)) == -ENOBUFS) {
        size_t block_bytes = kqn_pool_block_bytes(kqn_buffer_len(*slot) + extra);
        size_t would_hold = held_bytes(worker, conn) - kqn_buffer_block_bytes(*slot) + block_bytes;
        struct kqn_conn *largest = largest_holder(worker);
        if (!largest || would_hold > held_bytes(worker, largest))
            break;
        kqn_conn_end(worker, largest, KQN_REASON_BUFFERED); /* it held at least the new block: one makes room enough */
        if (largest == conn)
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
