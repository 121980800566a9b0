/* kinds.c: which pollers this system has. Where there is a kqueue there is nothing else: poll() does not know every
 * descriptor on macOS, and one true kevent is enough. */
#include <sys/select.h>

#include "poller/poller.h"
#include "poller/readiness.h"

bool kqn_poller_available(enum kqn_poller_kind kind)
{
    switch (kind) {
    case KQN_POLLER_AUTO:
        return true;
    case KQN_POLLER_KQUEUE:
        return KQN_HAVE_KQUEUE;
    case KQN_POLLER_EPOLL:
        return KQN_HAVE_EPOLL;
    case KQN_POLLER_POLL:
    case KQN_POLLER_SELECT:
        return !KQN_HAVE_KQUEUE;
    }
    return false;
}

enum kqn_poller_kind kqn_poller_default(void)
{
    if (KQN_HAVE_KQUEUE)
        return KQN_POLLER_KQUEUE;
    return KQN_HAVE_EPOLL ? KQN_POLLER_EPOLL : KQN_POLLER_POLL;
}

int kqn_select_limit(void)
{
    return FD_SETSIZE;
}
