#include "world.h"

#include <errno.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/sys.h"
#include "fibers.h"

struct world world;

const char *const fault_names[FAULT_COUNT] = {
    "short read",    "short write", "EAGAIN",         "EINTR",      "read error",    "write error",
    "ENOBUFS",       "shutdown",    "close",          "unsent",     "accept client", "accept limit",
    "open",          "memory",      "change",         "poller",     "reordered",     "duplicated event",
    "delayed event", "stale event", "spurious event", "early wait", "time jump",
};

/* --- Faults --- */

struct failure {
    enum call call;
    enum fault fault;
    int error;
};

/* By call, in the order of enum call: what its manual pages promise, and what such servers have met. */
static const struct failure failures[] = {
    {CALL_ALLOC, FAULT_NO_MEMORY, ENOMEM},
    {CALL_SOCKET, FAULT_OPEN_ERROR, EMFILE},
    {CALL_SOCKET, FAULT_OPEN_ERROR, ENOBUFS},
    {CALL_SOCKET, FAULT_OPEN_ERROR, EAFNOSUPPORT},
    {CALL_OPTIONS, FAULT_OPEN_ERROR, EINVAL},
    {CALL_BIND, FAULT_OPEN_ERROR, EADDRINUSE},
    {CALL_BIND, FAULT_OPEN_ERROR, EACCES},
    {CALL_LISTEN, FAULT_OPEN_ERROR, EADDRINUSE},
    {CALL_ADDRESS, FAULT_OPEN_ERROR, ENOBUFS},
    {CALL_FILE, FAULT_OPEN_ERROR, EACCES},
    {CALL_ACCEPT, FAULT_AGAIN, EAGAIN},
    {CALL_ACCEPT, FAULT_ACCEPT_LIMIT, EMFILE},
    {CALL_ACCEPT, FAULT_ACCEPT_CLIENT, ECONNABORTED},
    {CALL_ACCEPT, FAULT_ACCEPT_LIMIT, ENFILE},
    {CALL_ACCEPT, FAULT_INTERRUPTED, EINTR},
    {CALL_ACCEPT, FAULT_ACCEPT_LIMIT, ENOBUFS},
    {CALL_ACCEPT, FAULT_ACCEPT_CLIENT, EPROTO},
    {CALL_ACCEPT, FAULT_ACCEPT_LIMIT, ENOMEM},
    {CALL_ACCEPT, FAULT_ACCEPT_CLIENT, EPERM},
    {CALL_ACCEPT, FAULT_ACCEPT_LIMIT, EINVAL},
    {CALL_ACCEPT, FAULT_ACCEPT_CLIENT, ENETDOWN},
    {CALL_ACCEPT, FAULT_ACCEPT_CLIENT, EHOSTUNREACH},
    {CALL_ACCEPT, FAULT_ACCEPT_CLIENT, EOPNOTSUPP},
    {CALL_ACCEPT, FAULT_ACCEPT_LIMIT, ENOSR},
    {CALL_READ, FAULT_AGAIN, EAGAIN},
    {CALL_READ, FAULT_READ_ERROR, ECONNRESET},
    {CALL_READ, FAULT_INTERRUPTED, EINTR},
    {CALL_READ, FAULT_READ_ERROR, ETIMEDOUT},
    {CALL_READ, FAULT_READ_ERROR, EIO},
    {CALL_READ, FAULT_READ_ERROR, EHOSTUNREACH},
    {CALL_READ, FAULT_READ_ERROR, ENOBUFS},
    {CALL_WRITE, FAULT_AGAIN, EAGAIN},
    {CALL_WRITE, FAULT_WRITE_ERROR, EPIPE},
    {CALL_WRITE, FAULT_WRITE_MEMORY, ENOBUFS},
    {CALL_WRITE, FAULT_INTERRUPTED, EINTR},
    {CALL_WRITE, FAULT_WRITE_ERROR, ECONNRESET},
    {CALL_WRITE, FAULT_WRITE_MEMORY, ENOMEM},
    {CALL_WRITE, FAULT_WRITE_ERROR, EPROTOTYPE},
    {CALL_WRITE, FAULT_WRITE_ERROR, ETIMEDOUT},
    {CALL_WRITE, FAULT_WRITE_ERROR, EIO},
    {CALL_SHUTDOWN, FAULT_SHUTDOWN_ERROR, ENOTCONN},
    {CALL_CLOSE, FAULT_CLOSE_ERROR, EINTR},
    {CALL_CLOSE, FAULT_CLOSE_ERROR, EIO},
    {CALL_CLOSE, FAULT_CLOSE_ERROR, ECONNRESET},
    {CALL_UNSENT, FAULT_UNSENT_ERROR, ENOTSUP},
    {CALL_QUEUE, FAULT_OPEN_ERROR, EMFILE},
    {CALL_QUEUE, FAULT_OPEN_ERROR, ENOMEM},
    {CALL_CHANGE, FAULT_CHANGE_ERROR, ENOMEM},
    {CALL_CHANGE, FAULT_CHANGE_ERROR, ENOENT},
    {CALL_CHANGE, FAULT_CHANGE_ERROR, EBADF},
    {CALL_WAIT, FAULT_INTERRUPTED, EINTR},
    {CALL_WAIT, FAULT_POLLER_ERROR, ENOMEM},
    {CALL_WAIT, FAULT_POLLER_ERROR, EBADF},
};

