/* settings.c: whatever the settings, kqn_server_open() fails and leaves nothing behind, or opens a server that stops.
 * Loops, durations and the backlog are in the ranges that kqnative.Config promises, loops and memory in reason; all
 * other numbers may be any of their type. The system calls are the real ones.
 *
 * Input: the numbers in the order in which they are taken, the length of a host or path and that, and then the reply. */
#include "api.h"

#include <fcntl.h>
#include <unistd.h>

#include "fuzz.h"

enum {
    MAX_LOOPS = 4,
    MAX_BATCH = 65536,
    MAX_READ_BYTES = 1024 * 1024,
    MAX_NETWORKS = 4,
    MAX_ADDRESS_TEXT = 255,
};

static const int64_t max_duration_ns = INT64_C(24) * 86400 * 1000000000;

static int64_t take_int(struct input *input, int byte_count)
{
    uint64_t value = 0;
    for (int i = 0; i < byte_count; i++)
        value = value << 8 | take_byte(input);
    return (int64_t)value;
}

static int64_t take_duration(struct input *input)
{
    return (take_int(input, 8) & INT64_MAX) % (max_duration_ns + 1);
}

static void take_numbers(struct input *input, struct kqn_settings *settings)
{
    settings->loops = 1 + take_byte(input) % MAX_LOOPS;
    settings->framing = (enum kqn_framing_kind)(take_byte(input) % 3);
    settings->poller = (enum kqn_poller_kind)(take_byte(input) % 5);
    settings->read_size = (size_t)take_int(input, 3) % (MAX_READ_BYTES + 1);
    settings->batch = (int)take_int(input, 3) % (MAX_BATCH + 1);
    settings->max_message = (size_t)take_int(input, 8);
    settings->max_buffered = (size_t)take_int(input, 8);
    settings->idle_timeout_ns = take_duration(input);
    settings->spin_ns = take_duration(input);
    settings->message_timeout_ns = take_duration(input);
    settings->write_timeout_ns = take_duration(input);
    settings->backlog = (int)take_int(input, 2);
    settings->max_connections = (int)take_int(input, 4);
    settings->log_rate = (int)take_int(input, 4);
}

static void take_networks(struct input *input, struct kqn_settings *settings, struct kqn_network *list)
{
    settings->networks = list;
    settings->network_count = take_byte(input) % (MAX_NETWORKS + 1);
    for (int i = 0; i < settings->network_count; i++) {
        list[i] = (struct kqn_network){.prefix_bits = take_byte(input) % 129};
        list[i].allowed = take_byte(input) % 2;
    }
}

static char folder[] = "/tmp/kqnative-fuzz-XXXXXX";

static void remove_folder(void)
{
    rmdir(folder);
}

static void make_folder(void)
{
    static bool has_folder;
    if (has_folder)
        return;
    has_folder = true;
    REQUIRE(mkdtemp(folder) != NULL);
    REQUIRE(atexit(remove_folder) == 0);
}

/* A path is one in a folder of our own, whatever the input would like to remove or to replace. */
static void take_address(struct input *input, struct kqn_settings *settings, char text[static MAX_ADDRESS_TEXT * 2])
{
    make_folder();
    bool is_path = take_byte(input) % 2;
    size_t len = take_byte(input) % (MAX_ADDRESS_TEXT + 1u);
    int prefix_len = is_path ? snprintf(text, MAX_ADDRESS_TEXT, "%s/s", folder) : 0;
    char *end = text + prefix_len;
    for (size_t i = 0; i < len && input->len > 0; i++) {
        char byte = (char)take_byte(input);
        *end++ = byte == '/' ? '_' : byte;
    }
    *end = 0;
    *(is_path ? &settings->uds_path : &settings->host) = text;
}

/* The descriptor that the next file would have: a leak makes it a higher one. */
static int next_descriptor(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    close(fd);
    return fd;
}

/* A server that has been told to stop needs no thread: its loops end one after the other. */
static void require_stops(struct kqn_server *server, int loops)
{
    char host[KQN_PEER_TEXT_MAX];
    int port;
    struct kqn_stats stats;
    REQUIRE(kqn_server_address(server, host, &port) == 0);
    REQUIRE(kqn_server_stats(server, loops, &stats, 0) < 0);
    REQUIRE(kqn_server_stop(server, 0) == 0);
    for (int i = 0; i < loops; i++) {
        (void)kqn_server_run(server, i); /* a batch in which there is no room for an event fails here */
        REQUIRE(kqn_server_stats(server, i, &stats, 0) == 0);
        REQUIRE(stats.open == 0 && stats.pending == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct input input = {bytes, len};
    struct kqn_settings settings = {0};
    struct kqn_network networks[MAX_NETWORKS];
    char address[MAX_ADDRESS_TEXT * 2];
    int before = next_descriptor();
    take_numbers(&input, &settings);
    take_networks(&input, &settings, networks);
    take_address(&input, &settings, address);
    char *reply = copy_of(input.bytes, input.len);
    settings.reply = reply;
    settings.reply_len = input.len;

    struct kqn_server *server = NULL;
    enum kqn_step failed_step;
    int rc = kqn_server_open(&server, &settings, &failed_step);
    REQUIRE((rc == 0) == (server != NULL));
    if (rc == 0)
        require_stops(server, settings.loops);
    kqn_server_close(server);
    if (settings.uds_path)
        REQUIRE(access(settings.uds_path, F_OK) < 0);
    REQUIRE(next_descriptor() == before);
    free(reply);
    return 0;
}
