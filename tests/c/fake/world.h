/* world.h: the scripted system's clock, faults, memory and trace, and what was found wrong first.
 * One thread runs everything, and whatever may happen one way or another is asked of `world.chooser`: so a seed decides
 * all, and is all that is needed to see a run again. */
#ifndef KQN_FAKE_WORLD_H
#define KQN_FAKE_WORLD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "random.h"

enum fault { /* kinds, each on or off for a whole seed (swarm testing: a few at a time find what all together hide) */
    FAULT_SHORT_READ,
    FAULT_SHORT_WRITE,
    FAULT_AGAIN,
    FAULT_INTERRUPTED,
    FAULT_READ_ERROR,
    FAULT_WRITE_ERROR,
    FAULT_WRITE_MEMORY,
    FAULT_SHUTDOWN_ERROR,
    FAULT_CLOSE_ERROR,
    FAULT_UNSENT_ERROR,
    FAULT_ACCEPT_CLIENT,
    FAULT_ACCEPT_LIMIT,
    FAULT_OPEN_ERROR,
    FAULT_NO_MEMORY,
    FAULT_CHANGE_ERROR,
    FAULT_POLLER_ERROR,
    FAULT_EVENTS_REORDERED,
    FAULT_EVENT_DUPLICATED,
    FAULT_EVENT_DELAYED,
    FAULT_EVENT_STALE,
    FAULT_EVENT_SPURIOUS,
    FAULT_WAIT_EARLY,
    FAULT_TIME_JUMP,
    FAULT_COUNT,
};
extern const char *const fault_names[FAULT_COUNT];

enum call { /* what can fail with an errno */
    CALL_ALLOC,
    CALL_SOCKET,
    CALL_OPTIONS,
    CALL_BIND,
    CALL_LISTEN,
    CALL_ADDRESS,
    CALL_FILE,
    CALL_ACCEPT,
    CALL_READ,
    CALL_WRITE,
    CALL_SHUTDOWN,
    CALL_CLOSE,
    CALL_UNSENT,
    CALL_QUEUE,
    CALL_CHANGE,
    CALL_WAIT,
    CALL_COUNT,
};

struct entry { /* one line of the trace */
    int64_t now_ns;
    const char *what;
    int loop; /* -1: no loop, the outside */
    int fd;
    int64_t value;
};

enum {
    TRACE_ENTRIES = 1024,
    FAILURE_TEXT_MAX = 400,
};

struct world {
    struct chooser chooser;
    int64_t now_ns;
    int64_t added_ns; /* that passed otherwise than by waiting: jumps, slow hooks, what calls take */
    int loop;         /* that runs now; -1: none */

    uint32_t faults_on; /* a bit for each enum fault */
    unsigned rarity;    /* of 256 calls so many fail, of those that may */
    bool is_quiet;      /* no more faults */
    uint64_t fault_counts[FAULT_COUNT];
    uint64_t faults;  /* all of them */
    uint64_t refused; /* allocations */

    bool counts_calls; /* torture: the one that is due fails, and no other */
    bool is_sticky;    /* and all that follow it */
    uint64_t calls;    /* fallible ones so far */
    uint64_t fail_at;  /* 0: none */
    unsigned variant;  /* which of a call's errnos */

    int64_t live_bytes; /* allocated by the server and not freed */
    int64_t live_blocks;

    uint64_t progress; /* grows whenever anything moves: else the server spins */

    struct entry trace[TRACE_ENTRIES];
    uint64_t trace_count;
    uint64_t trace_hash;
    bool prints_trace;

    bool has_failed;
    char failure[FAILURE_TEXT_MAX];
};
extern struct world world;

/* Begins anew, with this seed and nothing going wrong; what the last one left allocated is freed. */
void world_begin(uint64_t seed);

/* Whether a fault of this kind happens now; it is counted and traced. */
bool world_fault(enum fault fault);

/* The errno with which this call fails now; 0: it does not. */
int world_failure(enum call call);

/* Time passes, otherwise than by waiting. */
void world_add_time(int64_t duration_ns);

/* `what` stays where it is: a string constant. */
void world_trace(const char *what, int fd, int64_t value);
void world_print_trace(uint64_t last); /* so many of its last entries */

/* What must hold does not: the first such word counts. Does not return if a loop runs. */
__attribute__((format(printf, 1, 2))) void world_fail(const char *format, ...);

/* The allocator under sys.c, and under whatever else is simulated. */
void *world_alloc(size_t size);
void *world_realloc(void *memory, size_t size);
void world_free(void *memory);

static inline unsigned below(unsigned limit)
{
    return choose_below(&world.chooser, limit);
}

static inline unsigned between(unsigned least, unsigned most)
{
    return choose_between(&world.chooser, least, most);
}

static inline bool chance(unsigned in_256)
{
    return choose_chance(&world.chooser, in_256);
}
#endif
