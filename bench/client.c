/* client.c: many connections, one message in flight on each, from one thread.
 * Usage: client PORT MESSAGE_BYTES ANSWER_BYTES. Commands come from standard input, one a line, and each is answered
 * by one line on standard output once no message is in flight any more:
 *   open N       opens connections until there are N        "opened N"
 *   seconds S    exchanges messages for S seconds           "MESSAGES SECONDS"
 *   messages N   exchanges N messages, one each at first    "MESSAGES SECONDS"
 * A message is all 'x' and a line feed; an answer is known by its length and its last byte. At the end of the input
 * the connections are closed. Linux only. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BATCH = 1024,
    MAX_CONNECTIONS = 65536,
    MAX_BYTES = 65536,
    CONNECTIONS_PER_ADDRESS = 5000, /* below the ports that one source address has */
    PATIENCE_MS = 30000,            /* no answer at all for so long is a failure */
};

struct connection {
    int fd;
    size_t missing; /* bytes of the answer that have not come yet; 0: no message in flight */
};

static struct connection connections[MAX_CONNECTIONS];
static int connection_count;
static int poller;
static int port;
static size_t message_bytes;
static size_t answer_bytes;
static char message[MAX_BYTES];
static char answer[MAX_BYTES];

static void fail(const char *what)
{
    fprintf(stderr, "client: %s: %s\n", what, errno != 0 ? strerror(errno) : "unexpected");
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static struct sockaddr_in loopback(int last_byte, int at_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)at_port)};
    address.sin_addr.s_addr = htonl(0x7f000000u + (unsigned)last_byte);
    return address;
}

static void open_one(void)
{
    struct connection *connection = &connections[connection_count];
    struct sockaddr_in source = loopback(1 + connection_count / CONNECTIONS_PER_ADDRESS, 0);
    struct sockaddr_in server = loopback(1, port);
    int on = 1;
    connection->missing = 0;
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connection->fd < 0)
        fail("socket");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    if (bind(connection->fd, (struct sockaddr *)&source, sizeof(source)) < 0)
        fail("bind");
    if (connect(connection->fd, (struct sockaddr *)&server, sizeof(server)) < 0)
        fail("connect");
    /* Edge-triggered is the cheaper for a client, and misses nothing: each read takes all there can be. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = connection};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, connection->fd, &event) < 0)
        fail("epoll_ctl");
    connection_count++;
}

/* A message is far smaller than a socket's buffer, which is empty: a blocking write takes it whole. */
static void send_message(struct connection *connection)
{
    if (write(connection->fd, message, message_bytes) != (ssize_t)message_bytes)
        fail("write");
    connection->missing = answer_bytes;
}

/* True when the answer is complete. */
static bool receive(struct connection *connection)
{
    ssize_t got = recv(connection->fd, answer, connection->missing + (connection->missing < MAX_BYTES), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got <= 0)
        fail("the server closed a connection");
    errno = 0;
    if ((size_t)got > connection->missing)
        fail("an answer is longer than it should be");
    connection->missing -= (size_t)got;
    if (connection->missing == 0 && answer[got - 1] != '\n')
        fail("an answer ends with a wrong byte");
    return connection->missing == 0;
}

/* Until max_messages were sent or the time is up; returns what was answered by then. */
static int64_t exchange(int64_t max_messages, double seconds, double *elapsed)
{
    struct epoll_event events[BATCH];
    int64_t sent = 0, answered = 0, answered_in_time = -1;
    double start = now();
    for (int i = 0; i < connection_count && sent < max_messages; i++, sent++)
        send_message(&connections[i]);
    while (answered < sent) {
        int count = epoll_wait(poller, events, BATCH, PATIENCE_MS);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            fail("waiting for answers");
        bool time_is_up = now() - start >= seconds;
        if (time_is_up && answered_in_time < 0) {
            *elapsed = now() - start;
            answered_in_time = answered;
        }
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!receive(connection))
                continue;
            answered++;
            if (!time_is_up && sent < max_messages) {
                send_message(connection);
                sent++;
            }
        }
    }
    if (answered_in_time >= 0)
        return answered_in_time;
    *elapsed = now() - start;
    return answered;
}

static void obey(const char *line)
{
    int count;
    int64_t messages = INT64_MAX;
    double seconds = 1e9, elapsed = 0;
    if (sscanf(line, "open %d", &count) == 1 && count <= MAX_CONNECTIONS) {
        while (connection_count < count)
            open_one();
        printf("opened %d\n", connection_count);
    } else if (sscanf(line, "seconds %lf", &seconds) == 1 || sscanf(line, "messages %" SCNd64, &messages) == 1) {
        int64_t answered = exchange(messages, seconds, &elapsed);
        printf("%" PRId64 " %.6f\n", answered, elapsed);
    } else {
        errno = EINVAL;
        fail(line);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[256];
    struct rlimit limit;
    if (argc != 4) {
        fprintf(stderr, "usage: client PORT MESSAGE_BYTES ANSWER_BYTES\n");
        return 2;
    }
    port = atoi(argv[1]);
    message_bytes = (size_t)atoi(argv[2]);
    answer_bytes = (size_t)atoi(argv[3]);
    if (message_bytes < 1 || message_bytes > MAX_BYTES || answer_bytes < 1 || answer_bytes > MAX_BYTES) {
        fprintf(stderr, "client: a message and an answer have 1 to %d bytes\n", MAX_BYTES);
        return 2;
    }
    memset(message, 'x', message_bytes);
    message[message_bytes - 1] = '\n';
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fail("epoll_create1");
    while (fgets(line, sizeof(line), stdin) != NULL)
        obey(line);
    return 0;
}
