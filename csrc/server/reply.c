#include "server/reply.h"

#include <string.h>

#include "core/sys.h"
#include "poller/fork.h"
#include "server/output.h"
#include "server/server.h"

/* Puts the length before an answer (u32); false: the answer is longer than one may be, and its connection ends. */
static bool put_header(struct kqn_worker *worker, struct kqn_conn *conn, size_t answer_len)
{
    if (answer_len > KQN_ANSWER_MAX) {
        worker->stats.failed++;
        kqn_conn_finish(worker, conn, KQN_REASON_TOO_LONG);
        return false;
    }
    if (worker->server->framing.kind == KQN_FRAMING_U32) {
        uint8_t header[KQN_U32_HEADER_BYTES];
        kqn_framing_put_u32(header, (uint32_t)answer_len);
        kqn_output_put(worker, conn, header, sizeof(header));
    }
    return true;
}

/* The end of an answer that was put in parts. */
static void put_ending(struct kqn_worker *worker, struct kqn_conn *conn, size_t ending_len)
{
    static const char crlf[] = "\r\n";
    kqn_output_put(worker, conn, crlf + 2 - ending_len, ending_len);
    kqn_output_answers_done(worker, conn, 1);
}

/* What a server puts around a text to make it an answer. */
struct around {
    const uint8_t *prefix;
    const uint8_t *suffix;
    size_t prefix_len;
    size_t suffix_len;
    size_t header_len;
};

static inline struct around around_of(const struct kqn_server *server, enum kqn_framing_kind framing)
{
    return (struct around){server->prefix, server->suffix, server->prefix_len, server->suffix_len,
                           kqn_framing_header_len(framing)};
}

static inline uint8_t *copy(uint8_t *to, const void *bytes, size_t len)
{
    memcpy(to, bytes, len);
    return to + len;
}

/* Most answers are short, and a text between a prefix and a suffix: header, text and ending in one go. false: this one
 * has to be put in parts. */
static inline bool copy_answer(struct kqn_room *room, const struct around *around, const uint8_t *text, size_t text_len,
                               size_t ending_len)
{
    size_t answer_len = around->prefix_len + text_len + around->suffix_len;
    size_t len = around->header_len + answer_len + ending_len;
    if (len > KQN_COPIED_PART_MAX || len >= (size_t)(room->end - room->at))
        return false;
    uint8_t *to = room->at;
    if (around->header_len > 0)
        kqn_framing_put_u32(to, (uint32_t)answer_len);
    to += around->header_len;
    if (around->prefix_len > 0)
        to = copy(to, around->prefix, around->prefix_len);
    if (around->suffix_len > 0) {
        to = copy(copy(to, text, text_len), around->suffix, around->suffix_len);
        to = kqn_framing_put_ending(to, ending_len);
    } else { /* the ending lies behind it already */
        to = copy(to, text, text_len + ending_len);
    }
    room->at = to;
    room->answers++;
    return true;
}

__attribute__((noinline)) /* its array costs every function that it is part of the stack's protection */
static void
reply_in_parts(struct kqn_worker *worker, struct kqn_conn *conn, const struct kqn_frame *frame)
{
    const struct kqn_template *template = &worker->server->template;
    char peer[KQN_PEER_TEXT_MAX];
    size_t peer_len = worker->server->template_has_peer ? kqn_peer_text(&conn->peer, peer) : 0;
    size_t ending_len = frame->ending_len;
    if (!put_header(worker, conn, kqn_template_len(template, frame->message_len, peer_len)))
        return;
    for (int i = 0; i < template->part_count; i++) {
        const struct kqn_template_part *part = &template->parts[i];
        if (part->kind == KQN_PART_PEER) {
            kqn_output_put(worker, conn, peer, peer_len);
        } else if (part->kind == KQN_PART_LITERAL) {
            kqn_output_put(worker, conn, template->literals + part->offset, part->len);
        } else if (i + 1 < template->part_count) {
            kqn_output_put(worker, conn, frame->message, frame->message_len);
        } else { /* the ending lies behind it already */
            kqn_output_put(worker, conn, frame->message, frame->message_len + ending_len);
            ending_len = 0;
        }
    }
    put_ending(worker, conn, ending_len);
}

