/* output.h: answers on their way to one connection.
 * They gather in the loop's scratch buffer and are written together. What the socket does not take moves into a
 * buffer of the connection's own, and from then on until that is written so does all that follows. */
#ifndef KQN_OUTPUT_H
#define KQN_OUTPUT_H
#include "server/connection.h"

enum {
    KQN_COPIED_PART_MAX = 8192, /* a longer part of an answer is written from where it lies */
};

/* The free end of the scratch buffer, in which short answers are written one behind the other, each shorter than
 * what is left: where bytes wait already there is nothing, not even for an answer without a byte. Nothing else may be
 * done with a connection's output before they are committed. */
struct kqn_room {
    uint8_t *at;
    const uint8_t *end;
    uint32_t answers;
};

static inline struct kqn_room kqn_output_room(const struct kqn_worker *worker, const struct kqn_conn *conn)
{
    struct kqn_buffer *scratch = worker->scratch;
    bool is_closed = conn->out || conn->state == KQN_CONN_ENDED;
    uint8_t *at = scratch->bytes + scratch->end;
    return (struct kqn_room){.at = at, .end = is_closed ? at : scratch->bytes + scratch->capacity};
}

static inline void kqn_output_commit(struct kqn_worker *worker, const struct kqn_room *room)
{
    worker->scratch->end = (uint32_t)(room->at - worker->scratch->bytes);
    worker->scratch->mark += room->answers;
}

/* Adds a part of an answer. A long one is written at once from where it lies, behind all that came before it. Without
 * memory the connection ends. */
void kqn_output_put(struct kqn_worker *worker, struct kqn_conn *conn, const void *bytes, size_t len);

/* What has been put since this was last said makes up so many answers. */
void kqn_output_answers_done(struct kqn_worker *worker, struct kqn_conn *conn, uint32_t answers);

/* Writes what has been placed, or leaves it to the next WRITE event where bytes wait already. To be called before
 * another connection's answers are placed. */
void kqn_output_flush(struct kqn_worker *worker, struct kqn_conn *conn);

/* Writes this many answers that lie ready in one piece, with nothing placed before them. */
void kqn_output_send(struct kqn_worker *worker, struct kqn_conn *conn, const uint8_t *bytes, size_t len,
                     uint32_t answers);

/* Writes on, once the socket has room. */
void kqn_output_resume(struct kqn_worker *worker, struct kqn_conn *conn);
#endif
