/* batch.h: messages of one turn, to be answered together by a hook.
 * The messages lie one behind the other in an arena of the loop, and so do the answers but the long ones, which would
 * make the arena of all depend on the answers of one. The answerer (hook.c, or a
 * test) sets every entry's verdict; entries stand in the order in which the messages came. */
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
    KQN_BATCH_LARGE_ANSWER = 64 * 1024, /* bytes from which an answer has a buffer of its own */
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
    size_t answer_at; /* in answers, or 0 in large */
    size_t answer_len;
    struct kqn_buffer *large; /* the answer alone, where it is long; else NULL */
    enum kqn_verdict verdict;
    uint8_t ending_len; /* of the line's ending, to be put behind the answer */
    bool is_skipped;    /* an earlier message of its connection has failed */
};

struct kqn_batch;
typedef void kqn_answerer(void *context, struct kqn_batch *batch);

struct kqn_batch {
    struct kqn_batch_entry *entries; /* NULL: there is no hook */
    int count;
    int limit; /* messages that it takes in; the arrays have room for KQN_BATCH_MESSAGES */
    struct kqn_buffer *messages;
    struct kqn_buffer *answers; /* NULL until there is one */
    struct kqn_pool pool;       /* its own: what a function returns does not count among what connections hold */
    kqn_answerer *answer;
    void *context;
};

int kqn_batch_open(struct kqn_batch *batch);
void kqn_batch_close(struct kqn_batch *batch);

bool kqn_batch_has_room(const struct kqn_batch *batch, size_t message_len);

/* 0 or -ENOMEM. Room for the entry there must be; a message longer than the arena makes it grow. */
int kqn_batch_add(struct kqn_batch *batch, struct kqn_conn *conn, const struct kqn_frame *frame);

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
