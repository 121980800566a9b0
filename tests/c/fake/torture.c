/* torture.c: each scenario is run once to count its fallible calls, and then for each of them with that one failing,
 * and with all failing from there on. Nothing else goes wrong, and the order of things is always the same until then.
 * The judge looks on as ever: no crash, nothing left behind, no spin, sums that balance. */
#include "torture.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "judge.h"
#include "run.h"
#include "sockets.h"
#include "world.h"

struct row {
    const char *name;
    enum kqn_framing_kind framing;
    const char *reply; /* NULL: the hook */
    int loops;
    int clients;
    size_t bytes_each;
    size_t read_size;
    size_t max_message;
    int batch;
    int max_connections; /* 0: many */
    int64_t timeout_ms;  /* each of the three */
    const char *uds_path;
    bool hook_fails;
    bool hook_stops;
    bool stops_early;
    unsigned long_answers;
    size_t max_buffered; /* 0: plenty */
};

#define REPLY "system: {message}"
#define LONG_REPLY                                                                                                     \
    "{message} {message} {message} {message} {message} {message} {message} {message} {message} {message} {peer}"

static const struct row rows[] = {
    {"nobody comes", .reply = REPLY},
    {"one client, stream", .reply = REPLY, .clients = 1, .bytes_each = 40},
    {"one client, lines", .framing = KQN_FRAMING_LINE, .reply = REPLY, .clients = 1, .bytes_each = 60},
    {"one client, u32", .framing = KQN_FRAMING_U32, .reply = REPLY, .clients = 1, .bytes_each = 60},
    {"a few clients, stream", .reply = REPLY, .clients = 4, .bytes_each = 60},
    {"a few clients, lines", .framing = KQN_FRAMING_LINE, .reply = REPLY, .clients = 4, .bytes_each = 100},
    {"a few clients, u32", .framing = KQN_FRAMING_U32, .reply = REPLY, .clients = 4, .bytes_each = 100},
    {"small reads", .framing = KQN_FRAMING_LINE, .reply = REPLY, .clients = 2, .bytes_each = 80, .read_size = 7},
    {"small batches", .reply = REPLY, .clients = 4, .bytes_each = 30, .batch = 1},
    {"answers that must wait", .framing = KQN_FRAMING_LINE, .reply = LONG_REPLY, .clients = 2, .bytes_each = 150},
    {"answers that must wait, u32", .framing = KQN_FRAMING_U32, .reply = LONG_REPLY, .clients = 2, .bytes_each = 150},
    {"messages longer than what is copied", .framing = KQN_FRAMING_U32, .reply = REPLY, .clients = 2,
     .bytes_each = 9000, .read_size = 2000, .max_message = 9000},
    {"messages that are too long", .framing = KQN_FRAMING_LINE, .reply = REPLY, .clients = 3, .bytes_each = 80,
     .max_message = 5},
    {"a constant", .reply = "", .clients = 2, .bytes_each = 40},
    {"a hook", .framing = KQN_FRAMING_LINE, .clients = 3, .bytes_each = 100},
    {"a hook, stream", .clients = 2, .bytes_each = 60, .read_size = 9},
    {"a hook that fails", .framing = KQN_FRAMING_U32, .clients = 6, .bytes_each = 120, .hook_fails = true},
    {"a hook with long answers", .framing = KQN_FRAMING_LINE, .clients = 2, .bytes_each = 300, .long_answers = 2},
    {"a hook that asks for the stop", .framing = KQN_FRAMING_LINE, .clients = 3, .bytes_each = 100, .hook_stops = true},
    {"two loops", .framing = KQN_FRAMING_LINE, .reply = REPLY, .loops = 2, .clients = 4, .bytes_each = 60},
    {"three loops and a hook", .framing = KQN_FRAMING_LINE, .loops = 3, .clients = 5, .bytes_each = 60},
    {"one place for several", .reply = REPLY, .clients = 3, .bytes_each = 30, .max_connections = 1},
    {"one place for several, two loops", .reply = REPLY, .loops = 2, .clients = 4, .bytes_each = 30,
     .max_connections = 1},
    {"timeouts", .framing = KQN_FRAMING_LINE, .reply = LONG_REPLY, .clients = 5, .bytes_each = 100, .timeout_ms = 50},
    {"little memory", .framing = KQN_FRAMING_U32, .reply = LONG_REPLY, .clients = 4, .bytes_each = 400,
     .max_buffered = 8192},
    {"a stop under way", .framing = KQN_FRAMING_LINE, .reply = REPLY, .clients = 4, .bytes_each = 200,
     .stops_early = true},
    {"a stop under way, two loops", .framing = KQN_FRAMING_LINE, .reply = LONG_REPLY, .loops = 2, .clients = 5,
     .bytes_each = 100, .stops_early = true},
    {"a unix socket", .reply = REPLY, .clients = 2, .bytes_each = 30, .uds_path = "/simulated"},
};

