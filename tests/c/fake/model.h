/* model.h: what a server should make of the bytes that it has read, by the rules alone.
 * Fed with every read and told of every answer of the hook, it knows what each client must be sent: the expected bytes.
 * Written without a look at how the server does it, and simpler: it keeps everything and never has to wait. */
#ifndef KQN_FAKE_MODEL_H
#define KQN_FAKE_MODEL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api.h"

struct message {
    uint32_t at; /* in the client's input */
    uint32_t len;
    size_t answer_ends; /* in the expected bytes */
    uint8_t ending_len;
    bool is_answered; /* by bytes, maybe none: neither declined nor failed */
};

struct rules { /* of the server */
    enum kqn_framing_kind framing;
    size_t max_message;
    const char *reply; /* NULL: the hook answers */
};

struct model {
    const struct rules *rules;
    const uint8_t *input; /* all that the client has to send */
    size_t read;
    size_t parsed; /* of that, in complete messages */
    struct message *messages;
    uint32_t message_count; /* complete ones */
    uint32_t message_capacity;
    uint32_t decided_count; /* those with a verdict, a template's or the hook's */
    uint8_t *expected;
    size_t expected_len;
    size_t expected_capacity;
    bool is_over; /* the message that came next ends the connection */
    enum kqn_reason over_reason;
    bool has_failed; /* the hook, with one of its messages: whichever is seen first, this or what is too long, counts */
    char peer[KQN_PEER_TEXT_MAX];

    /* Answers of which all bytes have been written, as `written` grows. */
    uint32_t seen_count;
    uint32_t seen_answers;
};

/* Keeps the memory of what it was before. */
void model_begin(struct model *model, const struct rules *rules, const uint8_t *input, const char *peer);

/* The server has read so many bytes more; 0: the end. */
void model_read(struct model *model, size_t len);

/* The hook's verdict on the next message. bytes NULL: it has declined, or failed. */
void model_answer(struct model *model, const uint8_t *bytes, size_t len);
void model_decline(struct model *model);
void model_fail(struct model *model);

/* Whether the client is owed something: bytes, or the hook's verdict. */
static inline bool model_owes(const struct model *model, size_t written)
{
    return written < model->expected_len || model->decided_count < model->message_count;
}

/* How many answers lie wholly among so many bytes, which never grow fewer. */
uint32_t model_answers_within(struct model *model, size_t written);

void model_free(struct model *model);
#endif
