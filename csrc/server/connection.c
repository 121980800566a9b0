#include "server/connection.h"

#include <errno.h>
#include <string.h>

#include "core/sys.h"
#include "server/hold.h"
#include "server/output.h"
#include "server/reply.h"
#include "server/server.h"

enum {
    DRAIN_READ_MAX = 1024 * 1024, /* bytes that a stop still reads of one connection, and the read that reaches it */
};

/* What has arrived by the stop is read whatever the grace, 0 included; a crowd of senders may hold it up so long. */
static const int64_t late_drain_ns = 500 * 1000000;

static void drop_input(struct kqn_worker *worker, struct kqn_conn *conn)
{
    if (!conn->in)
        return;
    kqn_reply_none(worker, conn->in->bytes + conn->in->begin, kqn_buffer_len(conn->in), conn->in->mark);
    kqn_pool_give(&worker->loop.pool, conn->in);
    conn->in = NULL;
}

void kqn_conn_end(struct kqn_worker *worker, struct kqn_conn *conn, enum kqn_reason reason)
{
    if (conn->state == KQN_CONN_ENDED)
        return;
    if (conn->state == KQN_CONN_LINGERING)
        worker->lingering--;
    if (conn->starved)
        worker->starved--;
    conn->starved = false; /* a sweep may still meet it in this turn */
    if (conn->out)
        worker->stats.unanswered += conn->out->mark;
    drop_input(worker, conn);
    kqn_pool_give(&worker->loop.pool, conn->out);
    conn->out = NULL;
    conn->state = KQN_CONN_ENDED;
    conn->reason = (uint8_t)reason;
    kqn_loop_end(&worker->loop, &conn->watch);
}

void kqn_conn_finish(struct kqn_worker *worker, struct kqn_conn *conn, enum kqn_reason reason)
{
    if (conn->state >= KQN_CONN_FINISHING)
        return;
    drop_input(worker, conn);
    conn->has_more = false;
    conn->state = KQN_CONN_FINISHING;
    conn->reason = (uint8_t)reason;
}

static void linger(struct kqn_worker *worker, struct kqn_conn *conn)
{
    drop_input(worker, conn);
    conn->state = KQN_CONN_LINGERING;
    kqn_worker_read_clock(worker); /* a drain of many connections takes long */
    conn->progress_ms = worker->now_ms;
    worker->lingering++;
    if (kqn_sys_shutdown_write(conn->watch.fd) < 0)
        kqn_conn_end(worker, conn, conn->reason);
}

/* Gives a connection back the rest of what it held: a short one in a smaller buffer, as memory follows the bytes. */
static void keep_rest(struct kqn_worker *worker, struct kqn_conn *conn, struct kqn_buffer *held)
{
    struct kqn_pool *pool = &worker->loop.pool;
    size_t len = conn->state <= KQN_CONN_DRAINING ? kqn_buffer_len(held) : 0;
    bool is_too_large = held->capacity > KQN_POOL_SMALLEST_BYTES && held->capacity / 4 > len;
    if (len > 0 && (!is_too_large || kqn_pool_append(pool, &conn->in, held->bytes + held->begin, len) < 0)) {
        conn->in = held;
        return;
    }
    if (len > 0)
        conn->in->mark = held->mark;
    kqn_pool_give(pool, held);
}

/* Goes on with the input that the connection holds. It is taken out of its hands meanwhile: whatever ends the
 * connection can't free it under the framing. */
static void answer_held(struct kqn_worker *worker, struct kqn_conn *conn, bool at_end)
{
    struct kqn_buffer *held = conn->in;
    if (!held)
        return;
    conn->in = NULL;
    worker->answering_from = held;
    size_t scanned = held->mark;
    size_t used = kqn_reply_messages(worker, conn, held->bytes + held->begin, kqn_buffer_len(held), at_end, &scanned);
    worker->answering_from = NULL;
    if (used > 0)
        conn->begun_ms = worker->now_ms;
    held->begin += (uint32_t)used;
    held->mark = (uint32_t)scanned;
    keep_rest(worker, conn, held);
}

/* How much of the rest of a long unfinished message has arrived already: room for that is made at once, so that it can
 * be read in one go. A length that is only claimed makes none. */
