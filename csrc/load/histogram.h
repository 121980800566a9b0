/* histogram.h: durations in log-linear buckets, laid out as those of HdrHistogram.
 * Below 2,048 ns each has its own bucket; above, each doubling has 1,024, so a bucket's width is at most a thousandth
 * of its durations. Recording is an index and an increment; memory is constant. */
#ifndef KQN_HISTOGRAM_H
#define KQN_HISTOGRAM_H
#include "api.h"

enum {
    KQN_HISTOGRAM_HALF_BITS = 10, /* 1,024 buckets for each doubling */
};

static const int64_t kqn_histogram_max_ns = INT64_C(3600000000000);

/* How far durations of this size are shifted to find their bucket among those of their doubling. */
static inline unsigned kqn_histogram_shift(uint64_t duration_ns)
{
    return 63 - KQN_HISTOGRAM_HALF_BITS - (unsigned)__builtin_clzll(duration_ns | 2047);
}

static inline uint32_t kqn_histogram_index(uint64_t duration_ns)
{
    unsigned shift = kqn_histogram_shift(duration_ns);
    return (shift << KQN_HISTOGRAM_HALF_BITS) + (uint32_t)(duration_ns >> shift);
}

/* The greatest duration that falls into a bucket. */
int64_t kqn_histogram_upper_ns(uint32_t index);

/* Records the same duration so many times. */
void kqn_histogram_record_many(struct kqn_histogram *histogram, int64_t duration_ns, uint32_t times);

/* Empties it, at the cost of what was in it. */
void kqn_histogram_clear(struct kqn_histogram *histogram);
#endif
