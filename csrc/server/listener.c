#include "server/listener.h"

#include <errno.h>
#include <string.h>

#include "core/address.h"
#include "core/errnos.h"
#include "server/server.h"

static const int64_t pause_ns = 100 * 1000000;
static const int64_t second_ns = 1000000000;

/* Makes way for a unix socket: one that nobody serves any more is removed, anything else stays. */
static int remove_stale_socket(const union kqn_address *address, socklen_t len, const char *path)
{
    struct kqn_file_id file;
    int rc = kqn_sys_file_id(path, &file);
    if (rc == -ENOENT)
        return 0;
    if (rc < 0)
        return rc;
    if (!file.is_socket)
        return -ENOTSOCK;
    int probe = kqn_sys_socket(AF_UNIX);
    if (probe < 0)
        return probe;
    rc = kqn_sys_connect(probe, address, len);
    kqn_sys_close(probe);
    if (rc == -ECONNREFUSED)
        return kqn_sys_unlink(path);
    return rc == 0 || rc == -EAGAIN || rc == -EINPROGRESS ? -EADDRINUSE : rc;
}

static int open_socket(struct kqn_listener *listener, const struct kqn_settings *settings, enum kqn_step *step)
{
    union kqn_address address;
    socklen_t len = 0;
    *step = KQN_STEP_ADDRESS;
    const char *path = listener->uds_path;
    int rc =
        path ? kqn_address_unix(&address, &len, path) : kqn_address_tcp(&address, &len, settings->host, settings->port);
    if (rc < 0)
        return rc;
    *step = KQN_STEP_BIND;
    if (path && (rc = remove_stale_socket(&address, len, path)) < 0)
        return rc;
    *step = KQN_STEP_SOCKET;
    listener->fd = kqn_sys_socket(address.any.sa_family);
    if (listener->fd < 0)
        return listener->fd;
    if ((rc = kqn_sys_listener_options(listener->fd, address.any.sa_family)) < 0)
        return rc;
    *step = KQN_STEP_BIND;
    if ((rc = kqn_sys_bind(listener->fd, &address, len)) < 0)
        return rc;
    if (path && (rc = kqn_sys_file_id(path, &listener->file)) < 0)
        return rc;
    *step = KQN_STEP_LISTEN;
    if ((rc = kqn_sys_listen(listener->fd, listener->backlog)) < 0)
        return rc;
    if ((rc = kqn_sys_local_address(listener->fd, &address)) < 0)
        return rc;
    listener->address = kqn_peer_of(&address);
    return 0;
}

int kqn_listener_open(struct kqn_listener *listener, const struct kqn_settings *settings, enum kqn_step *step)
{
    *listener = (struct kqn_listener){.fd = -1, .backlog = settings->backlog};
    if (settings->uds_path) {
        size_t size = strlen(settings->uds_path) + 1;
        listener->uds_path = kqn_sys_alloc(size);
        *step = KQN_STEP_MEMORY;
        if (!listener->uds_path)
            return -ENOMEM;
        memcpy(listener->uds_path, settings->uds_path, size);
    }
    int rc = open_socket(listener, settings, step);
    if (rc < 0)
        kqn_listener_close(listener);
    return rc;
}

/* Removes the file only while it is the one that bind() made: meanwhile another server may have taken the path. */
static void remove_own_socket(struct kqn_listener *listener)
{
    struct kqn_file_id now;
    if (listener->uds_path && listener->file.inode && kqn_sys_file_id(listener->uds_path, &now) == 0 &&
        now.device == listener->file.device && now.inode == listener->file.inode)
        kqn_sys_unlink(listener->uds_path);
    listener->file.inode = 0;
}

void kqn_listener_close(struct kqn_listener *listener)
{
    remove_own_socket(listener);
    if (listener->fd >= 0)
        kqn_sys_close(listener->fd);
    listener->fd = -1;
    kqn_sys_free(listener->uds_path);
    listener->uds_path = NULL;
}

int kqn_listener_start(struct kqn_listener *listener, struct kqn_worker *worker)
{
    listener->watch = kqn_loop_add(&worker->loop, listener->fd);
    if (!listener->watch)
        return -ENOMEM;
    listener->fd = -1;
    kqn_loop_want(&worker->loop, listener->watch, KQN_WANT_READ);
    return 0;
}

static void pause_accepting(struct kqn_listener *listener, struct kqn_worker *worker)
{
    listener->paused = true;
    listener->resume_ns = worker->loop.now_ns + pause_ns;
    worker->stats.accept_pauses++;
    atomic_store(&worker->server->accept_waits, true);
    kqn_loop_want(&worker->loop, listener->watch, KQN_WANT_READ_KEPT);
}

