/* inbox.h: accepted descriptors on their way from loop 0 to the loop that will serve them.
 * A ring with one writer, loop 0, and one reader. It never waits: a full inbox says so. */
#ifndef KQN_INBOX_H
#define KQN_INBOX_H
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "core/sys.h"
#include "server/peer.h"

enum {
    KQN_INBOX_CLIENTS = 1024,
};

struct kqn_client {
    int fd;
    struct kqn_peer peer;
};

struct kqn_inbox {
    alignas(KQN_LINE_BYTES) atomic_uint put; /* both count clients for ever */
    alignas(KQN_LINE_BYTES) atomic_uint taken;
    alignas(KQN_LINE_BYTES) struct kqn_client clients[KQN_INBOX_CLIENTS];
};

bool kqn_inbox_put(struct kqn_inbox *inbox, const struct kqn_client *client); /* false: full */
bool kqn_inbox_take(struct kqn_inbox *inbox, struct kqn_client *out);         /* false: empty */
#endif
