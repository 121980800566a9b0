#include "load/conn.h"

#include <errno.h>

#include "core/sys.h"
#include "load/histogram.h"
#include "load/load.h"

static const int64_t back_off_min_ns = 100000000;
static const int back_off_steps = 4; /* each twice as long as the last */
static const int64_t back_off_max_ns = 1000000000;
static const int64_t full_queue_pause_ns = 10000000;

/* The number that a message's text shows: each of the run's messages has its own. */
static uint64_t number_shown(const struct kqn_driver *driver, uint64_t number)
{
    return number * (uint64_t)driver->load->driver_count + (uint64_t)driver->index;
}

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
static void lose(struct kqn_driver *driver, struct kqn_load_conn *conn, enum kqn_load_error kind, int error)
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

static void lose_by_errno(struct kqn_driver *driver, struct kqn_load_conn *conn, int error)
{
    lose(driver, conn, kind_of(error), error);
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
    if (driver->loop.now_ns - conn->begun_ns >= driver->load->settings.connect_timeout_ns) {
        lose(driver, conn, KQN_LOAD_TIMEOUT, 0);
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
        lose_by_errno(driver, conn, fd < 0 ? -fd : ENOMEM);
        return;
    }
    conn->socket->conn = conn;
    conn->state = KQN_LOAD_CONN_CONNECTING;
    conn->due_ns = conn->begun_ns + load->settings.connect_timeout_ns;
    conn->place = (struct kqn_answer_place){0};
    conn->sent = conn->flight_head = conn->flight_count = 0;
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
static void on_connect_event(struct kqn_driver *driver, struct kqn_load_conn *conn, const struct kevent *event)
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
        lose_by_errno(driver, conn, error);
    else if (has_ended)
        lose(driver, conn, KQN_LOAD_REFUSED, error);
}

/* --- Sending --- */

uint32_t kqn_load_conn_room(const struct kqn_driver *driver, const struct kqn_load_conn *conn)
{
    const struct kqn_load_settings *settings = &driver->load->settings;
    if (conn->state != KQN_LOAD_CONN_OPEN || conn->broken || kqn_load_conn_thinks(conn) || conn->unwritten_len > 0)
        return 0;
    uint32_t room = (uint32_t)settings->depth - conn->in_flight;
    uint32_t left = settings->reconnect_every > 0 ? (uint32_t)settings->reconnect_every - conn->sent : room;
    return left < room ? left : room;
}

void kqn_load_conn_offer(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    if (kqn_driver_sends(driver) && kqn_load_conn_room(driver, conn) > 0)
        kqn_driver_push(driver, KQN_LOAD_QUEUE_READY, conn);
}

/* Writes what is unwritten, and waits for room for the rest. ENOBUFS and ENOMEM (macOS and the BSDs) are a kernel short
 * of memory while the socket stays writable; ENOTCONN (macOS) is a connection that is not quite there yet. Any other
 * error ends the sending alone: answers that came before it are still to be read, and the end is found behind them. */
static void write_some(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    ssize_t n = kqn_sys_write(conn->socket->watch.fd, conn->unwritten, conn->unwritten_len);
    conn->starved = n == -ENOBUFS || n == -ENOMEM;
    bool must_wait = n == -EAGAIN || n == -EINTR || n == -ENOTCONN || conn->starved;
    conn->broken = n < 0 && !must_wait ? (int)-n : 0;
    if (n > 0)
        driver->tally.totals.bytes_sent += (uint64_t)n;
    size_t done = conn->broken ? conn->unwritten_len : n < 0 ? 0 : (size_t)n;
    conn->unwritten += done;
    conn->unwritten_len -= done;
    if (conn->unwritten_len == 0 && conn->owned) {
        kqn_pool_give(&driver->loop.pool, conn->owned);
        conn->owned = NULL;
    }
    bool wants_write = conn->unwritten_len > 0 && !conn->starved;
    kqn_loop_want(&driver->loop, &conn->socket->watch, KQN_WANT_READ | (wants_write ? KQN_WANT_WRITE : 0));
}

