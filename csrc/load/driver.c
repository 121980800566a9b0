#include "load/driver.h"

#include <errno.h>
#include <string.h>

#include "core/sys.h"
#include "load/conn.h"
#include "load/load.h"
#include "load/phase.h"
#include "load/receive.h"
#include "load/send.h"

int kqn_driver_open(struct kqn_driver *driver, struct kqn_load *load, int index)
{
    uint32_t all = (uint32_t)load->settings.connections;
    uint32_t loops = (uint32_t)load->driver_count;
    *driver = (struct kqn_driver){.load = load, .settings = &load->settings, .index = index};
    driver->is_open_loop = load->settings.rate > 0;
    driver->compares = load->settings.expect != NULL;
    driver->phase_end_ns = INT64_MAX;
    driver->sends_until_ns = INT64_MIN;
    driver->conn_count = all / loops + ((uint32_t)index < all % loops);
    size_t flight_count = (size_t)driver->conn_count * (size_t)load->settings.depth;
    size_t conns_size = driver->conn_count * sizeof(*driver->conns);
    int rc = kqn_tally_open(&driver->tally);
    if (rc == 0)
        rc = kqn_loop_open(&driver->loop, load->settings.poller, KQN_LOAD_BATCH, sizeof(struct kqn_load_socket));
    driver->conns = kqn_sys_alloc(conns_size);
    driver->flights = kqn_sys_alloc(flight_count * sizeof(*driver->flights));
    driver->input = kqn_sys_alloc(KQN_LOAD_INPUT_BYTES);
    if (rc == 0 && (!driver->conns || !driver->flights || !driver->input))
        rc = -ENOMEM;
    if (rc < 0) {
        driver->conn_count = 0;
        kqn_driver_close(driver);
        return rc;
    }
    memset(driver->conns, 0, conns_size);
    for (uint32_t i = 0; i < driver->conn_count; i++) {
        struct kqn_load_conn *conn = &driver->conns[i];
        conn->index = i * loops + (uint32_t)index;
        conn->flights = driver->flights + (size_t)i * (size_t)load->settings.depth;
        kqn_driver_push(driver, KQN_LOAD_QUEUE_CONNECT, conn);
    }
    return 0;
}

/* Lets go of the sockets whose connections have left them. */
static void reap(struct kqn_driver *driver)
{
    struct kqn_watch *watch;
    while ((watch = kqn_loop_reap(&driver->loop)))
        kqn_loop_give(&driver->loop, watch);
}

void kqn_driver_close(struct kqn_driver *driver)
{
    for (uint32_t i = 0; i < driver->conn_count; i++)
        kqn_load_conn_close(driver, &driver->conns[i]);
    if (driver->loop.poller) {
        reap(driver);
        kqn_pool_give(&driver->loop.pool, driver->output);
        kqn_pool_give(&driver->loop.pool, driver->body);
        kqn_loop_close(&driver->loop);
    }
    kqn_sys_free(driver->conns);
    kqn_sys_free(driver->flights);
    kqn_sys_free(driver->input);
    kqn_tally_close(&driver->tally);
    driver->conn_count = 0;
}

/* --- Queues --- */

/* A connection's place among this loop's, plus 1. */
static uint32_t place_of(const struct kqn_driver *driver, const struct kqn_load_conn *conn)
{
    return (uint32_t)(conn - driver->conns) + 1;
}

void kqn_driver_push(struct kqn_driver *driver, enum kqn_load_queue queue, struct kqn_load_conn *conn)
{
    if (conn->queued & 1u << queue)
        return;
    conn->queued |= (uint8_t)(1u << queue);
    conn->next[queue] = 0;
    conn->previous[queue] = driver->tails[queue];
    uint32_t place = place_of(driver, conn);
    if (driver->tails[queue])
        driver->conns[driver->tails[queue] - 1].next[queue] = place;
    else
        driver->heads[queue] = place;
    driver->tails[queue] = place;
}

