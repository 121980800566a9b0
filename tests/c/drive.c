/* drive.c: the load tester against the server, both in one process without Python, as sanitizers and a bare kernel run
 * them.
 *
 *     drive [FRAMING [LOAD_LOOPS [SERVER_LOOPS [POLLER [SECONDS]]]]]
 *
 * A row is a run. What came out of it must agree with itself, with its intervals and with the server's own counters.
 * Meanwhile the main thread asks how far it is and takes intervals out, as Python does. All runs together take about
 * SECONDS (5). */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api.h"
#include "check.h"

enum {
    MAX_LOOPS = 16,
    CONNECTIONS = 40,
    DEPTH = 4,
    RATE = 1000,    /* of each loop in an open one: its messages are whole nanoseconds apart */
    STUCK_S = 30,   /* a run that takes so much longer than it should */
    PREFIX_LEN = 8, /* what the server puts before a message */
    BODY_LEN = 4,
};

#define REPLY "system: {message}"
#define MESSAGE "hello {n} from {conn}"

static const int64_t ms_ns = 1000000;
static const int64_t second_ns = 1000000000;

struct job {
    const char *name;
    int64_t messages; /* 0: by time */
    double share;     /* of the program's time, to be measured */
    double warmup_share;
    double rate; /* of each loop; 0: closed loop */
    int64_t think_ns;
    int reconnect_every;
    bool poisson;
    bool is_fixed;    /* messages without fields */
    bool only_counts; /* fixed messages, whose answers are not compared */
    bool is_stopped;  /* in the middle of much more time */
};

static const struct job jobs[] = {
    {"closed loop, by count", .messages = 20000},
    {"closed loop, by time after a warm-up", .share = 0.3, .warmup_share = 0.03},
    {"open loop, evenly", .share = 0.2, .rate = RATE, .warmup_share = 0.03},
    {"open loop, at random", .share = 0.07, .rate = RATE, .poisson = true},
    {"fixed messages", .share = 0.05, .is_fixed = true},
    {"fixed messages, answers only counted", .messages = 20003, .warmup_share = 0.02, .is_fixed = true,
     .only_counts = true},
    {"connections opened anew", .messages = 2801, .reconnect_every = 7},
    {"connections opened anew after a warm-up", .share = 0.02, .warmup_share = 0.01, .reconnect_every = 1},
    {"connections that think", .share = 0.07, .think_ns = 5000000},
    {"a run that is stopped", .share = 0.07, .is_stopped = true},
};

/* All as long: in stream framing the length of an answer is said beforehand. */
static const uint8_t *const bodies[] = {(const uint8_t *)"ping", (const uint8_t *)"pong", (const uint8_t *)"pang"};
static const size_t body_lens[] = {BODY_LEN, BODY_LEN, BODY_LEN};

struct drive { /* what all runs have in common */
    enum kqn_framing_kind framing;
    enum kqn_poller_kind poller;
    int load_loops;
    int server_loops;
    double seconds;
    struct kqn_server *server;
    int port;
};

struct run {
    const struct job *job;
    const struct drive *drive;
    struct kqn_load_settings settings;
    struct kqn_load *load;
    atomic_int running; /* loops */
    struct kqn_load_progress progress;
    int most_open;
    struct kqn_load_interval sum; /* of the intervals; index: how many */
    int64_t last_length_ns;
    struct kqn_load_totals totals;
};

struct loop_thread {
    struct run *run;           /* or */
    struct kqn_server *server; /* whose loop it is */
    int index;
    int result;
    pthread_t thread;
};

/* Of the run under way. */
static struct kqn_histogram latency, service, connecting, of_intervals;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * second_ns + now.tv_nsec;
}

/* A share of the program's time, in whole milliseconds. */
static int64_t share_ns(const struct drive *drive, double share)
{
    return (int64_t)(share * drive->seconds * 1000) * ms_ns;
}

static void *run_loop(void *argument)
{
    struct loop_thread *loop = argument;
    if (loop->server) {
        loop->result = kqn_server_run(loop->server, loop->index);
    } else {
        loop->result = kqn_load_run(loop->run->load, loop->index);
        atomic_fetch_sub(&loop->run->running, 1);
    }
    return NULL;
}

static void start_loops(struct loop_thread *loops, int count, struct loop_thread common)
{
    for (int i = 0; i < count; i++) {
        loops[i] = common;
        loops[i].index = i;
        if (pthread_create(&loops[i].thread, NULL, run_loop, &loops[i]) != 0)
            abort();
    }
}

