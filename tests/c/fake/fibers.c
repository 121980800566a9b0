#include "fibers.h"

#include <stdlib.h>
#include <ucontext.h>

#include "judge.h"
#include "world.h"

enum {
    STACK_BYTES = 128 * 1024,
    LOOK_NS = 1000, /* what a wait takes that does not sleep */
};

struct fiber {
    ucontext_t context;
    struct kqn_server *server;
    kqn_answerer *answer;
    bool (*is_ready)(void *context);
    void *ready_context;
    int64_t until_ns;
    int64_t woke_ns;
    bool is_waiting;
    bool has_read_clock; /* since its wait */
    bool has_ended;
    int result;
};

static struct fiber fibers[MAX_LOOPS];
static _Alignas(64) char stacks[MAX_LOOPS][STACK_BYTES];
static ucontext_t outside;

static void run(int loop)
{
    struct fiber *fiber = &fibers[loop];
    fiber->result = fiber->answer ? kqn_server_run_with(fiber->server, loop, fiber->answer, NULL)
                                  : kqn_server_run(fiber->server, loop);
    fiber->has_ended = true;
    world_trace("loop ends", -1, fiber->result);
    if (fiber->result < 0)
        judge_loop_fails(loop);
}

static void prepare(struct fiber *fiber, int loop)
{
    if (getcontext(&fiber->context) < 0)
        abort();
    fiber->context.uc_stack.ss_sp = stacks[loop];
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    fiber->context.uc_link = &outside;
    makecontext(&fiber->context, (void (*)(void))run, 1, loop);
}

void fibers_start(struct kqn_server *server, kqn_answerer *answer)
{
    for (int loop = 0; loop < MAX_LOOPS; loop++) {
        struct fiber *fiber = &fibers[loop];
        *fiber = (struct fiber){.has_ended = loop >= server->worker_count};
        fiber->server = server;
        fiber->answer = answer;
        fiber->woke_ns = world.now_ns;
        if (!fiber->has_ended)
            prepare(fiber, loop);
    }
}

bool fiber_has_ended(int loop)
{
    return fibers[loop].has_ended;
}

int fiber_result(int loop)
{
    return fibers[loop].result;
}

bool fiber_is_due(int loop)
{
    struct fiber *fiber = &fibers[loop];
    if (fiber->has_ended)
        return false;
    return !fiber->is_waiting || world.now_ns >= fiber->until_ns || fiber->is_ready(fiber->ready_context);
}

int64_t fiber_due_ns(int loop)
{
    return fibers[loop].has_ended ? INT64_MAX : fibers[loop].until_ns;
}

int64_t fiber_woke_ns(int loop)
{
    return fibers[loop].woke_ns;
}

void fiber_resume(int loop)
{
    struct fiber *fiber = &fibers[loop];
    fiber->is_waiting = false;
    world.loop = loop;
    swapcontext(&outside, &fiber->context);
    world.loop = -1;
}

void fiber_wait(bool (*is_ready)(void *context), void *context, int64_t timeout_ns)
{
    struct fiber *fiber = &fibers[world.loop];
    world_add_time(LOOK_NS);
    fiber->is_ready = is_ready;
    fiber->ready_context = context;
    fiber->until_ns = timeout_ns < 0 ? INT64_MAX : world.now_ns + timeout_ns;
    fiber->is_waiting = true;
    swapcontext(&fiber->context, &outside);
}

void fiber_wakes(void)
{
    fibers[world.loop].woke_ns = world.now_ns;
    fibers[world.loop].has_read_clock = false;
}

void fiber_reads_clock(void)
{
    if (world.loop < 0 || fibers[world.loop].has_read_clock)
        return;
    fibers[world.loop].woke_ns = world.now_ns;
    fibers[world.loop].has_read_clock = true;
}

void fiber_abandon(void)
{
    if (world.loop < 0)
        return;
    fibers[world.loop].has_ended = true;
    setcontext(&outside);
}
