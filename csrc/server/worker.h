/* worker.h: one loop of a server with all that belongs to it, and its turn.
 * A worker runs in one thread. What other threads may touch is in kqn_server, the inbox, the journal's ring, and the
 * words that are atomic here; messages never touch a word that is shared. */
#ifndef KQN_WORKER_H
#define KQN_WORKER_H
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/framing.h"
#include "core/journal.h"
#include "core/loop.h"
#include "core/template.h"
#include "server/batch.h"
#include "server/inbox.h"

enum {
    KQN_ACCEPTS_PER_TURN = 64,
    KQN_SCRATCH_BYTES = 256 * 1024 - sizeof(struct kqn_buffer),
    KQN_COPIED_PARTIAL_MAX = 4096, /* a longer unfinished message is read into where it lies, not copied */
};

struct kqn_conn;
struct kqn_server;

struct kqn_worker {
    struct kqn_loop loop; /* first: the loop's handler finds its worker */
    struct kqn_server *server;
    int index;
    /* The loop's coarse clock in ms, which wraps after 49 days. Stamps are rounded up and what they are judged by is
     * rounded down, so that no timeout ends early. */
    uint32_t now_ms;    /* for the stamps of connections */
    uint32_t waited_ms; /* when the last wait returned, by which deadlines are judged */

    /* Reading: the template's prefix, or a short unfinished message, goes in front of the bytes that are read, and
     * the template's suffix behind them. */
    uint8_t *input_block;
    uint8_t *input;
    struct kqn_buffer *scratch; /* answers on their way to one connection, between its events empty */
    struct kqn_batch batch;     /* messages on their way to the hook */

    const struct kqn_conn *answering;        /* whose messages are being framed and answered now, else NULL */
    const struct kqn_buffer *answering_from; /* its own buffer, where they lie in one */

    int64_t idle_since_ns; /* when the first wait began that brought nothing, or the last one at all */
    bool spin_pays;        /* the last events came before a spin would have been over */

    bool listener_ready;
    bool draining;       /* every connection of this loop has been told of the stop */
    bool orphaned;       /* a hook forked, and this is the child: nothing may be touched any more */
    uint32_t lingering;  /* connections that are */
    uint32_t starved;    /* connections that are */
    uint32_t full_turns; /* in a row, while a sweep was due */
    int64_t sweep_due_ns;
    int64_t swept_ns;       /* when the last sweep was */
    uint32_t sweep_late_ms; /* how much later than a sweep's interval the next one became due */

    struct kqn_journal journal;
    struct kqn_inbox *inbox; /* NULL for loop 0 */
    struct kqn_stats stats;  /* what the loop itself counts is added when they are copied */

    /* From here on, what other threads ask for. All above but the journal's ring is written by the loop alone. */
    alignas(KQN_LINE_BYTES) pthread_mutex_t published_lock;
    struct kqn_stats published; /* under published_lock */
    atomic_uint stats_asked;    /* both count requests; equal: nobody waits */
    atomic_uint stats_told;
    atomic_bool running;
    atomic_bool failed; /* its poller did; it serves nobody any more */
};
KQN_BEGINS_LINE(kqn_worker, published_lock);
_Static_assert(sizeof(struct kqn_worker) % KQN_LINE_BYTES == 0, "workers stand in an array");

int kqn_worker_open(struct kqn_worker *worker, struct kqn_server *server, int index);
void kqn_worker_close(struct kqn_worker *worker);

/* Runs until the server has stopped and the last connection has ended. 0 or -errno. rc: 0, or the -errno that kept it
 * from beginning, and then it only ends as a loop that has failed, which the others must know. */
int kqn_worker_run(struct kqn_worker *worker, int rc);

/* Takes the loop's coarse clock as the stamp from now on. */
static inline void kqn_worker_set_stamp(struct kqn_worker *worker)
{
    worker->now_ms = (uint32_t)((worker->loop.now_ns + 999999) / 1000000);
}

/* Brings the coarse clock and the stamp up to date, after something in the turn took long. */
static inline void kqn_worker_read_clock(struct kqn_worker *worker)
{
    kqn_loop_read_clock(&worker->loop);
    kqn_worker_set_stamp(worker);
}

/* Takes in a client that loop 0 accepted. */
void kqn_worker_adopt(struct kqn_worker *worker, const struct kqn_client *client);

/* Loop 0: closes a client that it accepted and whose address may not talk. */
void kqn_worker_deny(struct kqn_worker *worker, const struct kqn_client *client);

/* The next connection from *index on, or NULL. Those that have ended in this turn are among them. */
struct kqn_conn *kqn_worker_next_conn(const struct kqn_worker *worker, uint32_t *index);
#endif
