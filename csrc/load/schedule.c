#include "load/schedule.h"

#include <math.h>

/* Above 0, at most 1. SplitMix64, by Sebastiano Vigna: any state is a good one, and each loop's begins elsewhere. */
static double random_share(struct kqn_schedule *schedule)
{
    uint64_t bits = schedule->random += UINT64_C(0x9e3779b97f4a7c15);
    bits = (bits ^ bits >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    bits = (bits ^ bits >> 27) * UINT64_C(0x94d049bb133111eb);
    bits ^= bits >> 31;
    return (double)((bits >> 11) + 1) / 9007199254740992.0; /* 2^53 */
}

/* To the nearest nanosecond: cut off, a message that is due with the end of a second could be due before it. */
static int64_t due_ns(const struct kqn_schedule *schedule, double position)
{
    return schedule->start_ns + (int64_t)(position * schedule->interval_ns + 0.5);
}

static void move_to(struct kqn_schedule *schedule, double position)
{
    schedule->position = position;
    schedule->next_ns = due_ns(schedule, position);
}

void kqn_schedule_start(struct kqn_schedule *schedule, int64_t start_ns, double rate, bool poisson, int part, int parts)
{
    *schedule = (struct kqn_schedule){.start_ns = start_ns, .interval_ns = 1e9 * parts / rate, .poisson = poisson};
    schedule->random = (uint64_t)part << 32;
    move_to(schedule, poisson ? -log(random_share(schedule)) : (double)part / parts);
}

void kqn_schedule_advance(struct kqn_schedule *schedule)
{
    move_to(schedule, schedule->position + (schedule->poisson ? -log(random_share(schedule)) : 1));
}

uint64_t kqn_schedule_count_until(const struct kqn_schedule *schedule, int64_t end_ns)
{
    if (schedule->next_ns >= end_ns)
        return 0;
    uint64_t count = 1 + (uint64_t)((double)(end_ns - 1 - schedule->next_ns) / schedule->interval_ns);
    /* The last one may stand on the other side of the end, by the fraction of a nanosecond. */
    while (due_ns(schedule, schedule->position + (double)count) < end_ns)
        count++;
    while (count > 1 && due_ns(schedule, schedule->position + (double)(count - 1)) >= end_ns)
        count--;
    return count;
}
