#include "server/output.h"

#include <errno.h>

#include "core/sys.h"
#include "server/hold.h"

/* What the kernel took, by what its call returned; -1: the connection has ended. ENOBUFS and ENOMEM are a kernel
 * short of memory for now, on macOS and the BSDs; the socket stays writable meanwhile, so waiting for that would spin.
 * EPROTOTYPE (macOS) is a socket that is being torn down, like EPIPE. */
static ssize_t taken(struct kqn_worker *worker, struct kqn_conn *conn, ssize_t n)
{
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
    ssize_t n = len > 0 ? taken(worker, conn, kqn_sys_write(conn->watch.fd, bytes, len)) : 0;
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

/* Empties the scratch buffer into the socket, and these bytes behind it, in one call. */
static void send_scratch_and(struct kqn_worker *worker, struct kqn_conn *conn, const uint8_t *bytes, size_t len)
{
    struct kqn_buffer *scratch = worker->scratch;
    ssize_t written = kqn_sys_write_two(conn->watch.fd, scratch->bytes, scratch->end, bytes, len);
    ssize_t n = taken(worker, conn, written);
    size_t of_scratch = n < (ssize_t)scratch->end ? (size_t)n : scratch->end;
    uint32_t answers = scratch->mark;
    bool is_well = n >= 0;
    if (is_well && of_scratch < scratch->end)
        is_well = keep(worker, conn, scratch->bytes + of_scratch, scratch->end - of_scratch);
    if (!is_well)
        worker->stats.unanswered += answers;
    else if (conn->out)
        conn->out->mark += answers;
    else
        worker->stats.answered += answers;
    scratch->end = scratch->mark = 0;
    size_t of_bytes = (size_t)n - of_scratch;
    if (is_well && of_bytes < len)
        keep(worker, conn, bytes + of_bytes, len - of_bytes);
}

void kqn_output_put(struct kqn_worker *worker, struct kqn_conn *conn, const void *bytes, size_t len)
{
    struct kqn_buffer *scratch = worker->scratch;
    if (conn->state == KQN_CONN_ENDED)
        return;
    if (conn->out)
        keep(worker, conn, bytes, len);
    else if (len > KQN_COPIED_PART_MAX || len > scratch->capacity - scratch->end)
        send_scratch_and(worker, conn, bytes, len);
    else
        kqn_pool_append(&worker->loop.pool, &worker->scratch, bytes, len);
}

void kqn_output_answers_done(struct kqn_worker *worker, struct kqn_conn *conn, uint32_t answers)
{
    if (conn->state == KQN_CONN_ENDED)
        worker->stats.unanswered += answers;
    else if (conn->out)
        conn->out->mark += answers;
    else
        worker->scratch->mark += answers;
}

void kqn_output_flush(struct kqn_worker *worker, struct kqn_conn *conn)
{
    if (!worker->orphaned && !conn->out)
        send_scratch(worker, conn);
}

void kqn_output_resume(struct kqn_worker *worker, struct kqn_conn *conn)
{
    struct kqn_buffer *out = conn->out;
    ssize_t n = taken(worker, conn, kqn_sys_write(conn->watch.fd, out->bytes + out->begin, kqn_buffer_len(out)));
    if (n < 0)
        return;
    out->begin += (uint32_t)n;
    if (out->begin < out->end)
        return;
    worker->stats.answered += out->mark;
    conn->out = NULL;
    kqn_pool_give(&worker->loop.pool, out);
}
