/* bare_c.c: the limit, a plain epoll loop in C that does nothing but answer.
 * Usage: bare_c PORT MODE
 *   echo   sends back what each read returned
 *   line   copies each line with its line feed into one buffer, and sends the answers of a read together
 *   u32    sends back each frame, 4 bytes of length (most significant first) and so many bytes, once it is complete
 *   http   answers each request head with the same response; request bodies are not understood
 * One thread, level-triggered, up to 1,024 events a wait, one recv() and one send() per event, static buffers. A
 * connection has memory of its own only for an unfinished message and for answers that its socket did not take; while
 * there are such answers nothing more is read of it. It leaves out all that a server for strangers needs: a log,
 * limits, timeouts, statistics, a stop that loses nothing. Linux only. */
#define _GNU_SOURCE /* accept4(), memmem() */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../shared.h"
#include "held.h"
#include "messages.h"

enum {
    EVENTS_PER_WAIT = 1024,
    MAX_DESCRIPTORS = 65536,
    READ_BYTES = 65536,
    MAX_MESSAGE_BYTES = 4 * 1024 * 1024, /* a longer message ends its connection */
};

enum mode {
    ECHO,
    LINE,
    U32,
    HTTP,
};

struct connection { /* all zero while it has no memory of its own */
    struct held held;
    char *copied; /* memory for unsent answers, if they are not in what is held */
    const char *unsent;
    size_t unsent_bytes;
};

static struct connection connections[MAX_DESCRIPTORS]; /* by descriptor */
static int poller;
static enum mode mode;
static char input[2 * READ_BYTES]; /* the shorter part of a message that is held, and a read behind it */
static char output[MAX_MESSAGE_BYTES];

static int watch(int operation, int fd, uint32_t conditions)
{
    struct epoll_event event = {.events = conditions, .data.fd = fd};
    return epoll_ctl(poller, operation, fd, &event);
}

static void end(int fd)
{
    struct connection *connection = &connections[fd];
    free(connection->held.memory);
    free(connection->copied);
    memset(connection, 0, sizeof(*connection));
    close(fd);
}

/* What a send() left waits for EPOLLOUT, and no other event comes meanwhile. False: it failed, and that was the end. */
__attribute__((cold)) static bool keep_unsent(int fd, const char *answers, size_t bytes, ssize_t sent, bool are_held)
{
    struct connection *connection = &connections[fd];
    if (sent < 0 && errno != EAGAIN) {
        end(fd);
        return false;
    }
    size_t taken = sent > 0 ? (size_t)sent : 0;
    connection->unsent = answers + taken;
    connection->unsent_bytes = bytes - taken;
    if (!are_held) {
        connection->copied = allocate(NULL, connection->unsent_bytes);
        connection->unsent = memcpy(connection->copied, answers + taken, connection->unsent_bytes);
    }
    watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
    return true;
}

/* False: the connection has ended. */
static bool send_answers(int fd, const char *answers, size_t bytes, bool are_held)
{
    ssize_t sent = send(fd, answers, bytes, MSG_NOSIGNAL);
    return sent == (ssize_t)bytes || keep_unsent(fd, answers, bytes, sent, are_held);
}

static void send_unsent(int fd)
{
    struct connection *connection = &connections[fd];
    ssize_t sent = send(fd, connection->unsent, connection->unsent_bytes, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            end(fd);
        return;
    }
    connection->unsent += sent;
    connection->unsent_bytes -= (size_t)sent;
    if (connection->unsent_bytes > 0)
        return;
    free(connection->copied);
    connection->copied = NULL;
    watch(EPOLL_CTL_MOD, fd, EPOLLIN);
}

/* How much memory the rest of the held message should be given; a line's length is not known before its end. */
static size_t bytes_needed(const struct held *held)
{
    if (mode == U32 && held->len >= sizeof(uint32_t))
        return frame_bytes(held->memory + held->begin);
    return held->len > READ_BYTES ? 2 * held->len : held->len;
}

/* Puts what is held where the read will append to it: a long message stays where it is, a short one goes to the common
 * buffer. NULL: it is too long. */
static char *prepare_input(struct held *held)
{
    if (held->len > 0) {
        size_t needed = bytes_needed(held);
        if (needed > (mode == HTTP ? READ_BYTES : MAX_MESSAGE_BYTES))
            return NULL;
        held_make_room(held, needed);
    }
    if (held->room > READ_BYTES)
        return held->memory;
    if (held->len > 0)
        memcpy(input, held->memory, held->len);
    return input;
}

static void answer_messages(int fd)
{
    struct held *held = &connections[fd].held;
    size_t scanned = held->len;
    char *bytes = prepare_input(held);
    if (bytes == NULL) {
        end(fd);
        return;
    }
    ssize_t got = recv(fd, bytes + scanned, bytes == input ? READ_BYTES : held->room - scanned, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            end(fd);
        return;
    }
    size_t len = scanned + (size_t)got;
    struct answers answers = mode == LINE  ? answer_lines(bytes, len, scanned, output)
                             : mode == U32 ? answer_frames(bytes, len)
                                           : answer_heads(bytes, len, output);
    if (answers.len > 0 && !send_answers(fd, answers.bytes, answers.len, answers.bytes == held->memory))
        return;
    if (scanned > 0 || answers.used < len)
        held_keep(held, bytes + answers.used, len - answers.used);
}

static void echo(int fd)
{
    ssize_t got = recv(fd, input, READ_BYTES, 0);
    if (got > 0)
        send_answers(fd, input, (size_t)got, false);
    else if (got == 0 || errno != EAGAIN)
        end(fd);
}

static void accept_one(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0 && (fd >= MAX_DESCRIPTORS || watch(EPOLL_CTL_ADD, fd, EPOLLIN) < 0))
        close(fd);
}

static void serve(int listener)
{
    struct epoll_event events[EVENTS_PER_WAIT];
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS_PER_WAIT, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_one(listener);
            else if (events[i].events & EPOLLOUT)
                send_unsent(fd);
            else if (mode == ECHO)
                echo(fd);
            else
                answer_messages(fd);
        }
    }
}

static bool read_arguments(int argc, char **argv, int *port)
{
    static const char *const modes[] = {[ECHO] = "echo", [LINE] = "line", [U32] = "u32", [HTTP] = "http"};
    if (argc != 3)
        return false;
    *port = atoi(argv[1]);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        mode = (enum mode)i;
        if (strcmp(argv[2], modes[i]) == 0)
            return *port > 0 && *port <= UINT16_MAX;
    }
    return false;
}

int main(int argc, char **argv)
{
    int port;
    if (!read_arguments(argc, argv, &port)) {
        fprintf(stderr, "usage: bare_c PORT echo|line|u32|http\n");
        return 2;
    }
    raise_descriptors();
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(port, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (poller < 0 || listener < 0 || watch(EPOLL_CTL_ADD, listener, EPOLLIN) < 0) {
        perror("bare_c: listening");
        return 1;
    }
    serve(listener);
}