void kqn_driver_remove(struct kqn_driver *driver, enum kqn_load_queue queue, struct kqn_load_conn *conn)
{
    if (!(conn->queued & 1u << queue))
        return;
    conn->queued &= (uint8_t)~(1u << queue);
    uint32_t next = conn->next[queue], previous = conn->previous[queue];
    if (previous)
        driver->conns[previous - 1].next[queue] = next;
    else
        driver->heads[queue] = next;
    if (next)
        driver->conns[next - 1].previous[queue] = previous;
    else
        driver->tails[queue] = previous;
}

struct kqn_load_conn *kqn_driver_first(const struct kqn_driver *driver, enum kqn_load_queue queue)
{
    return driver->heads[queue] ? &driver->conns[driver->heads[queue] - 1] : NULL;
}

void kqn_driver_pop(struct kqn_driver *driver, enum kqn_load_queue queue)
{
    kqn_driver_remove(driver, queue, kqn_driver_first(driver, queue));
}

/* --- Sending what is due --- */

/* A message that was due at this time goes now. */
static void note_lateness(struct kqn_driver *driver, int64_t due_ns)
{
    struct kqn_load_totals *totals = &driver->tally.totals;
    int64_t late_ns = driver->loop.now_ns - due_ns;
    if (driver->phase != KQN_LOAD_MEASURING || late_ns <= 0)
        return;
    totals->late += late_ns > KQN_LOAD_LATE_NS;
    if (late_ns > totals->late_max_ns)
        totals->late_max_ns = late_ns;
}

struct kqn_load_conn *kqn_driver_first_ready(struct kqn_driver *driver)
{
    struct kqn_load_conn *conn;
    while ((conn = kqn_driver_first(driver, KQN_LOAD_QUEUE_READY)) && kqn_load_conn_room(driver, conn) == 0)
        kqn_driver_pop(driver, KQN_LOAD_QUEUE_READY);
    return conn;
}

int64_t kqn_driver_take_scheduled(struct kqn_driver *driver)
{
    int64_t intended_ns = driver->schedule.next_ns;
    note_lateness(driver, intended_ns > driver->room_ns ? intended_ns : driver->room_ns);
    kqn_schedule_advance(&driver->schedule);
    return intended_ns;
}

/* How many messages of the schedule are due, as far as there is room for them. */
static uint32_t count_due(const struct kqn_driver *driver, uint32_t room)
{
    int64_t last_ns = driver->loop.now_ns < driver->phase_end_ns ? driver->loop.now_ns : driver->phase_end_ns - 1;
    uint32_t count = driver->schedule.next_ns <= last_ns;
    if (count == room || count == 0)
        return count;
    struct kqn_schedule ahead = driver->schedule;
    for (kqn_schedule_advance(&ahead); count < room && ahead.next_ns <= last_ns; count++)
        kqn_schedule_advance(&ahead);
    return count;
}

/* Open loop: sends the messages whose time has come, on the connections that have room, in turn; what is overdue goes
 * out in one write for each.
 * What a message waited for room is the server's delay, until the event that made room was looked at, or, if the wait
 * before that overslept, should have been. All else is our own: since a message's time, if there was room. */
static void send_scheduled(struct kqn_driver *driver)
{
    struct kqn_load_conn *conn;
    uint32_t count;
    if (driver->was_blocked)
        driver->room_ns = driver->loop.now_ns < driver->turn_due_ns ? driver->loop.now_ns : driver->turn_due_ns;
    while (kqn_driver_sends(driver) && (conn = kqn_driver_first_ready(driver)) &&
           (count = count_due(driver, kqn_load_conn_room(driver, conn))) > 0) {
        kqn_driver_pop(driver, KQN_LOAD_QUEUE_READY);
        if (kqn_load_conn_send(driver, conn, count) == 0)
            return;
        kqn_load_conn_offer(driver, conn);
        kqn_loop_read_clock(&driver->loop);
    }
    driver->was_blocked = !kqn_driver_first_ready(driver);
    if (driver->was_blocked)
        driver->blocked_ns = driver->loop.now_ns;
}

