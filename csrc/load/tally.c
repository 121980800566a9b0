#include "load/tally.h"

#include <errno.h>
#include <string.h>

#include "core/errnos.h"
#include "core/sys.h"
#include "load/histogram.h"

int kqn_tally_open(struct kqn_tally *tally)
{
    *tally = (struct kqn_tally){.interval_end_ns = INT64_MAX};
    pthread_mutex_init(&tally->lock, NULL);
    size_t size = 4 * sizeof(*tally->histograms);
    tally->histograms = kqn_sys_alloc(size);
    if (!tally->histograms)
        return -ENOMEM;
    memset(tally->histograms, 0, size);
    tally->latency = &tally->histograms[0];
    tally->of_interval = &tally->histograms[1];
    tally->service = &tally->histograms[2];
    tally->connect = &tally->histograms[3];
    return 0;
}

void kqn_tally_close(struct kqn_tally *tally)
{
    while (tally->first) {
        struct kqn_interval_node *node = tally->first;
        tally->first = node->next;
        kqn_sys_free(node);
    }
    kqn_sys_free(tally->histograms);
    pthread_mutex_destroy(&tally->lock);
}

void kqn_tally_begin(struct kqn_tally *tally, int64_t now_ns)
{
    tally->totals.measured = true;
    tally->totals.bytes_sent = tally->totals.bytes_received = 0;
    tally->interval = (struct kqn_load_interval){0};
    tally->interval_end_ns = now_ns + KQN_INTERVAL_NS;
}

static struct kqn_interval_node *make_node(const struct kqn_tally *tally)
{
    const struct kqn_histogram *histogram = tally->of_interval;
    uint32_t first = kqn_histogram_index((uint64_t)histogram->min_ns);
    uint32_t last = kqn_histogram_index((uint64_t)histogram->max_ns);
    uint32_t bucket_count = 0;
    for (uint32_t i = first; i <= last; i++)
        bucket_count += histogram->counts[i] > 0;
    struct kqn_interval_node *node = kqn_sys_alloc(sizeof(*node) + bucket_count * sizeof(node->buckets[0]));
    if (!node)
        return NULL;
    *node = (struct kqn_interval_node){.interval = tally->interval, .bucket_count = bucket_count};
    node->min_ns = histogram->min_ns;
    node->max_ns = histogram->max_ns;
    node->sum_ns = histogram->sum_ns;
    struct kqn_bucket *bucket = node->buckets;
    for (uint32_t i = first; i <= last; i++)
        if (histogram->counts[i] > 0)
            *bucket++ = (struct kqn_bucket){.index = i, .count = histogram->counts[i]};
    return node;
}

/* Hands the interval under way over, and begins the next one. */
static int hand_over(struct kqn_tally *tally, int64_t length_ns, bool is_last)
{
    tally->interval.length_ns = length_ns;
    struct kqn_interval_node *node = make_node(tally);
    if (!node)
        return -ENOMEM;
    kqn_histogram_add(tally->latency, tally->of_interval);
    kqn_histogram_clear(tally->of_interval);
    tally->interval = (struct kqn_load_interval){.index = node->interval.index + 1};
    pthread_mutex_lock(&tally->lock);
    if (tally->last)
        tally->last->next = node;
    else
        tally->first = node;
    tally->last = node;
    tally->ended = is_last;
    pthread_mutex_unlock(&tally->lock);
    return 0;
}

int kqn_tally_tick(struct kqn_tally *tally, int64_t now_ns)
{
    int rc = 0;
    while (rc == 0 && now_ns >= tally->interval_end_ns) {
        rc = hand_over(tally, KQN_INTERVAL_NS, false);
        tally->interval_end_ns += KQN_INTERVAL_NS;
    }
    return rc;
}

int kqn_tally_end(struct kqn_tally *tally, int64_t now_ns)
{
    int rc = kqn_tally_tick(tally, now_ns);
    int64_t length_ns = now_ns - (tally->interval_end_ns - KQN_INTERVAL_NS);
    if (rc == 0 && tally->totals.measured && length_ns > 0)
        rc = hand_over(tally, length_ns, true);
    pthread_mutex_lock(&tally->lock);
    tally->ended = true;
    pthread_mutex_unlock(&tally->lock);
    return rc;
}

void kqn_tally_error(struct kqn_tally *tally, enum kqn_load_error kind, int error, uint64_t times)
{
    tally->totals.errors[kind] += times;
    tally->interval.errors += times;
    if (kind == KQN_LOAD_OTHER)
        kqn_errno_count(tally->totals.other_errors, error, times);
}

