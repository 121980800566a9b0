/* server.h: a listener, the workers that serve what it accepts, and what they share. */
#ifndef KQN_SERVER_H
#define KQN_SERVER_H
#include <stdatomic.h>

#include "core/template.h"
#include "server/listener.h"
#include "server/networks.h"
#include "server/worker.h"

/* As kqn_server_run(), with a hook in the template's place. -ENOMEM where there is no memory for its batch. */
int kqn_server_run_with(struct kqn_server *server, int loop_index, kqn_answerer *answer, void *context);

struct kqn_server {
    struct kqn_framing framing;
    struct kqn_template template;
    bool template_has_peer;
    bool template_surrounds; /* the message: prefix and suffix, which lie in the template, are all else that it has */
    bool replies_in_place;   /* it does, and the framing is stream */
    const uint8_t *prefix;
    size_t prefix_len;
    const uint8_t *suffix;
    size_t suffix_len;
    size_t read_size;
    uint32_t idle_timeout_ms; /* 0: never, as with the next two */
    uint32_t message_timeout_ms;
    uint32_t write_timeout_ms;
    int64_t spin_ns;        /* that a loop looks for events before it sleeps; 0: not at all */
    int64_t sweep_ns;       /* between two looks at deadlines */
    size_t share_of_memory; /* bytes of buffers that the connections of one loop may hold */
    struct kqn_networks networks;
    int max_connections;
    int batch;
    int log_rate;
    enum kqn_poller_kind poller;
    unsigned fork_generation; /* of the process that opened it */

    int worker_count;
    struct kqn_worker *workers;

    /* What stands above is never written while loops run. Each of these has cache lines of its own: loop 0's listener;
     * what loops write when a connection ends, and never for a message; and what they look at in each turn. */
    alignas(KQN_LINE_BYTES) struct kqn_listener listener;
    alignas(KQN_LINE_BYTES) atomic_int open_connections; /* over all loops: what max_connections limits */
    atomic_bool accept_waits;                            /* loop 0 has paused: a connection that closes wakes it */
    alignas(KQN_LINE_BYTES) atomic_bool stop_begun;      /* the first who asks decides the grace */
    atomic_bool stop_asked;
    int64_t stop_grace_ns;     /* written before stop_asked */
    atomic_bool drain_asked;   /* by loop 0, when the last client stands in its inbox */
    int64_t drain_deadline_ns; /* written before drain_asked */
};
KQN_BEGINS_LINE(kqn_server, listener);
KQN_BEGINS_LINE(kqn_server, open_connections);
KQN_BEGINS_LINE(kqn_server, stop_begun);
#endif
