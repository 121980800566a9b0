/* api.h: all that Python may call.
 * The one declaration of it: C includes this file, and build_ffi.py hands it to cffi without the lines that start
 * with '#'. So it keeps to what a cdef understands: enums, structs and prototypes; constants are enumerators.
 * Functions that can fail return 0 or a count, or -errno. In a process that has forked since a server was opened,
 * every function that takes this server returns -ECHILD and touches nothing. */
#ifndef KQN_API_H
#define KQN_API_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kqn_limit {
    KQN_DESCRIPTOR_RESERVE = 32,  /* descriptors of a process that no connection may take */
    KQN_ERRNO_KINDS = 16,         /* different errnos that are counted apart; the rest share the last */
    KQN_RECORD_TEXT_MAX = 200,    /* bytes of a message that a journal record shows */
    KQN_JOURNAL_RECORDS = 256,    /* records that a loop's journal holds */
    KQN_PEER_TEXT_MAX = 64,       /* bytes of an address as text, with its final 0 */
    KQN_ANSWER_MAX = 1073741824,  /* bytes that one answer may have */
    KQN_HISTOGRAM_COUNTS = 33792, /* buckets of a histogram */
    KQN_EXAMPLES_MAX = 3,         /* wrong answers that are shown */
    KQN_EXAMPLE_TEXT_MAX = 200,   /* bytes of each */
};

enum kqn_poller_kind { /* how kevent() is made; AUTO is the system's best */
    KQN_POLLER_AUTO,
    KQN_POLLER_KQUEUE,
    KQN_POLLER_EPOLL,
    KQN_POLLER_POLL,
    KQN_POLLER_SELECT,
};

enum kqn_framing_kind { /* where a message ends */
    KQN_FRAMING_STREAM, /* with the read that returned it */
    KQN_FRAMING_LINE,   /* at its LF or CRLF */
    KQN_FRAMING_U32,    /* after as many bytes as the 4 before it say, most significant first */
};

enum kqn_template_use {   /* what a template is for, which decides what fields it may have */
    KQN_TEMPLATE_REPLY,   /* a server's answer: {message} {peer} */
    KQN_TEMPLATE_MESSAGE, /* what a load tester sends: {n} {conn} */
    KQN_TEMPLATE_EXPECT,  /* the answer that it expects: {message} */
};

enum kqn_reason {               /* why a connection ended; the order is that of conventions and of Stats.closed */
    KQN_REASON_EOF,             /* the peer had sent everything and was owed nothing */
    KQN_REASON_RESET,           /* the peer, or the network, broke the connection */
    KQN_REASON_IDLE,            /* no progress in either direction for the idle timeout */
    KQN_REASON_MESSAGE_TIMEOUT, /* a message begun was not finished in time */
    KQN_REASON_WRITE_TIMEOUT,   /* the peer took no byte of what it is owed in time */
    KQN_REASON_TOO_LONG,        /* a message longer than allowed */
    KQN_REASON_HOOK,            /* the hook raised, or returned a wrong type */
    KQN_REASON_DENIED,          /* the peer's address is not allowed */
    KQN_REASON_BUFFERED,        /* it held the most memory when there was too little */
    KQN_REASON_STOPPED,         /* the server stopped, and the peer was owed nothing */
    KQN_REASON_CUT,             /* the grace of a stop ended while the peer was owed answers */
    KQN_REASON_ERROR,           /* memory, a descriptor or the poller failed for it */
    KQN_REASON_COUNT,
};

enum kqn_step { /* where kqn_server_open() failed */
    KQN_STEP_MEMORY,
    KQN_STEP_TEMPLATE,
    KQN_STEP_ADDRESS,
    KQN_STEP_SOCKET,
    KQN_STEP_BIND,
    KQN_STEP_LISTEN,
    KQN_STEP_POLLER,
};

struct kqn_network {     /* some addresses that may talk to a server, or may not */
    uint8_t address[16]; /* IPv6, or IPv4 mapped into it; what lies behind the prefix does not matter */
    int prefix_bits;     /* 0 to 128; IPv4: 96 more than it is written with */
    bool allowed;
};

