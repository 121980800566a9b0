/* fork.h: what has become of this process's descriptors through fork().
 * A child shares the parent's sockets, and where the poller is epoll also its table of them; a kqueue it does not
 * have at all. So a child must leave everything of its parent's alone, and a parent that has ever forked can't count
 * on close() to end a connection. */
#ifndef KQN_FORK_H
#define KQN_FORK_H
#include <stdbool.h>

/* Counts forks from now on. 0 or -errno; as often as one likes. */
int kqn_fork_watch(void);

/* Whether this process has forked, or is about to: some child may hold its descriptors. */
bool kqn_fork_happened(void);

/* Changes in every child: what was opened under another generation belongs to a parent. */
unsigned kqn_fork_generation(void);
#endif
