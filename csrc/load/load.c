#include "load/load.h"

#include <errno.h>
#include <string.h>

#include "core/address.h"
#include "load/histogram.h"
#include "poller/fork.h"

/* --- What the loops share --- */

static void wake_all(struct kqn_load *load)
{
    for (int i = 0; i < load->driver_count; i++)
        kqn_poller_wake(load->drivers[i].loop.poller);
}

void kqn_load_pass(struct kqn_load *load, enum kqn_load_phase phase, int64_t now_ns)
{
    if (atomic_fetch_add(&load->done_with[phase], 1) + 1 < load->driver_count)
        return;
    atomic_store(&load->passed_ns[phase], now_ns);
    wake_all(load);
}

int64_t kqn_load_passed_ns(struct kqn_load *load, enum kqn_load_phase phase)
{
    return atomic_load(&load->passed_ns[phase]);
}

void kqn_load_give_messages_back(struct kqn_load *load, uint32_t count)
{
    atomic_fetch_add(&load->messages_left, count);
}

bool kqn_load_all_sent(struct kqn_load *load)
{
    return load->settings.max_messages > 0 && atomic_load(&load->messages_left) <= 0;
}

void kqn_load_count_open(struct kqn_load *load, int change, int64_t now_ns)
{
    if (change < 0) /* first: whoever sees that none is open must not see since when another time */
        atomic_store(&load->none_open_since_ns, now_ns);
    atomic_fetch_add(&load->open, change);
}

void kqn_load_check_open(struct kqn_load *load, int64_t now_ns)
{
    if (atomic_load(&load->open) > 0 ||
        now_ns - atomic_load(&load->none_open_since_ns) < load->settings.connect_timeout_ns)
        return;
    atomic_store(&load->had_no_connection, true);
    kqn_load_give_up(load);
}

void kqn_load_give_up(struct kqn_load *load)
{
    if (!atomic_exchange(&load->gave_up, true))
        wake_all(load);
}

/* --- Opening and closing --- */

static int open_endpoints(struct kqn_load *load, const struct kqn_load_settings *settings)
{
    struct kqn_endpoint *target = &load->target;
    int rc = settings->uds_path ? kqn_address_unix(&target->address, &target->len, settings->uds_path)
                                : kqn_address_tcp(&target->address, &target->len, settings->host, settings->port);
    if (rc < 0 || settings->source_count == 0)
        return rc;
    load->sources = kqn_sys_alloc((size_t)settings->source_count * sizeof(*load->sources));
    if (!load->sources)
        return -ENOMEM;
    for (int i = 0; i < settings->source_count && rc == 0; i++)
        rc = kqn_address_tcp(&load->sources[i].address, &load->sources[i].len, settings->sources[i], 0);
    return rc;
}

static int open_drivers(struct kqn_load *load)
{
    load->drivers = kqn_sys_alloc_lines((size_t)load->settings.loops * sizeof(*load->drivers));
    if (!load->drivers)
        return -ENOMEM;
    int rc = 0, opened = 0;
    load->driver_count = load->settings.loops; /* each driver asks how many share the connections */
    while (opened < load->settings.loops && (rc = kqn_driver_open(&load->drivers[opened], load, opened)) == 0)
        opened++;
    load->driver_count = opened; /* those to be closed */
    return rc;
}

static int open_parts(struct kqn_load *load, const struct kqn_load_settings *settings)
{
    size_t error_at;
    int rc = kqn_fork_watch();
    load->fork_generation = kqn_fork_generation();
    if (rc == 0)
        rc = open_endpoints(load, settings);
    if (rc == 0)
        rc = kqn_messages_open(&load->messages, settings);
    if (rc == 0 && settings->expect)
        rc =
            kqn_template_compile(&load->expect, KQN_TEMPLATE_EXPECT, settings->expect, settings->expect_len, &error_at);
    return rc < 0 ? rc : open_drivers(load);
}