void kqn_tally_example(struct kqn_tally *tally, const struct kqn_expectation *expected, uint32_t conn, size_t right,
                       const uint8_t *bytes, size_t len, bool is_whole)
{
    if (tally->totals.example_count == KQN_EXAMPLES_MAX)
        return;
    struct kqn_load_example *example = &tally->totals.examples[tally->totals.example_count++];
    *example = (struct kqn_load_example){.conn = conn, .asked = expected != NULL};
    if (expected) {
        example->expected_len = (uint32_t)kqn_expectation_copy(expected, example->expected, KQN_EXAMPLE_TEXT_MAX);
        example->expected_is_cut = kqn_expectation_len(expected) > KQN_EXAMPLE_TEXT_MAX;
        if (right > example->expected_len)
            right = example->expected_len;
        memcpy(example->got, example->expected, right);
    } else {
        right = 0;
    }
    size_t room = KQN_EXAMPLE_TEXT_MAX - right;
    size_t shown = len < room ? len : room;
    memcpy(example->got + right, bytes, shown);
    example->got_len = (uint32_t)(right + shown);
    example->got_is_cut = !is_whole || len > shown;
}

int kqn_tally_has_interval(struct kqn_tally *tally, uint64_t index)
{
    pthread_mutex_lock(&tally->lock);
    int rc = tally->first && tally->first->interval.index == index ? 1 : tally->ended ? -ENOENT : 0;
    pthread_mutex_unlock(&tally->lock);
    return rc;
}

static void add_buckets(struct kqn_histogram *into, const struct kqn_interval_node *node)
{
    for (uint32_t i = 0; i < node->bucket_count; i++) {
        into->counts[node->buckets[i].index] += node->buckets[i].count;
        into->total += node->buckets[i].count;
    }
    into->sum_ns += node->sum_ns;
}

void kqn_tally_take_interval(struct kqn_tally *tally, uint64_t index, struct kqn_load_interval *sum,
                             struct kqn_histogram *latency)
{
    if (kqn_tally_has_interval(tally, index) != 1)
        return;
    pthread_mutex_lock(&tally->lock);
    struct kqn_interval_node *node = tally->first;
    tally->first = node->next;
    if (!tally->first)
        tally->last = NULL;
    pthread_mutex_unlock(&tally->lock);
    sum->messages += node->interval.messages;
    sum->sent += node->interval.sent;
    sum->errors += node->interval.errors;
    if (node->interval.length_ns > sum->length_ns)
        sum->length_ns = node->interval.length_ns;
    if (node->bucket_count > 0 && (node->min_ns < latency->min_ns || latency->total == 0))
        latency->min_ns = node->min_ns;
    if (node->max_ns > latency->max_ns)
        latency->max_ns = node->max_ns;
    add_buckets(latency, node);
    kqn_sys_free(node);
}

static void add_examples(const struct kqn_load_totals *own, struct kqn_load_totals *sum)
{
    for (int i = 0; i < own->example_count && sum->example_count < KQN_EXAMPLES_MAX; i++)
        sum->examples[sum->example_count++] = own->examples[i];
}

void kqn_tally_add(const struct kqn_tally *tally, struct kqn_load_totals *sum)
{
    const struct kqn_load_totals *own = &tally->totals;
    if (own->seconds_ns > sum->seconds_ns)
        sum->seconds_ns = own->seconds_ns;
    sum->messages += own->messages;
    sum->in_time += own->in_time;
    sum->sent += own->sent;
    sum->unsent += own->unsent;
    sum->unsent_own += own->unsent_own;
    sum->warmup_messages += own->warmup_messages;
    sum->bytes_sent += own->bytes_sent;
    sum->bytes_received += own->bytes_received;
    sum->reconnects += own->reconnects;
    for (int i = 0; i < KQN_LOAD_ERROR_COUNT; i++)
        sum->errors[i] += own->errors[i];
    for (int i = 0; i < KQN_ERRNO_KINDS; i++)
        if (own->other_errors[i].count > 0)
            kqn_errno_count(sum->other_errors, own->other_errors[i].error, own->other_errors[i].count);
    sum->late += own->late;
    if (own->late_max_ns > sum->late_max_ns)
        sum->late_max_ns = own->late_max_ns;
    if (own->busiest_share > sum->busiest_share)
        sum->busiest_share = own->busiest_share;
    sum->measured |= own->measured;
    add_examples(own, sum);
}
