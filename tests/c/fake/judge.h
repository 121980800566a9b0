/* judge.h: what must hold, looked at from outside and from inside.
 * From outside: what clients are sent, why their connections end, and the counters. From inside: after each turn, that
 * nothing which could go on is left with nothing to wake it, and that no buffer is lost. */
#ifndef KQN_FAKE_JUDGE_H
#define KQN_FAKE_JUDGE_H
#include "clients.h"
#include "server/server.h"

enum {
    PLENTY_OF_MEMORY = 256 * 1024 * 1024, /* of a server's max_buffered: it never becomes short */
};

struct idleness { /* of a loop: turns in which nothing moved */
    uint64_t progress;
    uint64_t faults;
    int64_t now_ns;
    int turns;
};

struct judge {
    struct kqn_server *server; /* NULL: it does not run */
    struct kqn_settings settings;
    bool has_hook;
    int64_t base_bytes; /* allocated when it had been opened */
    int64_t stop_ns;    /* when it was asked to stop; -1: not yet */
    int64_t stop_added_ns;
    int64_t grace_ns;
    bool all_were_idle;     /* then, and owed nothing */
    bool accept_has_failed; /* since then, or there was no room */
    bool loop_has_failed;   /* some loop's poller did */
    uint64_t read_bytes;    /* by calls of the server, as written ones */
    uint64_t written_bytes;
    uint64_t stale_events; /* that it was given, and that could be told by their generation */
    uint64_t closed[KQN_REASON_COUNT];
    uint64_t declined; /* by the hook */
    uint64_t failed;
    size_t hook_bytes; /* the most that it returned for one batch */
    uint64_t pauses_at_stop;
    struct idleness idle[3];
    uint64_t turn_calls; /* system calls since a loop's turn began */
};
extern struct judge judge;

void judge_begin(const struct kqn_settings *settings, bool has_hook);
void judge_open(struct kqn_server *server);

/* Somebody asks for the stop now. */
void judge_stop(int64_t grace_ns);

/* A client's descriptor, or the listener's, is being closed. */
void judge_close(struct client *client);
void judge_close_listener(void);

/* A loop's poller fails it: its connections end, and without loop 0 the server stops at once. */
void judge_loop_fails(int loop);

/* A loop has finished a turn, and waits next. */
void judge_turn(int loop);

/* No loop can go on before time passes. */
void judge_quiescence(void);

/* All loops have ended. */
void judge_end(void);

/* The sums of all loops' counters, which always balance; part of each turn's look. */
void judge_sums(void);
#endif
