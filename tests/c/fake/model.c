#include "model.h"

#include <stdlib.h>
#include <string.h>

static void *grown(void *memory, size_t size)
{
    void *larger = realloc(memory, size);
    if (!larger)
        abort();
    return larger;
}

void model_begin(struct model *model, const struct rules *rules, const uint8_t *input, const char *peer)
{
    struct model fresh = {.rules = rules, .input = input};
    fresh.messages = model->messages;
    fresh.message_capacity = model->message_capacity;
    fresh.expected = model->expected;
    fresh.expected_capacity = model->expected_capacity;
    strncpy(fresh.peer, peer, sizeof(fresh.peer) - 1);
    *model = fresh;
}

void model_free(struct model *model)
{
    free(model->messages);
    free(model->expected);
    *model = (struct model){0};
}

static void expect(struct model *model, const void *bytes, size_t len)
{
    if (model->expected_len + len > model->expected_capacity) {
        model->expected_capacity = (model->expected_len + len) * 2;
        model->expected = grown(model->expected, model->expected_capacity);
    }
    if (len > 0)
        memcpy(model->expected + model->expected_len, bytes, len);
    model->expected_len += len;
}

/* --- Answers --- */

static void expect_length(struct model *model, size_t len)
{
    const uint8_t header[] = {(uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len};
    if (model->rules->framing == KQN_FRAMING_U32)
        expect(model, header, sizeof(header));
}

static struct message *decide(struct model *model)
{
    return &model->messages[model->decided_count++];
}

static void end_answer(struct model *model, struct message *message)
{
    expect(model, model->input + message->at + message->len, message->ending_len);
    message->answer_ends = model->expected_len;
    message->is_answered = true;
}

void model_answer(struct model *model, const uint8_t *bytes, size_t len)
{
    struct message *message = decide(model);
    expect_length(model, len);
    expect(model, bytes, len);
    end_answer(model, message);
}

void model_decline(struct model *model)
{
    decide(model)->answer_ends = model->expected_len;
}

void model_fail(struct model *model)
{
    model_decline(model);
    model->has_failed = true;
    if (!model->is_over)
        model->over_reason = KQN_REASON_HOOK;
    model->is_over = true;
    model->decided_count = model->message_count; /* what had come behind it gets no verdict any more */
}

/* Goes through the template's text; returns how long the answer is, and expects it if `writes`. */
static size_t fill_template(struct model *model, const struct message *message, bool writes)
{
    size_t len = 0;
    for (const char *at = model->rules->reply; *at;) {
        const void *piece = at;
        size_t piece_len = 1, used = 1;
        if (strncmp(at, "{message}", 9) == 0) {
            piece = model->input + message->at;
            piece_len = message->len;
            used = 9;
        } else if (strncmp(at, "{peer}", 6) == 0) {
            piece = model->peer;
            piece_len = strlen(model->peer);
            used = 6;
        } else if (*at == '{' || *at == '}') {
            used = 2;
        } else {
            piece_len = used = strcspn(at, "{}");
        }
        if (writes)
            expect(model, piece, piece_len);
        len += piece_len;
        at += used;
    }
    return len;
}

static void answer_by_template(struct model *model)
{
    struct message *message = decide(model);
    expect_length(model, fill_template(model, message, false));
    fill_template(model, message, true);
    end_answer(model, message);
}

uint32_t model_answers_within(struct model *model, size_t written)
{
    while (model->seen_count < model->decided_count && model->messages[model->seen_count].answer_ends <= written)
        model->seen_answers += model->messages[model->seen_count++].is_answered;
    return model->seen_answers;
}

/* --- Messages --- */

static void add_message(struct model *model, size_t at, size_t len, size_t ending_len)
{
    if (model->message_count == model->message_capacity) {
        model->message_capacity = model->message_capacity * 2 + 64;
        model->messages = grown(model->messages, model->message_capacity * sizeof(*model->messages));
    }
    model->messages[model->message_count++] =
        (struct message){.at = (uint32_t)at, .len = (uint32_t)len, .ending_len = (uint8_t)ending_len};
    model->parsed = at + len + ending_len;
    if (model->rules->reply)
        answer_by_template(model);
}

static void end_too_long(struct model *model)
{
    model->is_over = true;
    model->over_reason = KQN_REASON_TOO_LONG;
}

static void parse_lines(struct model *model, bool at_end)
{
    while (!model->is_over && model->parsed < model->read) {
        const uint8_t *line = model->input + model->parsed;
        const uint8_t *lf = memchr(line, '\n', model->read - model->parsed);
        size_t len = lf ? (size_t)(lf - line) : model->read - model->parsed;
        bool is_complete = lf;
        size_t ending_len = is_complete ? 1 : 0;
        /* A CR before the LF is its ending's; one that came last may yet be; before the end of all it is a byte. */
        if (len > 0 && line[len - 1] == '\r' && (is_complete || !at_end)) {
            len--;
            ending_len++;
        }
        if (len > model->rules->max_message)
            end_too_long(model);
        else if (is_complete || at_end)
            add_message(model, model->parsed, len, ending_len);
        else
            return;
    }
}

static void parse_u32(struct model *model)
{
    while (!model->is_over && model->read - model->parsed >= 4) {
        const uint8_t *header = model->input + model->parsed;
        size_t len = (size_t)header[0] << 24 | (size_t)header[1] << 16 | (size_t)header[2] << 8 | header[3];
        if (len > model->rules->max_message)
            end_too_long(model);
        else if (model->read - model->parsed - 4 >= len)
            add_message(model, model->parsed + 4, len, 0);
        else
            return;
    }
}

void model_read(struct model *model, size_t len)
{
    bool at_end = len == 0;
    model->read += len;
    if (model->is_over)
        return;
    if (model->rules->framing == KQN_FRAMING_LINE)
        parse_lines(model, at_end);
    else if (model->rules->framing == KQN_FRAMING_U32)
        parse_u32(model);
    else if (!at_end)
        add_message(model, model->read - len, len, 0);
}
