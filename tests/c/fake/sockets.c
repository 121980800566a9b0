#include "sockets.h"

#include <errno.h>
#include <string.h>

#include "fibers.h"
#include "world.h"

struct sockets sockets;

void sockets_begin(int limit, bool reuses_lowest)
{
    memset(&sockets, 0, sizeof(sockets));
    sockets.limit = limit;
    sockets.reuses_lowest = reuses_lowest;
    sockets.listener = sockets.closed_last = -1;
}

/* --- Descriptors --- */

struct socket *socket_at(int fd)
{
    bool is_open = fd >= 0 && fd < sockets.end && sockets.list[fd].kind != SOCKET_FREE;
    return is_open ? &sockets.list[fd] : NULL;
}

int socket_open(enum socket_kind kind)
{
    if (sockets.count >= sockets.limit)
        return -EMFILE;
    int fd = sockets.closed_last;
    if (sockets.reuses_lowest || fd < 0 || sockets.list[fd].kind != SOCKET_FREE)
        for (fd = FIRST_DESCRIPTOR; sockets.list[fd].kind != SOCKET_FREE; fd++)
            ;
    sockets.list[fd] = (struct socket){.kind = kind, .owner = sockets.list[fd].owner + 1};
    sockets.count++;
    if (sockets.end <= fd)
        sockets.end = fd + 1;
    return fd;
}

static void close_listener(void)
{
    sockets.listener = -1;
    for (int i = 0; i < clients.queue_len; i++)
        client_reset(clients.queue[i], ECONNRESET);
    clients.queue_len = 0;
}

static void close_connection(struct client *client)
{
    client->fd = -1;
    client->server_closed = true;
    /* Bytes that nobody will read are answered with a reset, which may overtake what the client has not taken. */
    if (client->sent > client->read && !client->is_reset)
        client_reset(client, ECONNRESET);
}

int socket_close(int fd)
{
    struct socket *socket = socket_at(fd);
    if (!socket)
        return -EBADF;
    if (socket->kind == SOCKET_LISTENER)
        close_listener();
    if (socket->kind == SOCKET_CONNECTION)
        close_connection(socket->client);
    socket->kind = SOCKET_FREE;
    sockets.count--;
    sockets.closed_last = fd;
    while (sockets.end > 0 && sockets.list[sockets.end - 1].kind == SOCKET_FREE)
        sockets.end--;
    return 0;
}

/* --- The queue of the listener --- */

bool sockets_listen(void)
{
    return sockets.listener >= 0;
}

bool sockets_have_room_to_connect(void)
{
    return clients.queue_len < sockets.backlog;
}

static struct client *take_from_queue(int at)
{
    struct client *client = clients.queue[at];
    clients.queue_len--;
    memmove(&clients.queue[at], &clients.queue[at + 1], (size_t)(clients.queue_len - at) * sizeof(clients.queue[0]));
    return client;
}

void sockets_leave_queue(const struct client *client)
{
    for (int i = 0; i < clients.queue_len; i++)
        if (clients.queue[i] == client)
            take_from_queue(i--);
}

struct client *socket_accept(int *error)
{
    *error = -EAGAIN;
    if (clients.queue_len == 0)
        return NULL;
    int fd = socket_open(SOCKET_CONNECTION);
    if (fd < 0) {
        *error = fd;
        return NULL;
    }
    struct client *client = take_from_queue(0);
    sockets.list[fd].client = client;
    sockets.accepted++;
    client->fd = fd;
    client->is_accepted = true;
    client->accepted_ns = world.now_ns;
    client->progress_ns = fiber_woke_ns(world.loop);
    return client;
}

/* --- A connection --- */

/* The server learns that the connection has broken. Where somebody has asked for the error before (SO_ERROR takes it),
 * only the end is left to be seen. */
static int take_error(struct client *client, int when_taken)
{
    client->was_broken = true;
    client->end_is_read |= client->error == 0;
    return client->error ? -client->error : when_taken;
}

ssize_t socket_read(struct client *client, void *bytes, size_t len)
{
    size_t there = client->sent - client->read;
    if (client->is_reset && (there == 0 || client->end_is_read))
        return take_error(client, 0);
    if (there == 0 && client->has_half_closed) {
        client->end_is_read = true;
        return 0;
    }
    if (there == 0)
        return -EAGAIN;
    size_t n = there < len ? there : len;
    memcpy(bytes, client->input + client->read, n);
    client->read += n;
    return (ssize_t)n;
}

ssize_t socket_write(struct client *client, const void *bytes, size_t len)
{
    if (client->is_reset)
        return take_error(client, -EPIPE);
    if (client->server_shut)
        return -EPIPE;
    size_t room = client->out_room - (client->written - client->taken);
    size_t n = room < len ? room : len;
    if (n == 0 && len > 0)
        return -EAGAIN;
    const struct model *model = &client->model;
    if (n > model->expected_len - client->written)
        world_fail("client %d is sent %zu bytes, and %zu are due", client->index, n,
                   model->expected_len - client->written);
    else if (n > 0 && memcmp(model->expected + client->written, bytes, n) != 0)
        world_fail("client %d is sent other bytes than it is owed, from byte %zu on", client->index, client->written);
    client->written += n;
    if (client->has_closed) { /* its system says that nobody is there */
        client->taken = client->written;
        client_reset(client, EPIPE);
    }
    return (ssize_t)n;
}

int socket_shut(struct client *client)
{
    if (client->is_reset)
        return -ENOTCONN;
    client->server_shut = true;
    client->shut_ns = world.now_ns;
    return 0;
}

/* --- What a poller sees --- */

static const struct client *client_of(int fd)
{
    return sockets.list[fd].client;
}

bool socket_is_readable(int fd)
{
    const struct socket *socket = &sockets.list[fd];
    if (socket->kind == SOCKET_LISTENER)
        return clients.queue_len > 0;
    if (socket->kind == SOCKET_WAKEUP)
        return socket->is_readable;
    const struct client *client = socket->client;
    return client && (client->sent > client->read || client->has_half_closed || client->is_reset);
}

bool socket_is_writable(int fd)
{
    const struct client *client = client_of(fd);
    return client && (client->written - client->taken < client->out_room || client->is_reset || client->server_shut);
}

bool socket_has_ended(int fd, bool writes)
{
    const struct client *client = client_of(fd);
    if (!client)
        return false;
    return client->is_reset || (writes ? client->server_shut : client->has_half_closed);
}

int socket_error(int fd)
{
    const struct client *client = client_of(fd);
    return client && client->is_reset ? client->error : 0;
}

int64_t socket_bytes(int fd)
{
    const struct client *client = client_of(fd);
    if (!client)
        return clients.queue_len;
    return (int64_t)(client->sent - client->read);
}
