/* reply.h: from a message to its answer.
 * A template answers at once, in C. For a hook the message is put into the worker's batch, which is answered once a
 * turn, or when it is full. */
#ifndef KQN_REPLY_H
#define KQN_REPLY_H
#include "server/connection.h"

/* Answers one message of a connection that takes messages. */
void kqn_reply_message(struct kqn_worker *worker, struct kqn_conn *conn, const struct kqn_frame *frame);

/* Step 3 of a turn: answers what waits for the hook. */
void kqn_reply_batch(struct kqn_worker *worker);
#endif