/* Closed loop: those that have just become ready begin, some in each turn, so that answers are not left waiting. */
static void send_begun(struct kqn_driver *driver)
{
    for (int i = 0; i < KQN_LOAD_STEPS_PER_TURN; i++) {
        struct kqn_load_conn *conn = kqn_driver_first_ready(driver);
        if (!conn || !kqn_driver_sends(driver))
            return;
        kqn_driver_pop(driver, KQN_LOAD_QUEUE_READY);
        kqn_loop_read_clock(&driver->loop);
        kqn_load_conn_fill(driver, conn);
    }
}

static void send_thought(struct kqn_driver *driver)
{
    struct kqn_load_conn *conn;
    while ((conn = kqn_driver_first(driver, KQN_LOAD_QUEUE_THINK)) && kqn_driver_sends(driver)) {
        if (conn->due_ns > driver->loop.now_ns)
            return;
        kqn_driver_pop(driver, KQN_LOAD_QUEUE_THINK);
        if (kqn_load_conn_is_used_up(driver, conn)) {
            kqn_load_conn_renew(driver, conn);
        } else {
            note_lateness(driver, conn->due_ns);
            kqn_load_conn_fill(driver, conn);
        }
        kqn_loop_read_clock(&driver->loop);
    }
}

static void send_due(struct kqn_driver *driver)
{
    if (driver->is_open_loop) {
        send_scheduled(driver);
    } else {
        send_thought(driver);
        send_begun(driver);
    }
}

/* --- The turn --- */

static void on_event(struct kqn_loop *loop, struct kqn_watch *watch, const struct kevent *event)
{
    struct kqn_driver *driver = (struct kqn_driver *)(void *)loop;
    struct kqn_load_conn *conn = ((struct kqn_load_socket *)(void *)watch)->conn;
    if (!conn)
        return;
    if (event->flags & EV_ERROR)
        kqn_load_conn_lose(driver, conn, KQN_LOAD_OTHER, (int)event->data);
    else if (conn->state == KQN_LOAD_CONN_CONNECTING)
        kqn_load_conn_on_connect_event(driver, conn, event);
    else if (event->filter == EVFILT_WRITE)
        kqn_load_conn_write_on(driver, conn);
    else
        kqn_load_conn_receive(driver, conn, event);
    /* A turn of many events must not hold up the schedule. */
    if (driver->is_open_loop && driver->schedule.next_ns <= driver->loop.now_ns)
        send_scheduled(driver);
}

static int64_t sweep_period_ns(const struct kqn_driver *driver)
{
    const struct kqn_load_settings *settings = driver->settings;
    int64_t shortest_ns = settings->timeout_ns;
    if (settings->connect_timeout_ns < shortest_ns)
        shortest_ns = settings->connect_timeout_ns;
    int64_t period_ns = shortest_ns / 16;
    return period_ns < KQN_LOAD_SWEEP_MIN_NS   ? KQN_LOAD_SWEEP_MIN_NS
           : period_ns > KQN_LOAD_SWEEP_MAX_NS ? KQN_LOAD_SWEEP_MAX_NS
                                               : period_ns;
}

/* Looks at as many connections as the time since the last look is a share of the period: the work is spread evenly,
 * and a hundred thousand connections never hold up a turn. */
static void sweep(struct kqn_driver *driver)
{
    int64_t period_ns = sweep_period_ns(driver);
    int64_t elapsed_ns = driver->loop.now_ns - driver->sweep_ns;
    uint64_t count = elapsed_ns >= period_ns
                         ? driver->conn_count
                         : (uint64_t)driver->conn_count * (uint64_t)elapsed_ns / (uint64_t)period_ns;
    if (count == 0)
        return;
    driver->sweep_ns = driver->loop.now_ns;
    for (; count > 0; count--) {
        kqn_load_conn_check(driver, &driver->conns[driver->sweep_cursor]);
        driver->sweep_cursor = driver->sweep_cursor + 1 < driver->conn_count ? driver->sweep_cursor + 1 : 0;
    }
}

