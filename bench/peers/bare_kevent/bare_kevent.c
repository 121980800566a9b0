/* bare_kevent.c: the echo loop of bare_c.c, on the project's kevent() in place of epoll: what kevent's rules cost.
 * Usage: bare_kevent PORT echo
 * As there: one thread, up to 1,024 events a wait, one recv() and one send() per event, and what a socket did not take
 * is copied and waits. It leaves out what bare_c leaves out. The changes of a turn are handed in by the next wait. */
#define _GNU_SOURCE /* accept4() */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../shared.h"
#include "poller/poller.h"

enum {
    EVENTS_PER_WAIT = 1024,
    MOST_CHANGES = 2 * EVENTS_PER_WAIT, /* an event makes two at most */
    MAX_DESCRIPTORS = 65536,
    READ_BYTES = 65536,
};

struct unsent {
    char *memory; /* NULL: there is nothing */
    size_t begin;
    size_t end;
};

static struct unsent unsent[MAX_DESCRIPTORS]; /* by descriptor */
static struct kqn_poller *poller;
static struct kevent changes[MOST_CHANGES];
static int change_count;
static char input[READ_BYTES];

static void change(int fd, int filter, unsigned flags)
{
    kqn_event_set(&changes[change_count++], fd, filter, flags, 0);
}

/* The changes that name it are taken back: its number may be another's before the next wait. */
static void end(int fd)
{
    int kept = 0;
    for (int i = 0; i < change_count; i++)
        if ((int)changes[i].ident != fd)
            changes[kept++] = changes[i];
    change_count = kept;
    free(unsent[fd].memory);
    unsent[fd].memory = NULL;
    kqn_poller_forget(poller, fd);
    close(fd);
}

/* What a send() left waits for EVFILT_WRITE, and nothing is read meanwhile. */
__attribute__((cold)) static void keep_unsent(int fd, const char *bytes, size_t len)
{
    char *memory = malloc(len);
    if (memory == NULL)
        abort();
    unsent[fd] = (struct unsent){.memory = memcpy(memory, bytes, len), .end = len};
    change(fd, EVFILT_READ, EV_DISABLE);
    change(fd, EVFILT_WRITE, EV_ADD | EV_ENABLE);
}

static void send_unsent(int fd)
{
    struct unsent *rest = &unsent[fd];
    ssize_t sent = send(fd, rest->memory + rest->begin, rest->end - rest->begin, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            end(fd);
        return;
    }
    rest->begin += (size_t)sent;
    if (rest->begin < rest->end)
        return;
    free(rest->memory);
    rest->memory = NULL;
    change(fd, EVFILT_WRITE, EV_DISABLE);
    change(fd, EVFILT_READ, EV_ADD | EV_ENABLE);
}

static void echo(int fd)
{
    ssize_t got = recv(fd, input, READ_BYTES, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            end(fd);
        return;
    }
    ssize_t sent = send(fd, input, (size_t)got, MSG_NOSIGNAL);
    if (sent == got)
        return;
    if (sent < 0 && errno != EAGAIN) {
        end(fd);
        return;
    }
    size_t taken = sent > 0 ? (size_t)sent : 0;
    keep_unsent(fd, input + taken, (size_t)got - taken);
}

static void accept_one(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= MAX_DESCRIPTORS)
        close(fd);
    else if (fd >= 0)
        change(fd, EVFILT_READ, EV_ADD | EV_ENABLE);
}

static int serve(int listener)
{
    struct kevent events[MOST_CHANGES]; /* there is to be room for the record of each change that fails */
    for (;;) {
        int most = change_count > EVENTS_PER_WAIT ? change_count : EVENTS_PER_WAIT;
        int count = kqn_poller_wait(poller, changes, change_count, events, most, -1);
        if (count < 0)
            return count;
        change_count = 0;
        for (int i = 0; i < count; i++) {
            int fd = (int)events[i].ident;
            if (events[i].flags & EV_ERROR)
                end(fd);
            else if (fd == listener)
                accept_one(listener);
            else if (events[i].filter == EVFILT_WRITE)
                send_unsent(fd);
            else
                echo(fd);
        }
    }
}

int main(int argc, char **argv)
{
    int port = argc == 3 ? atoi(argv[1]) : 0;
    if (port < 1 || port > UINT16_MAX || strcmp(argv[2], "echo") != 0) {
        fprintf(stderr, "usage: bare_kevent PORT echo\n");
        return 2;
    }
    raise_descriptors();
    int listener = listen_on(port, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int rc = listener < 0 ? -errno : kqn_poller_open(&poller, KQN_POLLER_AUTO);
    if (rc == 0) {
        change(listener, EVFILT_READ, EV_ADD | EV_ENABLE);
        rc = serve(listener);
    }
    fprintf(stderr, "bare_kevent: %s\n", strerror(-rc));
    return 1;
}
