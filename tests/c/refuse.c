/* refuse.c: whatever call the system refuses, on real descriptors and real pollers.
 * A scenario is run again and again, each time with the next of its calls refused, once and then for good, until none is
 * left to refuse. Each time it must end, say the truth, and leave no descriptor behind (and no memory: the address
 * sanitizer's business). The core must have been compiled with refuse.h before each file. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api.h"
#include "check.h"
#include "poller/poller.h"
#include "server/server.h"

enum {
    MAX_CALLS = 2000, /* of one scenario; more would be a loop without end */
    HIGH_FD = 3000,   /* beyond the first chunk of a poller's table, and beyond a select() set */
    LONG_MESSAGE_BYTES = 100 * 1000,
    SERVER_LOOPS = 2,
    PREFIX_LEN = 8, /* what the template puts before a message */
    PATIENCE_S = 20,
};

struct refusal {
    bool counts;
    bool is_lasting; /* all calls after the one that is due fail too */
    int calls;       /* so far */
    int due;         /* the number of the call that fails */
};
static _Thread_local struct refusal refusal;

bool refuses(int error); /* as refuse.h has it, without the calls that it changes */

bool refuses(int error)
{
    if (!refusal.counts)
        return false;
    refusal.calls++;
    bool lasts = refusal.is_lasting && error != EAGAIN; /* sooner or later a kernel has room for a byte */
    bool refused = refusal.calls == refusal.due || (lasts && refusal.calls > refusal.due);
    if (refused)
        errno = error;
    return refused;
}

static bool has_refused(void)
{
    return refusal.calls >= refusal.due;
}

static int next_descriptor(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(fd);
    return fd;
}

/* --- A poller --- */

enum {
    SAW_READ = 1,
    SAW_WRITE = 2,
};

static unsigned bit_of(const struct kevent *event)
{
    return event->filter == EVFILT_READ ? SAW_READ : SAW_WRITE;
}

/* Registers both knotes of a descriptor, and looks at what comes: of a change that was refused nothing, of the other
 * its event. */
static void watch_both(struct kqn_poller *poller, int fd)
{
    struct kevent events[4];
    unsigned refused = 0, seen = 0;
    kqn_event_set(&events[0], fd, EVFILT_READ, EV_ADD | EV_ENABLE, 1);
    kqn_event_set(&events[1], fd, EVFILT_WRITE, EV_ADD | EV_ENABLE, 2);
    struct kevent changes[2] = {events[0], events[1]};
    for (int turn = 0; turn < 3; turn++) {
        int count = kqn_poller_wait(poller, changes, turn == 0 ? 2 : 0, events, 4, 0);
        CHECK(count >= 0);
        for (int i = 0; i < count; i++) {
            unsigned *set = events[i].flags & EV_ERROR ? &refused : &seen;
            *set |= bit_of(&events[i]);
            CHECK_INT(events[i].ident, fd);
            CHECK_INT(kqn_event_udata(&events[i]), bit_of(&events[i]));
        }
    }
    CHECK_INT(seen & refused, 0);
    CHECK_INT(seen | refused, SAW_READ | SAW_WRITE);
    CHECK(refused == 0 || has_refused());
    kqn_poller_forget(poller, fd);
}

/* A number with a descriptor's in its low bits is not that descriptor. A kernel's own kqueue may see it otherwise. */
static void watch_wide_number(struct kqn_poller *poller, int fd)
{
    struct kevent change;
    kqn_event_set(&change, fd, EVFILT_READ, EV_ADD | EV_ENABLE, 1);
    change.ident |= (uintptr_t)1 << 32;
    CHECK_INT(kqn_poller_wait(poller, &change, 1, &change, 1, 0), 1);
    CHECK_SET(change.flags, EV_ERROR);
    CHECK_INT(change.data, EBADF);
}

static void use_poller(struct kqn_poller *poller, bool takes_high_numbers)
{
    int fds[2];
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_INT(write(fds[1], "x", 1), 1);
    int high_fd = fcntl(fds[0], F_DUPFD_CLOEXEC, HIGH_FD);
    struct kevent event;
    watch_both(poller, fds[0]);
    if (!KQN_HAVE_KQUEUE && sizeof(uintptr_t) > 4)
        watch_wide_number(poller, fds[0]);
    if (takes_high_numbers && high_fd >= 0)
        watch_both(poller, high_fd);
    int rc = kqn_poller_wake(poller);
    CHECK(rc == 0 || has_refused());
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, &event, 1, rc == 0 ? -1 : 0), 0);
    close(high_fd);
    close(fds[0]);
    close(fds[1]);
}

