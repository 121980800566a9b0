#include "judge.h"

#include <string.h>

#include "fibers.h"
#include "server/connection.h"
#include "sockets.h"
#include "world.h"

struct judge judge;

static const int64_t ms_ns = 1000000;
static const int64_t linger_ns = 1000000000;
static const int64_t idle_stop_ns = 1200000000; /* by which those that are owed nothing delay a stop at most */

static const char *const reason_names[KQN_REASON_COUNT] = {
    "eof",  "reset",  "idle",     "message_timeout", "write_timeout", "too_long",
    "hook", "denied", "buffered", "stopped",         "cut",           "error",
};

void judge_begin(const struct kqn_settings *settings, bool has_hook)
{
    judge = (struct judge){.settings = *settings, .has_hook = has_hook, .stop_ns = -1};
}

void judge_open(struct kqn_server *server)
{
    judge.server = server;
    judge.base_bytes = world.live_bytes;
}

/* --- The stop --- */

/* Whether the server has nothing to do for it any more, and it will not send anything. */
static bool is_idle(const struct client *client)
{
    if (!client->is_connected || client->is_done)
        return !sockets_listen() || client->is_done;
    bool sends = client->sent < client->input_len && !client->has_half_closed;
    return client->is_accepted && !sends && client->sent == client->read && !model_owes(&client->model, client->taken);
}

void judge_stop(int64_t grace_ns)
{
    if (judge.stop_ns >= 0)
        return;
    world_trace("stop", -1, grace_ns);
    judge.stop_ns = world.now_ns;
    judge.stop_added_ns = world.added_ns;
    judge.grace_ns = grace_ns;
    judge.pauses_at_stop = judge.server->workers[0].stats.accept_pauses;
    judge.all_were_idle = world.is_quiet && world.fail_at == 0;
    for (int i = 0; i < clients.count; i++) {
        struct client *client = &clients.list[i];
        client->connected_before_stop = client->is_connected;
        client->sent_before_stop = client->sent;
        judge.all_were_idle &= is_idle(client);
    }
}

void judge_close_listener(void)
{
    const struct kqn_worker *acceptor = judge.server ? &judge.server->workers[0] : NULL;
    if (!acceptor || judge.accept_has_failed || judge.loop_has_failed ||
        acceptor->stats.accept_pauses > judge.pauses_at_stop)
        return;
    for (int i = 0; i < clients.queue_len; i++)
        if (clients.queue[i]->connected_before_stop)
            world_fail("client %d had connected before the stop, and is never accepted", clients.queue[i]->index);
}

void judge_loop_fails(int loop)
{
    judge.loop_has_failed = true;
    if (loop == 0)
        judge_stop(0);
}

static void check_time_of_stop(void)
{
    int64_t took_ns = world.now_ns - judge.stop_ns - (world.added_ns - judge.stop_added_ns);
    int64_t limit_ns = judge.all_were_idle ? idle_stop_ns : judge.grace_ns + idle_stop_ns;
    if (took_ns > limit_ns)
        world_fail("the stop took %lld ms, of at most %lld", (long long)(took_ns / ms_ns),
                   (long long)(limit_ns / ms_ns));
}

/* --- Why a connection ends --- */

/* The connection that the loop closes now; NULL: it never became one. */
static const struct kqn_conn *conn_of(const struct client *client)
{
    const struct kqn_worker *worker = &judge.server->workers[world.loop];
    const struct kqn_conn *conn;
    uint32_t index = 0;
    while ((conn = kqn_worker_next_conn(worker, &index)))
        if (conn->watch.fd == client->fd)
            return conn;
    return NULL;
}

static enum kqn_reason reason_of(const struct client *client)
{
    const struct kqn_conn *conn = conn_of(client);
    if (conn && conn->state != KQN_CONN_ENDED)
        world_fail("client %d is closed and has not ended", client->index);
    if (conn)
        return (enum kqn_reason)conn->reason;
    return client->is_denied ? KQN_REASON_DENIED : KQN_REASON_ERROR;
}

static bool has_waited(int64_t since_ns, int64_t timeout_ns)
{
    return timeout_ns > 0 && fiber_woke_ns(world.loop) - since_ns > timeout_ns - 2 * ms_ns;
}

