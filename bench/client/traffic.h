/* traffic.h: a connection of the client, and what goes over it.
 * A connection owes messages, sends what its socket takes, and counts answers. Nothing here blocks but connecting,
 * which over the loopback interface is a matter of microseconds. Whatever goes wrong ends the program. */
#ifndef CLIENT_TRAFFIC_H
#define CLIENT_TRAFFIC_H
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    READ_BYTES = 65536,
    SOURCE_ADDRESSES = 250,
};

enum framing {
    LINE,
    STREAM,
    U32,
};

struct traffic { /* the same for all connections */
    enum framing framing;
    int port;
    int depth; /* messages in flight on each connection */
    size_t message_bytes;
    size_t answer_bytes;
    char last_byte; /* of an answer */
    char *block;    /* as many messages as the depth: the most that a connection can owe */
    size_t block_bytes;
};

struct connection {
    int fd;
    int in_flight;   /* messages */
    size_t received; /* bytes of an answer that is not complete */
    size_t owed;     /* bytes yet to be sent; they always end where a message does */
};

static inline _Noreturn void fail(const char *what, int error)
{
    fprintf(stderr, "client: %s%s%s\n", what, error != 0 ? ": " : "", error != 0 ? strerror(error) : "");
    exit(1);
}

static inline void make_block(struct traffic *traffic)
{
    uint32_t payload_bytes = htonl((uint32_t)(traffic->message_bytes - sizeof(payload_bytes)));
    traffic->block_bytes = traffic->message_bytes * (size_t)traffic->depth;
    traffic->block = malloc(traffic->block_bytes);
    if (traffic->block == NULL)
        fail("memory for the messages in flight", errno);
    memset(traffic->block, 'x', traffic->block_bytes);
    for (size_t at = 0; at < traffic->block_bytes; at += traffic->message_bytes) {
        if (traffic->framing == U32)
            memcpy(traffic->block + at, &payload_bytes, sizeof(payload_bytes));
        else
            traffic->block[at + traffic->message_bytes - 1] = '\n';
    }
}

static inline struct sockaddr_in loopback(unsigned last_byte, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(0x7f000000u + last_byte);
    return address;
}

/* A source address has some 28,000 ports, and each rests for a while after its connection: addresses take turns. */
static inline void connection_open(struct connection *connection, int port)
{
    static unsigned serial;
    struct sockaddr_in source = loopback(1 + serial++ % SOURCE_ADDRESSES, 0);
    struct sockaddr_in server = loopback(1, port);
    int on = 1;
    *connection = (struct connection){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (connection->fd < 0)
        fail("socket", errno);
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    if (bind(connection->fd, (struct sockaddr *)&source, sizeof(source)) < 0)
        fail("bind", errno);
    if (connect(connection->fd, (struct sockaddr *)&server, sizeof(server)) < 0)
        fail("connect", errno);
}

/* send() and recv() spare what read() and write() do for files. */
static inline void connection_send(struct connection *connection, const struct traffic *traffic)
{
    const char *owed = traffic->block + traffic->block_bytes - connection->owed;
    ssize_t sent = send(connection->fd, owed, connection->owed, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        fail("send", errno);
    if (sent > 0)
        connection->owed -= (size_t)sent;
}

/* How many answers end in these bytes. */
static inline size_t count_lines(struct connection *connection, size_t answer_bytes, const char *bytes, size_t len)
{
    const char *end = bytes + len, *newline;
    size_t count = 0;
    while (bytes < end && (newline = memchr(bytes, '\n', (size_t)(end - bytes))) != NULL) {
        if (connection->received + (size_t)(newline + 1 - bytes) != answer_bytes)
            fail("an answer has a wrong length", 0);
        connection->received = 0;
        bytes = newline + 1;
        count++;
    }
    connection->received += (size_t)(end - bytes);
    return count;
}

static inline size_t count_by_bytes(struct connection *connection, const struct traffic *traffic, const char *bytes,
                                    size_t len)
{
    size_t received = connection->received + len;
    size_t count = received / traffic->answer_bytes;
    connection->received = received - count * traffic->answer_bytes;
    if (count > 0 && bytes[len - connection->received - 1] != traffic->last_byte)
        fail("an answer ends with a wrong byte", 0);
    return count;
}

/* Returns how many answers became complete. Events are edges: after a read that filled the buffer there may be more,
 * and what comes after a shorter one is another edge. */
static inline int connection_receive(struct connection *connection, const struct traffic *traffic)
{
    static char buffer[READ_BYTES];
    size_t count = 0;
    ssize_t got;
    do {
        got = recv(connection->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN)
            break;
        if (got <= 0)
            fail("the server closed a connection", got < 0 ? errno : 0);
        count += traffic->framing == LINE ? count_lines(connection, traffic->answer_bytes, buffer, (size_t)got)
                                          : count_by_bytes(connection, traffic, buffer, (size_t)got);
    } while (got == sizeof(buffer));
    connection->in_flight -= (int)count;
    if (connection->in_flight < 0 || (connection->in_flight == 0 && connection->received > 0))
        fail("more came than was asked for", 0);
    return (int)count;
}
#endif