static void run_poller(int kind)
{
    struct kqn_poller *poller = NULL;
    int rc = kqn_poller_open(&poller, (enum kqn_poller_kind)kind);
    CHECK(rc == 0 || (rc < 0 && has_refused()));
    if (rc < 0)
        return;
    use_poller(poller, kind != KQN_POLLER_SELECT);
    kqn_poller_close(poller);
}

/* --- A server, and a client that is served after the stop, so that one thread does all of it --- */

static void answer_all(void *context, struct kqn_batch *batch)
{
    (void)context;
    for (int i = 0; i < batch->count; i++)
        if (kqn_batch_set_answer(batch, i, kqn_batch_message(batch, i), batch->entries[i].message_len) < 0)
            batch->entries[i].verdict = KQN_VERDICT_FAILED;
}

static int connect_client(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, (const struct sockaddr *)(const void *)&address, sizeof(address)) == 0);
    return fd;
}

static void send_messages(int fd)
{
    static char line[LONG_MESSAGE_BYTES];
    memset(line, 'x', sizeof(line));
    line[sizeof(line) - 1] = '\n';
    CHECK_INT(send(fd, "short\n", 6, 0), 6);
    CHECK_INT(send(fd, line, sizeof(line), 0), sizeof(line));
    shutdown(fd, SHUT_WR);
}

static void check_counters(struct kqn_server *server)
{
    struct kqn_stats stats;
    uint64_t ended = 0, accepted = 0;
    int64_t handed_over = 0;
    for (int loop = 0; loop < SERVER_LOOPS; loop++) {
        CHECK_INT(kqn_server_stats(server, loop, &stats, 0), 0);
        for (int reason = 0; reason < KQN_REASON_COUNT; reason++)
            ended += stats.closed[reason];
        accepted += stats.accepted;
        handed_over += stats.handed_over;
        CHECK_INT(stats.pending, 0);
        CHECK_INT(stats.messages, stats.answered + stats.failed + stats.unanswered);
    }
    CHECK_INT(accepted, ended);
    CHECK_INT(handed_over, 0);
}

/* The lines of one loop, when nothing was refused: one client's beginning, its two messages and its end. */
static void check_journal(struct kqn_server *server, int loop)
{
    struct kqn_record records[5];
    CHECK_INT(kqn_server_read_journal(server, loop, records, 5), 4);
    for (int i = 0; i < 4; i++) {
        CHECK(records[i].fd == records[0].fd && records[i].fd > STDERR_FILENO);
        CHECK(strcmp(records[i].peer, records[0].peer) == 0 && strncmp(records[i].peer, "127.0.0.1:", 10) == 0);
    }
    CHECK_INT(records[0].kind, KQN_RECORD_CONNECTED);
    CHECK_INT(records[1].kind, KQN_RECORD_RECEIVED);
    CHECK_INT(records[1].bytes, 5);
    CHECK(records[1].text_len == 5 && memcmp(records[1].text, "short", 5) == 0);
    CHECK_INT(records[2].kind, KQN_RECORD_RECEIVED);
    CHECK_INT(records[2].bytes, LONG_MESSAGE_BYTES - 1);
    CHECK(records[2].text_len == KQN_RECORD_TEXT_MAX && records[2].text[KQN_RECORD_TEXT_MAX - 1] == 'x');
    CHECK_INT(records[3].kind, KQN_RECORD_DISCONNECTED);
    CHECK_INT(records[3].reason, KQN_REASON_EOF);
}

/* All that a client is answered, when nothing was refused. */
static void check_answers(int fd, size_t prefix_len)
{
    static char answers[2 * LONG_MESSAGE_BYTES];
    size_t len = 0;
    ssize_t n;
    while ((n = recv(fd, answers + len, sizeof(answers) - len, 0)) > 0)
        len += (size_t)n;
    CHECK_INT(len, 2 * prefix_len + 6 + LONG_MESSAGE_BYTES);
    CHECK(memcmp(answers + prefix_len, "short\n", 6) == 0 && answers[len - 2] == 'x' && answers[len - 1] == '\n');
}

