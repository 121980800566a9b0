/* connection.c: one client of a real server, in rows about what only the server's own counters and clock show.
 * What clients see is tested from Python, and what may go wrong by chance in the simulation. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "server/reply.h"
#include "server/server.h"

enum {
    MAX_LINE = 10000,
    LONG_PART = 5000, /* of a message: long enough to be read into where it lies */
    DRIPS_MAX = 40,
    READ_SIZE = 65536,
    SHORT_READ = 6000, /* so that a long message takes more than one read, and yet fits into every system's buffers */
    DRAIN_READ_MAX = 1024 * 1024, /* as connection.c has it */
    PATIENCE_S = 10,
};

#define MS_NS INT64_C(1000000)

static struct kqn_server *server;
static pthread_t thread;
static kqn_answerer *hook; /* NULL: the template answers */
static int client;         /* connected to it */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / MS_NS;
}

static void sleep_ms(int64_t duration_ms)
{
    struct timespec duration = {.tv_sec = duration_ms / 1000, .tv_nsec = (long)(duration_ms % 1000 * MS_NS)};
    nanosleep(&duration, NULL);
}

static void *run_server(void *argument)
{
    (void)argument;
    CHECK_INT(kqn_server_run_with(server, 0, hook, NULL), 0);
    return NULL;
}

static int connect_client(int port)
{
    struct timeval patience = {.tv_sec = PATIENCE_S};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, (const struct sockaddr *)(const void *)&address, sizeof(address)) == 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

/* Opens a server. */
static int open_server(const struct kqn_settings *settings)
{
    enum kqn_step step;
    char host[KQN_PEER_TEXT_MAX];
    int port;
    CHECK_INT(kqn_server_open(&server, settings, &step), 0);
    CHECK_INT(kqn_server_address(server, host, &port), 0);
    CHECK_INT(pthread_create(&thread, NULL, run_server, NULL), 0);
    return port;
}

/* For lines. */
static struct kqn_settings settings_of(const char *reply, int64_t message_timeout_ms)
{
    return (struct kqn_settings){
        .host = "127.0.0.1",
        .reply = reply,
        .reply_len = strlen(reply),
        .read_size = READ_SIZE,
        .max_message = MAX_LINE,
        .max_buffered = 1 << 24,
        .message_timeout_ns = message_timeout_ms * MS_NS,
        .framing = KQN_FRAMING_LINE,
        .backlog = 16,
        .batch = 16,
        .loops = 1,
        .max_connections = 16,
    };
}

/* Opens a server for lines, and connects the client. */
static void start(const char *reply, int64_t message_timeout_ms)
{
    const struct kqn_settings settings = settings_of(reply, message_timeout_ms);
    client = connect_client(open_server(&settings));
}

/* Stops it, and returns its last counters. */
static struct kqn_stats stop(int64_t grace_ms)
{
    struct kqn_stats stats;
    CHECK_INT(kqn_server_stop(server, grace_ms * MS_NS), 0);
    pthread_join(thread, NULL);
    CHECK_INT(kqn_server_stats(server, 0, &stats, 0), 0);
    CHECK_INT(stats.messages, stats.answered + stats.failed + stats.unanswered);
    kqn_server_close(server);
    close(client);
    return stats;
}

static void send_bytes(const void *bytes, size_t len)
{
    CHECK_INT(send(client, bytes, len, 0), len);
}

static void send_text(const char *text)
{
    send_bytes(text, strlen(text));
}

/* Sends a line that is longer than allowed, and waits until the server has shut its side. */
static void send_too_long(void)
{
    static char line[MAX_LINE + 1];
    char byte;
    memset(line, 'x', sizeof(line));
    send_bytes(line, sizeof(line));
    CHECK_INT(recv(client, &byte, 1, 0), 0);
}

static void discarded_input(void)
{
    start("{message}", 0);
    send_too_long();
    send_text("12345");
    shutdown(client, SHUT_WR);
    char byte;
    recv(client, &byte, 1, 0);
    struct kqn_stats stats;
    do
        kqn_server_stats(server, 0, &stats, 1000 * MS_NS);
    while (stats.open > 0);
    stats = stop(0);
    CHECK_INT(stats.bytes_in, MAX_LINE + 1 + 5);
    CHECK_INT(stats.bytes_discarded, 5);
    CHECK_INT(stats.closed[KQN_REASON_TOO_LONG], 1);
}

