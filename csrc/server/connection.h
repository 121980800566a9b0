/* connection.h: one client, from its accept to its end.
 *
 *            OPEN         reads messages and answers them
 *          ┌──┴──┬─────────────────┐
 *   peer's end  the stop     too long, hook failed
 *          ▼     ▼                 │
 *   HALF_CLOSED  DRAINING          │   read no more; what has been read is still answered
 *     │    └──┬──┘                 │   (a hook may fail here, too)
 *     │       └───────────────────▶▼
 *     │          │            FINISHING   reads no more, answers no more; what is owed is still written
 *     │          └──────┬──────────┘
 *  nothing owed    nothing owed
 *     │                 ▼
 *     │             LINGERING   our side is shut; input is thrown away, so that the last answers arrive before
 *     ▼                 │       a close that would reset the connection
 *   ENDED ◀───── its end, or time ──── and from any state: reset, idle for too long, grace over, no memory
 *
 * A connection moves down this picture, never up. While it has unwritten bytes (out) it reads and frames nothing;
 * when they are written, framing goes on with what it holds (in) until no message is complete or bytes wait again. It
 * also pauses after some thousand messages (has_more), until the next WRITE event, which comes at once.
 * So there are never a complete message, nothing unwritten, and no filter enabled at the same time. */
#ifndef KQN_CONNECTION_H
#define KQN_CONNECTION_H
#include "server/worker.h"

enum kqn_conn_state {
    KQN_CONN_OPEN,
    KQN_CONN_HALF_CLOSED,
    KQN_CONN_DRAINING,
    KQN_CONN_FINISHING,
    KQN_CONN_LINGERING,
    KQN_CONN_ENDED,
};

struct kqn_conn {
    struct kqn_watch watch;
    uint32_t progress_ms;   /* when bytes last moved, or waited for the first time; LINGERING: when that began */
    uint32_t begun_ms;      /* when the unfinished message in `in` began */
    struct kqn_buffer *in;  /* owned while input is unfinished or waits, else NULL; its mark: scanned for an ending */
    struct kqn_buffer *out; /* owned while bytes are unwritten, else NULL; its mark: answers that end in it */
    struct kqn_peer peer;
    uint16_t in_batch; /* its messages that wait for the hook */
    uint32_t drained;  /* bytes read since the stop */
    int32_t unsent;    /* bytes that the kernel held for the peer at the last sweep, while bytes are unwritten */
    bool has_more;     /* complete messages may wait in `in`, for it is the others' turn */
    bool starved;      /* the kernel had no memory for its bytes; the next sweep tries again */
    uint8_t state;
    uint8_t reason; /* enum kqn_reason, from FINISHING or DRAINING on */
};
_Static_assert(sizeof(struct kqn_conn) <= 96, "the memory of an idle connection is a promise");

static inline struct kqn_worker *kqn_worker_of(struct kqn_loop *loop)
{
    return (struct kqn_worker *)(void *)loop;
}

/* An event of its descriptor. */
void kqn_conn_on_event(struct kqn_worker *worker, struct kqn_conn *conn, const struct kevent *event);

/* Says a connection's next wishes after anything has happened to it, and moves it on where nothing is owed. Does
 * nothing for the one whose messages are just being answered: more of them may follow. */
void kqn_conn_settle(struct kqn_worker *worker, struct kqn_conn *conn);

/* The stop has come: reads once more what has arrived by now, and then no more. One with unwritten bytes does so when
 * they are written. */
void kqn_conn_drain(struct kqn_worker *worker, struct kqn_conn *conn);

/* Whether more of its input may be read now. */
static inline bool kqn_conn_reads(const struct kqn_conn *conn)
{
    return conn->state == KQN_CONN_OPEN && !conn->out && !conn->has_more;
}

/* Whether its complete messages may be answered now. */
static inline bool kqn_conn_takes_messages(const struct kqn_conn *conn)
{
    return conn->state <= KQN_CONN_DRAINING && !conn->out;
}

/* Moves it to FINISHING: it ends for this reason once what it is owed has been written. */
void kqn_conn_finish(struct kqn_worker *worker, struct kqn_conn *conn, enum kqn_reason reason);

/* Ends it now. */
void kqn_conn_end(struct kqn_worker *worker, struct kqn_conn *conn, enum kqn_reason reason);

/* Lets it write again if the kernel had no memory for its bytes. */
void kqn_conn_feed(struct kqn_worker *worker, struct kqn_conn *conn);

/* Ends it because the grace of a stop is over. */
void kqn_conn_cut(struct kqn_worker *worker, struct kqn_conn *conn);
#endif