/* Whether everything is as this reason says. */
static bool is_true(const struct client *client, enum kqn_reason reason)
{
    const struct kqn_settings *settings = &judge.settings;
    const struct model *model = &client->model;
    bool owes = model_owes(model, client->written);
    bool ends_over = model->is_over && (model->over_reason == reason || model->has_failed);
    switch (reason) {
    case KQN_REASON_EOF:
        return client->end_is_read && !owes && !model->is_over;
    case KQN_REASON_RESET:
        return client->was_broken;
    case KQN_REASON_IDLE:
        return has_waited(client->progress_ns, settings->idle_timeout_ns);
    case KQN_REASON_MESSAGE_TIMEOUT:
        return model->parsed < model->read && has_waited(client->begun_ns, settings->message_timeout_ns);
    case KQN_REASON_WRITE_TIMEOUT:
        return owes && has_waited(client->progress_ns, settings->write_timeout_ns);
    case KQN_REASON_TOO_LONG:
    case KQN_REASON_HOOK:
        return ends_over && !owes;
    case KQN_REASON_DENIED:
        return client->is_denied;
    case KQN_REASON_BUFFERED:
        return settings->max_buffered < PLENTY_OF_MEMORY;
    case KQN_REASON_STOPPED:
        return judge.stop_ns >= 0 && !owes;
    case KQN_REASON_CUT:
        return judge.stop_ns >= 0 && owes && world.now_ns - judge.stop_ns >= judge.grace_ns;
    default:
        return client->was_refused || world.refused > 0 || judge.loop_has_failed;
    }
}

/* A stop that takes nothing away: what was there when it was asked for has been read, and bytes that arrive during it
 * do not reset the connection under the answers. */
static void check_stopped(const struct client *client)
{
    bool lingered = client->server_shut && world.now_ns - client->shut_ns >= linger_ns - 2 * ms_ns;
    bool grace_is_over = world.now_ns - judge.stop_ns >= judge.grace_ns;
    if (client->was_broken || client->is_reset || client->model.is_over || grace_is_over)
        return;
    if (client->connected_before_stop && !client->was_put_off && client->model.read < client->sent_before_stop)
        world_fail("client %d: of %zu bytes sent before the stop, %zu were read", client->index,
                   client->sent_before_stop, client->model.read);
    if (client->sent > client->read && !lingered)
        world_fail("client %d is reset by the stop: %zu bytes are unread", client->index, client->sent - client->read);
}

void judge_close(struct client *client)
{
    if (world.loop < 0) {
        if (!judge.loop_has_failed)
            world_fail("client %d is closed by nobody", client->index);
        return;
    }
    enum kqn_reason reason = reason_of(client);
    world_trace(reason_names[reason], client->fd, client->index);
    judge.closed[reason]++;
    client->reason = reason;
    client->has_reason = true;
    if (!is_true(client, reason))
        world_fail("client %d ends for %s, which is not so (read %zu of %zu, written %zu of %zu)", client->index,
                   reason_names[reason], client->read, client->sent, client->written, client->model.expected_len);
    if (client->is_denied && (reason != KQN_REASON_DENIED || client->read > 0))
        world_fail("client %d is not allowed, and was let in", client->index);
    if (reason == KQN_REASON_STOPPED)
        check_stopped(client);
}

/* --- Counters --- */

static void add_stats(struct kqn_stats *sum, const struct kqn_worker *worker)
{
    const struct kqn_stats *stats = &worker->stats;
    bool has_listener = worker->index == 0 && judge.server->listener.watch;
    sum->accepted += stats->accepted;
    sum->handed_over += stats->handed_over;
    sum->open += worker->loop.watches.taken_count - has_listener;
    for (int reason = 0; reason < KQN_REASON_COUNT; reason++)
        sum->closed[reason] += stats->closed[reason];
    sum->messages += stats->messages;
    sum->answered += stats->answered;
    sum->declined += stats->declined;
    sum->failed += stats->failed;
    sum->unanswered += stats->unanswered;
    sum->bytes_in += stats->bytes_in;
    sum->bytes_out += stats->bytes_out;
    sum->stale_events += worker->loop.stale_events;
    uint32_t index = 0;
    const struct kqn_conn *conn;
    while ((conn = kqn_worker_next_conn(worker, &index)))
        sum->pending += conn->out ? conn->out->mark : 0;
}