/* Makes messages with fields, those with the next numbers; returns how many. */
static uint32_t make_messages(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count)
{
    struct kqn_buffer **out = &driver->output;
    uint32_t made = 0;
    for (; made < count; made++) {
        size_t end = *out ? (*out)->end : 0;
        uint64_t number = number_shown(driver, driver->sent_count + made);
        if (kqn_messages_make(&driver->load->messages, number, conn->index, &driver->loop.pool, out) < 0) {
            if (*out)
                (*out)->end = (uint32_t)end; /* nothing of the one that there was no memory for */
            break;
        }
    }
    if (made > 0) {
        conn->owned = *out;
        conn->unwritten = (*out)->bytes + (*out)->begin;
        conn->unwritten_len = kqn_buffer_len(*out);
        *out = NULL;
    }
    return made;
}

static uint32_t take_from_block(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count)
{
    const struct kqn_messages *messages = &driver->load->messages;
    conn->unwritten = kqn_messages_span(messages, driver->next_slot, count, &conn->unwritten_len);
    driver->next_slot += count;
    if (driver->next_slot == messages->slot_count)
        driver->next_slot = 0;
    return count;
}

/* Messages that were meant to go at the same time are one flight. */
static void add_flight(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count, int64_t intended_ns)
{
    uint32_t depth = (uint32_t)driver->load->settings.depth;
    uint32_t at = conn->flight_head + conn->flight_count++;
    conn->flights[at < depth ? at : at - depth] = (struct kqn_flight){
        .number = driver->sent_count, .intended_ns = intended_ns, .sent_ns = driver->loop.now_ns, .count = count};
    driver->sent_count += count;
}

static void put_in_flight(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count)
{
    if (!kqn_driver_is_open_loop(driver)) {
        add_flight(driver, conn, count, driver->loop.now_ns);
    } else {
        for (uint32_t i = 0; i < count; i++)
            add_flight(driver, conn, 1, kqn_driver_take_scheduled(driver));
    }
    conn->in_flight += count;
    conn->sent += count;
    driver->in_flight += count;
    if (driver->phase == KQN_LOAD_MEASURING) {
        driver->tally.totals.sent += count;
        driver->tally.interval.sent += count;
    }
}

uint32_t kqn_load_conn_send(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count)
{
    struct kqn_load *load = driver->load;
    bool is_counted = driver->phase == KQN_LOAD_MEASURING;
    /* Messages of the block go out in one piece, up to its end. */
    if (!load->messages.has_fields && count > load->messages.slot_count - driver->next_slot)
        count = load->messages.slot_count - driver->next_slot;
    if (is_counted)
        count = kqn_load_take_messages(load, count);
    if (count == 0)
        return 0;
    uint32_t made =
        load->messages.has_fields ? make_messages(driver, conn, count) : take_from_block(driver, conn, count);
    if (is_counted && made < count)
        kqn_load_give_messages_back(load, count - made);
    if (made > 0) {
        put_in_flight(driver, conn, made);
        write_some(driver, conn);
    } else {
        lose(driver, conn, KQN_LOAD_OTHER, ENOMEM);
    }
    return made;
}

void kqn_load_conn_fill(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    uint32_t room, sent;
    do {
        room = kqn_driver_sends(driver) ? kqn_load_conn_room(driver, conn) : 0;
        sent = room > 0 ? kqn_load_conn_send(driver, conn, room) : 0;
    } while (sent > 0 && sent < room); /* the block of messages had its end there */
}

/* Sends what comes next after something has happened. */
static void go_on(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    if (kqn_driver_is_open_loop(driver))
        kqn_load_conn_offer(driver, conn);
    else
        kqn_load_conn_fill(driver, conn);
}

/* --- Receiving --- */

/* Messages of one flight have been answered as they should be. */
static void record(struct kqn_driver *driver, const struct kqn_flight *flight, uint32_t count)
{
    struct kqn_tally *tally = &driver->tally;
    int64_t now_ns = driver->loop.now_ns;
    if (driver->phase < KQN_LOAD_MEASURING) {
        tally->totals.warmup_messages += count;
        return;
    }
    tally->totals.messages += count;
    tally->totals.in_time += now_ns <= driver->phase_end_ns ? count : 0;
    tally->interval.messages += count;
    kqn_histogram_record_many(tally->of_interval, now_ns - flight->intended_ns, count);
    if (kqn_driver_is_open_loop(driver))
        kqn_histogram_record_many(tally->service, now_ns - flight->sent_ns, count);
}