static void run_server(int has_hook)
{
    const struct kqn_settings settings = {
        .host = "127.0.0.1",
        .reply = has_hook ? NULL : "to you: {message}",
        .reply_len = has_hook ? 0 : 17,
        .read_size = 4096,
        .max_message = 1 << 20,
        .max_buffered = 1 << 22,
        .framing = KQN_FRAMING_LINE,
        .backlog = 16,
        .batch = 16,
        .loops = SERVER_LOOPS,
        .max_connections = 100,
        .log_rate = 10,
    };
    struct kqn_server *server;
    enum kqn_step step;
    int rc = kqn_server_open(&server, &settings, &step);
    CHECK(rc == 0 || (rc < 0 && has_refused() && server == NULL));
    if (rc < 0)
        return;
    char host[KQN_PEER_TEXT_MAX];
    int port, clients[SERVER_LOOPS];
    kqn_server_address(server, host, &port);
    for (int i = 0; i < SERVER_LOOPS; i++)
        send_messages(clients[i] = connect_client(port));
    CHECK(kqn_server_stop(server, 0) == 0 || has_refused());
    for (int i = 0; i < SERVER_LOOPS; i++)
        CHECK(kqn_server_run_with(server, i, has_hook ? answer_all : NULL, NULL) == 0 || has_refused());
    check_counters(server);
    for (int i = 0; i < SERVER_LOOPS && !has_refused(); i++) {
        check_journal(server, i);
        check_answers(clients[i], has_hook ? 0 : PREFIX_LEN);
    }
    for (int i = 0; i < SERVER_LOOPS; i++)
        close(clients[i]);
    kqn_server_close(server);
}

/* Its sockets would get a standard descriptor's number, and a client be sent what others write there. */
static void run_server_without_input(int has_hook)
{
    int kept = dup(STDIN_FILENO);
    close(STDIN_FILENO);
    run_server(has_hook);
    dup2(kept, STDIN_FILENO);
    close(kept);
}

/* --- The limit of descriptors --- */

static int64_t soft_limit(void)
{
    struct rlimit limit;
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
    return (int64_t)limit.rlim_cur;
}

