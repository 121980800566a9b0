#include "clients.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sockets.h"
#include "world.h"

struct clients clients;

const char *const manner_names[MANNER_COUNT] = {
    "half-closes", "lock-steps", "idles", "never reads", "resets", "closes",
};

/* --- What each has to send --- */

static void append(struct client *client, const void *bytes, size_t len)
{
    if (client->input_len + len > client->input_capacity) {
        client->input_capacity = (client->input_len + len) * 2;
        client->input = realloc(client->input, client->input_capacity);
        if (!client->input)
            abort();
    }
    if (len > 0)
        memcpy(client->input + client->input_len, bytes, len);
    client->input_len += len;
}

/* A body of this length that nobody else sends: it begins with the client's and the message's number. */
static void append_body(struct client *client, unsigned number, size_t len)
{
    char tag[32];
    size_t tag_len = (size_t)snprintf(tag, sizeof(tag), "c%d.%u.", client->index, number);
    if (tag_len > len)
        tag_len = len;
    append(client, tag, tag_len);
    for (size_t left = len - tag_len; left > 0;) {
        static const char filler[] = "abcdefghijklmnopqrstuvwxyz\rABCDEFGHIJKLMNOPQRSTUVWXYZ{0123456789}";
        size_t at = (client->input_len + (size_t)client->index) % 32;
        size_t piece = left < 32 ? left : 32;
        append(client, filler + at, piece);
        left -= piece;
    }
}

