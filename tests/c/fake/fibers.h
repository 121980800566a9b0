/* fibers.h: the server's loops, each on a stack of its own, run by one thread.
 * A loop runs until it waits; there it really waits, until something is ready for it, somebody wakes it, or its time
 * has come. So what should have woken it and does not is seen as a loop that never comes back. Loops change over at
 * their waits alone: finer interleavings are ThreadSanitizer's business.
 * Needs makecontext(), which OpenBSD and musl do not have. */
#ifndef KQN_FAKE_FIBERS_H
#define KQN_FAKE_FIBERS_H
#include <stdbool.h>
#include <stdint.h>

#include "server/server.h"

enum {
    MAX_LOOPS = 3,
};

/* Makes every loop of the server ready to run. answer: NULL, or what answers in the template's place. */
void fibers_start(struct kqn_server *server, kqn_answerer *answer);

bool fiber_has_ended(int loop);
int fiber_result(int loop); /* of kqn_server_run(), once it has ended */

/* Whether it would run on by itself now. */
bool fiber_is_due(int loop);

/* When it is due at the latest; INT64_MAX: not by time. */
int64_t fiber_due_ns(int loop);

/* Runs it until it waits again or ends. */
void fiber_resume(int loop);

/* When the wait of a loop returned last, as its clock has it: a jump of the time may have come before it looked. */
int64_t fiber_woke_ns(int loop);

/* The loop that runs, if one does, looks at the clock. */
void fiber_reads_clock(void);

/* For the poller: the loop that runs is about to return from its wait, whether it had to wait or not. */
void fiber_wakes(void);

/* For the poller: the loop that runs waits. */
void fiber_wait(bool (*is_ready)(void *context), void *context, int64_t timeout_ns);

/* Leaves the loop that runs, for ever; outside of a loop it does nothing. */
void fiber_abandon(void);
#endif
