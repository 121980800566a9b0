/* echo_epoll.c: the least that an echo server on epoll can do, as a yardstick.
 * One thread, level-triggered, up to 1,024 events a wait, one read and one write per event, and nothing else: no
 * framing, no log, no limits, no timeouts, and a client that reads too slowly is simply dropped. */
#define _GNU_SOURCE /* accept4() */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BATCH = 1024,
    BACKLOG = 1024,
    READ_BYTES = 65536,
};

static char buffer[READ_BYTES];

static int listen_on(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* accepted sockets inherit it */
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, BACKLOG) < 0)
        return -1;
    return fd;
}

static int watch(int poller, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static void echo(int fd)
{
    ssize_t got = read(fd, buffer, sizeof(buffer));
    if (got <= 0 || write(fd, buffer, (size_t)got) != got)
        close(fd);
}

int main(int argc, char **argv)
{
    struct epoll_event events[BATCH];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = argc == 2 ? listen_on(atoi(argv[1])) : -1;
    if (poller < 0 || listener < 0 || watch(poller, listener) < 0) {
        perror("echo_epoll PORT");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        int count = epoll_wait(poller, events, BATCH, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                echo(fd);
                continue;
            }
            int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (client >= 0 && watch(poller, client) < 0)
                close(client);
        }
    }
}