static void append_message(struct client *client, unsigned number, size_t len)
{
    const uint8_t header[] = {(uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len};
    enum kqn_framing_kind framing = client->model.rules->framing;
    if (framing == KQN_FRAMING_U32)
        append(client, header, sizeof(header));
    append_body(client, number, len);
    if (framing == KQN_FRAMING_LINE && chance(64))
        append(client, "\r\n", 2);
    else if (framing == KQN_FRAMING_LINE)
        append(client, "\n", 1);
}

static size_t choose_len(size_t max_len, size_t bytes_each)
{
    size_t limit = chance(200) ? 40 : bytes_each;
    if (max_len > bytes_each)
        max_len = bytes_each;
    if (chance(8))
        return max_len; /* to the byte */
    if (limit > max_len)
        limit = max_len;
    return below((unsigned)limit + 1);
}

/* A message that no server with these rules takes; a claimed length costs nothing to claim. */
static void append_too_long(struct client *client, unsigned number)
{
    static const uint8_t claims_all[] = {0xff, 0xff, 0xff, 0xff, 'x'};
    size_t max_len = client->model.rules->max_message;
    if (client->model.rules->framing == KQN_FRAMING_U32 && (chance(128) || max_len > 8192))
        append(client, claims_all, sizeof(claims_all));
    else if (max_len <= 8192)
        append_message(client, number, max_len + 1 + below(8));
}

static void write_input(struct client *client, size_t bytes_each)
{
    unsigned number = 0;
    bool errs = chance(12);
    const struct rules *rules = client->model.rules;
    size_t max_len = rules->framing == KQN_FRAMING_STREAM ? bytes_each : rules->max_message;
    while (client->input_len < bytes_each) {
        if (errs && chance(32))
            append_too_long(client, number);
        append_message(client, number++, choose_len(max_len, bytes_each));
    }
    if (chance(64) && client->input_len > 0)
        client->input_len -= 1 + below((unsigned)(client->input_len < 8 ? client->input_len : 8)); /* unfinished */
}

static size_t choose_piece(void)
{
    static const size_t pieces[] = {1, 3, 17, 200, 4096, 1000000};
    return pieces[below(6)];
}

static void begin(struct client *client, const struct rules *rules, int index, size_t bytes_each, unsigned steps)
{
    struct client fresh = {.index = index, .fd = -1, .loop = -1, .model = client->model};
    fresh.input = client->input;
    fresh.input_capacity = client->input_capacity;
    *client = fresh;
    client->model.rules = rules;
    client->manner = chance(128) ? MANNER_HALF_CLOSES : (enum manner)below(MANNER_COUNT);
    client->connects_at = chance(128) ? 0 : below(steps + 1);
    client->send_max = choose_piece();
    client->take_max = choose_piece();
    client->in_room = (size_t)1 << between(4, bytes_each > 16384 ? 16 : 14);
    client->out_room = (size_t)1 << between(4, 14);
    write_input(client, below((unsigned)bytes_each + 1));
    client->leaves_at = below((unsigned)client->input_len + 1);
    char peer[KQN_PEER_TEXT_MAX];
    snprintf(peer, sizeof(peer), "10.0.0.%d:%d", index + 1, 40000 + index);
    model_begin(&client->model, rules, client->input, peer);
}

void clients_begin(const struct rules *rules, int count, size_t bytes_each, unsigned steps)
{
    clients.count = count;
    clients.queue_len = 0;
    clients.are_calm = false;
    clients.step = 0;
    for (int i = 0; i < count; i++)
        begin(&clients.list[i], rules, i, bytes_each, steps);
}

void clients_free(void)
{
    for (int i = 0; i < MAX_CLIENTS; i++) {
        free(clients.list[i].input);
        model_free(&clients.list[i].model);
    }
    memset(&clients, 0, sizeof(clients));
}

/* --- What they do --- */

static bool owes_nothing(const struct client *client)
{
    return client->taken == client->model.expected_len && !model_owes(&client->model, client->taken);
}

static bool can_leave(const struct client *client)
{
    bool leaves = client->manner == MANNER_RESETS || client->manner == MANNER_CLOSES;
    return leaves && client->sent >= client->leaves_at;
}

static bool can_send(const struct client *client)
{
    if (client->has_half_closed || client->sent == client->input_len || client->sent - client->read >= client->in_room)
        return false;
    return client->manner != MANNER_LOCK_STEPS || clients.are_calm || client->server_closed ||
           (client->sent == client->read && owes_nothing(client));
}

static bool can_half_close(const struct client *client)
{
    if (client->has_half_closed || client->sent < client->input_len)
        return false;
    return client->manner == MANNER_HALF_CLOSES || client->manner == MANNER_LOCK_STEPS;
}

static bool can_take(const struct client *client)
{
    return client->taken < client->written && client->manner != MANNER_NEVER_READS;
}

static bool sees_the_end(const struct client *client)
{
    if (client->manner == MANNER_NEVER_READS)
        return client->server_closed;
    return client->taken == client->written && (client->server_shut || client->server_closed);
}

bool client_can_act(const struct client *client)
{
    if (client->is_done)
        return false;
    if (!client->is_connected)
        return clients.step >= client->connects_at && (!sockets_listen() || sockets_have_room_to_connect());
    return client->is_reset || can_leave(client) || can_send(client) || can_half_close(client) || can_take(client) ||
           sees_the_end(client);
}

void client_reset(struct client *client, int error)
{
    client->is_reset = true;
    client->error = error;
}

static void leave(struct client *client)
{
    bool resets = client->manner == MANNER_RESETS || client->taken < client->written || client->server_closed;
    world_trace(resets ? "client resets" : "client closes", client->fd, client->index);
    client->has_closed = client->has_half_closed = client->is_done = true;
    if (resets)
        client_reset(client, ECONNRESET);
    if (resets && !client->is_accepted && chance(128))
        sockets_leave_queue(client); /* some systems then take it out of the queue */
}

static size_t up_to(size_t max, size_t most)
{
    size_t limit = max < most ? max : most;
    return chance(128) ? limit : between(1, (unsigned)limit);
}

static void send(struct client *client)
{
    if (client->server_closed) {
        world_trace("client sends to nobody", -1, client->index);
        client_reset(client, ECONNRESET);
        return;
    }
    size_t room = client->in_room - (client->sent - client->read);
    size_t left = client->input_len - client->sent;
    size_t len = up_to(clients.are_calm ? left : client->send_max, left < room ? left : room);
    client->sent += len;
    world_trace("client sends", client->fd, (int64_t)len);
}

static void take(struct client *client)
{
    size_t there = client->written - client->taken;
    size_t len = up_to(clients.are_calm ? there : client->take_max, there);
    client->taken += len;
    world_trace("client takes", client->fd, (int64_t)len);
}

static void connect(struct client *client)
{
    if (!sockets_listen()) {
        world_trace("client is refused", -1, client->index);
        client->is_done = true;
        return;
    }
    world_trace("client connects", -1, client->index);
    client->is_connected = true;
    clients.queue[clients.queue_len++] = client;
}

void client_act(struct client *client)
{
    world.progress++;
    bool sends = can_send(client), takes = can_take(client);
    if (!client->is_connected) {
        connect(client);
    } else if (client->is_reset) {
        world_trace("client was reset", client->fd, client->index);
        client->has_closed = client->is_done = true;
    } else if (can_leave(client)) {
        leave(client);
    } else if (sees_the_end(client)) {
        leave(client);
    } else if (sends && (!takes || chance(128))) {
        send(client);
    } else if (takes) {
        take(client);
    } else {
        world_trace("client half-closes", client->fd, client->index);
        client->has_half_closed = true;
    }
}

/* --- All of them --- */

void clients_calm_down(bool idle_ones_are_ended)
{
    clients.are_calm = true;
    for (int i = 0; i < clients.count; i++) {
        struct client *client = &clients.list[i];
        bool waits = client->manner == MANNER_IDLES || client->manner == MANNER_NEVER_READS;
        bool is_ended = waits && client->is_connected && idle_ones_are_ended;
        if (!is_ended && client->manner != MANNER_CLOSES)
            client->manner = MANNER_HALF_CLOSES;
        client->connects_at = 0;
        client->out_room *= 64; /* or many bytes would take many steps */
    }
}

bool clients_are_done(void)
{
    for (int i = 0; i < clients.count; i++)
        if (!clients.list[i].is_done)
            return false;
    return true;
}