static void check_equal(uint64_t actual, uint64_t expected, const char *what)
{
    if (actual != expected)
        world_fail("%s: %llu, and should be %llu", what, (unsigned long long)actual, (unsigned long long)expected);
}

static void check_between(uint64_t least, uint64_t actual, uint64_t most, const char *what)
{
    if (actual < least || actual > most)
        world_fail("%s: %llu, and should be %llu to %llu", what, (unsigned long long)actual, (unsigned long long)least,
                   (unsigned long long)most);
}

/* What was answered is known where a connection is owed nothing; elsewhere it is at most what it has been sent whole. Of
 * one that has broken nobody knows whether its end was taken for one. */
static void check_messages(const struct kqn_stats *sum)
{
    uint64_t framed = 0, read = 0, answered_least = 0, answered_most = 0;
    bool any_broken = false;
    for (int i = 0; i < clients.count; i++) {
        struct model *model = &clients.list[i].model;
        size_t written = clients.list[i].written;
        uint32_t answers = model_answers_within(model, written);
        read += model->message_count;
        answered_most += answers;
        any_broken = any_broken || clients.list[i].was_broken;
        if (clients.list[i].was_broken)
            continue;
        bool is_settled = !model_owes(model, written);
        framed += is_settled && !model->is_over ? model->message_count : answers;
        answered_least += is_settled ? answers : 0;
    }
    bool has_ended = sum->open == 0; /* then all that was read is counted */
    check_between(has_ended && !any_broken ? read : framed, sum->messages, read, "messages");
    check_between(answered_least, sum->answered, answered_most, "answered");
}

void judge_sums(void)
{
    struct kqn_stats sum = {0};
    for (int i = 0; i < judge.server->worker_count; i++)
        add_stats(&sum, &judge.server->workers[i]);
    uint64_t closed = 0;
    for (int reason = 0; reason < KQN_REASON_COUNT; reason++) {
        closed += sum.closed[reason];
        check_equal(sum.closed[reason], judge.closed[reason], reason_names[reason]);
    }
    check_equal(sum.accepted, sockets.accepted, "accepted");
    check_equal(sum.open + (uint64_t)sum.handed_over + closed, sum.accepted, "open, handed over and closed");
    check_equal(sum.answered + sum.declined + sum.failed + sum.unanswered + sum.pending, sum.messages,
                "answered, declined, failed, unanswered and pending");
    check_equal(sum.bytes_in, judge.read_bytes, "bytes_in");
    check_equal(sum.bytes_out, judge.written_bytes, "bytes_out");
    check_equal(sum.declined, judge.declined, "declined");
    check_equal(sum.failed, judge.failed, "failed");
    if (sum.stale_events < judge.stale_events && !judge.loop_has_failed)
        check_equal(sum.stale_events, judge.stale_events, "stale events");
    check_messages(&sum);
}

/* --- The end --- */

static void check_client(const struct client *client)
{
    if (client->is_accepted && !client->server_closed && !judge.loop_has_failed)
        world_fail("client %d is left open", client->index);
    bool is_whole = client->has_reason && client->reason == KQN_REASON_EOF && !client->is_reset;
    if (is_whole && client->is_done && client->taken != client->model.expected_len)
        world_fail("client %d got %zu bytes of %zu", client->index, client->taken, client->model.expected_len);
}

void judge_end(void)
{
    judge_sums();
    if (judge.stop_ns >= 0)
        check_time_of_stop();
    for (int i = 0; i < clients.count; i++)
        check_client(&clients.list[i]);
    for (int i = 0; i < judge.server->worker_count && !judge.loop_has_failed; i++) {
        struct kqn_stats stats;
        struct kqn_record record;
        const struct kqn_worker *worker = &judge.server->workers[i];
        check_equal(worker->lingering + worker->starved, 0, "lingering and starved at the end");
        kqn_server_stats(judge.server, i, &stats, 0);
        check_equal(stats.open + stats.pending, 0, "open and pending at the end");
        while (kqn_server_read_journal(judge.server, i, &record, 1) > 0)
            ;
    }
}