/* Whether the next connection may be opened now. With a connect rate, that and nothing else decides. */
static bool may_connect(struct kqn_driver *driver)
{
    const struct kqn_load_settings *settings = driver->settings;
    if (driver->phase > KQN_LOAD_MEASURING || !kqn_driver_first(driver, KQN_LOAD_QUEUE_CONNECT))
        return false;
    if (settings->connect_rate <= 0)
        return driver->connecting < 1 + (uint32_t)((KQN_LOAD_CONNECTING_MAX - 1) / driver->load->driver_count);
    return driver->loop.now_ns >= driver->connect_due_ns;
}

static void open_connections(struct kqn_driver *driver)
{
    const struct kqn_load *load = driver->load;
    for (int i = 0; i < KQN_LOAD_STEPS_PER_TURN && may_connect(driver); i++) {
        struct kqn_load_conn *conn = kqn_driver_first(driver, KQN_LOAD_QUEUE_CONNECT);
        kqn_driver_pop(driver, KQN_LOAD_QUEUE_CONNECT);
        if (load->settings.connect_rate > 0) {
            int64_t interval_ns = (int64_t)(1e9 * load->driver_count / load->settings.connect_rate);
            /* Time that has passed unused is not made up for in a burst. */
            if (driver->connect_due_ns < driver->loop.now_ns - interval_ns)
                driver->connect_due_ns = driver->loop.now_ns;
            driver->connect_due_ns += interval_ns;
        }
        kqn_load_conn_open(driver, conn);
    }
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* When the loop must turn again, if nothing happens. */
static int64_t next_turn_ns(struct kqn_driver *driver)
{
    int64_t now_ns = driver->loop.now_ns;
    int64_t due_ns = earlier(now_ns + KQN_LOAD_TICK_NS, driver->tally.interval_end_ns);
    if (may_connect(driver))
        return now_ns;
    if (driver->settings->connect_rate > 0 && kqn_driver_first(driver, KQN_LOAD_QUEUE_CONNECT))
        due_ns = earlier(due_ns, driver->connect_due_ns);
    if (!kqn_driver_sends(driver))
        return due_ns;
    due_ns = earlier(due_ns, driver->phase_end_ns);
    if (driver->is_open_loop)
        return kqn_driver_first(driver, KQN_LOAD_QUEUE_READY) ? earlier(due_ns, driver->schedule.next_ns) : due_ns;
    const struct kqn_load_conn *thinking = kqn_driver_first(driver, KQN_LOAD_QUEUE_THINK);
    if (thinking)
        due_ns = earlier(due_ns, thinking->due_ns);
    return kqn_driver_first(driver, KQN_LOAD_QUEUE_READY) ? now_ns : due_ns;
}

static int turn(struct kqn_driver *driver)
{
    /* The clock is as old as the last event: a closed loop has no deadline that is so near. */
    if (driver->is_open_loop)
        kqn_loop_read_clock(&driver->loop);
    int64_t due_ns = next_turn_ns(driver);
    int64_t wait_ns = due_ns - driver->loop.now_ns;
    int rc = kqn_loop_wait(&driver->loop, wait_ns > 0 ? wait_ns : 0);
    if (rc < 0)
        return rc;
    bool overslept = driver->loop.now_ns - due_ns > KQN_LOAD_LATE_NS;
    driver->turn_due_ns = overslept ? due_ns : INT64_MAX;
    kqn_loop_dispatch(&driver->loop, on_event);
    send_due(driver);
    sweep(driver);
    reap(driver);
    open_connections(driver);
    kqn_phase_advance(driver);
    return kqn_tally_tick(&driver->tally, driver->loop.now_ns);
}

int kqn_driver_run(struct kqn_driver *driver)
{
    kqn_sys_want_precise_timers();
    kqn_loop_read_clock(&driver->loop);
    driver->sweep_ns = driver->loop.now_ns;
    int rc = 0;
    while (rc == 0 && driver->phase != KQN_LOAD_DONE)
        rc = turn(driver);
    int end_rc = kqn_tally_end(&driver->tally, driver->loop.now_ns);
    for (uint32_t i = 0; i < driver->conn_count; i++)
        kqn_load_conn_close(driver, &driver->conns[i]);
    reap(driver);
    kqn_phase_end(driver);
    return rc < 0 ? rc : end_rc;
}