static void cut_of_one_that_lingers(void)
{
    start("{message}", 0);
    send_too_long();
    struct kqn_stats stats = stop(0);
    CHECK_INT(stats.closed[KQN_REASON_TOO_LONG], 1);
}

/* The client connects long before: what it waits for begins with the stop. */
static void stop_with_an_idle_client(void)
{
    start("{message}", 0);
    sleep_ms(500);
    int64_t begun_ms = now_ms();
    struct kqn_stats stats = stop(10000);
    int64_t took_ms = now_ms() - begun_ms;
    CHECK(took_ms >= 900);
    CHECK(took_ms < 5000);
    CHECK_INT(stats.closed[KQN_REASON_STOPPED], 1);
}

/* Sends a byte of a message every now and then, until the server has closed the connection. */
static void drip(void)
{
    char byte;
    int drips = 0;
    while (drips < DRIPS_MAX && recv(client, &byte, 1, MSG_DONTWAIT) != 0) {
        send(client, "x", 1, 0);
        drips++;
        sleep_ms(50);
    }
    CHECK(drips < DRIPS_MAX);
}

static void short_message_that_drips(void)
{
    start("{message}", 200);
    drip();
    CHECK_INT(stop(0).closed[KQN_REASON_MESSAGE_TIMEOUT], 1);
}

static void long_message_that_drips(void)
{
    static char part[LONG_PART];
    memset(part, 'x', sizeof(part));
    start("{message}", 200);
    send_bytes(part, sizeof(part));
    drip();
    CHECK_INT(stop(0).closed[KQN_REASON_MESSAGE_TIMEOUT], 1);
}

/* Whether it is still there is seen by its answers. */
static void next_message_has_its_own_time(void)
{
    static char part[LONG_PART];
    char answer[2];
    memset(part, 'x', sizeof(part));
    start("", 1000);
    send_bytes(part, sizeof(part));
    sleep_ms(600);
    send_text("\nb");
    CHECK_INT(recv(client, answer, 1, 0), 1);
    sleep_ms(600);
    send_text("\nc");
    CHECK_INT(recv(client, answer, 1, 0), 1);
    sleep_ms(600);
    send_text("\n");
    CHECK_INT(recv(client, answer, 1, 0), 1);
    CHECK_INT(stop(0).answered, 3);
}

/* The client takes no answer: the server soon holds messages that it may not answer yet. */
static void messages_that_wait_are_counted(void)
{
    static char lines[60000];
    static char reply[2000];
    memset(lines, '\n', sizeof(lines));
    memset(reply, 'r', sizeof(reply) - 1);
    start(reply, 0);
    for (ssize_t n = 1; n > 0;)
        n = send(client, lines, sizeof(lines), MSG_DONTWAIT);
    struct kqn_stats stats = stop(0);
    CHECK(stats.unanswered > 0);
    CHECK_INT(stats.messages, stats.bytes_in);
    CHECK_INT(stats.closed[KQN_REASON_CUT], 1);
}

static void receive(size_t len)
{
    static char bytes[65536];
    while (len > 0) {
        ssize_t n = recv(client, bytes, len < sizeof(bytes) ? len : sizeof(bytes), 0);
        if (!CHECK(n > 0))
            return;
        len -= (size_t)n;
    }
}

/* An answer that its peer takes slowly is no reason to end the message behind it. */
static void time_behind_an_answer_does_not_count(void)
{
    enum {
        TIMES = 900
    };
    static char reply[TIMES * 9 + 1];
    static char line[MAX_LINE + 1];
    for (size_t i = 0; i < TIMES; i++)
        memcpy(reply + i * 9, "{message}", 9);
    memset(line, 'x', sizeof(line));
    line[MAX_LINE - 1] = '\n';
    line[MAX_LINE] = 'b';
    start(reply, 200);
    send_bytes(line, sizeof(line));
    sleep_ms(500);
    receive((size_t)TIMES * (MAX_LINE - 1) + 1);
    sleep_ms(120); /* for a sweep, which must not mind */
    send_text("\n");
    receive(TIMES + 1);
    CHECK_INT(stop(0).answered, 2);
}

static size_t held_bytes(void)
{
    return server->workers[0].loop.pool.taken_bytes;
}

/* The rest is a quarter of the block that the message needed, less a little, and fits into the smallest. */
static void memory_follows_the_rest(void)
{
    static char part[LONG_PART], rest[3501];
    memset(part, 'x', sizeof(part));
    memset(rest, 'y', sizeof(rest));
    rest[0] = '\n';
    start("", 0);
    size_t before = held_bytes();
    send_bytes(part, sizeof(part));
    sleep_ms(50);
    send_bytes(rest, sizeof(rest));
    receive(1);
    for (int64_t end_ms = now_ms() + 1000; held_bytes() != before + KQN_POOL_SMALLEST_BYTES && now_ms() < end_ms;)
        sleep_ms(1);
    CHECK_INT(held_bytes(), before + KQN_POOL_SMALLEST_BYTES);
    stop(0);
}

