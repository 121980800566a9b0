/* run.h: one run of the simulated server, from its opening to its end. */
#ifndef KQN_FAKE_RUN_H
#define KQN_FAKE_RUN_H
#include "clients.h"
#include "server/server.h"

struct hook { /* what answers in the template's place */
    bool is_used;
    bool fails;            /* with some messages */
    bool is_slow;          /* takes time, now and then */
    bool stops;            /* asks for the stop, now and then */
    unsigned long_answers; /* at most */
};

struct scenario {
    struct kqn_settings settings;
    struct rules rules;
    struct hook hook;
    int client_count;
    size_t bytes_each;
    unsigned steps;          /* before all that goes wrong ends */
    unsigned loops_go_first; /* of 256, where a client could act as well */
    int descriptors;         /* that the system has */
    bool reuses_lowest;
    bool stops_early; /* while things still go wrong */
    int64_t grace_ns;
    int64_t patience_ns; /* with clients that are not done, before the stop; 0: no end, for all must be */
    unsigned steps_max;  /* of each phase in which nothing goes wrong by chance: one that takes more does not end */
};

/* Everything by chance, with the faults that are switched on. */
void scenario_choose(struct scenario *scenario);

/* Opens, serves, calms down, stops and closes. Whether all was well; what was not is in world.failure. */
bool run(const struct scenario *scenario);

/* For the hook. */
void run_stop(int64_t grace_ns);
void hook_begin(const struct hook *hook);
kqn_answerer hook_answer;
#endif
