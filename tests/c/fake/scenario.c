#include <string.h>

#include "judge.h"
#include "run.h"
#include "sockets.h"
#include "world.h"

static const int64_t ms_ns = 1000000;

static const char *const templates[] = {
    "system: {message}",
    "{message}",
    "<{message}> of {peer}",
    "{{{message}}} {message}",
    "",
    "the same to everybody",
    "{message} and a long word behind it, which makes answers longer than a message: who reads slowly falls behind",
};

enum {
    TEMPLATE_COUNT = sizeof(templates) / sizeof(templates[0]),
};

/* 10.0.0.40 to 10.0.0.47; the rest may talk. */
static const struct kqn_network denied_network = {
    .address = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 40},
    .prefix_bits = 125,
};

static int64_t choose_timeout_ns(void)
{
    static const int64_t timeouts_ms[] = {0, 0, 20, 300, 1000, 5000};
    return timeouts_ms[below(6)] * ms_ns;
}

static void choose_faults(void)
{
    if (chance(32))
        return;
    world.faults_on = (uint32_t)(choose_bits(&world.chooser) & choose_bits(&world.chooser));
    if (chance(128))
        world.faults_on &= (uint32_t)choose_bits(&world.chooser);
    world.faults_on &= (1u << FAULT_COUNT) - 1;
    if (!chance(16)) /* these end all */
        world.faults_on &= ~(1u << FAULT_POLLER_ERROR | 1u << FAULT_OPEN_ERROR);
    world.rarity = 1u << between(2, 8);
}

static void choose_sizes(struct kqn_settings *settings)
{
    static const size_t read_sizes[] = {1, 5, 64, 500, 4096, 65536};
    static const size_t most[] = {0, 10, 100, 5000, 9000, 1048576};
    static const int batches[] = {1, 2, 3, 8, 64};
    settings->read_size = read_sizes[below(6)];
    settings->max_message = most[below(6)];
    settings->batch = batches[below(5)];
    settings->loops = chance(160) ? 1 : (int)between(2, 3);
    settings->max_connections = chance(128) ? 10000 : (int)between(1, 8);
    settings->max_buffered = chance(200) ? PLENTY_OF_MEMORY : (size_t)between(1, 40) * 4096;
    settings->backlog = chance(128) ? 1024 : (int)between(1, 5);
    settings->log_rate = chance(128) ? 0 : (int)below(300);
}

static void choose_hook(struct hook *hook)
{
    hook->is_used = true;
    hook->fails = chance(128);
    hook->is_slow = chance(64);
    hook->stops = chance(32);
    hook->long_answers = chance(32) ? 4 : 0;
}

/* More clients have less to say each: a seed takes about as long as another. */
static void choose_clients(struct scenario *scenario)
{
    scenario->client_count = (int)(chance(200) ? between(1, 8) : between(9, MAX_CLIENTS));
    scenario->bytes_each = (size_t)1 << between(3, 12);
    if (chance(24))
        scenario->bytes_each *= 8;
    if (scenario->client_count > 8 && scenario->bytes_each > 512)
        scenario->bytes_each = 512;
    if (scenario->settings.read_size < 64 && scenario->bytes_each > 64 * scenario->settings.read_size)
        scenario->bytes_each = 64 * scenario->settings.read_size;
}

/* A few who ask for more than the loop's output buffer holds, in one read. */
static void make_flood(struct scenario *scenario)
{
    struct kqn_settings *settings = &scenario->settings;
    settings->framing = KQN_FRAMING_LINE;
    settings->reply = templates[TEMPLATE_COUNT - 1];
    settings->read_size = 65536;
    settings->max_message = 100;
    scenario->hook = (struct hook){0};
    scenario->client_count = (int)between(1, 3);
    scenario->bytes_each = 32768;
}

void scenario_choose(struct scenario *scenario)
{
    *scenario = (struct scenario){0};
    struct kqn_settings *settings = &scenario->settings;
    choose_faults();
    choose_sizes(settings);
    settings->host = "10.0.0.0";
    settings->port = 8080;
    settings->framing = (enum kqn_framing_kind)below(3);
    settings->idle_timeout_ns = choose_timeout_ns();
    settings->spin_ns = chance(64) ? (int64_t)below(20000) : 0;
    settings->message_timeout_ns = choose_timeout_ns();
    settings->write_timeout_ns = choose_timeout_ns();
    if (chance(32)) {
        settings->networks = &denied_network;
        settings->network_count = 1;
    }
    if (chance(80))
        choose_hook(&scenario->hook);
    else
        settings->reply = templates[below(TEMPLATE_COUNT)];
    choose_clients(scenario);
    if (chance(8))
        make_flood(scenario);
    settings->reply_len = settings->reply ? strlen(settings->reply) : 0;
    scenario->rules = (struct rules){settings->framing, settings->max_message, settings->reply};
    scenario->steps = between(20, 400);
    scenario->loops_go_first = between(16, 240);
    scenario->descriptors = chance(200) ? MAX_DESCRIPTORS : (int)between(6, 12);
    scenario->reuses_lowest = chance(128);
    scenario->stops_early = chance(96);
    scenario->steps_max = 400000;
    scenario->grace_ns = (int64_t)below(4) * 700 * ms_ns;
}
