/* schedule.h: when each message of an open loop is due, fixed ahead.
 * The times depend on the rate alone, never on when anything was sent or answered: a server that stalls can't make
 * the tester wait with it (no coordinated omission). */
#ifndef KQN_SCHEDULE_H
#define KQN_SCHEDULE_H
#include <stdbool.h>
#include <stdint.h>

struct kqn_schedule {
    int64_t start_ns;
    double interval_ns; /* between two messages; of a poisson process their mean */
    double position;    /* in intervals since the start, of the next message */
    bool poisson;
    uint64_t random; /* the generator's state */
    int64_t next_ns; /* when the next message is due */
};

/* One of `parts` loops that share the rate evenly, each `part` of an interval behind the first. */
void kqn_schedule_start(struct kqn_schedule *schedule, int64_t start_ns, double rate, bool poisson, int part,
                        int parts);

/* To the message after the next. */
void kqn_schedule_advance(struct kqn_schedule *schedule);

/* How many messages from the next one on are due before this time; of a poisson process, as many as it has on
 * average. */
uint64_t kqn_schedule_count_until(const struct kqn_schedule *schedule, int64_t end_ns);
#endif
