/* listener.h: the socket that clients connect to, and loop 0's accepting.
 * At the limit of connections, and when descriptors or memory run out, accepting pauses: the listener's knote is
 * switched off, so that nothing spins, until a connection closes or 100 ms have passed. macOS has thrown a client
 * away by the time that accept() says EMFILE, so one such failure ends the turn's accepting. */
#ifndef KQN_LISTENER_H
#define KQN_LISTENER_H
#include "api.h"
#include "core/loop.h"
#include "core/sys.h"
#include "server/peer.h"

struct kqn_worker;

struct kqn_accept_error { /* what is still to be said of one errno */
    int error;
    uint64_t unsaid;
    int64_t next_said_ns;
};

struct kqn_listener {
    int fd;                  /* -1 once the watch owns it, or it is closed */
    char *uds_path;          /* owned; NULL: TCP */
    struct kqn_file_id file; /* of the unix socket, so that nobody else's is removed */
    struct kqn_peer address; /* as bound */
    int backlog;
    struct kqn_watch *watch; /* in loop 0 */
    bool stopped;            /* the watch has ended */
    bool paused;
    int64_t resume_ns; /* when paused: try again then at the latest */
    int next_worker;
    struct kqn_accept_error errors[KQN_ERRNO_KINDS];
};

/* Binds and listens. 0 or -errno with *step. */
int kqn_listener_open(struct kqn_listener *listener, const struct kqn_settings *settings, enum kqn_step *step);

/* Closes what is still open, and removes the unix socket's file if it is still ours. */
void kqn_listener_close(struct kqn_listener *listener);

/* Registers it in loop 0: after listen(), or some systems never report a client. 0 or -ENOMEM. */
int kqn_listener_start(struct kqn_listener *listener, struct kqn_worker *worker);

/* Step 5 of loop 0's turn: accepts at most KQN_ACCEPTS_PER_TURN clients and hands them out in turn. */
void kqn_listener_accept(struct kqn_listener *listener, struct kqn_worker *worker);

/* The poller would not watch it: tries again after a pause. */
void kqn_listener_fail(struct kqn_listener *listener, struct kqn_worker *worker, int error);

/* Every turn of loop 0: ends a pause that is over. */
void kqn_listener_tick(struct kqn_listener *listener, struct kqn_worker *worker);

/* The stop: takes in the clients that have connected by now, then listens no more. */
void kqn_listener_stop(struct kqn_listener *listener, struct kqn_worker *worker);
#endif