static void join_loops(struct loop_thread *loops, int count)
{
    for (int i = 0; i < count; i++) {
        pthread_join(loops[i].thread, NULL);
        CHECK_INT(loops[i].result, 0);
    }
}

static struct kqn_load_settings settings_of(const struct drive *drive, const struct job *job)
{
    bool is_exact = drive->framing != KQN_FRAMING_STREAM; /* else nothing tells answers apart */
    return (struct kqn_load_settings){
        .host = "127.0.0.1",
        .port = drive->port,
        .bodies = job->is_fixed ? bodies : NULL,
        .body_lens = body_lens,
        .body_count = sizeof(bodies) / sizeof(bodies[0]),
        .message_template = MESSAGE,
        .message_template_len = sizeof(MESSAGE) - 1,
        .expect = job->only_counts ? NULL : REPLY,
        .expect_len = sizeof(REPLY) - 1,
        .reply_size = job->only_counts ? PREFIX_LEN + BODY_LEN : 0,
        .duration_ns = job->is_stopped ? 1000 * second_ns : share_ns(drive, job->share),
        .max_messages = job->messages,
        .warmup_ns = share_ns(drive, job->warmup_share),
        .timeout_ns = STUCK_S * second_ns,
        .connect_timeout_ns = STUCK_S * second_ns,
        .think_ns = job->think_ns,
        .rate = job->rate * drive->load_loops,
        .poisson = job->poisson,
        .framing = drive->framing,
        .poller = drive->poller,
        .connections = CONNECTIONS,
        .depth = is_exact && job->think_ns == 0 ? DEPTH : 1,
        .loops = drive->load_loops,
        .reconnect_every = job->reconnect_every,
    };
}

/* --- While it runs --- */

static void look_at_progress(struct run *run)
{
    struct kqn_load_progress now;
    CHECK_INT(kqn_load_progress(run->load, &now), 0);
    CHECK(now.phase >= run->progress.phase);
    CHECK(now.open >= 0 && now.open <= CONNECTIONS);
    CHECK(now.phase < KQN_LOAD_MEASURING || now.measured_ns > 0);
    if (now.open > run->most_open)
        run->most_open = now.open;
    run->progress = now;
}

/* Takes all that are there; returns why there is no other. */
static int take_intervals(struct run *run)
{
    struct kqn_load_interval one;
    int rc;
    while ((rc = kqn_load_take_interval(run->load, &one, &of_intervals)) == 1) {
        CHECK_INT(one.index, run->sum.index);
        CHECK(run->sum.index == 0 || run->last_length_ns == second_ns);
        CHECK(one.length_ns > 0 && one.length_ns <= second_ns);
        run->sum.index++;
        run->sum.length_ns += one.length_ns;
        run->sum.messages += one.messages;
        run->sum.sent += one.sent;
        run->sum.errors += one.errors;
        run->last_length_ns = one.length_ns;
    }
    return rc;
}

static void watch(struct run *run)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    int64_t stop_ns = share_ns(run->drive, run->job->share);
    int64_t stuck_ns = now_ns() + stop_ns + run->settings.warmup_ns + STUCK_S * second_ns;
    while (atomic_load(&run->running) > 0) {
        look_at_progress(run);
        int rc = take_intervals(run);
        CHECK(rc == 0 || rc == -ENOENT);
        bool is_stuck = now_ns() >= stuck_ns;
        CHECK(!is_stuck);
        if (is_stuck || (run->job->is_stopped && run->progress.measured_ns >= stop_ns))
            CHECK_INT(kqn_load_stop(run->load), 0);
        nanosleep(&pause, NULL);
    }
}

/* --- What came out --- */

static void check_counters(const struct run *run)
{
    const struct kqn_load_totals *totals = &run->totals;
    const struct job *job = run->job;
    for (int i = 0; i < KQN_LOAD_ERROR_COUNT; i++)
        CHECK_INT(totals->errors[i], 0);
    CHECK_INT(totals->example_count, 0);
    CHECK(totals->measured && !totals->had_no_connection);
    CHECK(totals->messages > 0);
    if (job->is_stopped)
        CHECK(totals->messages <= totals->sent);
    else
        CHECK_INT(totals->messages, totals->sent);
    if (job->messages > 0)
        CHECK_INT(totals->sent, job->messages);
    CHECK(totals->in_time <= totals->messages);
    CHECK_INT(totals->warmup_messages > 0, job->warmup_share > 0);
    CHECK(totals->unsent_own <= totals->unsent && totals->late <= totals->sent);
    if (totals->messages == totals->sent)
        CHECK_INT(totals->bytes_received, totals->bytes_sent + PREFIX_LEN * totals->messages);
}

