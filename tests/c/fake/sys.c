/* sys.c: core/sys.h over the simulated system. */
#include "core/sys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "fibers.h"
#include "judge.h"
#include "poller.h"
#include "sockets.h"
#include "world.h"

enum {
    CALL_NS = 1000,
    MAX_CALLS_OF_A_TURN = 200000,
    WALL_MS = 1700000000,
};

static bool unix_file_exists;

/* Every call takes a little time, and a turn that makes calls without end never comes to a wait. */
static void begin_call(void)
{
    world_add_time(CALL_NS);
    if (++judge.turn_calls > MAX_CALLS_OF_A_TURN)
        world_fail("a turn makes calls without end");
}

/* --- Clocks and memory --- */

int64_t kqn_sys_monotonic_ns(void)
{
    static const int64_t jumps_ns[] = {1000000, 60000000, 1500000000, 40000000000, 86400000000000};
    if (world_fault(FAULT_TIME_JUMP))
        world_add_time(jumps_ns[below(5)]);
    fiber_reads_clock();
    return world.now_ns;
}

uint64_t kqn_sys_wall_ms(void)
{
    return WALL_MS + (uint64_t)world.now_ns / 1000000;
}

/* Outside of the loops alone, where somebody waits for their counters: they must get to run. */
void kqn_sys_sleep_ns(int64_t duration_ns)
{
    for (int loop = 0; loop < MAX_LOOPS && world.loop < 0; loop++)
        if (fiber_is_due(loop) && !world.has_failed)
            fiber_resume(loop);
    world_add_time(duration_ns);
}

int64_t kqn_sys_thread_cpu_ns(void)
{
    return world.now_ns;
}

void kqn_sys_want_precise_timers(void)
{
}

void *kqn_sys_alloc(size_t size)
{
    return world_alloc(size);
}

void *kqn_sys_alloc_lines(size_t size)
{
    return world_alloc(size);
}

void *kqn_sys_realloc(void *memory, size_t size)
{
    return world_realloc(memory, size);
}

void kqn_sys_free(void *memory)
{
    world_free(memory);
}

/* --- The listener --- */

int kqn_sys_socket(int family)
{
    (void)family;
    int error = world_failure(CALL_SOCKET);
    return error ? -error : socket_open(SOCKET_NEW);
}

int kqn_sys_listener_options(int fd, int family)
{
    (void)fd;
    (void)family;
    return -world_failure(CALL_OPTIONS);
}

int kqn_sys_bind(int fd, const union kqn_address *address, socklen_t len)
{
    (void)fd;
    (void)len;
    int error = world_failure(CALL_BIND);
    if (!error && address->any.sa_family == AF_UNIX)
        unix_file_exists = true;
    return -error;
}

int kqn_sys_listen(int fd, int backlog)
{
    int error = world_failure(CALL_LISTEN);
    if (error)
        return -error;
    sockets.list[fd].kind = SOCKET_LISTENER;
    sockets.listener = fd;
    sockets.backlog = backlog;
    return 0;
}

int64_t kqn_sys_backlog_limit(void)
{
    return -ENOENT;
}

int64_t kqn_sys_raise_descriptor_limit(int64_t wanted)
{
    (void)wanted;
    return sockets.limit;
}

int kqn_sys_connect(int fd, const union kqn_address *address, socklen_t len)
{
    (void)fd;
    (void)address;
    (void)len;
    return -ECONNREFUSED;
}

static void set_address(union kqn_address *out, int last_byte, int port)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    v4.sin_addr.s_addr = htonl(UINT32_C(0x0a000000) + (uint32_t)last_byte);
    memset(out, 0, sizeof(*out));
    memcpy(out, &v4, sizeof(v4));
}

int kqn_sys_local_address(int fd, union kqn_address *out)
{
    (void)fd;
    set_address(out, 0, 8080);
    return -world_failure(CALL_ADDRESS);
}

int kqn_sys_file_id(const char *path, struct kqn_file_id *out)
{
    (void)path;
    int error = world_failure(CALL_FILE);
    *out = (struct kqn_file_id){.device = 1, .inode = 1, .is_socket = true};
    return error ? -error : unix_file_exists ? 0 : -ENOENT;
}

int kqn_sys_unlink(const char *path)
{
    (void)path;
    unix_file_exists = false;
    return 0;
}

/* The system has given up the client that would have been next: where the error was its own, and on macOS also for want
 * of a descriptor. */
static void lose_client(int error)
{
    bool is_limit = error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM || error == EINVAL;
    bool loses = is_limit ? chance(64) : error != EAGAIN && error != EINTR && error != ENOSR;
    if (!loses || clients.queue_len == 0)
        return;
    struct client *client = clients.queue[0];
    sockets_leave_queue(client);
    client_reset(client, ECONNRESET);
}

int kqn_sys_accept(int fd, union kqn_address *peer)
{
    begin_call();
    const struct socket *listener = socket_at(fd);
    if (!listener || listener->kind != SOCKET_LISTENER) {
        world_fail("accept() of fd %d, which does not listen", fd);
        return -EBADF;
    }
    int error = -world_failure(CALL_ACCEPT);
    if (error)
        lose_client(-error);
    struct client *client = error ? NULL : socket_accept(&error);
    if (!client) {
        if (judge.stop_ns >= 0 && (error != -EAGAIN || clients.queue_len > 0))
            judge.accept_has_failed = true;
        world_trace("accept", fd, error);
        return error;
    }
    world.progress++;
    set_address(peer, client->index + 1, 40000 + client->index);
    world_trace("accept", client->fd, client->index);
    return client->fd;
}