static size_t arrived_bytes(const struct kqn_worker *worker, const struct kqn_conn *conn, const uint8_t *bytes,
                            size_t len)
{
    size_t missing = kqn_framing_missing(&worker->server->framing, bytes, len);
    ssize_t readable = missing > KQN_COPIED_PARTIAL_MAX ? kqn_sys_readable(conn->watch.fd) : 0;
    return readable < 0 ? 0 : (size_t)readable < missing ? (size_t)readable : missing;
}

/* Answers what has just been read behind `held` bytes of an unfinished message, and keeps the rest. true: the rest is
 * part of a long message, more of which has arrived and is to be read at once. */
static bool answer_read(struct kqn_worker *worker, struct kqn_conn *conn, size_t held, size_t len)
{
    uint8_t *bytes = worker->input - held;
    size_t scanned = 0;
    if (conn->in) {
        memcpy(bytes, conn->in->bytes + conn->in->begin, held);
        scanned = conn->in->mark;
        kqn_pool_give(&worker->loop.pool, conn->in);
        conn->in = NULL;
    }
    len += held;
    size_t used = kqn_reply_messages(worker, conn, bytes, len, false, &scanned);
    if (used == len || conn->state > KQN_CONN_DRAINING)
        return false;
    size_t rest = len - used;
    bool reads_on = rest > KQN_COPIED_PARTIAL_MAX && kqn_conn_reads(conn) && !worker->orphaned;
    size_t arrived = reads_on ? arrived_bytes(worker, conn, bytes + used, rest) : 0;
    if (!kqn_hold_reserve(worker, conn, &conn->in, rest + arrived)) {
        kqn_reply_none(worker, bytes + used, rest, scanned);
        return false;
    }
    kqn_pool_append(&worker->loop.pool, &conn->in, bytes + used, rest);
    conn->in->mark = (uint32_t)scanned;
    if (used > 0 || held == 0)
        conn->begun_ms = worker->now_ms;
    return arrived > 0;
}

/* The peer has sent everything: an unfinished line is a message now. */
static void on_end_of_input(struct kqn_worker *worker, struct kqn_conn *conn)
{
    conn->state = KQN_CONN_HALF_CLOSED;
    answer_held(worker, conn, true);
}

/* For a long unfinished message; false: the connection has ended. */
static bool make_room(struct kqn_worker *worker, struct kqn_conn *conn, size_t held)
{
    size_t arrived = arrived_bytes(worker, conn, conn->in->bytes + conn->in->begin, held);
    return kqn_hold_reserve(worker, conn, &conn->in, arrived > held ? arrived : held);
}

/* Reads once, or twice where the rest of a long message is there, so that its block soon goes to the next one; and
 * answers. false: nothing more is to be had for now. socket_error is what the event said of it: on some systems read()
 * says only "the end" of a connection that broke. */
static bool read_and_answer(struct kqn_worker *worker, struct kqn_conn *conn, int socket_error)
{
    size_t held = kqn_buffer_len(conn->in);
    bool in_place = held > KQN_COPIED_PARTIAL_MAX;
    if (in_place && conn->in->end == conn->in->capacity && !make_room(worker, conn, held))
        return false;
    size_t room = in_place ? conn->in->capacity - conn->in->end : worker->server->read_size;
    uint8_t *to = in_place ? conn->in->bytes + conn->in->end : worker->input;
    ssize_t n = kqn_sys_read(conn->watch.fd, to, room);
    if (n == -EAGAIN || n == -EINTR)
        return false;
    if (n < 0 || (n == 0 && socket_error)) {
        kqn_conn_end(worker, conn, KQN_REASON_RESET);
        return false;
    }
    if (n == 0) {
        on_end_of_input(worker, conn);
        return false;
    }
    worker->stats.bytes_in += (uint64_t)n;
    conn->progress_ms = worker->now_ms;
    if (in_place) {
        conn->in->end += (uint32_t)n;
        answer_held(worker, conn, false);
    } else if (answer_read(worker, conn, held, (size_t)n)) {
        return read_and_answer(worker, conn, socket_error);
    }
    return true;
}