struct kqn_settings {     /* what one server does; copied by kqn_server_open() */
    const char *host;     /* a numeric address; not used with uds_path */
    const char *uds_path; /* NULL: TCP */
    const char *reply;    /* a template; NULL: a hook answers */
    size_t reply_len;
    const struct kqn_network *networks;
    int network_count;
    size_t read_size;           /* bytes that one read may return */
    size_t max_message;         /* bytes that a line or u32 message may have */
    size_t max_buffered;        /* bytes that all connections may hold in buffers; each loop has an equal share */
    int64_t idle_timeout_ns;    /* 0: never, as with the next two */
    int64_t message_timeout_ns; /* for a message that has begun */
    int64_t write_timeout_ns;   /* since the peer took the last byte of what it is owed */
    int64_t spin_ns;            /* how long a loop looks for the next event before it sleeps; 0: not at all */
    enum kqn_poller_kind poller;
    enum kqn_framing_kind framing;
    int port; /* 0: the kernel chooses */
    int backlog;
    int batch; /* events that one wait may take out */
    int loops;
    int max_connections;
    int log_rate; /* client lines that a loop may write into its journal in a second; 0: none, and none is missed */
};

struct kqn_errno_count {
    int error; /* 0: every errno that found no place of its own */
    uint64_t count;
};

struct kqn_stats {       /* one loop's counters, copied between two turns, so that their sums balance */
    uint64_t accepted;   /* by loop 0 alone: accepted = open + handed_over + the sum of closed, over all loops */
    int64_t handed_over; /* put into other loops' inboxes less taken out of its own */
    uint64_t open;
    uint64_t closed[KQN_REASON_COUNT];
    uint64_t messages;   /* messages = answered + declined + failed + unanswered + pending */
    uint64_t answered;   /* the buffer that held the answer was written whole */
    uint64_t declined;   /* the hook returned None */
    uint64_t failed;     /* the hook raised, or returned a wrong type */
    uint64_t unanswered; /* the connection ended first */
    uint64_t pending;    /* read, and neither of these yet */
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t bytes_discarded; /* read only to be thrown away, while a connection ended */
    uint64_t log_dropped;     /* records that found the journal full */
    uint64_t accept_pauses;   /* times that accepting paused, at a limit */
    uint64_t stale_events;    /* events of connections that had ended */
    uint64_t turns;
    uint64_t events;
    struct kqn_errno_count accept_errors[KQN_ERRNO_KINDS];
};

enum kqn_record_kind {
    KQN_RECORD_CONNECTED,
    KQN_RECORD_RECEIVED,
    KQN_RECORD_DISCONNECTED,
    KQN_RECORD_LEFT_OUT,     /* left_out: the client lines of each kind that log_rate kept out in about a second */
    KQN_RECORD_ACCEPT_ERROR, /* error, and count of it since the last such record */
    KQN_RECORD_LOOP_ERROR,   /* error: the poller failed, and the loop ended */
};

struct kqn_record {   /* one entry of a loop's journal: what a log line is made of */
    uint64_t time_ms; /* since 1970, UTC */
    uint64_t bytes;   /* RECEIVED: of the whole message */
    uint64_t count;
    uint64_t left_out[3]; /* by record kind: connected, received, disconnected */
    enum kqn_record_kind kind;
    enum kqn_reason reason; /* DISCONNECTED */
    int fd;
    int error;
    uint32_t text_len;
    char peer[KQN_PEER_TEXT_MAX];
    uint8_t text[KQN_RECORD_TEXT_MAX]; /* RECEIVED: the message's first bytes */
};

struct kqn_histogram { /* durations, in buckets as HdrHistogram has them: 3 significant digits up to 1 hour */
    uint64_t total;
    int64_t min_ns; /* as recorded, not rounded; 0 without any, as max_ns */
    int64_t max_ns;
    double sum_ns;
    uint64_t counts[KQN_HISTOGRAM_COUNTS];
};

enum kqn_load_error { /* what can go wrong with a message or a connection of the load tester */
    KQN_LOAD_REFUSED,
    KQN_LOAD_RESET,
    KQN_LOAD_TIMEOUT,
    KQN_LOAD_CLOSED,        /* by the server, with messages in flight */
    KQN_LOAD_WRONG_ANSWER,  /* not the expected one, or to no message in flight */
    KQN_LOAD_SHORT_ANSWER,  /* the connection ended in the middle of it */
    KQN_LOAD_NO_LOCAL_PORT, /* all ports of the source address are taken */
    KQN_LOAD_NO_DESCRIPTOR,
    KQN_LOAD_OTHER,
    KQN_LOAD_ERROR_COUNT,
};