/* --- Connections --- */

static struct client *client_at(int fd, const char *call)
{
    begin_call();
    struct socket *socket = socket_at(fd);
    if (socket && socket->kind == SOCKET_CONNECTION) {
        socket->client->loop = world.loop;
        return socket->client;
    }
    world_fail("%s() of fd %d, which is no connection", call, fd);
    return NULL;
}

/* What the server was told is true from now on: the connection has broken. */
static int broken(struct client *client, int error)
{
    if (error == EAGAIN || error == EINTR)
        return -error;
    client_reset(client, error);
    client->was_broken = true;
    return -error;
}

static size_t shortened(size_t len, enum fault fault)
{
    return len > 1 && world_fault(fault) ? between(1, (unsigned)len - 1) : len;
}

/* Tells the model, unless the bytes are thrown away. */
static void count_read(struct client *client, ssize_t n)
{
    struct model *model = &client->model;
    world.progress++;
    judge.read_bytes += (uint64_t)n;
    if (client->server_shut)
        return;
    bool had_unfinished = model->parsed < model->read;
    size_t parsed = model->parsed;
    model_read(model, (size_t)n);
    if (!had_unfinished || model->parsed > parsed)
        client->begun_ns = fiber_woke_ns(client->loop);
    if (n > 0)
        client->progress_ns = fiber_woke_ns(client->loop);
}

static ssize_t read_client(struct client *client, void *bytes, size_t len)
{
    int error = world_failure(CALL_READ);
    bool has_something = socket_is_readable(client->fd);
    if (error) {
        client->was_put_off |= judge.stop_ns >= 0 && has_something;
        return broken(client, error);
    }
    size_t most = shortened(len, FAULT_SHORT_READ);
    ssize_t n = socket_read(client, bytes, most);
    bool has_unfinished = client->model.parsed < client->model.read;
    if (n < 0 && n != -EAGAIN && !has_unfinished && !world.is_quiet && chance(32)) {
        client->end_is_read = true; /* some systems tell the error with the event alone */
        n = 0;
    }
    if (n >= 0)
        count_read(client, n);
    return n;
}

ssize_t kqn_sys_read(int fd, void *bytes, size_t len)
{
    struct client *client = client_at(fd, "read");
    if (!client)
        return -EBADF;
    ssize_t n = read_client(client, bytes, len);
    world_trace("read", fd, n);
    return n;
}

/* Hands both pieces to the socket, the second where the first went whole. */
static ssize_t write_some(struct client *client, const void *first, size_t first_len, const void *second,
                          size_t second_len)
{
    size_t most = shortened(first_len + second_len, FAULT_SHORT_WRITE);
    size_t of_first = first_len < most ? first_len : most;
    ssize_t n = socket_write(client, first, of_first);
    if (n < (ssize_t)of_first || of_first == most)
        return n;
    ssize_t more = socket_write(client, second, most - of_first);
    return more < 0 && n > 0 ? n : n + more;
}

ssize_t kqn_sys_write_two(int fd, const void *first, size_t first_len, const void *second, size_t second_len)
{
    struct client *client = client_at(fd, "write");
    if (!client)
        return -EBADF;
    int error = world_failure(CALL_WRITE);
    bool is_passing = error == ENOBUFS || error == ENOMEM; /* the connection is as well as before */
    ssize_t n = is_passing ? -error : error ? broken(client, error) : 0;
    if (!error)
        n = write_some(client, first, first_len, second, second_len);
    if (n > 0) {
        world.progress++;
        judge.written_bytes += (uint64_t)n;
        client->progress_ns = fiber_woke_ns(client->loop);
    }
    world_trace("write", fd, n);
    return n;
}

ssize_t kqn_sys_write(int fd, const void *bytes, size_t len)
{
    return kqn_sys_write_two(fd, bytes, len, NULL, 0);
}

ssize_t kqn_sys_readable(int fd)
{
    const struct client *client = client_at(fd, "readable");
    int error = world_failure(CALL_UNSENT);
    return !client || error ? -error : (ssize_t)socket_bytes(fd);
}

ssize_t kqn_sys_unsent(int fd)
{
    const struct client *client = client_at(fd, "unsent");
    int error = world_failure(CALL_UNSENT);
    return !client || error ? -error : (ssize_t)(client->written - client->taken);
}

int kqn_sys_shutdown_write(int fd)
{
    struct client *client = client_at(fd, "shutdown");
    if (!client)
        return -EBADF;
    int error = world_failure(CALL_SHUTDOWN);
    int rc = error ? broken(client, error) : socket_shut(client);
    world.progress++;
    world_trace("shutdown", fd, rc);
    return rc;
}

int kqn_sys_shutdown_both(int fd)
{
    return kqn_sys_shutdown_write(fd);
}

int kqn_sys_close(int fd)
{
    begin_call();
    struct socket *socket = socket_at(fd);
    if (!socket) {
        world_fail("close() of fd %d, which is not open", fd);
        return -EBADF;
    }
    if (socket->kind == SOCKET_CONNECTION)
        judge_close(socket->client);
    if (socket->kind == SOCKET_LISTENER)
        judge_close_listener();
    fake_poller_dropped(fd);
    socket_close(fd);
    world.progress++;
    int error = world_failure(CALL_CLOSE); /* the descriptor is gone all the same */
    world_trace("close", fd, -error);
    return -error;
}
