/* loop.h: one kernel queue, what it watches, and the parts of a turn that every program of it shares.
 * A turn, in this order:
 * 1. kqn_loop_wait() hands in the changes of the last turn and takes out events;
 * 2. kqn_loop_dispatch() gives each event to the owner;
 * 3. the owner does what it does once a turn;
 * 4. kqn_loop_reap() lets go of the watches that ended;
 * 5. only now are descriptors taken in (kqn_loop_add), so that nothing in a turn meets a number or a slot twice.
 *
 * A watch says what it wants, and the loop tells the kernel the difference to what it was told last, at most one
 * change for each filter and turn. READ stays registered and is switched off and on; WRITE, seldom wanted, is added
 * and deleted. So an idle connection has one knote, and a turn without a change of mind costs the kernel nothing. */
#ifndef KQN_LOOP_H
#define KQN_LOOP_H
#include <stdbool.h>
#include <stdint.h>

#include "core/buffer.h"
#include "core/slab.h"
#include "core/sys.h"
#include "poller/poller.h"

enum kqn_want {
    KQN_WANT_NOTHING = 0,   /* no knote at all */
    KQN_WANT_READ_KEPT = 1, /* READ's knote stays registered, switched off */
    KQN_WANT_READ = 2,
    KQN_WANT_WRITE = 4,
};

/* How the owner's slots begin: a descriptor, and what the kernel knows of it. */
struct kqn_watch {
    struct kqn_slot slot;
    int fd;              /* owned until kqn_loop_reap() closes it */
    uint32_t next_dirty; /* index + 1 in the list of those with changes to tell */
    uint32_t next_ended; /* likewise, of those that ended */
    uint8_t wanted;      /* enum kqn_want */
    uint8_t told;        /* the same, as the kernel knows it */
    bool dirty;
    bool ended;
};

struct kqn_loop;
typedef void kqn_loop_handler(struct kqn_loop *loop, struct kqn_watch *watch, const struct kevent *event);

struct kqn_loop {
    struct kqn_poller *poller;
    struct kqn_slab watches;
    struct kqn_pool pool;
    struct kevent *changes;
    struct kevent *events;
    int batch; /* length of both arrays */
    int event_count;
    uint32_t dirty_head; /* first in, first told */
    uint32_t dirty_tail;
    uint32_t ended_head;
    bool ended_dirty; /* some of the ended are still in the list of the dirty */
    int64_t now_ns;   /* the coarse clock: when the last wait returned, or later */
    uint64_t turns;
    uint64_t events_taken;
    uint64_t stale_events;
};

/* 0 or -errno. slot_size: of the owner's watches. */
int kqn_loop_open(struct kqn_loop *loop, enum kqn_poller_kind kind, int batch, size_t slot_size);
void kqn_loop_close(struct kqn_loop *loop); /* every watch has ended and been reaped */

/* Watches a descriptor, for nothing at first; NULL without memory: the descriptor is still the caller's. */
struct kqn_watch *kqn_loop_add(struct kqn_loop *loop, int fd);

void kqn_loop_want(struct kqn_loop *loop, struct kqn_watch *watch, unsigned wanted);

/* Marks a watch as ended: it gets no event any more, and goes in kqn_loop_reap(). Once for each. */
void kqn_loop_end(struct kqn_loop *loop, struct kqn_watch *watch);

/* Step 1. timeout_ns < 0: no limit. 0, or -errno: the poller failed, the loop can't go on. */
int kqn_loop_wait(struct kqn_loop *loop, int64_t timeout_ns);

/* Brings the coarse clock up to date, after something in the turn took long. */
static inline void kqn_loop_read_clock(struct kqn_loop *loop)
{
    loop->now_ns = kqn_sys_monotonic_ns();
}

/* Step 2. A change that failed arrives as an event with EV_ERROR. */
void kqn_loop_dispatch(struct kqn_loop *loop, kqn_loop_handler *handler);

/* Step 4, for one of those that ended: NULL, there is none left; else its descriptor is closed, and the owner calls
 * kqn_loop_give() when it has taken leave of the slot. */
struct kqn_watch *kqn_loop_reap(struct kqn_loop *loop);
void kqn_loop_give(struct kqn_loop *loop, struct kqn_watch *watch);
#endif
