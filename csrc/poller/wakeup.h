/* wakeup.h: a socket pair that ends another thread's wait.
 * For every poller but a kqueue that has EVFILT_USER. The waiting thread watches read_fd.
 * Invariant: at most one byte is under way, for as long as `pending` is true. So a wake-up that finds one pending
 * costs no system call, and the pair can't be full. */
#ifndef KQN_WAKEUP_H
#define KQN_WAKEUP_H
#include <stdatomic.h>
#include <stdbool.h>

struct kqn_wakeup {
    int read_fd;         /* owned; -1: never opened */
    int write_fd;        /* owned */
    atomic_bool pending; /* whoever makes it true sends the byte; whoever takes the byte makes it false */
};

int kqn_wakeup_open(struct kqn_wakeup *wakeup);  /* 0 or -errno */
int kqn_wakeup_send(struct kqn_wakeup *wakeup);  /* 0 or -errno; from any thread */
void kqn_wakeup_take(struct kqn_wakeup *wakeup); /* in the waiting thread, when read_fd is readable */
void kqn_wakeup_close(struct kqn_wakeup *wakeup);
#endif