/* Sends lines until nobody takes any more: the answers, which nobody takes, have filled all buffers. */
static void send_until_stuck(void)
{
    static char lines[50000];
    memset(lines, 'x', sizeof(lines));
    for (size_t i = 99; i < sizeof(lines); i += 100)
        lines[i] = '\n';
    for (int64_t stuck_ms = now_ms() + 200; now_ms() < stuck_ms;) {
        if (send(client, lines, sizeof(lines), MSG_DONTWAIT) > 0)
            stuck_ms = now_ms() + 200;
        else
            sleep_ms(1);
    }
}

static void stop_reads_so_much_and_no_more(void)
{
    static char reply[40 * 9 + 1]; /* so that bytes wait again and again */
    static char bytes[65536];
    struct kqn_stats before;
    for (size_t i = 0; i < 40; i++)
        memcpy(reply + i * 9, "{message}", 9);
    start(reply, 0);
    send_until_stuck();
    CHECK_INT(kqn_server_stats(server, 0, &before, 1000 * MS_NS), 0);
    CHECK_INT(kqn_server_stop(server, 10000 * MS_NS), 0);
    while (recv(client, bytes, sizeof(bytes), 0) > 0)
        continue;
    struct kqn_stats stats = stop(0);
    CHECK_INT(stats.unanswered, 0);
    CHECK_INT(stats.closed[KQN_REASON_STOPPED], 1);
    CHECK(stats.bytes_in - stats.bytes_discarded - before.bytes_in <= DRAIN_READ_MAX + READ_SIZE);
}

/* Twice as many messages as one event may have, in one read: one event to read, and one for the second half's turn. */
static void turns_of_a_long_read(void)
{
    static char lines[2 * KQN_MESSAGES_PER_EVENT];
    struct kqn_stats before, after;
    memset(lines, '\n', sizeof(lines));
    start("", 0);
    send_text("\n");
    receive(1);
    kqn_server_stats(server, 0, &before, 1000 * MS_NS);
    send_bytes(lines, sizeof(lines));
    receive(sizeof(lines));
    sleep_ms(50); /* no further event must come */
    kqn_server_stats(server, 0, &after, 1000 * MS_NS);
    CHECK_INT(after.events - before.events, 2);
    CHECK_INT(stop(0).answered, sizeof(lines) + 1);
}

static void stop_answers_in_turns(void)
{
    static char lines[3 * DRAIN_READ_MAX];
    static char bytes[65536];
    struct kqn_stats before;
    memset(lines, '\n', sizeof(lines));
    start("", 0);
    send_bytes(lines, sizeof(lines));
    CHECK_INT(kqn_server_stats(server, 0, &before, 1000 * MS_NS), 0);
    CHECK_INT(kqn_server_stop(server, 10000 * MS_NS), 0);
    while (recv(client, bytes, sizeof(bytes), 0) > 0)
        continue;
    struct kqn_stats stats = stop(0);
    CHECK_INT(stats.unanswered, 0);
    /* How much has arrived by the stop is the kernel's affair: the rest lies with the client. */
    CHECK(stats.messages - before.messages > 2 * KQN_MESSAGES_PER_EVENT);
    CHECK_INT(stats.messages, stats.bytes_in - stats.bytes_discarded);
    CHECK_INT(stats.closed[KQN_REASON_STOPPED], 1);
}

static void fail_all(void *context, struct kqn_batch *batch)
{
    (void)context;
    for (int i = 0; i < batch->count; i++)
        batch->entries[i].verdict = KQN_VERDICT_FAILED;
}

/* Starts with a hook that fails, sends these bytes at once, and waits until the server has shut its side. */
static struct kqn_stats counters_of_failing(const void *bytes, size_t len)
{
    char byte;
    hook = fail_all;
    start("", 0);
    send_bytes(bytes, len);
    CHECK_INT(recv(client, &byte, 1, 0), 0);
    struct kqn_stats stats = stop(0);
    hook = NULL;
    return stats;
}

