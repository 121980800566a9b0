/* output.h: answers on their way to one connection.
 * They gather in the loop's scratch buffer and are written together. What the socket does not take moves into a
 * buffer of the connection's own, and from then on until that is written so does all that follows. */
#ifndef KQN_OUTPUT_H
#define KQN_OUTPUT_H
#include "server/connection.h"

enum {
    KQN_COPIED_PART_MAX = 8192, /* a longer part of an answer is written from where it lies */
};

/* A place in the scratch buffer for one answer of this many bytes, all of which the caller writes before it does
 * anything else. NULL: it has to be put in parts. */
static inline uint8_t *kqn_output_place(struct kqn_worker *worker, struct kqn_conn *conn, size_t len)
{
    struct kqn_buffer *scratch = worker->scratch;
    if (conn->out || len > KQN_COPIED_PART_MAX || len > scratch->capacity - scratch->end ||
        conn->state == KQN_CONN_ENDED)
        return NULL;
    uint8_t *place = scratch->bytes + scratch->end;
    scratch->end += (uint32_t)len;
    scratch->mark++;
    return place;
}

/* Adds a part of an answer. A long one is written at once from where it lies, behind all that came before it. Without
 * memory the connection ends. */
void kqn_output_put(struct kqn_worker *worker, struct kqn_conn *conn, const void *bytes, size_t len);

/* What has been put since the last answer is one. */
void kqn_output_answer_done(struct kqn_worker *worker, struct kqn_conn *conn);

/* Writes what has been placed, or leaves it to the next WRITE event where bytes wait already. To be called before another
 * connection's answers are placed. */
void kqn_output_flush(struct kqn_worker *worker, struct kqn_conn *conn);

/* Writes this many answers that lie ready in one piece, with nothing placed before them. */
void kqn_output_send(struct kqn_worker *worker, struct kqn_conn *conn, const uint8_t *bytes, size_t len,
                     uint32_t answers);

/* Writes on, once the socket has room. */
void kqn_output_resume(struct kqn_worker *worker, struct kqn_conn *conn);
#endif
