/* hook.c: answers in the template's place, by what each message says.
 * It is given every message of a connection once and in order, which is checked here, and tells the model what it made
 * of it. */
#include <string.h>

#include "judge.h"
#include "run.h"
#include "server/connection.h"
#include "sockets.h"
#include "world.h"

enum {
    LONG_ANSWER_MAX = 300000, /* more than the scratch buffer holds */
};

static struct hook hook;
static unsigned long_answers;
static uint8_t answer[LONG_ANSWER_MAX];

void hook_begin(const struct hook *chosen)
{
    hook = *chosen;
    long_answers = 0;
}

static unsigned hash(const uint8_t *bytes, size_t len)
{
    uint32_t value = 2166136261;
    for (size_t i = 0; i < len; i++)
        value = (value ^ bytes[i]) * 16777619;
    return value >> 8;
}

/* The message in brackets, or that and much more. */
static size_t write_answer(const uint8_t *message, size_t len, unsigned hashed)
{
    size_t answer_len = len + 2;
    if (hashed % 32 == 3 && long_answers < hook.long_answers) {
        long_answers++;
        answer_len += hashed % (LONG_ANSWER_MAX - 70000);
        memset(answer, 'a' + (int)(hashed % 26), LONG_ANSWER_MAX);
    }
    if (answer_len > sizeof(answer))
        answer_len = sizeof(answer);
    answer[0] = '<';
    memcpy(answer + 1, message, len);
    answer[answer_len - 1] = '>';
    return answer_len;
}

static void fail(struct model *model, struct kqn_batch_entry *entry)
{
    entry->verdict = KQN_VERDICT_FAILED;
    judge.failed++;
    model_fail(model);
}

static size_t decide(struct model *model, struct kqn_batch *batch, int index, const uint8_t *message, size_t len)
{
    unsigned hashed = hash(message, len);
    struct kqn_batch_entry *entry = &batch->entries[index];
    if (hashed % 32 == 0) {
        entry->verdict = KQN_VERDICT_DECLINED;
        judge.declined++;
        model_decline(model);
        return 0;
    }
    if (hashed % 32 == 1 && hook.fails) {
        fail(model, entry);
        return 0;
    }
    size_t answer_len = hashed % 32 == 2 ? 0 : write_answer(message, len, hashed);
    if (kqn_batch_set_answer(batch, index, answer, answer_len) < 0)
        fail(model, entry);
    else
        model_answer(model, answer, answer_len);
    return answer_len;
}

/* The message that the model says is next; false: the server gives another. */
static bool is_next(const struct client *client, const uint8_t *message, size_t len)
{
    const struct model *model = &client->model;
    const struct message *next = &model->messages[model->decided_count];
    return model->decided_count < model->message_count && next->len == len &&
           (len == 0 || memcmp(model->input + next->at, message, len) == 0);
}

static void pass_time(void)
{
    if (hook.is_slow && chance(16))
        world_add_time((int64_t)1000 << below(24));
    if (hook.stops && chance(4))
        run_stop((int64_t)below(3) * 500000000);
}

void hook_answer(void *context, struct kqn_batch *batch)
{
    (void)context;
    size_t bytes = 0;
    for (int i = 0; i < batch->count; i++) {
        const struct kqn_batch_entry *entry = &batch->entries[i];
        struct client *client = sockets.list[entry->conn->watch.fd].client;
        const uint8_t *message = kqn_batch_message(batch, i);
        if (!client) {
            world_fail("the hook is given a message of nobody");
            return;
        }
        if (client->model.has_failed)
            continue;
        if (!is_next(client, message, entry->message_len))
            world_fail("the hook is given %u bytes of client %d that are not its next message", entry->message_len,
                       client->index);
        bytes += decide(&client->model, batch, i, message, entry->message_len);
    }
    if (bytes > judge.hook_bytes)
        judge.hook_bytes = bytes;
    world_trace("hook", -1, batch->count);
    pass_time();
}
