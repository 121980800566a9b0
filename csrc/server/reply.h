/* reply.h: messages in, answers out: by the template, or by the hook once for the whole batch. */
#ifndef KQN_REPLY_H
#define KQN_REPLY_H
#include "server/connection.h"

enum { /* of one connection, before it is the others' turn: a read of 64 KiB may hold 65,536 empty lines */
    KQN_MESSAGES_PER_EVENT = 4096,
    KQN_HOOK_MESSAGES_PER_EVENT = 1024,
};

/* Answers the complete messages among these bytes, as far as the peer takes the answers, until it is the others' turn;
 * returns how many bytes that used up. The rest's *scanned is as kqn_framing_next() has it. */
size_t kqn_reply_messages(struct kqn_worker *worker, struct kqn_conn *conn, const uint8_t *bytes, size_t len,
                          bool at_end, size_t *scanned);

/* Counts the complete messages among these bytes as unanswered. */
void kqn_reply_none(struct kqn_worker *worker, const uint8_t *bytes, size_t len, size_t scanned);

/* Answers the messages of the batch and writes the answers. Also to be called once each turn. */
void kqn_reply_batch(struct kqn_worker *worker);
#endif
