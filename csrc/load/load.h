/* load.h: one run of the load tester: what its loops share.
 * All loops go through the phases of a run together: a loop that is done with one says so, and the last to say it sets
 * the time at which the next begins. Messages touch no shared word, but for the count of a run that has one. */
#ifndef KQN_LOAD_H
#define KQN_LOAD_H
#include <stdalign.h>
#include <stdatomic.h>

#include "api.h"
#include "core/sys.h"
#include "load/driver.h"
#include "load/messages.h"

struct kqn_endpoint { /* an address to connect to or from */
    union kqn_address address;
    socklen_t len;
};

struct kqn_load {
    struct kqn_load_settings settings; /* its pointers are not kept */
    struct kqn_endpoint target;
    struct kqn_endpoint *sources; /* settings.source_count of them */
    struct kqn_messages messages;
    struct kqn_template expect;
    unsigned fork_generation;

    struct kqn_driver *drivers;
    int driver_count;

    /* What loops share. With a limit they count each message down. */
    alignas(KQN_LINE_BYTES) _Atomic int64_t messages_left;       /* of settings.max_messages */
    alignas(KQN_LINE_BYTES) atomic_int done_with[KQN_LOAD_DONE]; /* loops that are done with a phase */
    _Atomic int64_t passed_ns[KQN_LOAD_DONE];                    /* when all were; 0: not all are */
    atomic_int open;                                             /* connections */
    _Atomic int64_t none_open_since_ns;                          /* valid while open is 0 */
    atomic_bool stop_asked;
    atomic_bool gave_up; /* no connection, or a loop failed: the run ends at once */
    atomic_bool had_no_connection;
    uint64_t intervals_taken; /* the reader's */
};

/* The number that a message's text shows: each of the run's messages has its own. */
static inline uint64_t kqn_load_number_shown(const struct kqn_driver *driver, uint64_t number)
{
    return number * (uint64_t)driver->load->driver_count + (uint64_t)driver->index;
}

/* A loop is done with this phase. */
void kqn_load_pass(struct kqn_load *load, enum kqn_load_phase phase, int64_t now_ns);

/* When all loops were done with it; 0: not all are. */
int64_t kqn_load_passed_ns(struct kqn_load *load, enum kqn_load_phase phase);

/* Of a run with a limit: takes up to so many messages out of what it may still send; returns how many. */
static inline uint32_t kqn_load_take_messages(struct kqn_load *load, uint32_t wanted)
{
    int64_t left = atomic_fetch_sub(&load->messages_left, wanted);
    return left >= (int64_t)wanted ? wanted : left > 0 ? (uint32_t)left : 0;
}

/* Takes back what could not be sent after all. */
void kqn_load_give_messages_back(struct kqn_load *load, uint32_t count);

/* Whether the count of a run that has one is used up. */
bool kqn_load_all_sent(struct kqn_load *load);

void kqn_load_count_open(struct kqn_load *load, int change, int64_t now_ns);

/* Ends the run if no connection has been open for the connect timeout. */
void kqn_load_check_open(struct kqn_load *load, int64_t now_ns);

/* Ends the run for all loops. */
void kqn_load_give_up(struct kqn_load *load);
#endif
