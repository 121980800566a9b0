/* article.c: the design of the tutorials on kqueue, as a reference: what this project's server started from.
 * Usage: article PORT echo
 * Every change is a kevent() of its own. A wait takes out at most 10 events. One client is accepted per event of the
 * listener, and registered at once. Sockets block: read() is called when there is something to read, and write() waits
 * until the kernel has taken all, so one client that does not read stops everybody. EV_EOF closes at once, even if
 * unread bytes are left. The tutorials' lines on standard output are left out.
 *
 * It is the reference, not a peer to beat. It is linked with the project's poller, so that it runs where there is no
 * kqueue: there a message costs it what it costs the server, and what differs is the design. The poller has no call
 * that only changes: a change is a wait that does not wait, and an event which that brings comes again, as events are
 * level-triggered. On Linux such a change is thus two system calls, where on a kqueue it is one. */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../shared.h"
#include "poller/poller.h"

enum {
    EVENTS_PER_WAIT = 10,
    READ_BYTES = 65536,
};

static struct kqn_poller *poller;
static char buffer[READ_BYTES];

/* 0 or -errno. */
static int watch(int fd)
{
    struct kevent change, event;
    kqn_event_set(&change, fd, EVFILT_READ, EV_ADD | EV_ENABLE, 0);
    int rc = kqn_poller_wait(poller, &change, 1, &event, 1, 0);
    if (rc == 1 && event.flags & EV_ERROR)
        rc = -(int)event.data;
    return rc < 0 ? rc : 0;
}

static void end(int fd)
{
    kqn_poller_forget(poller, fd);
    close(fd);
}

static void accept_one(int listener)
{
    int fd = accept(listener, NULL, NULL);
    if (fd >= 0 && watch(fd) < 0)
        end(fd);
}

static void echo(int fd)
{
    ssize_t got = read(fd, buffer, sizeof(buffer));
    if (got <= 0 || write(fd, buffer, (size_t)got) != got)
        end(fd);
}

static int serve(int listener)
{
    struct kevent events[EVENTS_PER_WAIT];
    for (;;) {
        int count = kqn_poller_wait(poller, NULL, 0, events, EVENTS_PER_WAIT, -1);
        if (count < 0)
            return count;
        for (int i = 0; i < count; i++) {
            int fd = (int)events[i].ident;
            if (fd == listener)
                accept_one(listener);
            else if (events[i].flags & EV_EOF)
                end(fd);
            else
                echo(fd);
        }
    }
}

int main(int argc, char **argv)
{
    int port = argc == 3 ? atoi(argv[1]) : 0;
    if (port < 1 || port > UINT16_MAX || strcmp(argv[2], "echo") != 0) {
        fprintf(stderr, "usage: article PORT echo\n");
        return 2;
    }
    raise_descriptors();
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_on(port, 0);
    int rc = listener < 0 ? -errno : kqn_poller_open(&poller, KQN_POLLER_AUTO);
    if (rc == 0)
        rc = watch(listener);
    if (rc == 0)
        rc = serve(listener);
    fprintf(stderr, "article: %s\n", strerror(-rc));
    return 1;
}
