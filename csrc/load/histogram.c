#include "load/histogram.h"

#include <math.h>
#include <string.h>

int64_t kqn_histogram_upper_ns(uint32_t index)
{
    uint32_t half = 1u << KQN_HISTOGRAM_HALF_BITS;
    if (index < 2 * half)
        return index;
    unsigned shift = (index >> KQN_HISTOGRAM_HALF_BITS) - 1;
    uint64_t within = half + (index & (half - 1));
    return (int64_t)(((within + 1) << shift) - 1);
}

void kqn_histogram_record_many(struct kqn_histogram *histogram, int64_t duration_ns, uint32_t times)
{
    if ((uint64_t)duration_ns > (uint64_t)kqn_histogram_max_ns) /* or below 0 */
        duration_ns = duration_ns < 0 ? 0 : kqn_histogram_max_ns;
    if (duration_ns < histogram->min_ns || histogram->total == 0)
        histogram->min_ns = duration_ns;
    if (duration_ns > histogram->max_ns)
        histogram->max_ns = duration_ns;
    histogram->sum_ns += (double)duration_ns * (double)times;
    histogram->total += times;
    histogram->counts[kqn_histogram_index((uint64_t)duration_ns)] += times;
}

void kqn_histogram_record(struct kqn_histogram *histogram, int64_t duration_ns)
{
    kqn_histogram_record_many(histogram, duration_ns, 1);
}

void kqn_histogram_add(struct kqn_histogram *into, const struct kqn_histogram *from)
{
    if (from->total == 0)
        return;
    if (from->min_ns < into->min_ns || into->total == 0)
        into->min_ns = from->min_ns;
    if (from->max_ns > into->max_ns)
        into->max_ns = from->max_ns;
    into->sum_ns += from->sum_ns;
    into->total += from->total;
    uint32_t last = kqn_histogram_index((uint64_t)from->max_ns);
    for (uint32_t i = kqn_histogram_index((uint64_t)from->min_ns); i <= last; i++)
        into->counts[i] += from->counts[i];
}

void kqn_histogram_clear(struct kqn_histogram *histogram)
{
    if (histogram->total == 0)
        return;
    uint32_t first = kqn_histogram_index((uint64_t)histogram->min_ns);
    uint32_t last = kqn_histogram_index((uint64_t)histogram->max_ns);
    memset(&histogram->counts[first], 0, (last - first + 1) * sizeof(histogram->counts[0]));
    histogram->total = 0;
    histogram->min_ns = histogram->max_ns = 0;
    histogram->sum_ns = 0;
}

int64_t kqn_histogram_percentile(const struct kqn_histogram *histogram, double percent)
{
    if (histogram->total == 0)
        return 0;
    /* 99.9 is a little more than 99.9 in binary: without the allowance 999 of 1,000 would not be enough for it. */
    double wanted = ceil(percent / 100 * (double)histogram->total * (1 - 1e-12));
    uint64_t rank = wanted < 1 ? 1 : (uint64_t)wanted;
    if (rank > histogram->total)
        rank = histogram->total;
    uint64_t seen = 0;
    uint32_t index = kqn_histogram_index((uint64_t)histogram->min_ns);
    while ((seen += histogram->counts[index]) < rank)
        index++;
    int64_t upper_ns = kqn_histogram_upper_ns(index);
    return upper_ns < histogram->max_ns ? upper_ns : histogram->max_ns;
}
