/* driver.h: one loop of the load tester: its connections, what each of them waits for, and the turn.
 * A turn, after core/loop.h:
 * 1. wait; 2. each event goes to its connection: read, count the answers, in a closed loop send the next messages;
 * 3. send what is due: the schedule of an open loop, connections that have thought, that are new;
 * 4. look at the deadlines of some connections, so that all are looked at every few milliseconds;
 * 5. close those that ended; 6. open new ones; 7. see whether the phase is over. */
#ifndef KQN_DRIVER_H
#define KQN_DRIVER_H
#include <stdalign.h>
#include <stdatomic.h>

#include "core/loop.h"
#include "core/sys.h"
#include "load/schedule.h"
#include "load/tally.h"

enum {
    KQN_LOAD_INPUT_BYTES = 64 * 1024,
    KQN_LOAD_BATCH = 1024,            /* events of a wait */
    KQN_LOAD_STEPS_PER_TURN = 64,     /* connections that are opened, or begin to send, before events are looked at */
    KQN_LOAD_CONNECTING_MAX = 100,    /* at a time, without a connect rate: macOS and the BSDs queue no more than 128 */
    KQN_LOAD_SWEEP_MAX_NS = 50000000, /* within so long each connection's deadline is looked at */
    KQN_LOAD_SWEEP_MIN_NS = 5000000,
    KQN_LOAD_TICK_NS = 10000000, /* no wait is longer */
    KQN_LOAD_LATE_NS = 1000000,  /* a message is late that is sent so long after it could have been */
};

struct kqn_load;

enum kqn_load_queue {       /* of connections, first in, first out; each at most once in each */
    KQN_LOAD_QUEUE_CONNECT, /* to be opened */
    KQN_LOAD_QUEUE_READY,   /* have room for a message */
    KQN_LOAD_QUEUE_THINK,   /* wait between an answer and the next message: all as long, so they are in order */
    KQN_LOAD_QUEUE_COUNT,
};

struct kqn_driver {
    struct kqn_loop loop; /* first: the loop's handler finds its driver */
    struct kqn_load *load;
    const struct kqn_load_settings *settings; /* the load's */
    bool is_open_loop;                        /* messages go by a schedule */
    bool compares;                            /* answers, with what is expected */
    bool counts_down;                         /* messages of this phase come out of the run's count */
    int index;
    enum kqn_load_phase phase;
    int64_t phase_end_ns;   /* WARMING and MEASURING: nothing is sent from then on; INT64_MAX: no such time */
    int64_t sends_until_ns; /* the same, and INT64_MIN in the other phases */
    struct kqn_load_conn *conns;
    uint32_t conn_count;
    struct kqn_flight *flights;           /* depth of them for each connection */
    uint32_t heads[KQN_LOAD_QUEUE_COUNT]; /* index + 1; 0: empty */
    uint32_t tails[KQN_LOAD_QUEUE_COUNT];

    uint64_t in_flight;     /* messages, over all connections */
    uint64_t sent_count;    /* messages that have got a number */
    uint32_t next_slot;     /* of the block of messages */
    uint32_t settled;       /* connections whose first attempt has come to something */
    uint32_t connecting;    /* connections that are */
    int64_t connect_due_ns; /* with a connect rate: when the next may be opened */
    struct kqn_schedule schedule;
    bool was_blocked;    /* when messages were sent last, they waited for a connection with room */
    int64_t room_ns;     /* since when there is room, after was_blocked */
    int64_t blocked_ns;  /* when messages last had to wait for room */
    int64_t turn_due_ns; /* when this turn should have begun, if the loop overslept; else INT64_MAX */
    int64_t last_end_ns; /* when a message was last answered or failed */
    int64_t sweep_ns;    /* what was looked at until then */
    uint32_t sweep_cursor;
    int64_t begun_ns; /* MEASURING: when that began */
    int64_t begun_cpu_ns;
    int64_t patience_ends_ns; /* WAITING after a stop: what is in flight then is awaited no longer; 0: no stop */
    bool has_passed;          /* it is done with its phase, and other loops may not be */
    bool ended_by_count;      /* the messages that the run may send were used up */
    uint8_t *input;
    struct kqn_buffer *output; /* messages with fields, on their way to one connection */
    struct kqn_buffer *body;   /* one of them, made again to be compared with */
    struct kqn_tally tally;

    alignas(KQN_LINE_BYTES) atomic_int phase_shown; /* phase, for other threads */
};
_Static_assert(sizeof(struct kqn_driver) % KQN_LINE_BYTES == 0, "drivers stand in an array");

int kqn_driver_open(struct kqn_driver *driver, struct kqn_load *load, int index);
void kqn_driver_close(struct kqn_driver *driver);

/* Runs to the end of the run. 0 or -errno. */
int kqn_driver_run(struct kqn_driver *driver);

/* Whether messages are exchanged for good or to warm up, and the end of that has not come. */
static inline bool kqn_driver_sends(const struct kqn_driver *driver)
{
    return driver->loop.now_ns < driver->sends_until_ns;
}

/* Open loop: the next message of the schedule goes now; returns when it was due. */
int64_t kqn_driver_take_scheduled(struct kqn_driver *driver);

void kqn_driver_push(struct kqn_driver *driver, enum kqn_load_queue queue, struct kqn_load_conn *conn);
struct kqn_load_conn *kqn_driver_first(const struct kqn_driver *driver, enum kqn_load_queue queue); /* NULL: empty */
/* The first of those with room for a message; those in front that have lost theirs leave the queue. */
struct kqn_load_conn *kqn_driver_first_ready(struct kqn_driver *driver);
void kqn_driver_pop(struct kqn_driver *driver, enum kqn_load_queue queue);
/* Takes it out, if it is in. */
void kqn_driver_remove(struct kqn_driver *driver, enum kqn_load_queue queue, struct kqn_load_conn *conn);
#endif
