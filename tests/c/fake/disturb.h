/* disturb.h: what else a wait may bring than what is ready: events of connections that have gone, doubled ones, and all
 * of them in another order. */
#ifndef KQN_FAKE_DISTURB_H
#define KQN_FAKE_DISTURB_H
#include "poller/poller.h"

enum {
    GONE_MAX = 32,
};

struct gone { /* the last events of descriptors that have been closed since */
    struct kevent events[GONE_MAX];
    int count;
};

/* Keeps what may come late: an event that nobody can tell from a true one but by its generation. */
void remember_gone(struct gone *gone, int fd, int filter, uint64_t udata);

/* Returns how many events there are then. */
int disturb(const struct gone *gone, struct kevent *events, int count, int max_events);
#endif
