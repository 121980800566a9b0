/* errnos.h: failures counted by their errno. */
#ifndef KQN_ERRNOS_H
#define KQN_ERRNOS_H
#include "api.h"

/* Counts an errno so many times more, in its own place or, when all are taken, in the last one, which has no errno.
 * Returns the place. */
static inline int kqn_errno_count(struct kqn_errno_count counts[KQN_ERRNO_KINDS], int error, uint64_t times)
{
    int place = 0;
    while (place < KQN_ERRNO_KINDS - 1 && counts[place].error != error && counts[place].error != 0)
        place++;
    if (place < KQN_ERRNO_KINDS - 1)
        counts[place].error = error;
    counts[place].count += times;
    return place;
}
#endif
