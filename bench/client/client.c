/* client.c: the benchmark's own client, a closed loop that is as lean as the bare server.
 * Usage: client PORT FRAMING MESSAGE_BYTES ANSWER_BYTES DEPTH
 *   line     messages are 'x's and a line feed; answers are counted by their line feeds, and each one's length checked
 *   stream   the same messages; answers are counted by their bytes
 *   u32      frames of MESSAGE_BYTES, 4 bytes of length (most significant first) and 'x's; counted by their bytes
 * Each connection keeps DEPTH messages in flight. Commands come on standard input, one a line, and each is answered by
 * one line as soon as no message is in flight any more:
 *   open N        opens connections until there are N              "opened N"
 *   busy N        only the first N take part from now on (0: all)  "busy N"
 *   seconds S     exchanges messages for S seconds                 "MESSAGES SECONDS CPU_SECONDS"
 *   messages N    exchanges N messages                             "MESSAGES SECONDS CPU_SECONDS"
 *   churn S C     for S seconds, C at a time, a connection for each message    "CONNECTIONS SECONDS CPU_SECONDS"
 * CPU_SECONDS is its own processor time, user and system. Besides the length it checks the last byte of the last
 * complete answer of each read; it does nothing else. One thread, edge-triggered epoll. Linux only. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "../peers/shared.h"
#include "traffic.h"

enum {
    EVENTS_PER_WAIT = 1024,
    MAX_CONNECTIONS = 65536,
    MAX_MESSAGE_BYTES = 2 * 1024 * 1024 + 4,
    MAX_DEPTH = 4096,
    PATIENCE_MS = 30000, /* no event at all for so long is a failure */
};

/* What a command that exchanges messages has done, and has left to do. */
struct run {
    bool is_churn; /* a connection is for one message, and another takes its place when that is answered */
    int64_t to_send;
    int64_t in_flight;
    int64_t answered;
    double start;
    double cpu_start;
};

static struct connection connections[MAX_CONNECTIONS];
static int connection_count;
static int busy_count; /* 0: all */
static int poller;
static struct traffic traffic;

static double seconds_of(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Edge-triggered, it costs nothing to be told as well when there is room to send: only after a short send. */
static void open_one(struct connection *connection)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = connection};
    connection_open(connection, traffic.port);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, connection->fd, &event) < 0)
        fail("epoll_ctl", errno);
}

static void send_messages(struct run *run, struct connection *connection, int count)
{
    if (count > run->to_send)
        count = (int)run->to_send;
    if (count == 0)
        return;
    run->to_send -= count;
    run->in_flight += count;
    if (run->is_churn)
        open_one(connection);
    connection->in_flight += count;
    connection->owed += (size_t)count * traffic.message_bytes;
    connection_send(connection, &traffic);
}

static void on_event(struct run *run, const struct epoll_event *event)
{
    struct connection *connection = event->data.ptr;
    if (connection->owed > 0)
        connection_send(connection, &traffic);
    int count = event->events & ~(uint32_t)EPOLLOUT ? connection_receive(connection, &traffic) : 0;
    if (count == 0)
        return;
    run->answered += count;
    run->in_flight -= count;
    if (run->is_churn)
        close(connection->fd);
    send_messages(run, connection, count);
}

static void report(const struct run *run)
{
    double seconds = seconds_of(CLOCK_MONOTONIC) - run->start;
    double cpu_seconds = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - run->cpu_start;
    printf("%" PRId64 " %.6f %.6f\n", run->answered, seconds, cpu_seconds);
}

/* Until all is answered or the time is up. What is in flight then is awaited, but no part of the report. */
static void exchange(struct run *run, struct connection *first, int count, double max_seconds)
{
    struct epoll_event events[EVENTS_PER_WAIT];
    bool is_reported = false;
    run->start = seconds_of(CLOCK_MONOTONIC);
    run->cpu_start = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < count; i++)
        send_messages(run, &first[i], run->is_churn ? 1 : traffic.depth);
    while (run->in_flight > 0) {
        int event_count = epoll_wait(poller, events, EVENTS_PER_WAIT, PATIENCE_MS);
        if (event_count < 0 && errno == EINTR)
            continue;
        if (event_count <= 0)
            fail("waiting for answers", event_count < 0 ? errno : ETIMEDOUT);
        if (!is_reported && seconds_of(CLOCK_MONOTONIC) - run->start >= max_seconds) {
            report(run);
            is_reported = true;
            run->to_send = 0;
        }
        for (int i = 0; i < event_count; i++)
            on_event(run, &events[i]);
    }
    if (!is_reported)
        report(run);
}

static void obey(const char *line)
{
    struct run run = {.to_send = INT64_MAX};
    double seconds = 1e9;
    int count;
    if (sscanf(line, "open %d", &count) == 1 && count <= MAX_CONNECTIONS) {
        while (connection_count < count)
            open_one(&connections[connection_count++]);
        printf("opened %d\n", connection_count);
    } else if (sscanf(line, "busy %d", &count) == 1 && count >= 0 && count <= connection_count) {
        busy_count = count;
        printf("busy %d\n", count);
    } else if (sscanf(line, "churn %lf %d", &seconds, &count) == 2 && count >= 1 &&
               count <= MAX_CONNECTIONS - connection_count) {
        run.is_churn = true;
        exchange(&run, &connections[connection_count], count, seconds);
    } else if (connection_count > 0 &&
               (sscanf(line, "seconds %lf", &seconds) == 1 || sscanf(line, "messages %" SCNd64, &run.to_send) == 1)) {
        exchange(&run, connections, busy_count > 0 ? busy_count : connection_count, seconds);
    } else {
        fail(line, EINVAL);
    }
    fflush(stdout);
}

static bool read_framing(const char *name)
{
    static const char *const names[] = {[LINE] = "line", [STREAM] = "stream", [U32] = "u32"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        traffic.framing = (enum framing)i;
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

static bool read_arguments(int argc, char **argv)
{
    if (argc != 6 || !read_framing(argv[2]))
        return false;
    int message_bytes = atoi(argv[3]), answer_bytes = atoi(argv[4]);
    int least = traffic.framing == U32 ? 5 : 1;
    traffic.port = atoi(argv[1]);
    traffic.message_bytes = (size_t)message_bytes;
    traffic.answer_bytes = (size_t)answer_bytes;
    traffic.last_byte = traffic.framing == U32 ? 'x' : '\n';
    traffic.depth = atoi(argv[5]);
    return traffic.port > 0 && traffic.port <= UINT16_MAX && message_bytes >= least &&
           message_bytes <= MAX_MESSAGE_BYTES && answer_bytes >= least && traffic.depth > 0 &&
           traffic.depth <= MAX_DEPTH;
}

int main(int argc, char **argv)
{
    char line[256];
    if (!read_arguments(argc, argv)) {
        fprintf(stderr,
                "usage: client PORT line|stream|u32 MESSAGE_BYTES ANSWER_BYTES DEPTH\n"
                "messages have 1 byte (frames 5) to 2 MiB, and the depth is 1 to %d\n",
                MAX_DEPTH);
        return 2;
    }
    raise_descriptors();
    make_block(&traffic);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fail("epoll_create1", errno);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        obey(line);
    }
    return 0;
}
