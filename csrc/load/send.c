#include "load/send.h"

#include <errno.h>

#include "core/sys.h"
#include "load/load.h"

void kqn_load_conn_offer(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    if (kqn_driver_sends(driver) && kqn_load_conn_room(driver, conn) > 0)
        kqn_driver_push(driver, KQN_LOAD_QUEUE_READY, conn);
}

/* How many of these bytes are done with after a write that failed. ENOBUFS and ENOMEM (macOS and the BSDs) are a kernel
 * short of memory while the socket stays writable; ENOTCONN (macOS) is a connection that is not quite there yet. Any
 * other error ends the sending alone: answers that came before it are still to be read, and the end is found behind
 * them. */
__attribute__((noinline)) /* seldom called, it would take registers from what is not */
static size_t
on_write_error(struct kqn_load_conn *conn, int error, size_t len)
{
    conn->starved = error == ENOBUFS || error == ENOMEM;
    if (error == EAGAIN || error == EINTR || error == ENOTCONN || conn->starved)
        return 0;
    conn->broken = error;
    return len;
}

/* Writes these bytes, and waits for room for the rest. */
static inline void write_some(struct kqn_driver *driver, struct kqn_load_conn *conn, const uint8_t *bytes, size_t len)
{
    struct kqn_watch *watch = &conn->socket->watch;
    ssize_t n = kqn_sys_write(watch->fd, bytes, len);
    size_t done = (size_t)n;
    unsigned wanted = KQN_WANT_READ;
    if (n < 0)
        done = on_write_error(conn, (int)-n, len);
    else
        driver->tally.totals.bytes_sent += done;
    conn->unwritten_len = len - done;
    if (conn->unwritten_len > 0) {
        conn->unwritten = bytes + done;
        wanted |= conn->starved ? 0 : KQN_WANT_WRITE;
    } else if (conn->owned) {
        kqn_pool_give(&driver->loop.pool, conn->owned);
        conn->owned = NULL;
    }
    if (wanted != watch->wanted)
        kqn_loop_want(&driver->loop, watch, wanted);
}

/* Messages that were meant to go at the same time are one flight. */
static inline void add_flight(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count,
                              int64_t intended_ns)
{
    conn->flights[conn->flight_tail] = (struct kqn_flight){
        .number = driver->sent_count, .intended_ns = intended_ns, .sent_ns = driver->loop.now_ns, .count = count};
    conn->flight_tail = kqn_load_flight_after(driver, conn->flight_tail);
    driver->sent_count += count;
}

__attribute__((noinline)) /* its registers would cost every message of a closed loop */
static void
add_scheduled(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        add_flight(driver, conn, 1, kqn_driver_take_scheduled(driver));
}

static inline void put_in_flight(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count)
{
    if (driver->is_open_loop)
        add_scheduled(driver, conn, count);
    else
        add_flight(driver, conn, count, driver->loop.now_ns);
    conn->in_flight += count;
    conn->sent += count;
    driver->in_flight += count;
    if (driver->phase == KQN_LOAD_MEASURING) {
        driver->tally.totals.sent += count;
        driver->tally.interval.sent += count;
    }
}

/* Messages from the block, at most as many as it has in one piece. */
static inline void send_from_block(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count)
{
    const struct kqn_messages *messages = &driver->load->messages;
    size_t len;
    const uint8_t *bytes = kqn_messages_span(messages, driver->next_slot, count, &len);
    driver->next_slot = (driver->next_slot + count) % messages->slot_count;
    put_in_flight(driver, conn, count);
    write_some(driver, conn, bytes, len);
}

/* Makes messages with fields, those with the next numbers, behind one another; returns how many there was memory
 * for. */
static uint32_t make_messages(struct kqn_driver *driver, uint32_t conn_index, uint32_t count)
{
    struct kqn_buffer **out = &driver->output;
    for (uint32_t made = 0; made < count; made++) {
        size_t end = *out ? (*out)->end : 0;
        uint64_t number = kqn_load_number_shown(driver, driver->sent_count + made);
        if (kqn_messages_make(&driver->load->messages, number, conn_index, &driver->loop.pool, out) < 0) {
            if (*out)
                (*out)->end = (uint32_t)end; /* nothing of the one that there was no memory for */
            return made;
        }
    }
    return count;
}

/* Messages with fields; returns how many, or has lost the connection without memory for a single one. */
__attribute__((noinline)) /* its registers would cost every message of a block */
static uint32_t
send_made(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count)
{
    uint32_t made = make_messages(driver, conn->index, count);
    if (driver->counts_down && made < count)
        kqn_load_give_messages_back(driver->load, count - made);
    if (made == 0) {
        kqn_load_conn_lose(driver, conn, KQN_LOAD_OTHER, ENOMEM);
        return 0;
    }
    conn->owned = driver->output;
    driver->output = NULL;
    put_in_flight(driver, conn, made);
    write_some(driver, conn, conn->owned->bytes + conn->owned->begin, kqn_buffer_len(conn->owned));
    return made;
}

/* As kqn_load_conn_send(). */
static inline uint32_t send_piece(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count)
{
    struct kqn_load *load = driver->load;
    uint32_t slots_left = load->messages.slots_here - driver->next_slot;
    if (count > slots_left)
        count = slots_left;
    if (driver->counts_down && (count = kqn_load_take_messages(load, count)) == 0)
        return 0;
    if (load->messages.has_fields)
        return send_made(driver, conn, count);
    send_from_block(driver, conn, count);
    return count;
}

uint32_t kqn_load_conn_send(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count)
{
    return send_piece(driver, conn, count);
}

void kqn_load_conn_fill(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    uint32_t room, sent;
    do {
        room = kqn_driver_sends(driver) ? kqn_load_conn_room(driver, conn) : 0;
        sent = room > 0 ? send_piece(driver, conn, room) : 0;
    } while (sent > 0 && sent < room); /* the block has no more of them in one piece */
}

void kqn_load_conn_write_on(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    if (conn->unwritten_len == 0)
        return;
    conn->starved = false;
    write_some(driver, conn, conn->unwritten, conn->unwritten_len);
    kqn_load_conn_go_on(driver, conn);
}
