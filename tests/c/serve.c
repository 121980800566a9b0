/* serve.c: the whole server without Python, as sanitizers, callgrind and a bare kernel run it.
 *
 *     serve PORT [FRAMING [TEMPLATE [LOOPS [SECONDS [POLLER]]]]]
 *
 * Listens on 127.0.0.1, serves for so many seconds (0: until a line or the end of standard input), stops, and prints
 * the counters of all loops together as `name value` lines. Exit code 1: the sums don't balance, or a loop failed. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api.h"

enum {
    MAX_LOOPS = 64,
};

static const char *const reason_names[KQN_REASON_COUNT] = {
    "eof",  "reset",  "idle",     "message_timeout", "write_timeout", "too_long",
    "hook", "denied", "buffered", "stopped",         "cut",           "error",
};

struct loop_thread {
    struct kqn_server *server;
    int index;
    int result;
    pthread_t thread;
};

static void *run_loop(void *argument)
{
    struct loop_thread *loop = argument;
    loop->result = kqn_server_run(loop->server, loop->index);
    return NULL;
}

static int word_index(const char *word, const char *const *words, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(word, words[i]) == 0)
            return i;
    fprintf(stderr, "serve: unknown word %s\n", word);
    exit(2);
}

static void add_stats(struct kqn_stats *sum, const struct kqn_stats *stats)
{
    sum->accepted += stats->accepted;
    sum->handed_over += stats->handed_over;
    sum->open += stats->open;
    for (int i = 0; i < KQN_REASON_COUNT; i++)
        sum->closed[i] += stats->closed[i];
    sum->messages += stats->messages;
    sum->answered += stats->answered;
    sum->declined += stats->declined;
    sum->failed += stats->failed;
    sum->unanswered += stats->unanswered;
    sum->pending += stats->pending;
    sum->bytes_in += stats->bytes_in;
    sum->bytes_out += stats->bytes_out;
    sum->turns += stats->turns;
    sum->events += stats->events;
}

static void print_counter(const char *name, uint64_t value)
{
    printf("%s %llu\n", name, (unsigned long long)value);
}

/* Prints the sums, and says whether they balance. */
static bool print_stats(const struct kqn_stats *sum)
{
    uint64_t closed = 0;
    print_counter("accepted", sum->accepted);
    print_counter("open", sum->open);
    for (int i = 0; i < KQN_REASON_COUNT; i++) {
        closed += sum->closed[i];
        if (sum->closed[i] > 0)
            print_counter(reason_names[i], sum->closed[i]);
    }
    print_counter("messages", sum->messages);
    print_counter("answered", sum->answered);
    print_counter("unanswered", sum->unanswered);
    print_counter("bytes_in", sum->bytes_in);
    print_counter("bytes_out", sum->bytes_out);
    print_counter("turns", sum->turns);
    print_counter("events", sum->events);
    return sum->accepted == closed && sum->handed_over == 0 && sum->open == 0 && sum->pending == 0 &&
           sum->messages == sum->answered + sum->unanswered;
}

static void wait_for_end(int seconds)
{
    if (seconds > 0)
        sleep((unsigned)seconds);
    else
        getchar();
}

int main(int argc, char **argv)
{
    static const char *const framings[] = {"stream", "line", "u32"};
    static const char *const pollers[] = {"auto", "kqueue", "epoll", "poll", "select"};
    static struct loop_thread loops[MAX_LOOPS];
    struct kqn_settings settings = {
        .host = "127.0.0.1",
        .port = argc > 1 ? atoi(argv[1]) : 0,
        .framing = argc > 2 ? (enum kqn_framing_kind)word_index(argv[2], framings, 3) : KQN_FRAMING_STREAM,
        .reply = argc > 3 ? argv[3] : "system: {message}",
        .loops = argc > 4 ? atoi(argv[4]) : 1,
        .poller = argc > 6 ? (enum kqn_poller_kind)word_index(argv[6], pollers, 5) : KQN_POLLER_AUTO,
        .read_size = 65536,
        .max_message = 1048576,
        .max_buffered = 268435456,
        .idle_timeout_ns = INT64_C(300000000000),
        .backlog = 1024,
        .batch = 1024,
        .log_rate = 200,
    };
    settings.reply_len = strlen(settings.reply);
    settings.max_connections = (int)(kqn_descriptors_raise(0) - KQN_DESCRIPTOR_RESERVE);
    if (settings.loops < 1 || settings.loops > MAX_LOOPS)
        return 2;

    struct kqn_server *server;
    enum kqn_step step;
    int rc = kqn_server_open(&server, &settings, &step);
    if (rc < 0) {
        fprintf(stderr, "serve: step %d failed: %s\n", (int)step, strerror(-rc));
        return 1;
    }
    char host[KQN_PEER_TEXT_MAX];
    int port = 0;
    kqn_server_address(server, host, &port);
    printf("Server started on %s:%d\n", host, port);
    fflush(stdout);
    for (int i = 0; i < settings.loops; i++) {
        loops[i] = (struct loop_thread){.server = server, .index = i};
        pthread_create(&loops[i].thread, NULL, run_loop, &loops[i]);
    }
    wait_for_end(argc > 5 ? atoi(argv[5]) : 0);
    kqn_server_stop(server, INT64_C(10000000000));

    struct kqn_stats sum = {0};
    bool is_well = true;
    for (int i = 0; i < settings.loops; i++) {
        struct kqn_stats stats;
        pthread_join(loops[i].thread, NULL);
        kqn_server_stats(server, i, &stats, 0);
        add_stats(&sum, &stats);
        is_well = is_well && loops[i].result == 0;
    }
    is_well = print_stats(&sum) && is_well;
    kqn_server_close(server);
    return is_well ? 0 : 1;
}
