#include "load/conn.h"

#include <errno.h>

#include "core/sys.h"
#include "load/histogram.h"
#include "load/load.h"
#include "load/send.h"

static const int64_t back_off_min_ns = 100000000;
static const int back_off_steps = 4; /* each twice as long as the last */
static const int64_t back_off_max_ns = 1000000000;
static const int64_t full_queue_pause_ns = 10000000;

static enum kqn_load_error kind_of(int error)
{
    switch (error) {
    case ECONNREFUSED:
    case ENOENT: /* of a unix socket */
    case EINVAL: /* macOS, OpenBSD: a connect that would have met itself */
        return KQN_LOAD_REFUSED;
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
    case EPROTOTYPE: /* macOS: the socket is being torn down */
        return KQN_LOAD_RESET;
    case ETIMEDOUT:
        return KQN_LOAD_TIMEOUT;
    case EADDRNOTAVAIL:
    case EADDRINUSE:
    case EAGAIN: /* Linux: of a connect, all local ports are taken */
        return KQN_LOAD_NO_LOCAL_PORT;
    case EMFILE:
    case ENFILE:
        return KQN_LOAD_NO_DESCRIPTOR;
    default:
        return KQN_LOAD_OTHER;
    }
}

static void settle(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    driver->settled += !conn->settled;
    conn->settled = true;
}

void kqn_load_conn_close(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    if (conn->state == KQN_LOAD_CONN_OPEN)
        kqn_load_count_open(driver->load, -1, driver->loop.now_ns);
    driver->connecting -= conn->state == KQN_LOAD_CONN_CONNECTING;
    driver->in_flight -= conn->in_flight;
    driver->last_end_ns = driver->loop.now_ns;
    kqn_pool_give(&driver->loop.pool, conn->owned);
    if (conn->socket) {
        conn->socket->conn = NULL;
        kqn_loop_end(&driver->loop, &conn->socket->watch);
    }
    conn->socket = NULL;
    conn->owned = NULL;
    kqn_driver_remove(driver, KQN_LOAD_QUEUE_READY, conn);
    kqn_driver_remove(driver, KQN_LOAD_QUEUE_THINK, conn);
    conn->unwritten_len = 0;
    conn->in_flight = 0;
    conn->state = KQN_LOAD_CONN_CLOSED;
}

/* The connection has failed, or could not be had: counts what that cost, and opens it again later. */
void kqn_load_conn_lose(struct kqn_driver *driver, struct kqn_load_conn *conn, enum kqn_load_error kind, int error)
{
    struct kqn_tally *tally = &driver->tally;
    uint64_t lost = conn->in_flight + (conn->state != KQN_LOAD_CONN_OPEN);
    bool has_begun = conn->state == KQN_LOAD_CONN_OPEN && conn->place.seen > 0; /* an answer */
    if (has_begun && (conn->place.wrong || lost == 0)) {
        kqn_tally_error(tally, KQN_LOAD_WRONG_ANSWER, 0, 1);
        lost -= lost > 0;
    } else if (has_begun && kind != KQN_LOAD_TIMEOUT) {
        kqn_tally_error(tally, KQN_LOAD_SHORT_ANSWER, 0, 1);
        lost--;
    }
    if (lost > 0)
        kqn_tally_error(tally, kind, error, lost);
    settle(driver, conn);
    kqn_load_conn_close(driver, conn);
    int64_t back_off_ns = back_off_min_ns << conn->failures;
    conn->due_ns = driver->loop.now_ns + (back_off_ns < back_off_max_ns ? back_off_ns : back_off_max_ns);
    if (conn->failures < back_off_steps)
        conn->failures++;
    conn->waits = true;
}

void kqn_load_conn_lose_by_errno(struct kqn_driver *driver, struct kqn_load_conn *conn, int error)
{
    kqn_load_conn_lose(driver, conn, kind_of(error), error);
}

/* --- Connecting --- */

/* A socket that connects or is connected, with what connect() returned in *rc; or -errno. */
static int begin_connect(const struct kqn_load *load, uint32_t index, int *rc)
{
    int family = load->target.address.any.sa_family;
    int fd = kqn_sys_socket(family);
    if (fd < 0)
        return fd;
    *rc = kqn_sys_client_options(fd, family);
    if (*rc == 0 && load->settings.source_count > 0) {
        const struct kqn_endpoint *source = &load->sources[index % (uint32_t)load->settings.source_count];
        *rc = kqn_sys_bind_source(fd, &source->address, source->len);
    }
    if (*rc == 0)
        *rc = kqn_sys_connect(fd, &load->target.address, load->target.len);
    if (*rc == 0 || *rc == -EINPROGRESS || *rc == -EINTR)
        return fd;
    kqn_sys_close(fd);
    return *rc;
}

