#include "load/receive.h"

#include <errno.h>

#include "core/sys.h"
#include "load/histogram.h"
#include "load/load.h"
#include "load/send.h"

/* Messages of one flight have been answered as they should be. */
static inline void record(struct kqn_driver *driver, const struct kqn_flight *flight, uint32_t count)
{
    struct kqn_tally *tally = &driver->tally;
    int64_t now_ns = driver->loop.now_ns;
    if (driver->phase < KQN_LOAD_MEASURING) {
        tally->totals.warmup_messages += count;
        return;
    }
    tally->totals.messages += count;
    if (now_ns <= driver->phase_end_ns)
        tally->totals.in_time += count;
    tally->interval.messages += count;
    kqn_histogram_record_many(tally->of_interval, now_ns - flight->intended_ns, count);
    if (driver->is_open_loop)
        kqn_histogram_record_many(tally->service, now_ns - flight->sent_ns, count);
}

/* The oldest messages in flight, so many of them (at least one), have got their answers. */
static inline void land(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count, bool are_good)
{
    conn->in_flight -= count;
    driver->in_flight -= count;
    driver->last_end_ns = driver->loop.now_ns;
    if (are_good)
        conn->failures = 0;
    do {
        struct kqn_flight *flight = &conn->flights[conn->flight_head];
        uint32_t landed = flight->count < count ? flight->count : count;
        if (are_good)
            record(driver, flight, landed);
        flight->number += landed;
        flight->count -= landed;
        if (flight->count == 0)
            conn->flight_head = kqn_load_flight_after(driver, conn->flight_head);
        count -= landed;
    } while (count > 0);
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
    if (conn->in_flight == 0 || !driver->compares)
        return false;
    uint64_t number = conn->flights[conn->flight_head].number;
    const struct kqn_messages *messages = &driver->load->messages;
    out->template = &driver->load->expect;
    out->message = kqn_messages_body(messages, messages->has_fields ? kqn_load_number_shown(driver, number) : number,
                                     conn->index, &driver->loop.pool, &driver->body, &out->message_len);
    return out->message != NULL;
}

/* Looks at bytes of the answer under way; keeps an example of a wrong one. */
static void judge(struct kqn_driver *driver, struct kqn_load_conn *conn, const struct kqn_expectation *expected,
                  const uint8_t *bytes, size_t len, bool ended)
{
    enum kqn_framing_kind framing = driver->settings->framing;
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
    const struct kqn_load_settings *settings = driver->settings;
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
        kqn_load_conn_lose(driver, conn, KQN_LOAD_WRONG_ANSWER, 0);
    } else if (ended) {
        on_judged(driver, conn);
    }
    return taken;
}

/* Answers that are compared, or that nobody has asked for; they may cost the connection. */
__attribute__((noinline)) /* what it hands out for others to fill would cost each event the stack's protection */
static void
judge_answers(struct kqn_driver *driver, struct kqn_load_conn *conn, const uint8_t *bytes, size_t len)
{
    while (len > 0 && conn->state == KQN_LOAD_CONN_OPEN) {
        size_t taken = take_judged(driver, conn, bytes, len);
        bytes += taken;
        len -= taken;
    }
}

/* Answers that are only counted: those of all messages in flight, so that nobody has asked for what is left over.
 * Returns how many bytes they were. */
static inline size_t count_answers(struct kqn_driver *driver, struct kqn_load_conn *conn, const uint8_t *bytes,
                                   size_t len)
{
    const struct kqn_load_settings *settings = driver->settings;
    uint32_t count;
    size_t taken =
        kqn_answer_skip(settings->framing, settings->reply_size, &conn->place, bytes, len, conn->in_flight, &count);
    if (count > 0)
        land(driver, conn, count, true);
    return taken;
}

static inline void take_answers(struct kqn_driver *driver, struct kqn_load_conn *conn, const uint8_t *bytes, size_t len)
{
    const uint8_t *end = bytes + len;
    if (!driver->compares && conn->in_flight > 0)
        bytes += count_answers(driver, conn, bytes, len);
    if (bytes < end)
        judge_answers(driver, conn, bytes, (size_t)(end - bytes));
}

static void after_answers(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    int64_t think_ns = driver->settings->think_ns;
    if (think_ns == 0) {
        if (kqn_load_conn_is_used_up(driver, conn))
            kqn_load_conn_renew(driver, conn);
        else
            kqn_load_conn_go_on(driver, conn);
    } else if (conn->in_flight == 0 && !kqn_load_conn_thinks(conn)) {
        conn->due_ns = driver->loop.now_ns + think_ns;
        kqn_driver_push(driver, KQN_LOAD_QUEUE_THINK, conn);
    }
}

/* There was nothing to read: the connection has ended, or failed, or the event came to nothing. */
static void on_no_answer(struct kqn_driver *driver, struct kqn_load_conn *conn, const struct kevent *event, int error)
{
    if (error == EAGAIN || error == EINTR)
        return;
    if (error == 0 && event->flags & EV_EOF)
        error = (int)event->fflags;
    if (error == 0)
        error = conn->broken; /* Linux: a write that failed took the socket's error */
    if (error != 0)
        kqn_load_conn_lose_by_errno(driver, conn, error);
    else
        kqn_load_conn_lose(driver, conn, KQN_LOAD_CLOSED, 0);
}

/* One read an event; EV_EOF only means that the end will be read some time. */
void kqn_load_conn_receive(struct kqn_driver *driver, struct kqn_load_conn *conn, const struct kevent *event)
{
    ssize_t n = kqn_sys_read(conn->socket->watch.fd, driver->input, KQN_LOAD_INPUT_BYTES);
    kqn_loop_read_clock(&driver->loop);
    if (n <= 0) {
        on_no_answer(driver, conn, event, (int)-n);
        return;
    }
    driver->tally.totals.bytes_received += (uint64_t)n;
    take_answers(driver, conn, driver->input, (size_t)n);
    if (conn->state == KQN_LOAD_CONN_OPEN)
        after_answers(driver, conn);
}
