#include "server/inbox.h"

bool kqn_inbox_put(struct kqn_inbox *inbox, const struct kqn_client *client)
{
    unsigned put = atomic_load_explicit(&inbox->put, memory_order_relaxed);
    if (put - atomic_load_explicit(&inbox->taken, memory_order_acquire) == KQN_INBOX_CLIENTS)
        return false;
    inbox->clients[put % KQN_INBOX_CLIENTS] = *client;
    atomic_store_explicit(&inbox->put, put + 1, memory_order_release);
    return true;
}

bool kqn_inbox_take(struct kqn_inbox *inbox, struct kqn_client *out)
{
    unsigned taken = atomic_load_explicit(&inbox->taken, memory_order_relaxed);
    if (taken == atomic_load_explicit(&inbox->put, memory_order_acquire))
        return false;
    *out = inbox->clients[taken % KQN_INBOX_CLIENTS];
    atomic_store_explicit(&inbox->taken, taken + 1, memory_order_release);
    return true;
}
