/* simulate.c: the whole server on a scripted system, with a seed for all that may go one way or another.
 *
 *     simulate [--from SEED] [--seeds N] [--seconds S]    seeds one after another; without an end it goes on for ever
 *     simulate --replay SEED                              one of them, with its whole trace
 *     simulate --torture                                  scenarios in which each call that can fail does, once or for good
 *
 * Every SEEDS_TWICEth seed is run twice and must leave the same trace. The last line has the figures. Exit code 1: a
 * seed failed; it is named, with what was wrong, which faults it takes, and the end of its trace.
 * fake/ is the system: world.h (clock, faults, trace, memory), sockets.h and sys.c (its calls), kqueue.c (its poller;
 * or knotes/, under our own kevent()),
 * fibers.h (the server's loops), clients.h (who connects), model.h and judge.h (what must hold), run.h (a run). */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "fake/run.h"
#include "fake/torture.h"
#include "fake/world.h"

enum {
    SEEDS_TWICE = 16,
    TRACE_SHOWN = 60,
    CRASH_STACK_BYTES = 64 * 1024,
};

struct options {
    uint64_t from;
    uint64_t seeds; /* 0: no end */
    double seconds; /* 0: no end */
    bool replays;
    bool tortures;
};

static struct {
    uint64_t seed; /* that runs now */
    uint64_t seeds;
    uint64_t steps;
    uint64_t faults;
    uint64_t fault_counts[FAULT_COUNT];
} total;

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* --- One seed --- */

struct cut { /* what a shortened run of a seed leaves out */
    uint32_t faults;
    unsigned steps_divisor; /* 0 as 1 */
};

static bool run_seed(uint64_t seed, struct cut cut)
{
    struct scenario scenario;
    total.seed = seed;
    world_begin(seed);
    scenario_choose(&scenario);
    world.faults_on &= ~cut.faults;
    if (cut.steps_divisor > 1)
        scenario.steps = scenario.steps / cut.steps_divisor + 1;
    return run(&scenario);
}

/* Leaves out what it can while the seed still fails, in whatever way. */
static struct cut shorten(uint64_t seed)
{
    struct cut cut = {0};
    for (unsigned divisor = 16; divisor > 1 && cut.steps_divisor == 0; divisor /= 2)
        if (!run_seed(seed, (struct cut){.steps_divisor = divisor}))
            cut.steps_divisor = divisor;
    for (int fault = 0; fault < FAULT_COUNT; fault++) {
        struct cut more = {cut.faults | 1u << fault, cut.steps_divisor};
        if (!run_seed(seed, more))
            cut = more;
    }
    return cut;
}

static void report_failure(uint64_t seed)
{
    printf("FAIL seed %" PRIu64 ": %s\n", seed, world.failure);
    struct cut cut = shorten(seed);
    run_seed(seed, cut);
    printf("shortened: %s\nfaults that it takes:", world.failure);
    for (int fault = 0; fault < FAULT_COUNT; fault++)
        if (world.fault_counts[fault] > 0)
            printf(" %s,", fault_names[fault]);
    printf(world.faults == 0 ? " none\n" : "\n");
    world_print_trace(TRACE_SHOWN);
    printf("simulate --replay %" PRIu64 " shows all of it\n", seed);
}

static void count_run(void)
{
    total.seeds++;
    total.steps += clients.step;
    total.faults += world.faults;
    for (int fault = 0; fault < FAULT_COUNT; fault++)
        total.fault_counts[fault] += world.fault_counts[fault];
}

static bool is_same_again(uint64_t seed)
{
    uint64_t hash = world.trace_hash;
    run_seed(seed, (struct cut){0});
    if (world.trace_hash != hash)
        printf("FAIL seed %" PRIu64 ": a second run leaves another trace\n", seed);
    return world.trace_hash == hash;
}

/* --- All of them --- */

static bool run_seeds(const struct options *options)
{
    double begun_s = now_s();
    for (uint64_t seed = options->from; options->seeds == 0 || seed < options->from + options->seeds; seed++) {
        if (!run_seed(seed, (struct cut){0})) {
            report_failure(seed);
            return false;
        }
        count_run();
        if (seed % SEEDS_TWICE == 0 && !is_same_again(seed))
            return false;
        if (options->seconds > 0 && now_s() - begun_s >= options->seconds)
            return true;
    }
    return true;
}

static void print_figures(double seconds)
{
    printf("seeds %" PRIu64 ", steps %" PRIu64 ", faults %" PRIu64 " (", total.seeds, total.steps, total.faults);
    for (int fault = 0; fault < FAULT_COUNT; fault++)
        printf("%s%s %" PRIu64, fault > 0 ? ", " : "", fault_names[fault], total.fault_counts[fault]);
    printf("), %.1f seconds\n", seconds);
}

static bool replay(uint64_t seed)
{
    world.prints_trace = true;
    bool is_well = run_seed(seed, (struct cut){0});
    if (is_well)
        printf("seed %" PRIu64 " is well\n", seed);
    else
        printf("FAIL seed %" PRIu64 ": %s\n", seed, world.failure);
    return is_well;
}

/* --- A crash must not hide its seed --- */

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void report_crash(void)
{
    printf("FAIL seed %" PRIu64 ": a crash\n", total.seed);
    world_print_trace(TRACE_SHOWN);
    fflush(stdout);
}

static void on_crash(int signal_number)
{
    report_crash();
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void watch_for_crashes(void)
{
    static char stack[CRASH_STACK_BYTES];
    if (__sanitizer_set_death_callback) {
        __sanitizer_set_death_callback(report_crash);
        return;
    }
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof(stack)}, NULL);
    struct sigaction action = {.sa_handler = on_crash, .sa_flags = SA_ONSTACK};
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &action, NULL);
}

/* --- The command --- */

static bool read_options(struct options *options, int argc, char **argv)
{
    *options = (struct options){.from = 1};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--torture") == 0) {
            options->tortures = true;
            continue;
        }
        const char *value = ++i < argc ? argv[i] : NULL;
        if (!value)
            return false;
        if (strcmp(name, "--seconds") == 0)
            options->seconds = atof(value);
        else if (strcmp(name, "--seeds") == 0)
            options->seeds = strtoull(value, NULL, 0);
        else if (strcmp(name, "--from") == 0 || strcmp(name, "--replay") == 0)
            options->from = strtoull(value, NULL, 0);
        else
            return false;
        options->replays |= strcmp(name, "--replay") == 0;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct options options;
    if (!read_options(&options, argc, argv)) {
        fprintf(stderr, "simulate [--from SEED] [--seeds N] [--seconds S] | --replay SEED | --torture\n");
        return 2;
    }
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 30); /* a server's buffers are not given back to the system between two seeds */
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
    watch_for_crashes();
    double begun_s = now_s();
    bool is_well;
    if (options.tortures)
        is_well = torture();
    else if (options.replays)
        is_well = replay(options.from);
    else
        is_well = run_seeds(&options);
    if (!options.tortures && !options.replays)
        print_figures(now_s() - begun_s);
    world_begin(0);
    clients_free();
    return is_well ? 0 : 1;
}
