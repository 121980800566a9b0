/* messages.h: what is sent, in its framing.
 * Messages that are the same for every connection stand one behind another in one block, and the first of them again
 * behind the last, so that from each on as many as may be in flight go out in one write without a copy, as far as what
 * is repeated stays short. The block is no longer than that takes: short messages that are sent again and again stay in
 * the nearest cache. A message with fields is made when it is sent, and made again when its answer is compared. Message
 * number n is the one in slot n % slot_count. */
#ifndef KQN_MESSAGES_H
#define KQN_MESSAGES_H
#include "api.h"
#include "core/buffer.h"
#include "core/template.h"

struct kqn_messages {
    enum kqn_framing_kind framing;
    uint8_t *block;
    size_t *starts;      /* starts[i]: where slot i begins in the block; one more: where the last one ends */
    uint32_t slot_count; /* one for each message */
    uint32_t slots_here; /* with those behind them, which are the first ones again; without a block there is no end */
    bool has_fields;     /* then there is no block */
    struct kqn_template template;
    size_t body_pad;
};

/* 0 or -errno. */
int kqn_messages_open(struct kqn_messages *messages, const struct kqn_load_settings *settings);
void kqn_messages_close(struct kqn_messages *messages);

/* Messages from the block: those of `count` slots from this one on, none of them behind the last one here. */
static inline const uint8_t *kqn_messages_span(const struct kqn_messages *messages, uint32_t slot, uint32_t count,
                                               size_t *len)
{
    *len = messages->starts[slot + count] - messages->starts[slot];
    return messages->block + messages->starts[slot];
}

/* Appends a message with fields, framed. 0 or -ENOMEM. */
int kqn_messages_make(const struct kqn_messages *messages, uint64_t number, uint32_t conn, struct kqn_pool *pool,
                      struct kqn_buffer **out);

/* A message without its framing; one with fields is made in *made, in place of what that held. NULL without memory. */
const uint8_t *kqn_messages_body(const struct kqn_messages *messages, uint64_t number, uint32_t conn,
                                 struct kqn_pool *pool, struct kqn_buffer **made, size_t *len);
#endif