/* More of them than a batch holds: those that wait for their turn go unanswered, and hold up no end. */
static void failing_hook_amid_a_long_read(void)
{
    static char lines[3 * KQN_HOOK_MESSAGES_PER_EVENT];
    memset(lines, '\n', sizeof(lines));
    struct kqn_stats stats = counters_of_failing(lines, sizeof(lines));
    CHECK_INT(stats.failed, KQN_BATCH_FIRST_MESSAGES);
    CHECK_INT(stats.unanswered, sizeof(lines) - KQN_BATCH_FIRST_MESSAGES);
    CHECK_INT(stats.closed[KQN_REASON_HOOK], 1);
}

/* Fails the message "f", and answers the others with nothing. */
static void fail_f(void *context, struct kqn_batch *batch)
{
    (void)context;
    for (int i = 0; i < batch->count; i++) {
        bool fails = batch->entries[i].message_len == 1 && *kqn_batch_message(batch, i) == 'f';
        if (fails)
            batch->entries[i].verdict = KQN_VERDICT_FAILED;
        else
            CHECK_INT(kqn_batch_set_answer(batch, i, "", 0), 0);
    }
}

/* The verdict on the last message of a turn comes when others wait for the next one, which there is not any more. */
static void failing_hook_at_the_end_of_a_turn(void)
{
    enum {
        BEFORE = KQN_HOOK_MESSAGES_PER_EVENT - 1,
        BEHIND = 100
    };
    static char lines[BEFORE + 2 + BEHIND];
    char byte;
    memset(lines, '\n', sizeof(lines));
    lines[BEFORE] = 'f';
    hook = fail_f;
    start("", 0);
    send_bytes(lines, sizeof(lines));
    receive(BEFORE);
    CHECK_INT(recv(client, &byte, 1, 0), 0);
    struct kqn_stats stats = stop(0);
    hook = NULL;
    CHECK_INT(stats.failed, 1);
    CHECK_INT(stats.unanswered, BEHIND);
    CHECK_INT(stats.closed[KQN_REASON_HOOK], 1);
}

static void first_reason_of_two(void)
{
    static char bytes[MAX_LINE + 3];
    memset(bytes, 'x', sizeof(bytes));
    bytes[1] = '\n';
    struct kqn_stats stats = counters_of_failing(bytes, sizeof(bytes));
    CHECK_INT(stats.failed, 1);
    CHECK_INT(stats.closed[KQN_REASON_TOO_LONG], 1);
}

/* Behind an answer that its peer does not take, a long message is not read on: so there is no room made for it. */
static void no_room_for_what_waits(void)
{
    enum {
        CLAIMED = 1000000,
        SENT = 400000
    };
    static char reply[12000000];
    static uint8_t frames[KQN_U32_HEADER_BYTES + 1 + KQN_U32_HEADER_BYTES + SENT];
    memset(reply, 'r', sizeof(reply) - 1);
    struct kqn_settings settings = settings_of(reply, 0);
    settings.framing = KQN_FRAMING_U32;
    settings.max_message = CLAIMED;
    settings.max_buffered = 1 << 26;
    client = connect_client(open_server(&settings));
    kqn_framing_put_u32(frames, 1);
    kqn_framing_put_u32(frames + KQN_U32_HEADER_BYTES + 1, CLAIMED);
    send_bytes(frames, sizeof(frames));
    const struct kqn_conn *conn = NULL;
    for (int64_t end_ms = now_ms() + PATIENCE_S * 1000; !(conn && conn->out && conn->in) && now_ms() < end_ms;) {
        uint32_t index = 0;
        sleep_ms(10);
        conn = kqn_worker_next_conn(&server->workers[0], &index);
    }
    if (CHECK(conn && conn->out && conn->in))
        CHECK(kqn_buffer_block_bytes(conn->in) <= 4 * READ_SIZE);
    stop(0);
}

/* Answers with nothing, and takes its time if a message has one byte. */
static void answer_single_bytes_late(void *context, struct kqn_batch *batch)
{
    (void)context;
    for (int i = 0; i < batch->count; i++) {
        if (batch->entries[i].message_len == 1)
            sleep_ms(200);
        CHECK_INT(kqn_batch_set_answer(batch, i, "", 0), 0);
    }
}

/* Sends a frame of one byte, and these while the hook is busy with that: they have arrived when they are read. */
static void send_while_busy(const uint8_t *frames, size_t len)
{
    static const uint8_t single[] = {0, 0, 0, 1, 'x'};
    send_bytes(single, sizeof(single));
    sleep_ms(50);
    send_bytes(frames, len);
}

