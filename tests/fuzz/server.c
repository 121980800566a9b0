/* server.c: the whole simulated server, steered by the input.
 * Whatever may go one way or another is asked of the input for as long as it lasts, and of its seed after that: which
 * faults there are, what clients send, what a call returns, who is next. The judge of the simulation says what was wrong.
 *
 * Input: two bytes of a seed, and then what is decided. */
#include "../c/fake/run.h"
#include "../c/fake/world.h"
#include "fuzz.h"

enum {
    TRACE_SHOWN = 60,
};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct input input = {bytes, len};
    uint64_t seed = (uint64_t)take_byte(&input) << 8;
    seed |= take_byte(&input);
    world_begin(seed);
    world.chooser.bytes = input.bytes;
    world.chooser.len = input.len;
    struct scenario scenario;
    scenario_choose(&scenario);
    if (!run(&scenario)) {
        world_print_trace(TRACE_SHOWN);
        fprintf(stderr, "%s\n", world.failure);
        abort();
    }
    return 0;
}
