/* load.c: the load tester without Python, as callgrind counts it.
 *
 *     load PORT CONNECTIONS DEPTH MESSAGES
 *
 * One loop sends so many lines of 64 bytes to 127.0.0.1:PORT, as many on each connection in flight as DEPTH says, and
 * prints how many were answered. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api.h"

enum {
    BODY_BYTES = 63, /* and the LF */
};

static struct kqn_histogram latency, service, connecting;

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: load PORT CONNECTIONS DEPTH MESSAGES\n");
        return 2;
    }
    static uint8_t body[BODY_BYTES];
    memset(body, 'x', sizeof(body));
    const uint8_t *const bodies[] = {body};
    const size_t body_lens[] = {sizeof(body)};
    struct kqn_load_settings settings = {
        .host = "127.0.0.1",
        .port = atoi(argv[1]),
        .connections = atoi(argv[2]),
        .depth = atoi(argv[3]),
        .max_messages = atoll(argv[4]),
        .bodies = bodies,
        .body_lens = body_lens,
        .body_count = 1,
        .timeout_ns = INT64_C(5000000000),
        .connect_timeout_ns = INT64_C(5000000000),
        .framing = KQN_FRAMING_LINE,
        .loops = 1,
    };
    struct kqn_load *load;
    int rc = kqn_load_open(&load, &settings);
    if (rc == 0)
        rc = kqn_load_run(load, 0);
    if (rc < 0) {
        fprintf(stderr, "load: %s\n", strerror(-rc));
        return 1;
    }
    struct kqn_load_totals totals;
    kqn_load_result(load, &totals, &latency, &service, &connecting);
    kqn_load_close(load);
    printf("messages %llu\n", (unsigned long long)totals.messages);
    return totals.messages == (uint64_t)settings.max_messages ? 0 : 1;
}