int kqn_load_open(struct kqn_load **out, const struct kqn_load_settings *settings)
{
    *out = NULL;
    struct kqn_load *load = kqn_sys_alloc_lines(sizeof(*load));
    if (!load)
        return -ENOMEM;
    memset(load, 0, sizeof(*load));
    load->settings = *settings;
    load->messages_left = settings->max_messages;
    int rc = open_parts(load, settings);
    if (rc < 0) {
        kqn_load_close(load);
        return rc;
    }
    load->none_open_since_ns = kqn_sys_monotonic_ns();
    *out = load;
    return 0;
}

static bool is_foreign(const struct kqn_load *load)
{
    return kqn_fork_generation() != load->fork_generation;
}

void kqn_load_close(struct kqn_load *load)
{
    if (!load || is_foreign(load))
        return;
    for (int i = 0; i < load->driver_count; i++)
        kqn_driver_close(&load->drivers[i]);
    kqn_messages_close(&load->messages);
    kqn_template_reset(&load->expect);
    kqn_sys_free(load->drivers);
    kqn_sys_free(load->sources);
    kqn_sys_free(load);
}

/* --- For the caller's threads --- */

int kqn_load_run(struct kqn_load *load, int loop_index)
{
    if (is_foreign(load))
        return -ECHILD;
    if (loop_index < 0 || loop_index >= load->driver_count)
        return -EINVAL;
    int rc = kqn_driver_run(&load->drivers[loop_index]);
    if (rc < 0)
        kqn_load_give_up(load);
    return rc;
}

int kqn_load_stop(struct kqn_load *load)
{
    if (is_foreign(load))
        return -ECHILD;
    atomic_store(&load->stop_asked, true);
    wake_all(load);
    return 0;
}

int kqn_load_progress(struct kqn_load *load, struct kqn_load_progress *out)
{
    if (is_foreign(load))
        return -ECHILD;
    *out = (struct kqn_load_progress){.phase = KQN_LOAD_DONE, .open = atomic_load(&load->open)};
    for (int i = 0; i < load->driver_count; i++) {
        int phase = atomic_load(&load->drivers[i].phase_shown);
        if (phase < (int)out->phase)
            out->phase = (enum kqn_load_phase)phase;
    }
    int64_t begun_ns = kqn_load_passed_ns(load, KQN_LOAD_SETTLING);
    if (begun_ns > 0)
        out->measured_ns = kqn_sys_monotonic_ns() - begun_ns;
    return 0;
}

int kqn_load_take_interval(struct kqn_load *load, struct kqn_load_interval *out, struct kqn_histogram *latency)
{
    if (is_foreign(load))
        return -ECHILD;
    uint64_t index = load->intervals_taken;
    int there = 0;
    for (int i = 0; i < load->driver_count; i++) {
        int rc = kqn_tally_has_interval(&load->drivers[i].tally, index);
        if (rc == 0)
            return 0;
        there += rc == 1;
    }
    if (there == 0)
        return -ENOENT;
    *out = (struct kqn_load_interval){.index = index};
    for (int i = 0; i < load->driver_count; i++)
        kqn_tally_take_interval(&load->drivers[i].tally, index, out, latency);
    load->intervals_taken++;
    return 1;
}

int kqn_load_result(struct kqn_load *load, struct kqn_load_totals *out, struct kqn_histogram *latency,
                    struct kqn_histogram *service, struct kqn_histogram *connect)
{
    if (is_foreign(load))
        return -ECHILD;
    memset(out, 0, sizeof(*out));
    out->had_no_connection = atomic_load(&load->had_no_connection);
    for (int i = 0; i < load->driver_count; i++) {
        const struct kqn_tally *tally = &load->drivers[i].tally;
        kqn_tally_add(tally, out);
        kqn_histogram_add(latency, tally->latency);
        kqn_histogram_add(service, tally->service);
        kqn_histogram_add(connect, tally->connect);
    }
    return 0;
}