enum {
    FAILURE_COUNT = sizeof(failures) / sizeof(failures[0]),
};

static void count_fault(enum fault fault, int error)
{
    world.fault_counts[fault]++;
    world.faults++;
    world_trace(fault_names[fault], -1, error);
}

/* Some kinds have many calls, or end all: they are rarer. */
static bool is_rarer(enum fault fault)
{
    return fault == FAULT_NO_MEMORY || fault == FAULT_POLLER_ERROR || fault == FAULT_OPEN_ERROR ||
           fault == FAULT_CHANGE_ERROR || fault == FAULT_TIME_JUMP;
}

bool world_fault(enum fault fault)
{
    bool is_on = !world.is_quiet && (world.faults_on >> fault & 1) != 0;
    if (!is_on || !chance(world.rarity) || (is_rarer(fault) && !chance(32)))
        return false;
    count_fault(fault, 0);
    return true;
}

static const struct failure *failure_of(enum call call, unsigned choice)
{
    static int first[CALL_COUNT + 1];
    if (first[CALL_COUNT] == 0)
        for (int at = FAILURE_COUNT; at-- > 0; first[CALL_COUNT] = FAILURE_COUNT)
            first[failures[at].call] = at;
    unsigned count = (unsigned)(first[call + 1] - first[call]);
    return &failures[(unsigned)first[call] + choice % count];
}

/* The one call of a run, or the first of those, that torture wants to fail. */
static int due_failure(enum call call)
{
    world.calls++;
    bool is_due = world.is_sticky ? world.calls >= world.fail_at : world.calls == world.fail_at;
    if (world.fail_at == 0 || !is_due)
        return 0;
    const struct failure *failure = failure_of(call, world.variant);
    /* What passes by itself can't go on for good: a system that says that something is there does not take it back. */
    bool passes = failure->fault == FAULT_AGAIN || failure->fault == FAULT_INTERRUPTED;
    if (passes && world.is_sticky)
        failure++;
    count_fault(failure->fault, failure->error);
    return failure->error;
}

int world_failure(enum call call)
{
    if (world.counts_calls)
        return due_failure(call);
    if (world.is_quiet || world.faults_on == 0 || !chance(world.rarity))
        return 0;
    const struct failure *failure = failure_of(call, below(FAILURE_COUNT));
    if (!(world.faults_on >> failure->fault & 1) || (is_rarer(failure->fault) && !chance(32)))
        return 0;
    count_fault(failure->fault, failure->error);
    return failure->error;
}

void world_add_time(int64_t duration_ns)
{
    world.now_ns += duration_ns;
    world.added_ns += duration_ns;
}

/* --- The trace --- */