static void throw_input_away(struct kqn_worker *worker, struct kqn_conn *conn)
{
    ssize_t n = kqn_sys_read(conn->watch.fd, worker->input, worker->server->read_size);
    if (n > 0) {
        worker->stats.bytes_in += (uint64_t)n;
        worker->stats.bytes_discarded += (uint64_t)n;
    } else if (n != -EAGAIN && n != -EINTR) {
        kqn_conn_end(worker, conn, conn->reason);
    }
}

void kqn_conn_settle(struct kqn_worker *worker, struct kqn_conn *conn)
{
    if (worker->orphaned || conn == worker->answering)
        return;
    bool owes = conn->out || conn->in_batch || conn->has_more;
    if (conn->state == KQN_CONN_HALF_CLOSED && !owes)
        kqn_conn_end(worker, conn, KQN_REASON_EOF);
    else if ((conn->state == KQN_CONN_DRAINING || conn->state == KQN_CONN_FINISHING) && !owes)
        linger(worker, conn);
    if (conn->state == KQN_CONN_ENDED)
        return;

    unsigned wanted = KQN_WANT_READ_KEPT;
    if (conn->state == KQN_CONN_HALF_CLOSED)
        wanted = KQN_WANT_NOTHING; /* at its end READ fires for ever */
    else if (conn->state == KQN_CONN_LINGERING || kqn_conn_reads(conn))
        wanted = KQN_WANT_READ;
    if ((conn->out || conn->has_more) && !conn->starved) /* there is room to write: the event is its next turn */
        wanted |= KQN_WANT_WRITE;
    kqn_loop_want(&worker->loop, &conn->watch, wanted);
}

void kqn_conn_drain(struct kqn_worker *worker, struct kqn_conn *conn)
{
    bool has_read = false; /* all that is there, or more than enough: who never stops sending holds up no stop */
    while (!has_read && kqn_conn_reads(conn) && !worker->orphaned) {
        uint64_t before = worker->stats.bytes_in;
        has_read = !read_and_answer(worker, conn, 0);
        conn->drained += (uint32_t)(worker->stats.bytes_in - before);
        kqn_loop_read_clock(&worker->loop);
        bool is_overdue = worker->loop.now_ns >= worker->server->drain_deadline_ns + late_drain_ns;
        has_read = has_read || conn->drained >= DRAIN_READ_MAX || is_overdue;
    }
    if (conn->state == KQN_CONN_OPEN && has_read) {
        conn->state = KQN_CONN_DRAINING;
        conn->reason = KQN_REASON_STOPPED;
    }
    kqn_conn_settle(worker, conn);
}

void kqn_conn_on_event(struct kqn_worker *worker, struct kqn_conn *conn, const struct kevent *event)
{
    int socket_error = event->flags & EV_EOF ? (int)event->fflags : 0;
    if (worker->orphaned)
        return;
    if (event->flags & EV_ERROR) {
        kqn_conn_end(worker, conn, KQN_REASON_ERROR);
    } else if (event->filter == EVFILT_WRITE) {
        if (conn->out)
            kqn_output_resume(worker, conn);
        if (kqn_conn_takes_messages(conn)) {
            conn->begun_ms = worker->now_ms; /* nothing was read meanwhile: that its message waits is our doing */
            answer_held(worker, conn, conn->state == KQN_CONN_HALF_CLOSED);
        }
    } else if (kqn_conn_reads(conn)) {
        read_and_answer(worker, conn, socket_error);
    } else if (conn->state == KQN_CONN_LINGERING) {
        throw_input_away(worker, conn);
    }
    if (worker->draining)
        kqn_conn_drain(worker, conn);
    else
        kqn_conn_settle(worker, conn);
}

void kqn_conn_feed(struct kqn_worker *worker, struct kqn_conn *conn)
{
    if (!conn->starved)
        return;
    conn->starved = false;
    worker->starved--;
    kqn_conn_settle(worker, conn);
}

void kqn_conn_cut(struct kqn_worker *worker, struct kqn_conn *conn)
{
    if (conn->out || conn->has_more)
        kqn_conn_end(worker, conn, KQN_REASON_CUT);
    else
        kqn_conn_end(worker, conn, conn->state == KQN_CONN_LINGERING ? conn->reason : KQN_REASON_STOPPED);
}