/* The oldest messages in flight, so many of them, have got their answers. */
static void land(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count, bool are_good)
{
    uint32_t depth = (uint32_t)driver->load->settings.depth;
    conn->in_flight -= count;
    driver->in_flight -= count;
    driver->last_end_ns = driver->loop.now_ns;
    while (count > 0) {
        struct kqn_flight *flight = &conn->flights[conn->flight_head];
        uint32_t landed = flight->count < count ? flight->count : count;
        if (are_good)
            record(driver, flight, landed);
        flight->count -= landed;
        flight->number += landed;
        count -= landed;
        if (flight->count == 0) {
            conn->flight_head = conn->flight_head + 1 < depth ? conn->flight_head + 1 : 0;
            conn->flight_count--;
        }
    }
    if (are_good)
        conn->failures = 0;
}

/* An answer is complete, or is known to be wrong. */
static void on_judged(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    bool is_wrong = conn->place.wrong;
    conn->place = (struct kqn_answer_place){0};
    if (is_wrong)
        kqn_tally_error(&driver->tally, KQN_LOAD_WRONG_ANSWER, 0, 1);
    if (conn->in_flight > 0)
        land(driver, conn, 1, !is_wrong);
}

/* What the oldest message in flight must be answered with. False: there is none, or no memory to say it. */
static bool expect(struct kqn_driver *driver, const struct kqn_load_conn *conn, struct kqn_expectation *out)
{
    if (conn->in_flight == 0 || !driver->load->compares)
        return false;
    uint64_t number = conn->flights[conn->flight_head].number;
    const struct kqn_messages *messages = &driver->load->messages;
    out->template = &driver->load->expect;
    out->message = kqn_messages_body(messages, messages->has_fields ? number_shown(driver, number) : number,
                                     conn->index, &driver->loop.pool, &driver->body, &out->message_len);
    return out->message != NULL;
}

/* Looks at bytes of the answer under way; keeps an example of a wrong one. */
static void judge(struct kqn_driver *driver, struct kqn_load_conn *conn, const struct kqn_expectation *expected,
                  const uint8_t *bytes, size_t len, bool ended)
{
    enum kqn_framing_kind framing = driver->load->settings.framing;
    if (expected)
        kqn_answer_compare(framing, expected, &conn->place, bytes, len, ended);
    else if (conn->in_flight == 0)
        conn->place.wrong = true;
    if (!conn->place.wrong || conn->place.shown)
        return;
    size_t right = kqn_answer_content(framing, &conn->place, ended, &bytes, &len);
    if (len == 0 && !ended)
        return; /* a u32 length that is wrong: the first of the content shows more */
    conn->place.shown = true;
    kqn_tally_example(&driver->tally, expected, conn->index, right, bytes, len, ended);
}

/* Bytes of one answer, which are compared, or which nobody has asked for; returns how many. */
static size_t take_judged(struct kqn_driver *driver, struct kqn_load_conn *conn, const uint8_t *bytes, size_t len)
{
    const struct kqn_load_settings *settings = &driver->load->settings;
    bool is_stream = settings->framing == KQN_FRAMING_STREAM;
    struct kqn_expectation expected;
    bool has_expected = expect(driver, conn, &expected);
    size_t size = settings->reply_size;
    if (is_stream && size == 0)
        size = has_expected ? kqn_expectation_len(&expected) : len;
    bool ended;
    size_t taken = kqn_answer_next(settings->framing, size, &conn->place, bytes, len, &ended);
    judge(driver, conn, has_expected ? &expected : NULL, bytes, taken, ended);
    conn->place.seen += taken;
    if (is_stream && conn->place.wrong) { /* nobody can say where the next answer would begin */
        on_judged(driver, conn);
        lose(driver, conn, KQN_LOAD_WRONG_ANSWER, 0);
    } else if (ended) {
        on_judged(driver, conn);
    }
    return taken;
}

