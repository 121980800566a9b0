/* readiness.h: who is ready, as epoll, poll or select tells it.
 * The backends under knotes.c. They know nothing of kevent: they are told which knotes of a descriptor to watch, and
 * answer which of its conditions hold. Each wait is one call through this table, and each real change another. */
#ifndef KQN_READINESS_H
#define KQN_READINESS_H
#include <stdint.h>

#include "poller/poller.h"
#include "poller/table.h"

#ifdef __linux__
#define KQN_HAVE_EPOLL 1
#else
#define KQN_HAVE_EPOLL 0
#endif

enum { /* conditions; the values are Linux's own for epoll, which need no translation */
    KQN_READY_READ = 0x1,
    KQN_READY_WRITE = 0x4,
    KQN_READY_ERROR = 0x8,   /* reported whether asked for or not */
    KQN_READY_HANGUP = 0x10, /* both directions have ended; reported whether asked for or not */
    KQN_READY_EOF = 0x2000,  /* the peer sends no more */
};

struct kqn_ready {
    struct kqn_entry *entry;
    int fd;
    uint32_t conditions; /* KQN_READY_... */
};

struct kqn_readiness {
    /* 0 or -errno. The table outlives the backend. */
    int (*open)(void **backend, struct kqn_table *table);

    /* Makes entry->watched what is wanted, a set of KQN_KNOTE_...; only called where it differs. A descriptor with
     * nothing wanted is not reported. 0, or -errno and nothing has changed:
     * -EBADF: the descriptor is closed; -ENOENT: the number belongs to another file than the one that was watched. */
    int (*watch)(void *backend, int fd, struct kqn_entry *entry, unsigned wanted);

    /* Reports at most max (and KQN_READY_MAX) ready descriptors, each once, and begins the next time with those that
     * had no place. Their number, or -errno; 0 also when it only found that descriptors were closed, whose entries
     * it has dropped. Level-triggered. */
    int (*wait)(void *backend, struct kqn_ready *ready, int max, int64_t timeout_ns);

    /* Before the descriptor is closed: unwatches what is watched, unless the close itself will. */
    void (*forget)(void *backend, int fd, struct kqn_entry *entry);

    void (*close)(void *backend);
};

extern const struct kqn_readiness kqn_epoll;
extern const struct kqn_readiness kqn_poll;
extern const struct kqn_readiness kqn_select;
#endif