static void check_times(const struct run *run)
{
    const struct kqn_load_totals *totals = &run->totals;
    CHECK(totals->seconds_ns > 0);
    if (run->job->messages == 0 && !run->job->is_stopped)
        CHECK_INT(totals->seconds_ns, run->settings.duration_ns);
    CHECK(run->sum.length_ns >= totals->seconds_ns);
    CHECK_INT(run->progress.phase, KQN_LOAD_DONE);
    CHECK_INT(run->progress.open, 0);
    if (run->job->messages == 0 && run->job->reconnect_every == 0) /* it lasted long enough to be seen */
        CHECK_INT(run->most_open, CONNECTIONS);
}

static bool are_equal(const struct kqn_histogram *a, const struct kqn_histogram *b)
{
    return a->total == b->total && a->min_ns == b->min_ns && a->max_ns == b->max_ns && a->sum_ns == b->sum_ns &&
           memcmp(a->counts, b->counts, sizeof(a->counts)) == 0;
}

static void check_histograms(const struct run *run)
{
    const struct kqn_load_totals *totals = &run->totals;
    CHECK_INT(latency.total, totals->messages);
    CHECK(latency.min_ns > 0);
    CHECK_INT(service.total, run->job->rate > 0 ? totals->messages : 0);
    CHECK(service.sum_ns < latency.sum_ns && service.max_ns <= latency.max_ns); /* each went a little late */
    CHECK_INT(connecting.total, CONNECTIONS + totals->reconnects);
    CHECK_INT(run->sum.messages, totals->messages);
    CHECK_INT(run->sum.sent, totals->sent);
    CHECK_INT(run->sum.errors, 0);
    CHECK(are_equal(&of_intervals, &latency));
}

/* What an option promises. */
static void check_promises(const struct run *run)
{
    const struct kqn_load_totals *totals = &run->totals;
    const struct kqn_load_settings *settings = &run->settings;
    uint64_t every = (uint64_t)settings->reconnect_every;
    uint64_t answered = totals->messages + totals->warmup_messages;
    CHECK(every > 0 ? totals->reconnects > 0 : totals->reconnects == 0);
    if (every > 0) /* so many on each socket that was left, and no more on the others */
        CHECK(totals->reconnects * every <= answered && answered <= (CONNECTIONS + totals->reconnects) * every);
    if (settings->think_ns > 0) {
        int64_t each = (settings->duration_ns + settings->think_ns - 1) / settings->think_ns;
        CHECK(totals->sent <= (uint64_t)(CONNECTIONS * each));
    }
    if (settings->rate > 0 && !settings->poisson)
        CHECK_INT(totals->sent + totals->unsent, (int64_t)settings->rate * (settings->duration_ns / ms_ns) / 1000);
    if (settings->rate == 0)
        CHECK_INT(totals->unsent, 0);
}

static uint64_t server_messages(const struct drive *drive)
{
    uint64_t messages = 0;
    for (int i = 0; i < drive->server_loops; i++) {
        struct kqn_stats stats;
        CHECK_INT(kqn_server_stats(drive->server, i, &stats, STUCK_S * second_ns), 0);
        messages += stats.messages;
    }
    return messages;
}

/* In a stream each read of the server's is a message, however much of one it brought. */
static void check_with_server(const struct run *run, uint64_t messages)
{
    const struct kqn_load_totals *totals = &run->totals;
    uint64_t answered = totals->messages + totals->warmup_messages;
    if (run->drive->framing == KQN_FRAMING_STREAM)
        CHECK(messages >= answered);
    else if (run->job->is_stopped)
        CHECK(messages >= answered && messages <= totals->sent + totals->warmup_messages);
    else
        CHECK_INT(messages, answered);
}

static void run_to_the_end(struct run *run)
{
    static struct loop_thread loops[MAX_LOOPS];
    int count = run->drive->load_loops;
    atomic_store(&run->running, count);
    start_loops(loops, count, (struct loop_thread){.run = run});
    watch(run);
    join_loops(loops, count);
    CHECK_INT(take_intervals(run), -ENOENT);
    CHECK_INT(take_intervals(run), -ENOENT); /* for ever */
    look_at_progress(run);
    CHECK_INT(kqn_load_result(run->load, &run->totals, &latency, &service, &connecting), 0);
}

