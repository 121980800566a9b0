/* count_epoll.c: the least that a load tester on epoll can do, as a yardstick.
 * Usage: count_epoll PORT CONNECTIONS DEPTH MESSAGE_BYTES SECONDS
 * One thread, level-triggered, up to 1,024 events a wait, and per event one read, a count of its newlines and one write
 * of as many messages, so that DEPTH of them stay in flight on each connection. A message is all 'x' and a line feed.
 * After half a second of warm-up it measures for SECONDS and prints "MESSAGES SECONDS". It does nothing else: no
 * latencies, no check of what comes, one look at the clock per wait. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BATCH = 1024,
    MAX_CONNECTIONS = 1000, /* below the usual limit of descriptors */
    READ_BYTES = 65536,
};

static const double WARM_UP_SECONDS = 0.5;

struct connection {
    int fd;
    bool waits_to_send;
    size_t owed; /* bytes yet to be sent; they always end where a message does */
};

static struct connection connections[MAX_CONNECTIONS];
static int poller;
static char buffer[READ_BYTES];
static char block[READ_BYTES]; /* DEPTH messages, the most that a connection can owe */
static size_t block_bytes;
static size_t message_bytes;

static void fail(const char *what)
{
    fprintf(stderr, "count_epoll: %s: %s\n", what, errno != 0 ? strerror(errno) : "unexpected");
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void watch(struct connection *connection, int operation)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (connection->waits_to_send)
        event.events |= EPOLLOUT;
    if (epoll_ctl(poller, operation, connection->fd, &event) < 0)
        fail("epoll_ctl");
}

static void open_one(struct connection *connection, int port)
{
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1;
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0 || connect(connection->fd, (struct sockaddr *)&server, sizeof(server)) < 0)
        fail("connect");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    watch(connection, EPOLL_CTL_ADD);
}

/* send() and recv() spare what read() and write() do for files. */
static void send_owed(struct connection *connection)
{
    const char *owed = block + block_bytes - connection->owed;
    ssize_t sent = send(connection->fd, owed, connection->owed, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        fail("send");
    if (sent > 0)
        connection->owed -= (size_t)sent;
    if (connection->waits_to_send != (connection->owed > 0)) {
        connection->waits_to_send = !connection->waits_to_send;
        watch(connection, EPOLL_CTL_MOD);
    }
}

static size_t count_newlines(const char *at, const char *end)
{
    size_t count = 0;
    while ((at = memchr(at, '\n', (size_t)(end - at))) != NULL) {
        at++;
        count++;
    }
    return count;
}

/* Returns how many messages came, all of which the connection owes from then on. */
static size_t receive(struct connection *connection)
{
    ssize_t got = recv(connection->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0)
        fail("the server closed a connection");
    size_t count = count_newlines(buffer, buffer + got);
    connection->owed += count * message_bytes;
    if (connection->owed > block_bytes)
        fail("more came than was sent");
    return count;
}

/* Returns how many messages came. */
static int64_t exchange(double seconds, double *elapsed)
{
    struct epoll_event events[BATCH];
    size_t messages = 0;
    double start = now();
    do {
        int count = epoll_wait(poller, events, BATCH, -1);
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (events[i].events & ~(uint32_t)EPOLLOUT)
                messages += receive(connection);
            if (connection->owed > 0)
                send_owed(connection);
        }
        *elapsed = now() - start;
    } while (*elapsed < seconds);
    return (int64_t)messages;
}

int main(int argc, char **argv)
{
    int count = argc == 6 ? atoi(argv[2]) : 0;
    int depth = argc == 6 ? atoi(argv[3]) : 0;
    int bytes = argc == 6 ? atoi(argv[4]) : 0;
    double elapsed;
    if (count < 1 || count > MAX_CONNECTIONS || depth < 1 || bytes < 1 || depth > READ_BYTES / bytes) {
        fprintf(stderr, "usage: count_epoll PORT CONNECTIONS DEPTH MESSAGE_BYTES SECONDS\n"
                        "no more than 1,000 connections, and 65,536 bytes in flight on each\n");
        return 2;
    }
    message_bytes = (size_t)bytes;
    block_bytes = message_bytes * (size_t)depth;
    memset(block, 'x', block_bytes);
    for (size_t end = message_bytes; end <= block_bytes; end += message_bytes)
        block[end - 1] = '\n';
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fail("epoll_create1");
    for (int i = 0; i < count; i++)
        open_one(&connections[i], atoi(argv[1]));
    for (int i = 0; i < count; i++) {
        connections[i].owed = block_bytes;
        send_owed(&connections[i]);
    }
    exchange(WARM_UP_SECONDS, &elapsed);
    int64_t messages = exchange(atof(argv[5]), &elapsed);
    printf("%" PRId64 " %.6f\n", messages, elapsed);
    return 0;
}
