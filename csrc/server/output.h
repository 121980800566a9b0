/* output.h: answers on their way to one connection.
 * They gather in the loop's scratch buffer and are written together. What the socket does not take moves into a
 * buffer of the connection's own, and from then on until that is written so does all that follows. */
#ifndef KQN_OUTPUT_H
#define KQN_OUTPUT_H
#include "server/connection.h"

/* Adds bytes of an answer. Without memory the connection ends. */
void kqn_output_put(struct kqn_worker *worker, struct kqn_conn *conn, const void *bytes, size_t len);

/* What has been put since the last answer is one. */
void kqn_output_answer_done(struct kqn_worker *worker, struct kqn_conn *conn);

/* Writes what has been put, or leaves it to the next WRITE event where bytes wait already. To be called before another
 * connection's answers are put. */
void kqn_output_flush(struct kqn_worker *worker, struct kqn_conn *conn);

/* Writes this many answers that lie ready in one piece, with nothing put before them. */
void kqn_output_send(struct kqn_worker *worker, struct kqn_conn *conn, const uint8_t *bytes, size_t len,
                     uint32_t answers);

/* Writes on, once the socket has room. */
void kqn_output_resume(struct kqn_worker *worker, struct kqn_conn *conn);
#endif