static void start_with_short_reads(uint64_t max_buffered)
{
    struct kqn_settings settings = settings_of("", 0);
    settings.max_buffered = max_buffered;
    settings.framing = KQN_FRAMING_U32;
    settings.max_message = 1000000;
    settings.read_size = SHORT_READ;
    hook = answer_single_bytes_late;
    client = connect_client(open_server(&settings));
    send_bytes("\0\0\0\0", KQN_U32_HEADER_BYTES);
    receive(KQN_U32_HEADER_BYTES);
}

/* Two frames, the second one longer than a read, are one event; the one before them is another. */
static void long_message_that_has_arrived(void)
{
    enum {
        LONG = 2 * SHORT_READ
    };
    static uint8_t frames[KQN_U32_HEADER_BYTES + 2 + KQN_U32_HEADER_BYTES + LONG];
    struct kqn_stats before, after;
    start_with_short_reads(1 << 24);
    kqn_server_stats(server, 0, &before, 1000 * MS_NS);
    kqn_framing_put_u32(frames, 2);
    kqn_framing_put_u32(frames + KQN_U32_HEADER_BYTES + 2, LONG);
    send_while_busy(frames, sizeof(frames));
    receive(3 * KQN_U32_HEADER_BYTES);
    sleep_ms(50); /* no further event must come */
    kqn_server_stats(server, 0, &after, 1000 * MS_NS);
    CHECK(after.events - before.events <= 2);
    CHECK_INT(stop(0).answered, 4);
    hook = NULL;
}

/* Room is made for what is there alone. For all that is claimed there would be no memory: the connection would end. */
static void length_that_is_only_claimed(void)
{
    static uint8_t frame[KQN_U32_HEADER_BYTES + 2 * SHORT_READ];
    const uint64_t sent = 2 * KQN_U32_HEADER_BYTES + 1 + sizeof(frame); /* with the two frames before it */
    start_with_short_reads(200000);
    kqn_framing_put_u32(frame, 1000000);
    send_while_busy(frame, sizeof(frame));
    receive(KQN_U32_HEADER_BYTES);
    struct kqn_stats stats = {.bytes_in = 0};
    for (int64_t end_ms = now_ms() + PATIENCE_S * 1000; stats.bytes_in < sent && now_ms() < end_ms;)
        kqn_server_stats(server, 0, &stats, 100 * MS_NS);
    CHECK_INT(stats.bytes_in, sent);
    stats = stop(0);
    hook = NULL;
    CHECK_INT(stats.answered, 2);
    CHECK_INT(stats.closed[KQN_REASON_STOPPED], 1);
}

/* Starts a server of this framing, sends it a message, and takes the answer that it should give. */
static void check_answer(enum kqn_framing_kind framing, const char *reply, const char *message, const char *answer)
{
    char received[64] = "";
    struct kqn_settings settings = settings_of(reply, 0);
    settings.framing = framing;
    client = connect_client(open_server(&settings));
    send_text(message);
    CHECK_INT(recv(client, received, strlen(answer), MSG_WAITALL), strlen(answer));
    CHECK(strcmp(received, answer) == 0);
    CHECK_INT(stop(0).answered, 1);
}

static void templates_of_single_bytes(void)
{
    check_answer(KQN_FRAMING_LINE, "<{message}>", "ab\r\n", "<ab>\r\n");
    check_answer(KQN_FRAMING_LINE, "<{message}", "ab\n", "<ab\n");
    check_answer(KQN_FRAMING_STREAM, "<{message}>", "ab", "<ab>");
}

/* A frame that a template repeats so often that no length says how long the answer is. */
static void answer_that_no_length_says(void)
{
    enum {
        REPEATED = 1100,
        FRAME = 1000000
    };
    static const char part[] = "{message}";
    static char reply[REPEATED * (sizeof(part) - 1) + 1];
    static uint8_t frame[KQN_U32_HEADER_BYTES + FRAME];
    char byte;
    for (size_t i = 0; i < REPEATED; i++)
        memcpy(reply + i * (sizeof(part) - 1), part, sizeof(part) - 1);
    struct kqn_settings settings = settings_of(reply, 0);
    settings.framing = KQN_FRAMING_U32;
    settings.max_message = FRAME;
    client = connect_client(open_server(&settings));
    kqn_framing_put_u32(frame, FRAME);
    send_bytes(frame, sizeof(frame));
    CHECK_INT(recv(client, &byte, 1, 0), 0);
    struct kqn_stats stats = stop(0);
    CHECK_INT(stats.failed, 1);
    CHECK_INT(stats.closed[KQN_REASON_TOO_LONG], 1);
}

