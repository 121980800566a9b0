/* timeout.h: how long a wait may last, in the kernel's words.
 * No wait is longer than an hour: some systems refuse or shorten great values, and a loop that comes round once an
 * hour costs nothing. */
#ifndef KQN_TIMEOUT_H
#define KQN_TIMEOUT_H
#include <stdint.h>
#include <time.h>

#define KQN_TIMEOUT_MAX_NS INT64_C(3600000000000)

static inline int64_t kqn_timeout_clamp(int64_t timeout_ns)
{
    return timeout_ns < KQN_TIMEOUT_MAX_NS ? timeout_ns : KQN_TIMEOUT_MAX_NS;
}

/* Fills *spec and returns it; NULL, which the kernel takes for no limit, where timeout_ns is negative. */
static inline struct timespec *kqn_timeout_spec(struct timespec *spec, int64_t timeout_ns)
{
    if (timeout_ns < 0)
        return NULL;
    int64_t clamped_ns = kqn_timeout_clamp(timeout_ns);
    spec->tv_sec = (time_t)(clamped_ns / 1000000000);
    spec->tv_nsec = (long)(clamped_ns % 1000000000);
    return spec;
}
#endif