static void run_job(const struct drive *drive, const struct job *job)
{
    struct run run = {.job = job, .drive = drive, .settings = settings_of(drive, job)};
    memset(&latency, 0, sizeof(latency));
    memset(&service, 0, sizeof(service));
    memset(&connecting, 0, sizeof(connecting));
    memset(&of_intervals, 0, sizeof(of_intervals));
    check_begin(job->name);
    uint64_t messages_before = server_messages(drive);
    if (CHECK_INT(kqn_load_open(&run.load, &run.settings), 0)) {
        run_to_the_end(&run);
        check_counters(&run);
        check_times(&run);
        check_histograms(&run);
        check_promises(&run);
        check_with_server(&run, server_messages(drive) - messages_before);
        kqn_load_close(run.load);
    }
    check_end();
}

/* --- The server, and all runs --- */

static bool open_server(struct drive *drive)
{
    struct kqn_settings settings = {
        .host = "127.0.0.1",
        .framing = drive->framing,
        .poller = drive->poller,
        .reply = REPLY,
        .reply_len = sizeof(REPLY) - 1,
        .loops = drive->server_loops,
        .read_size = 65536,
        .max_message = 1048576,
        .max_buffered = 268435456,
        .idle_timeout_ns = 300 * second_ns,
        .backlog = 1024,
        .batch = 1024,
        .log_rate = 200,
    };
    settings.max_connections = (int)(kqn_descriptors_raise(0) - KQN_DESCRIPTOR_RESERVE);
    char host[KQN_PEER_TEXT_MAX];
    enum kqn_step step;
    return CHECK_INT(kqn_server_open(&drive->server, &settings, &step), 0) &&
           CHECK_INT(kqn_server_address(drive->server, host, &drive->port), 0);
}

static void check_balance(const struct drive *drive)
{
    uint64_t accepted = 0, closed = 0, messages = 0, answered = 0, unanswered = 0;
    int64_t handed_over = 0;
    for (int i = 0; i < drive->server_loops; i++) {
        struct kqn_stats stats;
        CHECK_INT(kqn_server_stats(drive->server, i, &stats, 0), 0);
        CHECK_INT(stats.open, 0);
        CHECK_INT(stats.pending, 0);
        accepted += stats.accepted;
        handed_over += stats.handed_over;
        messages += stats.messages;
        answered += stats.answered;
        unanswered += stats.unanswered;
        for (int reason = 0; reason < KQN_REASON_COUNT; reason++)
            closed += stats.closed[reason];
    }
    CHECK_INT(accepted, closed);
    CHECK_INT(handed_over, 0);
    CHECK_INT(messages, answered + unanswered);
}

static void run_all(struct drive *drive)
{
    static struct loop_thread loops[MAX_LOOPS];
    check_begin("the server opens");
    bool is_open = open_server(drive);
    check_end();
    if (!is_open)
        return;
    start_loops(loops, drive->server_loops, (struct loop_thread){.server = drive->server});
    for (size_t i = 0; i < sizeof(jobs) / sizeof(jobs[0]); i++)
        run_job(drive, &jobs[i]);
    check_begin("the server stops, and its sums balance");
    CHECK_INT(kqn_server_stop(drive->server, 10 * second_ns), 0);
    join_loops(loops, drive->server_loops);
    check_balance(drive);
    kqn_server_close(drive->server);
    check_end();
}

static int word_index(const char *word, const char *const *words, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(word, words[i]) == 0)
            return i;
    fprintf(stderr, "drive: unknown word %s\n", word);
    exit(2);
}

int main(int argc, char **argv)
{
    static const char *const framings[] = {"stream", "line", "u32"};
    static const char *const pollers[] = {"auto", "kqueue", "epoll", "poll", "select"};
    struct drive drive = {
        .framing = (enum kqn_framing_kind)word_index(argc > 1 ? argv[1] : "line", framings, 3),
        .load_loops = argc > 2 ? atoi(argv[2]) : 1,
        .server_loops = argc > 3 ? atoi(argv[3]) : 1,
        .poller = (enum kqn_poller_kind)word_index(argc > 4 ? argv[4] : "auto", pollers, 5),
        .seconds = argc > 5 ? atof(argv[5]) : 5,
    };
    bool is_wrong = drive.load_loops < 1 || drive.load_loops > MAX_LOOPS || drive.server_loops < 1 ||
                    drive.server_loops > MAX_LOOPS || !(drive.seconds > 0);
    if (is_wrong) {
        fprintf(stderr, "drive: at least 1 loop and at most %d, and more than 0 seconds\n", (int)MAX_LOOPS);
        return 2;
    }
    run_all(&drive);
    return check_finish();
}