static void set_soft_limit(int64_t wanted)
{
    struct rlimit limit;
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = (rlim_t)wanted;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void run_limit(int wanted)
{
    int64_t before = soft_limit();
    set_soft_limit(wanted / 2);
    int64_t told = kqn_descriptors_raise(wanted);
    CHECK(told == wanted || has_refused());
    CHECK(told < 0 || told == soft_limit());
    set_soft_limit(before);
}

/* --- A load tester, against a server in a thread of its own, whose calls are its own --- */

struct peer {
    struct kqn_server *server;
    pthread_t thread;
    int port;
};

static void *run_peer(void *argument)
{
    kqn_server_run(((struct peer *)argument)->server, 0);
    return NULL;
}

static struct peer start_peer(void)
{
    const struct kqn_settings settings = {
        .host = "127.0.0.1",
        .reply = "{message}",
        .reply_len = 9,
        .read_size = 4096,
        .max_message = 4096,
        .max_buffered = 1 << 20,
        .framing = KQN_FRAMING_LINE,
        .backlog = 16,
        .batch = 16,
        .loops = 1,
        .max_connections = 100,
    };
    static struct peer peer;
    enum kqn_step step;
    char host[KQN_PEER_TEXT_MAX];
    CHECK_INT(kqn_server_open(&peer.server, &settings, &step), 0);
    CHECK_INT(kqn_server_address(peer.server, host, &peer.port), 0);
    CHECK_INT(pthread_create(&peer.thread, NULL, run_peer, &peer), 0);
    return peer;
}

static void stop_peer(struct peer *peer)
{
    CHECK_INT(kqn_server_stop(peer->server, 0), 0);
    pthread_join(peer->thread, NULL);
    kqn_server_close(peer->server);
}

static const int64_t patience_ns = 20000000; /* short: whatever is refused for good waits for it */
static int load_port;

static void check_load(struct kqn_load *load, int rc)
{
    static struct kqn_histogram latency, service, connecting;
    struct kqn_load_totals totals;
    struct kqn_load_interval interval;
    while (kqn_load_take_interval(load, &interval, &latency) == 1)
        continue;
    CHECK_INT(kqn_load_result(load, &totals, &latency, &service, &connecting), 0);
    uint64_t errors = 0;
    for (int i = 0; i < KQN_LOAD_ERROR_COUNT; i++)
        errors += totals.errors[i];
    errors -= totals.errors[KQN_LOAD_TIMEOUT]; /* a busy machine takes its time */
    CHECK(totals.messages <= totals.sent);
    CHECK(has_refused() || (rc == 0 && errors == 0));
}

static void run_load(int from_template)
{
    static const uint8_t *const bodies[] = {(const uint8_t *)"ping"};
    static const size_t body_lens[] = {4};
    static const char *const sources[] = {"127.0.0.1"};
    const struct kqn_load_settings settings = {
        .host = "127.0.0.1",
        .port = load_port,
        .sources = from_template ? NULL : sources,
        .source_count = from_template ? 0 : 1,
        .bodies = from_template ? NULL : bodies,
        .body_lens = body_lens,
        .body_count = 1,
        .message_template = "{n} {conn}",
        .message_template_len = from_template ? 10 : 0,
        .expect = "{message}",
        .expect_len = 9,
        .max_messages = 6,
        .timeout_ns = patience_ns,
        .connect_timeout_ns = patience_ns,
        .framing = KQN_FRAMING_LINE,
        .connections = 2,
        .depth = 1,
        .loops = 1,
        .reconnect_every = 2,
    };
    struct kqn_load *load;
    int rc = kqn_load_open(&load, &settings);
    CHECK(rc == 0 || (rc < 0 && has_refused()));
    if (rc < 0)
        return;
    rc = kqn_load_run(load, 0);
    check_load(load, rc);
    kqn_load_close(load);
}

/* --- All of them --- */

struct scenario {
    const char *name;
    void (*run)(int variant);
    int variant;
};

static const struct scenario scenarios[] = {
    {"the best poller", run_poller, KQN_POLLER_AUTO},
    {"epoll", run_poller, KQN_POLLER_EPOLL},
    {"poll", run_poller, KQN_POLLER_POLL},
    {"select", run_poller, KQN_POLLER_SELECT},
    {"a server with a template", run_server, false},
    {"a server with a hook", run_server, true},
    {"a server with standard input closed", run_server_without_input, false},
    {"the limit of descriptors", run_limit, 200},
    {"a load of fixed messages", run_load, false},
    {"a load of messages from a template", run_load, true},
};

static char stuck[200]; /* what to say of a run that does not end */

static void on_alarm(int signal)
{
    (void)signal;
    ssize_t written = write(STDOUT_FILENO, stuck, strlen(stuck));
    _exit(written < 0 ? 2 : 1);
}

/* Refuses each call in turn; returns how many there are. */
static int refuse_each(const struct scenario *scenario, bool is_lasting)
{
    int due = 1;
    for (;; due++) {
        int before = next_descriptor();
        refusal = (struct refusal){.counts = true, .is_lasting = is_lasting, .due = due};
        snprintf(stuck, sizeof(stuck), "FAIL %s: it does not end, with call %d refused %s\n", scenario->name, due,
                 is_lasting ? "for good" : "once");
        alarm(PATIENCE_S);
        scenario->run(scenario->variant);
        alarm(0);
        refusal.counts = false;
        CHECK_INT(next_descriptor(), before);
        if (check.failed_checks > 0)
            printf("call %d of %s, refused %s:\n", due, scenario->name, is_lasting ? "for good" : "once");
        if (check.failed_checks > 0 || !has_refused() || due == MAX_CALLS)
            return due - 1;
    }
}

static void absent_poller(void)
{
    struct kqn_poller *poller;
    for (int kind = KQN_POLLER_KQUEUE; kind <= KQN_POLLER_SELECT; kind++)
        if (!kqn_poller_available((enum kqn_poller_kind)kind))
            CHECK_INT(kqn_poller_open(&poller, (enum kqn_poller_kind)kind), -ENOSYS);
}

int main(void)
{
    signal(SIGALRM, on_alarm);
    signal(SIGPIPE, SIG_IGN);
    struct peer peer = start_peer();
    load_port = peer.port;
    check_begin("a poller that is not there");
    absent_poller();
    check_end();
    int calls = 0;
    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        const struct scenario *scenario = &scenarios[i];
        if (scenario->run == run_poller && !kqn_poller_available((enum kqn_poller_kind)scenario->variant)) {
            check_skip(scenario->name, "this system does not have it");
            continue;
        }
        check_begin(scenario->name);
        calls += refuse_each(scenario, false);
        calls += refuse_each(scenario, true);
        check_end();
    }
    stop_peer(&peer);
    printf("refused %d calls\n", calls);
    return check_finish();
}
