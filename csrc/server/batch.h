/* batch.h: messages of one turn, to be answered together by a hook.
 * The messages lie one behind the other in an arena of the loop, and so do the answers, as they will be sent, but the
 * long ones, which would make the arena of all depend on the answers of one. The answerer (hook.c, or a test) sets
 * every entry's verdict; entries stand in the order in which the messages came. */
#ifndef KQN_BATCH_H
#define KQN_BATCH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buffer.h"
#include "core/framing.h"

enum {
    /* Answers are written when the batch has been answered: the more there are at once, the less often a peer that
     * waits has to be woken up. With 50 clients and 128 messages in flight on each, 1,024 are a tenth slower. But all
     * wait for the last: so a batch that takes long makes the next one shorter. */
    KQN_BATCH_MESSAGES = 4096,
    KQN_BATCH_FIRST_MESSAGES = 256,
    KQN_BATCH_LEAST_MESSAGES = 16,
    KQN_BATCH_BYTES = 1024 * 1024 - sizeof(struct kqn_buffer), /* of messages, unless one alone is longer */
};

enum {
    KQN_BATCH_LARGE_ANSWER = 64 * 1024, /* bytes that a hook returns, from which an answer has a buffer of its own */
};

enum kqn_verdict {
    KQN_VERDICT_UNANSWERED, /* as it comes, and as it stays when the connection failed with an earlier message */
    KQN_VERDICT_ANSWERED,
    KQN_VERDICT_DECLINED,
    KQN_VERDICT_FAILED,
};

struct kqn_conn;

struct kqn_batch_entry {
    struct kqn_conn *conn; /* stays until the turn ends, though it may have ended */
    uint32_t message_at;   /* in messages */
    uint32_t message_len;
    uint32_t answer_at; /* in answers, or 0 in large; header and ending are a part of it */
    uint32_t answer_len;
    struct kqn_buffer *large; /* the answer alone, where it is long; else NULL */
    uint8_t verdict;          /* enum kqn_verdict */
    uint8_t ending_len;       /* of the line's ending, to be put behind the answer */
    bool is_skipped;          /* an earlier message of its connection has failed */
};

struct kqn_batch;
typedef void kqn_answerer(void *context, struct kqn_batch *batch);

struct kqn_batch {
    struct kqn_batch_entry *entries; /* NULL: there is no hook */
    int count;
    int limit; /* messages that it takes in; the arrays have room for KQN_BATCH_MESSAGES */
    bool has_large;
    size_t header_len; /* of what is put before an answer */
    struct kqn_buffer *messages;
    struct kqn_buffer *answers; /* NULL until there is one */
    struct kqn_pool pool;       /* its own: what a function returns does not count among what connections hold */
    kqn_answerer *answer;
    void *context;
};

int kqn_batch_open(struct kqn_batch *batch, enum kqn_framing_kind framing);
void kqn_batch_close(struct kqn_batch *batch);

static inline bool kqn_batch_has_room(const struct kqn_batch *batch, size_t message_len)
{
    return batch->count < batch->limit && (batch->count == 0 || batch->messages->end + message_len <= KQN_BATCH_BYTES);
}

/* 0 or -ENOMEM. Room for the entry there must be; a message longer than the arena makes it grow. */
static inline int kqn_batch_add(struct kqn_batch *batch, struct kqn_conn *conn, const struct kqn_frame *frame)
{
    struct kqn_batch_entry *entry = &batch->entries[batch->count];
    uint32_t at = batch->messages->end;
    int rc = kqn_pool_append(&batch->pool, &batch->messages, frame->message, frame->message_len);
    if (rc < 0)
        return rc;
    *entry = (struct kqn_batch_entry){.conn = conn, .message_at = at, .message_len = (uint32_t)frame->message_len};
    entry->ending_len = (uint8_t)frame->ending_len;
    batch->count++;
    return 0;
}

/* For the answerer: gives entry `index` its answer. 0, -EMSGSIZE (longer than KQN_ANSWER_MAX) or -ENOMEM. */
int kqn_batch_set_answer(struct kqn_batch *batch, int index, const void *bytes, size_t len);

/* Sets the limit by how long this one took to answer. */
void kqn_batch_adapt(struct kqn_batch *batch, int64_t took_ns);

/* Empties it, and lets go of arenas that had to grow. */
void kqn_batch_clear(struct kqn_batch *batch);

static inline const uint8_t *kqn_batch_answer(const struct kqn_batch *batch, const struct kqn_batch_entry *entry)
{
    const struct kqn_buffer *answers = entry->large ? entry->large : batch->answers;
    return answers->bytes + entry->answer_at;
}

static inline const uint8_t *kqn_batch_message(const struct kqn_batch *batch, int index)
{
    return batch->messages->bytes + batch->entries[index].message_at;
}
#endif
