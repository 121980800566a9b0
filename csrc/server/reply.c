#include "server/reply.h"

#include <string.h>

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

/* Puts behind an answer the ending that its line had. */
static void put_ending(struct kqn_worker *worker, struct kqn_conn *conn, size_t ending_len)
{
    static const char crlf[] = "\r\n";
    kqn_output_put(worker, conn, crlf + 2 - ending_len, ending_len);
    kqn_output_answer_done(worker, conn);
}

static void reply_with_template(struct kqn_worker *worker, struct kqn_conn *conn, const struct kqn_frame *frame)
{
    const struct kqn_template *template = &worker->server->template;
    char peer[KQN_PEER_TEXT_MAX];
    size_t peer_len = worker->server->template_has_peer ? kqn_peer_text(&conn->peer, peer) : 0;
    if (!put_header(worker, conn, kqn_template_len(template, frame->message_len, peer_len)))
        return;
    for (int i = 0; i < template->part_count; i++) {
        const struct kqn_template_part *part = &template->parts[i];
        if (part->kind == KQN_PART_MESSAGE)
            kqn_output_put(worker, conn, frame->message, frame->message_len);
        else if (part->kind == KQN_PART_PEER)
            kqn_output_put(worker, conn, peer, peer_len);
        else
            kqn_output_put(worker, conn, template->literals + part->offset, part->len);
    }
    put_ending(worker, conn, frame->ending_len);
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

static void reply_with_hook(struct kqn_worker *worker, struct kqn_conn *conn, const struct kqn_frame *frame)
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

void kqn_reply_message(struct kqn_worker *worker, struct kqn_conn *conn, const struct kqn_frame *frame)
{
    if (worker->batch.entries)
        reply_with_hook(worker, conn, frame);
    else if (worker->server->replies_in_place)
        reply_in_place(worker, conn, frame);
    else
        reply_with_template(worker, conn, frame);
}

static void put_verdict(struct kqn_worker *worker, const struct kqn_batch_entry *entry)
{
    struct kqn_conn *conn = entry->conn;
    switch (entry->verdict) {
    case KQN_VERDICT_DECLINED:
        worker->stats.declined++;
        return;
    case KQN_VERDICT_FAILED:
        worker->stats.failed++;
        if (conn->state != KQN_CONN_ENDED)
            kqn_conn_finish(worker, conn, KQN_REASON_HOOK);
        return;
    case KQN_VERDICT_UNANSWERED:
        worker->stats.unanswered++;
        return;
    case KQN_VERDICT_ANSWERED:
        break;
    }
    if (!put_header(worker, conn, entry->answer_len))
        return;
    if (entry->answer_len > 0)
        kqn_output_put(worker, conn, kqn_batch_answer(&worker->batch, entry), entry->answer_len);
    put_ending(worker, conn, entry->ending_len);
}

void kqn_reply_batch(struct kqn_worker *worker)
{
    struct kqn_batch *batch = &worker->batch;
    if (batch->count == 0 || worker->orphaned)
        return;
    batch->answer(batch->context, batch);
    if (kqn_fork_generation() != worker->server->fork_generation) {
        worker->orphaned = true;
        return;
    }
    /* The hook may have taken long, which is nobody's idleness. */
    kqn_worker_read_clock(worker);
    for (int i = 0; i < batch->count; i++) {
        struct kqn_conn *conn = batch->entries[i].conn;
        conn->in_batch--;
        put_verdict(worker, &batch->entries[i]);
        if (i + 1 == batch->count || batch->entries[i + 1].conn != conn) {
            kqn_output_flush(worker, conn);
            kqn_conn_settle(worker, conn);
        }
    }
    kqn_batch_clear(batch);
}
