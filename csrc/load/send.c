#include "load/send.h"

#include <errno.h>

#include "core/sys.h"
#include "load/load.h"

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
        uint64_t number = kqn_load_number_shown(driver, driver->sent_count + made);
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
        kqn_load_conn_lose(driver, conn, KQN_LOAD_OTHER, ENOMEM);
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
void kqn_load_conn_go_on(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    if (kqn_driver_is_open_loop(driver))
        kqn_load_conn_offer(driver, conn);
    else
        kqn_load_conn_fill(driver, conn);
}

void kqn_load_conn_write_on(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    if (conn->unwritten_len == 0)
        return;
    write_some(driver, conn);
    kqn_load_conn_go_on(driver, conn);
}