enum kqn_load_phase { /* of a run, in this order; a run that fails or is stopped may leave some out */
    KQN_LOAD_CONNECTING,
    KQN_LOAD_WARMING,  /* messages are exchanged and not measured */
    KQN_LOAD_SETTLING, /* the answers in flight of the warm-up are awaited */
    KQN_LOAD_MEASURING,
    KQN_LOAD_WAITING, /* the answers in flight at the end are awaited */
    KQN_LOAD_DONE,
};

struct kqn_load_settings {      /* what one run does; copied by kqn_load_open() */
    const char *host;           /* a numeric address; not used with uds_path */
    const char *uds_path;       /* NULL: TCP */
    const char *const *sources; /* numeric addresses, one for each connection in turn */
    int source_count;
    const uint8_t *const *bodies; /* messages without their framing, sent in turn; NULL: message_template */
    const size_t *body_lens;
    size_t body_count;
    const char *message_template; /* a template of KQN_TEMPLATE_MESSAGE */
    size_t message_template_len;
    size_t body_pad;    /* a message from the template is filled up to so many bytes */
    const char *expect; /* a template of KQN_TEMPLATE_EXPECT; NULL: answers are only counted */
    size_t expect_len;
    size_t reply_size;    /* stream framing: bytes of an answer; 0: as many as are expected */
    int64_t duration_ns;  /* 0: until max_messages were sent */
    int64_t max_messages; /* sent while measuring; 0: no limit */
    int64_t warmup_ns;
    int64_t timeout_ns;
    int64_t connect_timeout_ns;
    int64_t think_ns;
    double connect_rate; /* connects a second; 0: as fast as they come about, at most a hundred at a time */
    double rate;         /* messages a second; 0: closed loop */
    bool poisson;
    enum kqn_framing_kind framing;
    enum kqn_poller_kind poller;
    int port;
    int connections;
    int depth; /* messages in flight on each connection */
    int loops;
    int reconnect_every; /* answers after which a connection is closed and opened anew; 0: never */
};

struct kqn_load_example { /* one wrong answer */
    uint32_t conn;
    bool asked;            /* false: no message was in flight */
    uint32_t expected_len; /* bytes shown of what was expected */
    uint32_t got_len;      /* of what came */
    bool expected_is_cut;
    bool got_is_cut; /* more of it may have come */
    uint8_t expected[KQN_EXAMPLE_TEXT_MAX];
    uint8_t got[KQN_EXAMPLE_TEXT_MAX];
};

struct kqn_load_totals { /* of a run that has ended, over all its loops */
    int64_t seconds_ns;  /* the measured time */
    uint64_t messages;   /* answered as they should be, of those sent while measuring */
    uint64_t in_time;    /* of them, answered within the measured time */
    uint64_t sent;       /* while measuring */
    uint64_t unsent;     /* open loop: were due in the measured time and not sent by its end */
    uint64_t unsent_own; /* of them, by the tester's own fault: a connection had room */
    uint64_t warmup_messages;
    uint64_t bytes_sent; /* from the beginning of the measured time on */
    uint64_t bytes_received;
    uint64_t reconnects;
    uint64_t errors[KQN_LOAD_ERROR_COUNT]; /* of the whole run, warm-up included */
    struct kqn_errno_count other_errors[KQN_ERRNO_KINDS];
    uint64_t late; /* messages sent over 1 ms late by the tester's own fault */
    int64_t late_max_ns;
    double busiest_share;   /* of a core, that the busiest loop used while measuring */
    bool measured;          /* the measured time began */
    bool had_no_connection; /* the run ended because none was open for connect_timeout_ns */
    int example_count;
    struct kqn_load_example examples[KQN_EXAMPLES_MAX];
};

struct kqn_load_interval { /* a second of the measured time, or what was left of it */
    uint64_t index;
    int64_t length_ns;
    uint64_t messages;
    uint64_t sent;
    uint64_t errors;
};

struct kqn_load_progress {
    enum kqn_load_phase phase; /* of the loop that is furthest behind */
    int open;
    int64_t measured_ns; /* since the measured time began; 0 before */
};

struct kqn_load; /* a run of the load tester: its loops, connections and counters */

struct kqn_server; /* a listener and its loops; opened, run and closed by the caller's threads */

/* Whether this system has it. AUTO is always there where anything is. */
bool kqn_poller_available(enum kqn_poller_kind kind);

/* The kind that AUTO stands for here. */
enum kqn_poller_kind kqn_poller_default(void);

/* Descriptors that a select() set can hold (FD_SETSIZE). */
int kqn_select_limit(void);