static void say_error(struct kqn_accept_error *slot, struct kqn_worker *worker)
{
    slot->unsaid++;
    if (worker->loop.now_ns < slot->next_said_ns)
        return;
    struct kqn_record *record = kqn_journal_begin(&worker->journal, KQN_RECORD_ACCEPT_ERROR);
    if (!record)
        return;
    record->error = slot->error;
    record->count = slot->unsaid;
    kqn_journal_commit(&worker->journal);
    slot->unsaid = 0;
    slot->next_said_ns = worker->loop.now_ns + second_ns;
}

/* Counts an errno, and says it at most once a second. */
static void count_error(struct kqn_listener *listener, struct kqn_worker *worker, int error)
{
    int place = kqn_errno_count(worker->stats.accept_errors, error, 1);
    listener->errors[place].error = worker->stats.accept_errors[place].error;
    say_error(&listener->errors[place], worker);
}

/* Errors of the one client that was to be accepted; the next one may be well. */
static bool is_clients_error(int error)
{
    switch (error) {
    case EINTR:
    case ECONNABORTED:
    case ECONNRESET:
    case EPROTO:
    case EPERM: /* Linux: a firewall rule */
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENOPROTOOPT:
    case EOPNOTSUPP:
        return true;
    default:
        return false;
    }
}

void kqn_listener_fail(struct kqn_listener *listener, struct kqn_worker *worker, int error)
{
    count_error(listener, worker, error);
    pause_accepting(listener, worker);
}

/* Hands a client to the next loop in turn; one that failed or whose inbox is full is passed over, and loop 0 always has
 * room. */
static void hand_out(struct kqn_listener *listener, struct kqn_worker *acceptor, const struct kqn_client *client)
{
    struct kqn_server *server = acceptor->server;
    for (int tries = 0; tries < server->worker_count; tries++) {
        struct kqn_worker *worker = &server->workers[listener->next_worker];
        listener->next_worker = (listener->next_worker + 1) % server->worker_count;
        if (worker == acceptor)
            break;
        if (!atomic_load(&worker->failed) && kqn_inbox_put(worker->inbox, client)) {
            acceptor->stats.handed_over++;
            kqn_poller_wake(worker->loop.poller);
            return;
        }
    }
    kqn_worker_adopt(acceptor, client);
}

static bool is_at_limit(struct kqn_server *server)
{
    return atomic_load(&server->open_connections) >= server->max_connections;
}

static void take(struct kqn_listener *listener, struct kqn_worker *worker, const struct kqn_client *client)
{
    struct kqn_server *server = worker->server;
    worker->stats.accepted++;
    if (!kqn_networks_allow(&server->networks, &client->peer)) {
        kqn_worker_deny(worker, client);
        return;
    }
    atomic_fetch_add(&server->open_connections, 1);
    hand_out(listener, worker, client);
}

/* Accepts one client; false: no more for now. */
static bool accept_one(struct kqn_listener *listener, struct kqn_worker *worker)
{
    struct kqn_server *server = worker->server;
    if (is_at_limit(server)) {
        pause_accepting(listener, worker);
        return false;
    }
    union kqn_address address;
    int fd = kqn_sys_accept(listener->watch->fd, &address);
    if (fd >= 0) {
        take(listener, worker, &(struct kqn_client){.fd = fd, .peer = kqn_peer_of(&address)});
        return true;
    }
    if (fd == -EAGAIN)
        return false;
    count_error(listener, worker, -fd);
    if (is_clients_error(-fd))
        return true;
    pause_accepting(listener, worker);
    return false;
}

void kqn_listener_accept(struct kqn_listener *listener, struct kqn_worker *worker)
{
    for (int i = 0; i < KQN_ACCEPTS_PER_TURN && !listener->stopped && !listener->paused; i++)
        if (!accept_one(listener, worker))
            return;
}

void kqn_listener_tick(struct kqn_listener *listener, struct kqn_worker *worker)
{
    if (!listener->paused || listener->stopped)
        return;
    /* A connection that closes takes accept_waits back. */
    bool something_closed = !atomic_load(&worker->server->accept_waits);
    if (!something_closed && worker->loop.now_ns < listener->resume_ns)
        return;
    if (is_at_limit(worker->server)) {
        listener->resume_ns = worker->loop.now_ns + pause_ns;
        atomic_store(&worker->server->accept_waits, true);
        return;
    }
    listener->paused = false;
    kqn_loop_want(&worker->loop, listener->watch, KQN_WANT_READ);
}

void kqn_listener_stop(struct kqn_listener *listener, struct kqn_worker *worker)
{
    if (listener->stopped)
        return;
    /* Closing the listener resets the clients that still wait in its queue. */
    listener->paused = false;
    for (int i = 0; i < listener->backlog + KQN_ACCEPTS_PER_TURN && !listener->paused; i++)
        if (!accept_one(listener, worker))
            break;
    kqn_loop_end(&worker->loop, listener->watch);
    listener->stopped = true;
    listener->paused = false; /* there is nothing to come back to */
    remove_own_socket(listener);
}
