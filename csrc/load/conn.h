/* conn.h: one connection of the load tester, over all the sockets that it has in a run.
 *
 *     CLOSED ──▶ CONNECTING ──▶ OPEN ──▶ CLOSED …
 *
 * A connection that fails is closed, its messages in flight are counted as failed, and it is opened again after 100 ms,
 * and after twice as long each time that brings no answer, up to 1 s. An event finds its connection through the
 * socket's slot; a socket whose connection has left it is only waiting to be closed. */
#ifndef KQN_LOAD_CONN_H
#define KQN_LOAD_CONN_H
#include "load/answers.h"
#include "load/driver.h"

enum kqn_load_conn_state {
    KQN_LOAD_CONN_CLOSED,
    KQN_LOAD_CONN_CONNECTING,
    KQN_LOAD_CONN_OPEN,
};

struct kqn_flight {      /* messages sent together that await their answers */
    uint64_t number;     /* of the first; the others' follow */
    int64_t intended_ns; /* when they should have been sent, and from when their latency counts */
    int64_t sent_ns;
    uint32_t count;
};

struct kqn_load_socket { /* a slot of the loop */
    struct kqn_watch watch;
    struct kqn_load_conn *conn;
};

struct kqn_load_conn {
    struct kqn_load_socket *socket; /* NULL while CLOSED */
    struct kqn_flight *flights;     /* a ring of depth */
    uint32_t index;
    uint32_t flight_head;                /* the oldest */
    uint32_t flight_tail;                /* where the next goes */
    uint32_t in_flight;                  /* messages, of all flights */
    uint32_t next[KQN_LOAD_QUEUE_COUNT]; /* in a queue, the index + 1; 0: none */
    uint32_t previous[KQN_LOAD_QUEUE_COUNT];
    struct kqn_answer_place place;
    const uint8_t *unwritten; /* what the socket did not take of the messages sent last */
    size_t unwritten_len;
    struct kqn_buffer *owned; /* where unwritten lies, unless that is the block of messages */
    int64_t due_ns;           /* CLOSED: open it then; CONNECTING: give up then; OPEN and thinking: send then */
    int64_t begun_ns;         /* CONNECTING: since when */
    uint32_t sent;            /* messages since it was opened */
    uint8_t queued;           /* a bit for each queue that it is in */
    uint8_t state;
    uint8_t failures; /* in a row, without an answer */
    bool waits;       /* CLOSED: due_ns counts */
    bool retries;     /* CLOSED: this attempt began earlier, at begun_ns */
    bool settled;     /* the first attempt has come to something */
    bool was_open;
    int broken;   /* errno: the peer takes nothing more; what it sent before is still read */
    bool starved; /* the kernel had no memory for its bytes; the sweep tries again */
};

/* Whether it waits between an answer and the next message. */
static inline bool kqn_load_conn_thinks(const struct kqn_load_conn *conn)
{
    return conn->queued & 1u << KQN_LOAD_QUEUE_THINK;
}

/* Whether it has had all the answers that it is to have. */
static inline bool kqn_load_conn_is_used_up(const struct kqn_driver *driver, const struct kqn_load_conn *conn)
{
    uint32_t every = (uint32_t)driver->settings->reconnect_every;
    return every > 0 && conn->in_flight == 0 && conn->sent >= every;
}

/* Behind this place in the ring of its flights. */
static inline uint32_t kqn_load_flight_after(const struct kqn_driver *driver, uint32_t place)
{
    return place + 1 < (uint32_t)driver->settings->depth ? place + 1 : 0;
}

/* Step 6: begins to connect. */
void kqn_load_conn_open(struct kqn_driver *driver, struct kqn_load_conn *conn);

/* An event of its socket while it is CONNECTING. */
void kqn_load_conn_on_connect_event(struct kqn_driver *driver, struct kqn_load_conn *conn, const struct kevent *event);

/* The connection has failed, or could not be had: counts what that cost, and opens it again later. */
void kqn_load_conn_lose(struct kqn_driver *driver, struct kqn_load_conn *conn, enum kqn_load_error kind, int error);
void kqn_load_conn_lose_by_errno(struct kqn_driver *driver, struct kqn_load_conn *conn, int error);

/* The connection is used up: opens it anew, unless the run sends no more. */
void kqn_load_conn_renew(struct kqn_driver *driver, struct kqn_load_conn *conn);

/* Step 4: looks at its deadline. */
void kqn_load_conn_check(struct kqn_driver *driver, struct kqn_load_conn *conn);

/* Ends it, and counts nothing. */
void kqn_load_conn_close(struct kqn_driver *driver, struct kqn_load_conn *conn);
#endif