/* What the module was compiled for: "x86_64-linux", "arm64-macos" with the oldest version as the compiler writes it. */
const char *kqn_build_target(void);

/* Raises the soft limit of descriptors towards wanted (0: as far as it goes) and never lowers it; returns the limit
 * in force. */
int64_t kqn_descriptors_raise(int64_t wanted);

/* Clients that the system lets a listener's queue hold at most; -errno: that can't be read here. */
int64_t kqn_backlog_limit(void);

/* 0, or -EINVAL with the index of the offending byte in *error_at, or -ENOMEM. */
int kqn_template_check(enum kqn_template_use use, const char *text, size_t len, size_t *error_at);

/* Binds, listens and opens every loop. On failure *failed_step says where, and nothing is left behind.
 * -EADDRINUSE for a unix socket that somebody serves, -ENOTSOCK where its path holds something else. */
int kqn_server_open(struct kqn_server **out, const struct kqn_settings *settings, enum kqn_step *failed_step);

/* The bound address as text, and its port (unix: "", 0). */
int kqn_server_address(const struct kqn_server *server, char host[KQN_PEER_TEXT_MAX], int *port);

/* Runs one loop in the calling thread until the server has stopped and the loop's last connection has ended.
 * Each loop is run once, all of them at the same time, loop 0 among them. -errno: the loop failed. */
int kqn_server_run(struct kqn_server *server, int loop_index);

/* Asks for the stop, from any thread: what is complete is answered, and after grace_ns what is still owed is cut.
 * The first call decides. */
int kqn_server_stop(struct kqn_server *server, int64_t grace_ns);

/* Copies one loop's counters at the end of its turn; after wait_ns (a loop busy in its hook) those copied last. */
int kqn_server_stats(struct kqn_server *server, int loop_index, struct kqn_stats *out, int64_t wait_ns);

/* Takes up to max records out of a loop's journal. One thread at a time. */
int kqn_server_read_journal(struct kqn_server *server, int loop_index, struct kqn_record *records, int max);

/* Frees everything. Only when no loop runs; NULL is allowed, and in a forked child nothing happens. */
void kqn_server_close(struct kqn_server *server);

/* Makes a run ready: nothing is connected yet. Poller, framing and templates are taken as they are; the caller checks.
 * -EINVAL: an address is not numeric. -ENAMETOOLONG: uds_path. */
int kqn_load_open(struct kqn_load **out, const struct kqn_load_settings *settings);

/* Runs one loop in the calling thread to the end of the run. Each loop is run once, all of them at the same time.
 * -errno: the loop failed, and the whole run with it. */
int kqn_load_run(struct kqn_load *load, int loop_index);

/* Ends the measured time now, from any thread; answers in flight are awaited for 1 s at most. */
int kqn_load_stop(struct kqn_load *load);

int kqn_load_progress(struct kqn_load *load, struct kqn_load_progress *out);

/* Takes the next interval out, once all loops have gone through it, with the latencies of its messages added to the
 * histogram. 1; 0: not yet; -ENOENT: that were all. One thread at a time. */
int kqn_load_take_interval(struct kqn_load *load, struct kqn_load_interval *out, struct kqn_histogram *latency);

/* What came out, when no loop runs any more; the histograms are added to. latency: open loop, from a message's intended
 * time; else from its sending. service: open loop, from its sending; else nothing. */
int kqn_load_result(struct kqn_load *load, struct kqn_load_totals *out, struct kqn_histogram *latency,
                    struct kqn_histogram *service, struct kqn_histogram *connect);

/* Frees everything. Only when no loop runs; NULL is allowed, and in a forked child nothing happens. */
void kqn_load_close(struct kqn_load *load);

/* Records one duration, clamped to 0 and to 1 hour. */
void kqn_histogram_record(struct kqn_histogram *histogram, int64_t duration_ns);

void kqn_histogram_add(struct kqn_histogram *into, const struct kqn_histogram *from);

/* The smallest recorded duration that at least this share of all does not exceed, rounded up to the end of its bucket
 * but never above max_ns; 0 without any. */
int64_t kqn_histogram_percentile(const struct kqn_histogram *histogram, double percent);

/* Adds to the extension module (its address, as id() gives it) the functions that take Python objects:
 * run_loop(server_address, loop_index, reply, reply_batch, on_error) -> int, as kqn_server_run(), with a hook. */
int kqn_hook_install(uintptr_t module);
#endif