static void print_entry(const struct entry *entry)
{
    printf("%14.6f ", (double)entry->now_ns / 1e9);
    if (entry->loop < 0)
        printf("       ");
    else
        printf("loop %d ", entry->loop);
    if (entry->fd >= 0)
        printf("%s fd %d: %lld\n", entry->what, entry->fd, (long long)entry->value);
    else
        printf("%s: %lld\n", entry->what, (long long)entry->value);
}

static void mix(uint64_t value)
{
    world.trace_hash = (world.trace_hash ^ value) * UINT64_C(0x100000001b3);
    world.trace_hash ^= world.trace_hash >> 29;
}

void world_trace(const char *what, int fd, int64_t value)
{
    struct entry *entry = &world.trace[world.trace_count++ % TRACE_ENTRIES];
    *entry = (struct entry){.now_ns = world.now_ns, .what = what, .loop = world.loop, .fd = fd, .value = value};
    mix((uint64_t)entry->now_ns);
    mix((uint64_t)(uint8_t)what[0] << 56 ^ (uint64_t)strlen(what) << 48 ^ (uint64_t)(uint32_t)fd << 8 ^
        (uint64_t)(uint8_t)world.loop);
    mix((uint64_t)value);
    if (world.prints_trace)
        print_entry(entry);
}

void world_print_trace(uint64_t last)
{
    if (last > TRACE_ENTRIES)
        last = TRACE_ENTRIES;
    if (last > world.trace_count)
        last = world.trace_count;
    for (uint64_t at = world.trace_count - last; at < world.trace_count; at++)
        print_entry(&world.trace[at % TRACE_ENTRIES]);
}

void world_fail(const char *format, ...)
{
    if (!world.has_failed) {
        va_list values;
        va_start(values, format);
        vsnprintf(world.failure, sizeof(world.failure), format, values);
        va_end(values);
        world.has_failed = true;
        if (world.prints_trace)
            printf("violation: %s\n", world.failure);
    }
    fiber_abandon();
}

/* --- Memory --- */

struct block { /* stands before what was allocated, which begins a cache line */
    alignas(KQN_LINE_BYTES) struct block *next;
    struct block *previous;
    size_t size;
};

enum {
    FILLED_MAX = 512,
};
static struct block blocks = {.next = &blocks, .previous = &blocks};

static void link_block(struct block *block)
{
    block->next = &blocks;
    block->previous = blocks.previous;
    block->previous->next = blocks.previous = block;
    world.live_bytes += (int64_t)block->size;
    world.live_blocks++;
}

static void unlink_block(struct block *block)
{
    block->next->previous = block->previous;
    block->previous->next = block->next;
    world.live_bytes -= (int64_t)block->size;
    world.live_blocks--;
}

void *world_alloc(size_t size)
{
    if (world_failure(CALL_ALLOC)) {
        world.refused++;
        return NULL;
    }
    struct block *block;
    if (posix_memalign((void **)&block, alignof(struct block), sizeof(*block) + size) != 0)
        abort();
    block->size = size;
    link_block(block);
    /* Not what an earlier seed left there: whoever reads it shall do so in every run. */
    memset(block + 1, 0xa5, size < FILLED_MAX ? size : FILLED_MAX);
    return block + 1;
}

/* Always moves: whoever keeps an old pointer shall be found out. */
void *world_realloc(void *memory, size_t size)
{
    void *moved = world_alloc(size);
    if (!moved || !memory)
        return moved;
    size_t old_size = ((struct block *)memory - 1)->size;
    memcpy(moved, memory, old_size < size ? old_size : size);
    world_free(memory);
    return moved;
}

void world_free(void *memory)
{
    if (!memory)
        return;
    struct block *block = (struct block *)memory - 1;
    unlink_block(block);
    free(block);
}

void world_begin(uint64_t seed)
{
    while (blocks.next != &blocks)
        world_free(blocks.next + 1);
    bool prints_trace = world.prints_trace;
    memset(&world, 0, sizeof(world));
    world.chooser.state = seed;
    world.loop = -1;
    world.prints_trace = prints_trace;
    world.is_quiet = true;
    world.trace_hash = UINT64_C(0xcbf29ce484222325);
}
