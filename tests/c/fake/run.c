#include "run.h"

#include "fibers.h"
#include "judge.h"
#include "poller.h"
#include "sockets.h"
#include "world.h"

static const struct scenario *scenario;
static struct kqn_server *server;

void run_stop(int64_t grace_ns)
{
    judge_stop(grace_ns);
    kqn_server_stop(server, grace_ns);
}

/* --- What happens next --- */

static int find_due(int due[MAX_LOOPS])
{
    int count = 0;
    for (int loop = 0; loop < MAX_LOOPS; loop++)
        if (fiber_is_due(loop))
            due[count++] = loop;
    return count;
}

static int find_able(struct client *able[MAX_CLIENTS])
{
    int count = 0;
    for (int i = 0; i < clients.count; i++)
        if (client_can_act(&clients.list[i]))
            able[count++] = &clients.list[i];
    return count;
}

/* A loop runs a turn, or a client does something; false: nobody can before time passes. */
static bool step(void)
{
    int due[MAX_LOOPS];
    struct client *able[MAX_CLIENTS];
    int due_count = find_due(due), able_count = find_able(able);
    if (due_count > 0 && (able_count == 0 || chance(scenario->loops_go_first)))
        fiber_resume(due[below((unsigned)due_count)]);
    else if (able_count > 0)
        client_act(able[below((unsigned)able_count)]);
    else
        return false;
    return true;
}

/* Until the next deadline of a loop; false: there is none. */
static bool pass_time(void)
{
    int64_t next_ns = INT64_MAX;
    for (int loop = 0; loop < MAX_LOOPS; loop++)
        if (fiber_due_ns(loop) < next_ns)
            next_ns = fiber_due_ns(loop);
    if (next_ns == INT64_MAX)
        return false;
    world.now_ns = next_ns;
    world_trace("time passes", -1, 0);
    return true;
}

/* What other threads of the program do with a server. */
static void look_from_outside(void)
{
    struct kqn_record records[8];
    struct kqn_stats stats;
    int loop = (int)below((unsigned)scenario->settings.loops);
    if (chance(128)) {
        kqn_server_read_journal(server, loop, records, (int)between(1, 8));
        return;
    }
    world.progress++;
    kqn_server_stats(server, loop, &stats, chance(128) ? 0 : 200000);
    uint64_t closed = 0;
    for (int reason = 0; reason < KQN_REASON_COUNT; reason++)
        closed += stats.closed[reason];
    if (stats.accepted != stats.open + (uint64_t)stats.handed_over + closed)
        world_fail("the published counters of loop %d do not balance", loop);
}

/* --- The phases of a run --- */

static void go_wrong(void)
{
    world.is_quiet = false;
    unsigned stops_at = scenario->stops_early ? below(scenario->steps) : UINT32_MAX;
    for (clients.step = 0; clients.step < scenario->steps && !world.has_failed; clients.step++) {
        if (clients.step == stops_at)
            run_stop(scenario->grace_ns);
        if (world_fault(FAULT_WAIT_EARLY)) {
            int loop = (int)below((unsigned)scenario->settings.loops);
            if (!fiber_has_ended(loop))
                fiber_resume(loop);
        } else if (chance(4)) {
            look_from_outside();
        } else if (chance(8)) {
            world_add_time((int64_t)1000 << below(18));
        } else if (!step()) {
            judge_quiescence();
            pass_time();
        }
    }
    world.is_quiet = true;
}

static bool all_loops_have_ended(void)
{
    for (int loop = 0; loop < MAX_LOOPS; loop++)
        if (!fiber_has_ended(loop))
            return false;
    return true;
}

/* With nothing going wrong, everything finishes: what can not be now, is once time has passed. */
static void finish(bool (*is_finished)(void))
{
    int64_t given_up_ns = scenario->patience_ns > 0 ? world.now_ns + scenario->patience_ns : INT64_MAX;
    for (unsigned steps = 0; !is_finished() && !world.has_failed; steps++, clients.step++) {
        if (steps == scenario->steps_max)
            world_fail("it does not end");
        if (is_finished == clients_are_done && world.now_ns >= given_up_ns)
            return;
        if (step())
            continue;
        judge_quiescence();
        if (!pass_time()) {
            if (!judge.loop_has_failed || is_finished == all_loops_have_ended)
                world_fail("nothing can go on, and not all is done");
            return;
        }
    }
}

static void serve(void)
{
    const struct kqn_settings *settings = &scenario->settings;
    fibers_start(server, scenario->hook.is_used ? hook_answer : NULL);
    go_wrong();
    clients_calm_down(settings->idle_timeout_ns > 0);
    if (!world.has_failed)
        finish(clients_are_done);
    if (!world.has_failed)
        run_stop(scenario->grace_ns);
    if (!world.has_failed)
        finish(all_loops_have_ended);
    if (!world.has_failed)
        judge_end();
}

static void check_nothing_is_left(void)
{
    if (world.live_blocks != 0)
        world_fail("%lld blocks of memory are left", (long long)world.live_blocks);
    else if (sockets.count != 0)
        world_fail("%d descriptors are left", sockets.count);
    else if (fake_poller_count() != 0)
        world_fail("%d pollers are left", fake_poller_count());
}

bool run(const struct scenario *chosen)
{
    scenario = chosen;
    sockets_begin(scenario->descriptors, scenario->reuses_lowest);
    fake_poller_begin();
    clients_begin(&scenario->rules, scenario->client_count, scenario->bytes_each, scenario->steps);
    for (int i = 0; i < clients.count && scenario->settings.networks; i++)
        clients.list[i].is_denied = i + 1 >= 40 && i + 1 < 48;
    judge_begin(&scenario->settings, scenario->hook.is_used);
    hook_begin(&scenario->hook);
    enum kqn_step failed_step;
    world.is_quiet = false;
    int rc = kqn_server_open(&server, &scenario->settings, &failed_step);
    world.is_quiet = true;
    world_trace("open", -1, rc);
    if (rc == 0) {
        judge_open(server);
        serve();
        if (world.has_failed)
            return false; /* its loops are left where they stand, and so is what they hold */
        kqn_server_close(server);
    }
    check_nothing_is_left();
    return !world.has_failed;
}