enum {
    BATCHES_MAX = 64,
};
static int batch_counts[BATCHES_MAX];
static int batches;
static int64_t first_batch_ms; /* that the hook takes for the first one */

/* Answers each message with nothing. */
static void answer_empty(void *context, struct kqn_batch *batch)
{
    (void)context;
    if (batches == 0)
        sleep_ms(first_batch_ms);
    if (batches < BATCHES_MAX)
        batch_counts[batches++] = batch->count;
    for (int i = 0; i < batch->count; i++)
        CHECK_INT(kqn_batch_set_answer(batch, i, "", 0), 0);
}

/* How many messages the second batch has, where the first one is full and takes so long. */
static int second_batch(int64_t first_ms)
{
    static char lines[KQN_HOOK_MESSAGES_PER_EVENT];
    memset(lines, '\n', sizeof(lines));
    hook = answer_empty;
    batches = 0;
    first_batch_ms = first_ms;
    start("", 0);
    send_bytes(lines, sizeof(lines));
    receive(sizeof(lines));
    stop(0);
    hook = NULL;
    CHECK_INT(batch_counts[0], KQN_BATCH_FIRST_MESSAGES);
    return batch_counts[1];
}

static void batches_follow_the_clock(void)
{
    CHECK_INT(second_batch(30), KQN_BATCH_FIRST_MESSAGES / 2);
    CHECK(second_batch(0) >= KQN_BATCH_FIRST_MESSAGES); /* twice as many, where the machine is quick, too */
}

static void no_memory_for_a_batch(void)
{
    enum {
        FRAME = 2 * KQN_BATCH_BYTES
    };
    static uint8_t frame[KQN_U32_HEADER_BYTES + FRAME];
    struct kqn_settings settings = settings_of("", 0);
    char byte;
    hook = answer_empty;
    settings.framing = KQN_FRAMING_U32;
    settings.max_message = FRAME;
    client = connect_client(open_server(&settings));
    send_bytes(frame, KQN_U32_HEADER_BYTES); /* of no byte */
    receive(KQN_U32_HEADER_BYTES);
    server->workers[0].batch.pool.limit_bytes = 1;
    kqn_framing_put_u32(frame, FRAME);
    send_bytes(frame, sizeof(frame));
    CHECK(recv(client, &byte, 1, 0) <= 0);
    struct kqn_stats stats = stop(0);
    hook = NULL;
    CHECK_INT(stats.unanswered, 1);
    CHECK_INT(stats.closed[KQN_REASON_ERROR], 1);
}

static const struct {
    const char *name;
    void (*run)(void);
} rows[] = {
    {"what comes after the last answer is thrown away and counted", discarded_input},
    {"whom the stop cuts while it lingers keeps its reason", cut_of_one_that_lingers},
    {"an idle client holds a stop up for a second, not for the grace", stop_with_an_idle_client},
    {"a byte now and then keeps no message alive", short_message_that_drips},
    {"nor a long one", long_message_that_drips},
    {"each message has its own time", next_message_has_its_own_time},
    {"so has one behind an answer that its peer takes slowly", time_behind_an_answer_does_not_count},
    {"the rest behind a long message keeps none of its memory", memory_follows_the_rest},
    {"a stop answers so much of what has arrived, all of that, and no more", stop_reads_so_much_and_no_more},
    {"complete messages that wait when their connection ends are counted", messages_that_wait_are_counted},
    {"it is the others' turn after some thousand messages of one", turns_of_a_long_read},
    {"so it is in a stop, which answers all the same", stop_answers_in_turns},
    {"a hook that fails ends those too that wait for their turn", failing_hook_amid_a_long_read},
    {"so does one that fails the last message of a turn", failing_hook_at_the_end_of_a_turn},
    {"of two reasons to end the first one is told", first_reason_of_two},
    {"a long message that is not read on has no room made for it", no_room_for_what_waits},
    {"one that has arrived is read in one event", long_message_that_has_arrived},
    {"one that has not has no more room than what is there", length_that_is_only_claimed},
    {"a template's single bytes stand around a message", templates_of_single_bytes},
    {"an answer longer than a length can say ends its connection", answer_that_no_length_says},
    {"a batch is as long as the clock says that its hook is quick", batches_follow_the_clock},
    {"a message for which a batch has no memory ends its connection", no_memory_for_a_batch},
};

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        check_begin(rows[i].name);
        rows[i].run();
        check_end();
    }
    return check_finish();
}