enum {
    ROW_COUNT = sizeof(rows) / sizeof(rows[0]),
    STEPS = 150,
    VARIANTS = 3, /* of the errnos that a call may fail with, so many are tried; which ones depends on the call */
};

static struct scenario scenario_of(const struct row *row)
{
    struct scenario scenario = {
        .settings = {.host = "10.0.0.0", .port = 8080, .backlog = 128, .log_rate = 5},
        .client_count = row->clients,
        .bytes_each = row->bytes_each,
        .steps = STEPS,
        .loops_go_first = 128,
        .descriptors = MAX_DESCRIPTORS,
        .stops_early = row->stops_early,
        .grace_ns = 700000000,
        .patience_ns = INT64_C(5000000000),
        .steps_max = 20000,
    };
    struct kqn_settings *settings = &scenario.settings;
    settings->framing = row->framing;
    settings->uds_path = row->uds_path;
    settings->reply = row->reply;
    settings->reply_len = row->reply ? strlen(row->reply) : 0;
    settings->loops = row->loops > 0 ? row->loops : 1;
    settings->read_size = row->read_size > 0 ? row->read_size : 4096;
    settings->max_message = row->max_message > 0 ? row->max_message : 1000;
    settings->batch = row->batch > 0 ? row->batch : 16;
    settings->max_connections = row->max_connections > 0 ? row->max_connections : 10000;
    settings->max_buffered = row->max_buffered > 0 ? row->max_buffered : PLENTY_OF_MEMORY;
    settings->idle_timeout_ns = settings->message_timeout_ns = settings->write_timeout_ns = row->timeout_ms * 1000000;
    scenario.rules = (struct rules){settings->framing, settings->max_message, settings->reply};
    scenario.hook = (struct hook){.is_used = !row->reply, .fails = row->hook_fails, .stops = row->hook_stops};
    scenario.hook.long_answers = row->long_answers;
    return scenario;
}

/* Which call fails: none for 0. */
static bool run_row(int index, uint64_t fail_at, bool is_sticky, unsigned variant)
{
    struct scenario scenario = scenario_of(&rows[index]);
    world_begin((uint64_t)index);
    world.counts_calls = true;
    world.fail_at = fail_at;
    world.is_sticky = is_sticky;
    world.variant = (unsigned)fail_at + variant;
    if (run(&scenario))
        return true;
    printf("FAIL torture: %s, call %" PRIu64 "%s: %s\n", rows[index].name, fail_at, is_sticky ? " for good" : "",
           world.failure);
    world_print_trace(60);
    return false;
}

bool torture(void)
{
    uint64_t runs = 0;
    for (int index = 0; index < ROW_COUNT; index++) {
        if (!run_row(index, 0, false, 0))
            return false;
        uint64_t calls = world.calls;
        for (uint64_t at = 1; at <= calls; at++)
            for (unsigned variant = 0; variant < VARIANTS; variant++, runs += 2)
                if (!run_row(index, at, false, variant) || !run_row(index, at, true, variant))
                    return false;
    }
    printf("torture: scenarios %d, runs %" PRIu64 "\n", ROW_COUNT, runs);
    return true;
}
