#include "load/phase.h"

#include "core/sys.h"
#include "load/conn.h"
#include "load/driver.h"
#include "load/load.h"
#include "load/send.h"

static const int64_t stop_patience_ns = 1000000000; /* for what is in flight when a run is stopped */

static void enter(struct kqn_driver *driver, enum kqn_load_phase phase)
{
    driver->phase = phase;
    driver->sends_until_ns = INT64_MIN;
    driver->has_passed = false;
    atomic_store(&driver->phase_shown, (int)phase);
}

/* Says once that this loop is done with its phase; returns when all loops were, or 0: not yet. */
static int64_t pass(struct kqn_driver *driver)
{
    if (!driver->has_passed)
        kqn_load_pass(driver->load, driver->phase, driver->loop.now_ns);
    driver->has_passed = true;
    return kqn_load_passed_ns(driver->load, driver->phase);
}

/* A phase in which messages are sent begins: all connections are ready. */
static void begin_sending(struct kqn_driver *driver, enum kqn_load_phase phase, int64_t start_ns, int64_t end_ns)
{
    const struct kqn_load_settings *settings = driver->settings;
    enter(driver, phase);
    driver->phase_end_ns = driver->sends_until_ns = end_ns;
    driver->counts_down = phase == KQN_LOAD_MEASURING && settings->max_messages > 0;
    if (driver->is_open_loop)
        kqn_schedule_start(&driver->schedule, start_ns, settings->rate, settings->poisson, driver->index,
                           driver->load->driver_count);
    for (uint32_t i = 0; i < driver->conn_count; i++) {
        kqn_driver_remove(driver, KQN_LOAD_QUEUE_THINK, &driver->conns[i]);
        kqn_load_conn_offer(driver, &driver->conns[i]);
    }
    driver->was_blocked = !kqn_driver_first_ready(driver);
    driver->room_ns = driver->blocked_ns = start_ns;
}

static void begin_measuring(struct kqn_driver *driver, int64_t start_ns)
{
    int64_t duration_ns = driver->settings->duration_ns;
    kqn_tally_begin(&driver->tally, start_ns);
    driver->begun_ns = driver->last_end_ns = start_ns;
    driver->begun_cpu_ns = kqn_sys_thread_cpu_ns();
    begin_sending(driver, KQN_LOAD_MEASURING, start_ns, duration_ns > 0 ? start_ns + duration_ns : INT64_MAX);
}

/* Nothing is sent any more. When the count is used up, the measured time goes on until the last answer. */
static void end_measuring(struct kqn_driver *driver)
{
    struct kqn_load_totals *totals = &driver->tally.totals;
    int64_t length_ns = driver->loop.now_ns - driver->begun_ns;
    if (length_ns > 0)
        totals->busiest_share = (double)(kqn_sys_thread_cpu_ns() - driver->begun_cpu_ns) / (double)length_ns;
    driver->ended_by_count = kqn_load_all_sent(driver->load);
    if (driver->is_open_loop && !driver->ended_by_count) {
        totals->unsent = kqn_schedule_count_until(&driver->schedule, driver->phase_end_ns);
        /* What was due before the last time that there was no room has waited for the server. */
        totals->unsent_own = driver->schedule.next_ns < driver->blocked_ns ? 0 : totals->unsent;
    }
    enter(driver, KQN_LOAD_WAITING);
}

static void finish(struct kqn_driver *driver)
{
    if (driver->phase == KQN_LOAD_WAITING) {
        int64_t end_ns = driver->phase_end_ns;
        if (driver->ended_by_count && driver->last_end_ns < end_ns)
            end_ns = driver->last_end_ns;
        driver->tally.totals.seconds_ns = end_ns - driver->begun_ns;
    }
    enter(driver, KQN_LOAD_DONE);
}

/* The measured time ends now, if it has begun; what is in flight is awaited for so long. */
static void cut_short(struct kqn_driver *driver, int64_t patience_ns)
{
    if (driver->phase == KQN_LOAD_MEASURING) {
        if (driver->loop.now_ns < driver->phase_end_ns)
            driver->phase_end_ns = driver->loop.now_ns;
        end_measuring(driver);
    }
    if (driver->phase < KQN_LOAD_MEASURING)
        finish(driver);
    else if (driver->patience_ends_ns == 0)
        driver->patience_ends_ns = driver->loop.now_ns + patience_ns;
}

/* No connection is open: those that are still being tried have waited as long as they may. */
static void count_untried(struct kqn_driver *driver)
{
    uint64_t count = driver->connecting;
    for (uint32_t i = 0; i < driver->conn_count; i++)
        count += driver->conns[i].retries;
    if (count > 0)
        kqn_tally_error(&driver->tally, KQN_LOAD_TIMEOUT, 0, count);
}

static void step_phase(struct kqn_driver *driver)
{
    struct kqn_load *load = driver->load;
    int64_t passed_ns;
    switch (driver->phase) {
    case KQN_LOAD_CONNECTING:
        if (driver->settled == driver->conn_count && (passed_ns = pass(driver)) > 0)
            begin_sending(driver, KQN_LOAD_WARMING, passed_ns, passed_ns + load->settings.warmup_ns);
        break;
    case KQN_LOAD_WARMING:
        if (driver->loop.now_ns >= driver->phase_end_ns)
            enter(driver, KQN_LOAD_SETTLING);
        break;
    case KQN_LOAD_SETTLING:
        if (driver->in_flight == 0 && (passed_ns = pass(driver)) > 0)
            begin_measuring(driver, passed_ns);
        break;
    case KQN_LOAD_MEASURING:
        if (driver->loop.now_ns >= driver->phase_end_ns || kqn_load_all_sent(load))
            end_measuring(driver);
        break;
    case KQN_LOAD_WAITING:
        if (driver->in_flight == 0 || (driver->patience_ends_ns > 0 && driver->loop.now_ns >= driver->patience_ends_ns))
            finish(driver);
        break;
    case KQN_LOAD_DONE:
        break;
    }
}

void kqn_phase_advance(struct kqn_driver *driver)
{
    struct kqn_load *load = driver->load;
    if (atomic_load(&load->stop_asked))
        cut_short(driver, stop_patience_ns);
    if (driver->phase <= KQN_LOAD_MEASURING)
        kqn_load_check_open(load, driver->loop.now_ns);
    if (atomic_load(&load->gave_up)) {
        if (atomic_load(&load->had_no_connection))
            count_untried(driver);
        cut_short(driver, 0);
    }
    enum kqn_load_phase before;
    do {
        before = driver->phase;
        step_phase(driver);
    } while (driver->phase != before);
}

void kqn_phase_end(struct kqn_driver *driver)
{
    enter(driver, KQN_LOAD_DONE);
}