static void on_connected(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    settle(driver, conn);
    driver->connecting--;
    kqn_histogram_record(driver->tally.connect, driver->loop.now_ns - conn->begun_ns);
    kqn_load_count_open(driver->load, 1, driver->loop.now_ns);
    driver->tally.totals.reconnects += conn->was_open;
    conn->state = KQN_LOAD_CONN_OPEN;
    conn->was_open = true;
    kqn_loop_want(&driver->loop, &conn->socket->watch, KQN_WANT_READ);
    kqn_load_conn_offer(driver, conn);
}

/* Linux: the queue of a unix socket's server is full, and unlike TCP's it is not waited for. */
static void retry_soon(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    if (driver->loop.now_ns - conn->begun_ns >= driver->settings->connect_timeout_ns) {
        kqn_load_conn_lose(driver, conn, KQN_LOAD_TIMEOUT, 0);
        return;
    }
    conn->waits = conn->retries = true;
    conn->due_ns = driver->loop.now_ns + full_queue_pause_ns;
}

void kqn_load_conn_open(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    const struct kqn_load *load = driver->load;
    kqn_loop_read_clock(&driver->loop);
    if (!conn->retries)
        conn->begun_ns = driver->loop.now_ns;
    conn->retries = false;
    int rc = 0;
    int fd = begin_connect(load, conn->index, &rc);
    if (fd == -EAGAIN && load->target.address.any.sa_family == AF_UNIX) {
        retry_soon(driver, conn);
        return;
    }
    conn->socket = fd < 0 ? NULL : (struct kqn_load_socket *)(void *)kqn_loop_add(&driver->loop, fd);
    if (!conn->socket) {
        if (fd >= 0)
            kqn_sys_close(fd);
        kqn_load_conn_lose_by_errno(driver, conn, fd < 0 ? -fd : ENOMEM);
        return;
    }
    conn->socket->conn = conn;
    conn->state = KQN_LOAD_CONN_CONNECTING;
    conn->due_ns = conn->begun_ns + load->settings.connect_timeout_ns;
    conn->place = (struct kqn_answer_place){0};
    conn->sent = conn->flight_head = conn->flight_tail = 0;
    conn->broken = 0;
    conn->starved = false;
    driver->connecting++;
    if (rc == 0)
        on_connected(driver, conn);
    else
        kqn_loop_want(&driver->loop, &conn->socket->watch, KQN_WANT_WRITE);
}

/* SO_ERROR is taken from the socket by reading it, so an event may know of an error that the socket has forgotten.
 * macOS has been seen to report a socket as writable that was not connected yet. */
void kqn_load_conn_on_connect_event(struct kqn_driver *driver, struct kqn_load_conn *conn, const struct kevent *event)
{
    int fd = conn->socket->watch.fd;
    bool has_ended = event->flags & EV_EOF;
    int error = -kqn_sys_socket_error(fd);
    if (error == 0 && has_ended)
        error = (int)event->fflags;
    if (error == 0)
        error = -kqn_sys_check_connected(fd);
    kqn_loop_read_clock(&driver->loop);
    if (error == 0)
        on_connected(driver, conn);
    else if (error != ENOTCONN)
        kqn_load_conn_lose_by_errno(driver, conn, error);
    else if (has_ended)
        kqn_load_conn_lose(driver, conn, KQN_LOAD_REFUSED, error);
}

/* --- What happens to it --- */

void kqn_load_conn_renew(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    bool is_over = driver->phase >= KQN_LOAD_MEASURING && !kqn_driver_sends(driver);
    if (is_over || kqn_load_all_sent(driver->load))
        return;
    kqn_load_conn_close(driver, conn);
    kqn_driver_push(driver, KQN_LOAD_QUEUE_CONNECT, conn);
}

void kqn_load_conn_check(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    int64_t now_ns = driver->loop.now_ns;
    if (conn->state == KQN_LOAD_CONN_CLOSED && conn->waits && now_ns >= conn->due_ns) {
        conn->waits = false;
        kqn_driver_push(driver, KQN_LOAD_QUEUE_CONNECT, conn);
    } else if (conn->state == KQN_LOAD_CONN_CONNECTING && now_ns >= conn->due_ns) {
        kqn_load_conn_lose(driver, conn, KQN_LOAD_TIMEOUT, 0);
    } else if (conn->state == KQN_LOAD_CONN_OPEN) {
        bool is_overdue =
            conn->in_flight > 0 && now_ns - conn->flights[conn->flight_head].sent_ns >= driver->settings->timeout_ns;
        if (is_overdue)
            kqn_load_conn_lose(driver, conn, KQN_LOAD_TIMEOUT, 0);
        else if (conn->starved)
            kqn_load_conn_write_on(driver, conn);
    }
}
