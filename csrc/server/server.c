#include "server/server.h"

#include <errno.h>
#include <string.h>

#include "core/sys.h"
#include "poller/fork.h"
#include "server/sweep.h"

static const int64_t stats_poll_ns = 100 * 1000;

static uint32_t ms_of(int64_t duration_ns)
{
    return (uint32_t)((duration_ns + 999999) / 1000000);
}

static int copy_settings(struct kqn_server *server, const struct kqn_settings *settings)
{
    server->framing = (struct kqn_framing){.kind = settings->framing, .max_message = settings->max_message};
    server->read_size = settings->read_size;
    server->idle_timeout_ms = ms_of(settings->idle_timeout_ns);
    server->message_timeout_ms = ms_of(settings->message_timeout_ns);
    server->write_timeout_ms = ms_of(settings->write_timeout_ns);
    server->sweep_ns = kqn_sweep_interval_ns(server);
    server->spin_ns = settings->spin_ns;
    server->share_of_memory = settings->max_buffered / (size_t)settings->loops;
    server->max_connections = settings->max_connections;
    server->batch = settings->batch;
    server->log_rate = settings->log_rate;
    server->poller = settings->poller;
    server->worker_count = settings->loops;
    if (!settings->reply)
        return 0;
    size_t error_at;
    int rc =
        kqn_template_compile(&server->template, KQN_TEMPLATE_REPLY, settings->reply, settings->reply_len, &error_at);
    if (rc < 0)
        return rc;
    for (int i = 0; i < server->template.part_count; i++)
        server->template_has_peer |= server->template.parts[i].kind == KQN_PART_PEER;
    server->template_surrounds = kqn_template_surrounds(&server->template, &server->prefix, &server->prefix_len,
                                                        &server->suffix, &server->suffix_len);
    server->replies_in_place = server->template_surrounds && settings->framing == KQN_FRAMING_STREAM;
    return 0;
}

static int open_workers(struct kqn_server *server)
{
    size_t size = (size_t)server->worker_count * sizeof(*server->workers);
    server->workers = kqn_sys_alloc_lines(size);
    int count = server->workers ? 0 : -1;
    int rc = -ENOMEM;
    while (count >= 0 && count < server->worker_count) {
        rc = kqn_worker_open(&server->workers[count], server, count);
        if (rc < 0)
            break;
        count++;
    }
    if (rc < 0)
        server->worker_count = count < 0 ? 0 : count; /* those to be closed */
    return rc;
}

int kqn_server_open(struct kqn_server **out, const struct kqn_settings *settings, enum kqn_step *failed_step)
{
    *out = NULL;
    *failed_step = KQN_STEP_MEMORY;
    struct kqn_server *server = kqn_sys_alloc_lines(sizeof(*server));
    if (!server)
        return -ENOMEM;
    memset(server, 0, sizeof(*server));
    server->listener.fd = -1;
    int rc = kqn_fork_watch();
    if (rc < 0)
        goto fail;
    server->fork_generation = kqn_fork_generation();
    if ((rc = kqn_networks_open(&server->networks, settings->networks, settings->network_count)) < 0)
        goto fail;
    *failed_step = KQN_STEP_TEMPLATE;
    if ((rc = copy_settings(server, settings)) < 0)
        goto fail;
    if ((rc = kqn_listener_open(&server->listener, settings, failed_step)) < 0)
        goto fail;
    *failed_step = KQN_STEP_POLLER;
    if ((rc = open_workers(server)) < 0)
        goto fail;
    if ((rc = kqn_listener_start(&server->listener, &server->workers[0])) < 0)
        goto fail;
    *out = server;
    return 0;
fail:
    if (!server->workers)
        server->worker_count = 0;
    kqn_server_close(server);
    return rc;
}

static bool is_foreign(const struct kqn_server *server)
{
    return kqn_fork_generation() != server->fork_generation;
}

void kqn_server_close(struct kqn_server *server)
{
    if (!server || is_foreign(server))
        return;
    for (int i = 0; i < server->worker_count; i++)
        kqn_worker_close(&server->workers[i]);
    kqn_listener_close(&server->listener);
    kqn_sys_free(server->workers);
    kqn_networks_close(&server->networks);
    kqn_template_reset(&server->template);
    kqn_sys_free(server);
}

int kqn_server_address(const struct kqn_server *server, char host[KQN_PEER_TEXT_MAX], int *port)
{
    if (is_foreign(server))
        return -ECHILD;
    host[0] = 0;
    *port = server->listener.address.port;
    if (!server->listener.uds_path)
        kqn_peer_host(&server->listener.address, host);
    return 0;
}

/* The worker that a call means, or NULL with -errno in *rc. */
static struct kqn_worker *worker_at(struct kqn_server *server, int loop_index, int *rc)
{
    *rc = is_foreign(server) ? -ECHILD : loop_index < 0 || loop_index >= server->worker_count ? -EINVAL : 0;
    return *rc < 0 ? NULL : &server->workers[loop_index];
}

int kqn_server_run_with(struct kqn_server *server, int loop_index, kqn_answerer *answer, void *context)
{
    int rc;
    struct kqn_worker *worker = worker_at(server, loop_index, &rc);
    if (rc == 0 && answer) {
        rc = kqn_batch_open(&worker->batch, server->framing.kind);
        worker->batch.answer = answer;
        worker->batch.context = context;
    }
    return worker ? kqn_worker_run(worker, rc) : rc;
}

int kqn_server_run(struct kqn_server *server, int loop_index)
{
    return kqn_server_run_with(server, loop_index, NULL, NULL);
}

int kqn_server_stop(struct kqn_server *server, int64_t grace_ns)
{
    if (is_foreign(server))
        return -ECHILD;
    if (atomic_exchange(&server->stop_begun, true))
        return 0;
    server->stop_grace_ns = grace_ns;
    atomic_store(&server->stop_asked, true);
    kqn_poller_wake(server->workers[0].loop.poller); /* fails only if its descriptors were closed under it */
    return 0;
}

int kqn_server_stats(struct kqn_server *server, int loop_index, struct kqn_stats *out, int64_t wait_ns)
{
    int rc;
    struct kqn_worker *worker = worker_at(server, loop_index, &rc);
    if (!worker)
        return rc;
    unsigned ticket = atomic_fetch_add(&worker->stats_asked, 1) + 1;
    kqn_poller_wake(worker->loop.poller);
    int64_t give_up_ns = kqn_sys_monotonic_ns() + wait_ns;
    while (atomic_load(&worker->running) && (int)(atomic_load(&worker->stats_told) - ticket) < 0 &&
           kqn_sys_monotonic_ns() < give_up_ns)
        kqn_sys_sleep_ns(stats_poll_ns);
    pthread_mutex_lock(&worker->published_lock);
    *out = worker->published;
    pthread_mutex_unlock(&worker->published_lock);
    return 0;
}

int kqn_server_read_journal(struct kqn_server *server, int loop_index, struct kqn_record *records, int max)
{
    int rc;
    struct kqn_worker *worker = worker_at(server, loop_index, &rc);
    return worker ? kqn_journal_take(&worker->journal, records, max) : rc;
}

int64_t kqn_backlog_limit(void)
{
    return kqn_sys_backlog_limit();
}

int64_t kqn_descriptors_raise(int64_t wanted)
{
    return kqn_sys_raise_descriptor_limit(wanted);
}
