#include "server/output.h"

#include <errno.h>

#include "core/sys.h"
#include "server/hold.h"

/* What the kernel took of these bytes; -1: the connection has ended.
 * ENOBUFS and ENOMEM are a kernel short of memory for now, on macOS and the BSDs; the socket stays writable meanwhile, so
 * waiting for that would spin. EPROTOTYPE (macOS) is a socket that
 * is being torn down, like EPIPE. */
static ssize_t write_some(struct kqn_worker *worker, struct kqn_conn *conn, const uint8_t *bytes, size_t len)
{
    ssize_t n = kqn_sys_write(conn->watch.fd, bytes, len);
    if (n >= 0) {
        worker->stats.bytes_out += (uint64_t)n;
        conn->progress_ms = worker->now_ms;
        return n;
    }
    if (n == -EAGAIN || n == -EINTR)
        return 0;
    if (n == -ENOBUFS || n == -ENOMEM) {
        worker->starved += !conn->starved;
        conn->starved = true;
        return 0;
    }
    kqn_conn_end(worker, conn, KQN_REASON_RESET);
    return -1;
}

static bool keep(struct kqn_worker *worker, struct kqn_conn *conn, const void *bytes, size_t len)
{
    if (!conn->out) {
        conn->progress_ms = worker->now_ms; /* a hook may have taken long before this */
        conn->unsent = 0;
    }
    return kqn_hold_append(worker, conn, &conn->out, bytes, len);
}

void kqn_output_send(struct kqn_worker *worker, struct kqn_conn *conn, const uint8_t *bytes, size_t len,
                     uint32_t answers)
{
    ssize_t n = len > 0 ? write_some(worker, conn, bytes, len) : 0;
    if (n == (ssize_t)len)
        worker->stats.answered += answers;
    else if (n >= 0 && keep(worker, conn, bytes + n, len - (size_t)n))
        conn->out->mark += answers;
    else
        worker->stats.unanswered += answers;
}

/* Empties the scratch buffer into the socket. */
static void send_scratch(struct kqn_worker *worker, struct kqn_conn *conn)
{
    struct kqn_buffer *scratch = worker->scratch;
    size_t len = scratch->end;
    uint32_t answers = scratch->mark;
    scratch->end = scratch->mark = 0;
    if (conn->state == KQN_CONN_ENDED)
        worker->stats.unanswered += answers;
    else if (len > 0 || answers > 0)
        kqn_output_send(worker, conn, scratch->bytes, len, answers);
}

void kqn_output_put(struct kqn_worker *worker, struct kqn_conn *conn, const void *bytes, size_t len)
{
    if (conn->state == KQN_CONN_ENDED)
        return;
    struct kqn_buffer *scratch = worker->scratch;
    if (!conn->out && len > scratch->capacity - scratch->end)
        send_scratch(worker, conn);
    if (conn->state == KQN_CONN_ENDED)
        return;
    if (conn->out || len > scratch->capacity)
        keep(worker, conn, bytes, len);
    else
        kqn_pool_append(&worker->loop.pool, &worker->scratch, bytes, len);
}

void kqn_output_answer_done(struct kqn_worker *worker, struct kqn_conn *conn)
{
    if (conn->state == KQN_CONN_ENDED)
        worker->stats.unanswered++;
    else if (conn->out)
        conn->out->mark++;
    else
        worker->scratch->mark++;
}

void kqn_output_flush(struct kqn_worker *worker, struct kqn_conn *conn)
{
    if (!worker->orphaned && !conn->out)
        send_scratch(worker, conn);
}

void kqn_output_resume(struct kqn_worker *worker, struct kqn_conn *conn)
{
    struct kqn_buffer *out = conn->out;
    ssize_t n = write_some(worker, conn, out->bytes + out->begin, kqn_buffer_len(out));
    if (n < 0)
        return;
    out->begin += (uint32_t)n;
    if (out->begin < out->end)
        return;
    worker->stats.answered += out->mark;
    conn->out = NULL;
    kqn_pool_give(&worker->loop.pool, out);
}
