#include "server/connection.h"

#include <errno.h>
#include <string.h>

#include "core/sys.h"
#include "server/hold.h"
#include "server/output.h"
#include "server/reply.h"
#include "server/server.h"

enum {
    DRAIN_READ_MAX = 1024 * 1024, /* bytes that a stop still reads of one connection */
    MESSAGES_PER_EVENT = 4096,    /* a read of 64 KiB may hold 65,536 empty lines */
};

/* What has arrived by the stop is read whatever the grace, 0 included; a crowd of senders may hold it up so long. */
static const int64_t late_drain_ns = 500 * 1000000;

/* What has been read and will not be answered any more is unanswered, too. */
static void count_unanswered(struct kqn_worker *worker, const uint8_t *bytes, size_t len, size_t scanned)
{
    struct kqn_frame frame;
    while (kqn_framing_next(&worker->server->framing, bytes, len, false, &scanned, &frame) == 1) {
        worker->stats.messages++;
        worker->stats.unanswered++;
        bytes += frame.consumed;
        len -= frame.consumed;
    }
}

static void drop_input(struct kqn_worker *worker, struct kqn_conn *conn)
{
    if (!conn->in)
        return;
    count_unanswered(worker, conn->in->bytes + conn->in->begin, kqn_buffer_len(conn->in), conn->in->mark);
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

static void journal_received(struct kqn_worker *worker, const struct kqn_conn *conn, const struct kqn_frame *frame)
{
    if (!kqn_journal_allows(&worker->journal, KQN_RECORD_RECEIVED))
        return;
    struct kqn_record *record = kqn_journal_begin(&worker->journal, KQN_RECORD_RECEIVED);
    if (!record)
        return;
    size_t shown = frame->message_len < KQN_RECORD_TEXT_MAX ? frame->message_len : KQN_RECORD_TEXT_MAX;
    record->fd = conn->watch.fd;
    record->bytes = frame->message_len;
    record->text_len = (uint32_t)shown;
    memcpy(record->text, frame->message, shown);
    kqn_peer_text(&conn->peer, record->peer);
    kqn_journal_commit(&worker->journal);
}

/* How many messages of one connection are answered before it is the others' turn. */
static int messages_per_event(const struct kqn_worker *worker)
{
    return worker->batch.entries ? KQN_BATCH_MESSAGES : MESSAGES_PER_EVENT;
}

/* Answers the complete messages among these bytes, as far as the peer takes the answers, until it is the others' turn;
 * returns how many bytes that used up. */
static size_t answer_messages(struct kqn_worker *worker, struct kqn_conn *conn, const uint8_t *bytes, size_t len,
                              bool at_end, size_t *scanned)
{
    size_t at = 0;
    int left = messages_per_event(worker);
    worker->answering = conn;
    conn->has_more = false;
    while (kqn_conn_takes_messages(conn) && !worker->orphaned) {
        if (left-- == 0) {
            conn->has_more = at < len;
            break;
        }
        struct kqn_frame frame;
        int rc = kqn_framing_next(&worker->server->framing, bytes + at, len - at, at_end, scanned, &frame);
        if (rc < 0)
            kqn_conn_finish(worker, conn, KQN_REASON_TOO_LONG);
        if (rc <= 0)
            break;
        at += frame.consumed;
        worker->stats.messages++;
        journal_received(worker, conn, &frame);
        kqn_reply_message(worker, conn, &frame);
    }
    kqn_output_flush(worker, conn);
    worker->answering = NULL;
    if (conn->state > KQN_CONN_DRAINING && !worker->orphaned)
        count_unanswered(worker, bytes + at, len - at, *scanned);
    return at;
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
    size_t used = answer_messages(worker, conn, held->bytes + held->begin, kqn_buffer_len(held), at_end, &scanned);
    worker->answering_from = NULL;
    if (used > 0)
        conn->begun_ms = worker->now_ms;
    held->begin += (uint32_t)used;
    held->mark = (uint32_t)scanned;
    keep_rest(worker, conn, held);
}

/* Answers what has just been read behind `held` bytes of an unfinished message, and keeps the rest. */
static void answer_read(struct kqn_worker *worker, struct kqn_conn *conn, size_t held, size_t len)
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
    size_t used = answer_messages(worker, conn, bytes, len, false, &scanned);
    if (used == len || conn->state > KQN_CONN_DRAINING)
        return;
    if (!kqn_hold_append(worker, conn, &conn->in, bytes + used, len - used)) {
        count_unanswered(worker, bytes + used, len - used, scanned);
        return;
    }
    conn->in->mark = (uint32_t)scanned;
    if (used > 0 || held == 0)
        conn->begun_ms = worker->now_ms;
}

/* The peer has sent everything: an unfinished line is a message now. */
static void on_end_of_input(struct kqn_worker *worker, struct kqn_conn *conn)
{
    conn->state = KQN_CONN_HALF_CLOSED;
    answer_held(worker, conn, true);
}

/* Reads once and answers; false: nothing more is to be had for now. socket_error is what the event said of it: on
 * some systems read() says only "the end" of a connection that broke. */
static bool read_and_answer(struct kqn_worker *worker, struct kqn_conn *conn, int socket_error)
{
    size_t held = kqn_buffer_len(conn->in);
    bool in_place = held > KQN_COPIED_PARTIAL_MAX;
    if (in_place && conn->in->end == conn->in->capacity && !kqn_hold_reserve(worker, conn, &conn->in, held))
        return false;
    size_t room = in_place ? conn->in->capacity - conn->in->end : worker->server->read_size;
    if (room > worker->server->read_size)
        room = worker->server->read_size;
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
    } else {
        answer_read(worker, conn, held, (size_t)n);
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
    else if (conn->state == KQN_CONN_LINGERING || (conn->state == KQN_CONN_OPEN && !conn->out && !conn->has_more))
        wanted = KQN_WANT_READ;
    if ((conn->out || conn->has_more) && !conn->starved) /* there is room to write: the event is its next turn */
        wanted |= KQN_WANT_WRITE;
    kqn_loop_want(&worker->loop, &conn->watch, wanted);
}

void kqn_conn_drain(struct kqn_worker *worker, struct kqn_conn *conn)
{
    bool has_read = false; /* all that is there, or more than enough: who never stops sending holds up no stop */
    while (!has_read && conn->state == KQN_CONN_OPEN && !conn->out && !conn->has_more && !worker->orphaned) {
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
    } else if (conn->state == KQN_CONN_OPEN && !conn->out && !conn->has_more) {
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
