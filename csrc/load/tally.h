/* tally.h: what one loop of the load tester counts.
 * The loop alone writes; the intervals of a second each, once complete, go to the reader through a list under a lock.
 * A message is recorded once, into the interval's histogram; the total gets that when the interval is complete. */
#ifndef KQN_TALLY_H
#define KQN_TALLY_H
#include <pthread.h>

#include "api.h"
#include "load/answers.h"

enum {
    KQN_INTERVAL_NS = 1000000000,
};

struct kqn_bucket {
    uint32_t index;
    uint64_t count;
};

struct kqn_interval_node { /* a complete interval, and of its histogram the buckets that are not empty */
    struct kqn_interval_node *next;
    struct kqn_load_interval interval;
    int64_t min_ns;
    int64_t max_ns;
    double sum_ns;
    uint32_t bucket_count;
    struct kqn_bucket buckets[];
};

struct kqn_tally {
    struct kqn_load_totals totals;     /* of this loop */
    struct kqn_load_interval interval; /* the one under way; length_ns unset */
    int64_t interval_end_ns;           /* INT64_MAX: not measuring */
    struct kqn_histogram *histograms;  /* the four are one piece of memory */
    struct kqn_histogram *latency;     /* of complete intervals */
    struct kqn_histogram *of_interval;
    struct kqn_histogram *service;
    struct kqn_histogram *connect;

    pthread_mutex_t lock;
    struct kqn_interval_node *first; /* under lock, as the next two */
    struct kqn_interval_node *last;
    bool ended; /* no interval follows */
};

int kqn_tally_open(struct kqn_tally *tally);
void kqn_tally_close(struct kqn_tally *tally);

/* The measured time begins: bytes count from now on, and intervals. */
void kqn_tally_begin(struct kqn_tally *tally, int64_t now_ns);

/* Hands over the intervals that are complete by now. 0 or -ENOMEM. */
int kqn_tally_tick(struct kqn_tally *tally, int64_t now_ns);

/* Hands over what is left: the loop has ended. 0 or -ENOMEM. */
int kqn_tally_end(struct kqn_tally *tally, int64_t now_ns);

/* error: the errno, which is kept for kind OTHER alone. */
void kqn_tally_error(struct kqn_tally *tally, enum kqn_load_error kind, int error, uint64_t times);

/* Keeps a wrong answer as an example while there is room: these bytes, behind so many right ones;
 * is_whole: nothing of it follows.
 * expected: NULL, no message was in flight. */
void kqn_tally_example(struct kqn_tally *tally, const struct kqn_expectation *expected, uint32_t conn, size_t right,
                       const uint8_t *bytes, size_t len, bool is_whole);

/* For the reader: whether the interval with this index is there, -ENOENT when none follows. */
int kqn_tally_has_interval(struct kqn_tally *tally, uint64_t index);

/* For the reader, when the interval with this index is there: takes it out and adds it up. */
void kqn_tally_take_interval(struct kqn_tally *tally, uint64_t index, struct kqn_load_interval *sum,
                             struct kqn_histogram *latency);

/* Adds this loop's totals to the sum of those before it. */
void kqn_tally_add(const struct kqn_tally *tally, struct kqn_load_totals *sum);
#endif