/* In stream framing the prefix stands in front of what has been read already: one piece, and no copy. */
static void reply_in_place(struct kqn_worker *worker, struct kqn_conn *conn, const struct kqn_frame *frame)
{
    const struct kqn_server *server = worker->server;
    uint8_t *end = worker->input + frame->message_len;
    if (server->suffix_len > 0)
        memcpy(end, server->suffix, server->suffix_len);
    size_t len = server->prefix_len + frame->message_len + server->suffix_len;
    kqn_output_send(worker, conn, worker->input - server->prefix_len, len, 1);
}

static inline void reply_with_hook(struct kqn_worker *worker, struct kqn_conn *conn, const struct kqn_frame *frame)
{
    if (!kqn_batch_has_room(&worker->batch, frame->message_len))
        kqn_reply_batch(worker);
    if (conn->state > KQN_CONN_DRAINING || worker->orphaned) {
        worker->stats.unanswered++;
    } else if (kqn_batch_add(&worker->batch, conn, frame) == 0) {
        conn->in_batch++;
    } else {
        worker->stats.unanswered++;
        kqn_conn_end(worker, conn, KQN_REASON_ERROR);
    }
}

static void reply_otherwise(struct kqn_worker *worker, struct kqn_conn *conn, const struct kqn_frame *frame)
{
    if (worker->server->replies_in_place)
        reply_in_place(worker, conn, frame);
    else
        reply_in_parts(worker, conn, frame);
}

/* What has been read and will not be answered any more is unanswered, too. */
void kqn_reply_none(struct kqn_worker *worker, const uint8_t *bytes, size_t len, size_t scanned)
{
    struct kqn_frame frame;
    while (kqn_framing_next(&worker->server->framing, bytes, len, false, &scanned, &frame) == 1) {
        worker->stats.messages++;
        worker->stats.unanswered++;
        bytes += frame.consumed;
        len -= frame.consumed;
    }
}

static void journal_received(struct kqn_worker *worker, const struct kqn_conn *conn, const struct kqn_frame *frame)
{
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
    return worker->batch.entries ? KQN_HOOK_MESSAGES_PER_EVENT : KQN_MESSAGES_PER_EVENT;
}

/* Answers one message after the other as the peer takes the answers, at most so many; returns how many bytes that used
 * up. It is compiled once for each framing, and what does not change is asked for but once. */
__attribute__((always_inline)) static inline size_t answer_messages(struct kqn_worker *worker, struct kqn_conn *conn,
                                                                    const struct kqn_framing *framing,
                                                                    const uint8_t *bytes, size_t len, bool at_end,
                                                                    size_t *scanned)
{
    const struct around around = around_of(worker->server, framing->kind);
    bool has_hook = worker->batch.entries;
    bool copies = worker->server->template_surrounds && framing->kind != KQN_FRAMING_STREAM && !has_hook;
    struct kqn_room room = kqn_output_room(worker, conn);
    size_t at = 0;
    for (int left = messages_per_event(worker); left > 0; left--) {
        struct kqn_frame frame;
        int rc = kqn_framing_next(framing, bytes + at, len - at, at_end, scanned, &frame);
        if (rc <= 0) {
            kqn_output_commit(worker, &room);
            if (rc < 0)
                kqn_conn_finish(worker, conn, KQN_REASON_TOO_LONG);
            return at;
        }
        at += frame.consumed;
        worker->stats.messages++;
        if (kqn_journal_allows(&worker->journal, KQN_RECORD_RECEIVED))
            journal_received(worker, conn, &frame);
        if (copies && copy_answer(&room, &around, frame.message, frame.message_len, frame.ending_len))
            continue;
        kqn_output_commit(worker, &room);
        if (has_hook)
            reply_with_hook(worker, conn, &frame);
        else
            reply_otherwise(worker, conn, &frame);
        if (!kqn_conn_takes_messages(conn) || worker->orphaned)
            return at;
        room = kqn_output_room(worker, conn);
    }
    kqn_output_commit(worker, &room);
    conn->has_more = at < len;
    return at;
}

