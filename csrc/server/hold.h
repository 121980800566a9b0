/* hold.h: the memory that connections hold: unfinished messages, and answers that their peers have not taken.
 * Each loop has an equal share of what all buffers together may have. When one needs more than is left, the connection
 * that holds the most ends; or the one that asks, if it would then hold more than that. So a crowd of connections that
 * hold a little each is safe from one that holds much. It costs a look at all connections, and only then. */
#ifndef KQN_HOLD_H
#define KQN_HOLD_H
#include "server/connection.h"

/* As kqn_pool_reserve() and kqn_pool_append(), for conn->in or conn->out. false: the connection has ended, for want of
 * memory or because it held the most. */
bool kqn_hold_reserve(struct kqn_worker *worker, struct kqn_conn *conn, struct kqn_buffer **slot, size_t extra);
bool kqn_hold_append(struct kqn_worker *worker, struct kqn_conn *conn, struct kqn_buffer **slot, const void *bytes,
                     size_t len);
#endif
