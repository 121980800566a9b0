/* random.h: where everything comes from that may go one way or another.
 * From a seed, or from the bytes of a fuzzer's input for as long as they last: then what happens is a function of that
 * input, and a fuzzer that learns which bytes lead to new places steers the whole simulation. */
#ifndef KQN_FAKE_RANDOM_H
#define KQN_FAKE_RANDOM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chooser {
    uint64_t state;
    const uint8_t *bytes; /* NULL: the seed alone decides */
    size_t len;
};

/* splitmix64: every seed, 0 too, begins a good sequence. */
static inline uint64_t choose_bits(struct chooser *chooser)
{
    uint64_t mixed = chooser->state += UINT64_C(0x9e3779b97f4a7c15);
    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ mixed >> 31;
}

/* A number below `limit`, which is at least 1. */
static inline unsigned choose_below(struct chooser *chooser, unsigned limit)
{
    if (limit <= 1)
        return 0;
    if (chooser->len == 0)
        return (unsigned)(choose_bits(chooser) >> 32) % limit;
    unsigned value = 0;
    for (unsigned range = 1; range < limit && chooser->len > 0; range = range > UINT16_MAX ? limit : range << 8) {
        value = value << 8 | *chooser->bytes++;
        chooser->len--;
    }
    return value % limit;
}

/* Between `least` and `most`, both included. */
static inline unsigned choose_between(struct chooser *chooser, unsigned least, unsigned most)
{
    return least + choose_below(chooser, most - least + 1);
}

/* True in so many of 256 cases. */
static inline bool choose_chance(struct chooser *chooser, unsigned in_256)
{
    return choose_below(chooser, 256) < in_256;
}
#endif
