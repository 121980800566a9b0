/* sockets.h: the descriptors of the simulated system, and what its kernel does with a connection. */
#ifndef KQN_FAKE_SOCKETS_H
#define KQN_FAKE_SOCKETS_H
#include <sys/types.h>

#include "clients.h"

enum {
    MAX_DESCRIPTORS = 128,
    FIRST_DESCRIPTOR = 3,
};

enum socket_kind {
    SOCKET_FREE,
    SOCKET_NEW,
    SOCKET_LISTENER,
    SOCKET_CONNECTION,
    SOCKET_WAKEUP, /* of a poller that has no better way */
};

struct socket {
    enum socket_kind kind;
    struct client *client; /* CONNECTION */
    bool is_readable;      /* WAKEUP */
    uint32_t owner;        /* counts those who have had this number */
};

struct sockets {
    struct socket list[MAX_DESCRIPTORS];
    int end;   /* above all that are open */
    int count; /* open ones */
    int limit; /* of them: else EMFILE */
    int backlog;
    int listener; /* -1: nobody listens */
    int closed_last;
    bool reuses_lowest; /* as every system does; else the one closed last, which is the worst case */
    uint64_t accepted;
};
extern struct sockets sockets;

void sockets_begin(int limit, bool reuses_lowest);

/* A new descriptor, or -EMFILE. */
int socket_open(enum socket_kind kind);

/* NULL: nothing has this number. */
struct socket *socket_at(int fd);

/* 0, or -EBADF. Its knotes, wherever they are, must go with it: the poller is told by fake_poller_dropped(). */
int socket_close(int fd);

bool sockets_listen(void);
bool sockets_have_room_to_connect(void);
void sockets_leave_queue(const struct client *client);

/* The oldest client of the queue with its new descriptor in client->fd; NULL with -errno in *error. */
struct client *socket_accept(int *error);

/* As read(), write() and shutdown(SHUT_WR) do with a connection when nothing goes wrong by itself. */
ssize_t socket_read(struct client *client, void *bytes, size_t len);
ssize_t socket_write(struct client *client, const void *bytes, size_t len);
int socket_shut(struct client *client);

/* What a poller sees. */
bool socket_is_readable(int fd);
bool socket_is_writable(int fd);
bool socket_has_ended(int fd, bool writes); /* EV_EOF */
int socket_error(int fd);                   /* 0: none */
int64_t socket_bytes(int fd);               /* that can be read now */
#endif