static void take_answers(struct kqn_driver *driver, struct kqn_load_conn *conn, const uint8_t *bytes, size_t len)
{
    const struct kqn_load *load = driver->load;
    while (len > 0 && conn->state == KQN_LOAD_CONN_OPEN) {
        size_t taken;
        if (load->compares || conn->in_flight == 0) {
            taken = take_judged(driver, conn, bytes, len);
        } else {
            uint32_t count;
            taken = kqn_answer_skip(load->settings.framing, load->settings.reply_size, &conn->place, bytes, len,
                                    conn->in_flight, &count);
            if (count > 0)
                land(driver, conn, count, true);
        }
        bytes += taken;
        len -= taken;
    }
}

bool kqn_load_conn_renew(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    int every = driver->load->settings.reconnect_every;
    if (every == 0 || conn->in_flight > 0 || conn->sent < (uint32_t)every)
        return false;
    bool is_over = driver->phase >= KQN_LOAD_MEASURING && !kqn_driver_sends(driver);
    if (!is_over && !kqn_load_all_sent(driver->load)) {
        kqn_load_conn_close(driver, conn);
        kqn_driver_push(driver, KQN_LOAD_QUEUE_CONNECT, conn);
    }
    return true;
}

static void after_answers(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    int64_t think_ns = driver->load->settings.think_ns;
    if (think_ns == 0) {
        if (!kqn_load_conn_renew(driver, conn))
            go_on(driver, conn);
    } else if (conn->in_flight == 0 && !kqn_load_conn_thinks(conn)) {
        conn->due_ns = driver->loop.now_ns + think_ns;
        kqn_driver_push(driver, KQN_LOAD_QUEUE_THINK, conn);
    }
}

/* One read an event; EV_EOF only means that the end will be read some time. */
static void receive(struct kqn_driver *driver, struct kqn_load_conn *conn, const struct kevent *event)
{
    ssize_t n = kqn_sys_read(conn->socket->watch.fd, driver->input, KQN_LOAD_INPUT_BYTES);
    kqn_loop_read_clock(&driver->loop);
    if (n > 0) {
        driver->tally.totals.bytes_received += (uint64_t)n;
        take_answers(driver, conn, driver->input, (size_t)n);
        if (conn->state == KQN_LOAD_CONN_OPEN)
            after_answers(driver, conn);
    } else if (n == 0) {
        int error = event->flags & EV_EOF ? (int)event->fflags : 0;
        if (error == 0)
            error = conn->broken; /* Linux: a write that failed took the socket's error */
        lose(driver, conn, error ? kind_of(error) : KQN_LOAD_CLOSED, error);
    } else if (n != -EAGAIN && n != -EINTR) {
        lose_by_errno(driver, conn, (int)-n);
    }
}

static void write_on(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    if (conn->unwritten_len == 0)
        return;
    write_some(driver, conn);
    go_on(driver, conn);
}

void kqn_load_conn_on_event(struct kqn_driver *driver, struct kqn_load_conn *conn, const struct kevent *event)
{
    if (event->flags & EV_ERROR)
        lose(driver, conn, KQN_LOAD_OTHER, (int)event->data);
    else if (conn->state == KQN_LOAD_CONN_CONNECTING)
        on_connect_event(driver, conn, event);
    else if (event->filter == EVFILT_WRITE)
        write_on(driver, conn);
    else
        receive(driver, conn, event);
}

void kqn_load_conn_check(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    int64_t now_ns = driver->loop.now_ns;
    if (conn->state == KQN_LOAD_CONN_CLOSED && conn->waits && now_ns >= conn->due_ns) {
        conn->waits = false;
        kqn_driver_push(driver, KQN_LOAD_QUEUE_CONNECT, conn);
    } else if (conn->state == KQN_LOAD_CONN_CONNECTING && now_ns >= conn->due_ns) {
        lose(driver, conn, KQN_LOAD_TIMEOUT, 0);
    } else if (conn->state == KQN_LOAD_CONN_OPEN) {
        bool is_overdue = conn->in_flight > 0 &&
                          now_ns - conn->flights[conn->flight_head].sent_ns >= driver->load->settings.timeout_ns;
        if (is_overdue)
            lose(driver, conn, KQN_LOAD_TIMEOUT, 0);
        else if (conn->starved)
            write_on(driver, conn);
    }
}
