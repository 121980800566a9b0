/* sweep.h: deadlines, looked at all at once, now and then.
 * A connection pays a store for each read and write, and nothing for a timer: the sweep compares its stamps, which are
 * milliseconds of the loop's coarse clock, in 32 bits. */
#ifndef KQN_SWEEP_H
#define KQN_SWEEP_H
#include "server/worker.h"

/* A quarter of the shortest timeout, but no more than a second and no less than 10 ms. */
int64_t kqn_sweep_interval_ns(const struct kqn_server *server);

/* When it is due: ends the connections that have waited too long, and lets those write again that were starved. To be
 * called after the events, so that input which is there has been read before anyone is judged. */
void kqn_sweep(struct kqn_worker *worker);
#endif
