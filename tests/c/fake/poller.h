/* poller.h: what the simulated system's pollers, whichever are linked, must be told. */
#ifndef KQN_FAKE_POLLER_H
#define KQN_FAKE_POLLER_H
#include <stdbool.h>
#include <stdint.h>

/* This number is being closed: whatever watches it ends. */
void fake_poller_dropped(int fd);

/* What a loop's poller has of this number: bits KNOTE_... */
enum {
    KNOTE_READ = 1,
    KNOTE_READ_ENABLED = 2,
    KNOTE_WRITE = 4,
    KNOTE_UNKNOWN = 8, /* it can't be said */
};
unsigned fake_poller_knotes(int loop, int fd);

/* Pollers that are open. */
int fake_poller_count(void);
void fake_poller_begin(void);
#endif