size_t kqn_reply_messages(struct kqn_worker *worker, struct kqn_conn *conn, const uint8_t *bytes, size_t len,
                          bool at_end, size_t *scanned)
{
    size_t max_message = worker->server->framing.max_message;
    const struct kqn_framing line = {KQN_FRAMING_LINE, max_message};
    const struct kqn_framing u32 = {KQN_FRAMING_U32, max_message};
    const struct kqn_framing stream = {KQN_FRAMING_STREAM, max_message};
    size_t used;
    worker->answering = conn;
    conn->has_more = false;
    if (worker->server->framing.kind == KQN_FRAMING_LINE)
        used = answer_messages(worker, conn, &line, bytes, len, at_end, scanned);
    else if (worker->server->framing.kind == KQN_FRAMING_U32)
        used = answer_messages(worker, conn, &u32, bytes, len, at_end, scanned);
    else
        used = answer_messages(worker, conn, &stream, bytes, len, at_end, scanned);
    kqn_output_flush(worker, conn);
    worker->answering = NULL;
    if (conn->state > KQN_CONN_DRAINING && !worker->orphaned)
        kqn_reply_none(worker, bytes + used, len - used, *scanned);
    return used;
}

/* Answers of one connection that lie one behind the other in the batch. */
struct run {
    const uint8_t *bytes;
    const uint8_t *end;
    uint32_t answers;
};

static void put_run(struct kqn_worker *worker, struct kqn_conn *conn, struct run *run)
{
    if (run->answers > 0) {
        kqn_output_put(worker, conn, run->bytes, (size_t)(run->end - run->bytes));
        kqn_output_answers_done(worker, conn, run->answers);
    }
    *run = (struct run){.answers = 0};
}

/* Lengthens the run by this answer, or begins another where it lies elsewhere. */
static void add_to_run(struct kqn_worker *worker, const struct kqn_batch_entry *entry, struct run *run)
{
    const uint8_t *answer = kqn_batch_answer(&worker->batch, entry);
    if (run->end != answer)
        put_run(worker, entry->conn, run);
    if (run->answers == 0)
        run->bytes = answer;
    run->end = answer + entry->answer_len;
    run->answers++;
}

static void fail(struct kqn_worker *worker, struct kqn_conn *conn)
{
    worker->stats.failed++;
    if (conn->state != KQN_CONN_ENDED)
        kqn_conn_finish(worker, conn, KQN_REASON_HOOK);
}

/* Carries out the verdicts on one connection's messages, from entry `i` on; returns the entry of the next one. */
static int carry_out(struct kqn_worker *worker, int i)
{
    const struct kqn_batch *batch = &worker->batch;
    struct kqn_conn *conn = batch->entries[i].conn;
    struct run run = {.answers = 0};
    for (; i < batch->count && batch->entries[i].conn == conn; i++) {
        const struct kqn_batch_entry *entry = &batch->entries[i];
        conn->in_batch--;
        switch ((enum kqn_verdict)entry->verdict) {
        case KQN_VERDICT_ANSWERED:
            add_to_run(worker, entry, &run);
            break;
        case KQN_VERDICT_DECLINED:
            worker->stats.declined++;
            break;
        case KQN_VERDICT_FAILED:
            put_run(worker, conn, &run);
            fail(worker, conn);
            break;
        case KQN_VERDICT_UNANSWERED:
            worker->stats.unanswered++;
            break;
        }
    }
    put_run(worker, conn, &run);
    kqn_output_flush(worker, conn);
    kqn_conn_settle(worker, conn);
    return i;
}

void kqn_reply_batch(struct kqn_worker *worker)
{
    struct kqn_batch *batch = &worker->batch;
    if (batch->count == 0 || worker->orphaned)
        return;
    int64_t began_ns = kqn_sys_monotonic_ns();
    batch->answer(batch->context, batch);
    if (kqn_fork_generation() != worker->server->fork_generation) {
        worker->orphaned = true;
        return;
    }
    /* The hook may have taken long, which is nobody's idleness. */
    kqn_worker_read_clock(worker);
    kqn_batch_adapt(batch, worker->loop.now_ns - began_ns);
    for (int i = 0; i < batch->count;)
        i = carry_out(worker, i);
    kqn_batch_clear(batch);
}
