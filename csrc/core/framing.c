#include "core/framing.h"

#include <errno.h>
#include <string.h>

static int next_stream(const uint8_t *bytes, size_t len, struct kqn_frame *frame)
{
    *frame = (struct kqn_frame){.message = bytes, .message_len = len, .consumed = len};
    return len > 0;
}

static int next_line(const struct kqn_framing *framing, const uint8_t *bytes, size_t len, bool at_end, size_t *scanned,
                     struct kqn_frame *frame)
{
    const uint8_t *lf = memchr(bytes + *scanned, '\n', len - *scanned);
    size_t message_len = lf ? (size_t)(lf - bytes) : len;
    size_t consumed = lf ? message_len + 1 : len;
    /* A CR that ends the bytes may be half of an ending. */
    if (message_len > 0 && bytes[message_len - 1] == '\r' && !(at_end && !lf))
        message_len--;
    if (message_len > framing->max_message)
        return -EMSGSIZE;
    if (!lf && !(at_end && len > 0)) {
        *scanned = len;
        return 0;
    }
    *scanned = 0;
    *frame = (struct kqn_frame){.message = bytes, .message_len = message_len, .consumed = consumed};
    frame->ending_len = consumed - message_len;
    return 1;
}

static int next_u32(const struct kqn_framing *framing, const uint8_t *bytes, size_t len, struct kqn_frame *frame)
{
    if (len < KQN_U32_HEADER_BYTES)
        return 0;
    size_t message_len = (size_t)bytes[0] << 24 | (size_t)bytes[1] << 16 | (size_t)bytes[2] << 8 | bytes[3];
    if (message_len > framing->max_message)
        return -EMSGSIZE;
    if (len - KQN_U32_HEADER_BYTES < message_len)
        return 0;
    *frame = (struct kqn_frame){.message = bytes + KQN_U32_HEADER_BYTES, .message_len = message_len};
    frame->consumed = KQN_U32_HEADER_BYTES + message_len;
    return 1;
}

int kqn_framing_next(const struct kqn_framing *framing, const uint8_t *bytes, size_t len, bool at_end, size_t *scanned,
                     struct kqn_frame *frame)
{
    if (len == 0)
        return 0;
    switch (framing->kind) {
    case KQN_FRAMING_LINE:
        return next_line(framing, bytes, len, at_end, scanned, frame);
    case KQN_FRAMING_U32:
        return next_u32(framing, bytes, len, frame);
    case KQN_FRAMING_STREAM:
        break;
    }
    return next_stream(bytes, len, frame);
}

void kqn_framing_put_u32(uint8_t out[KQN_U32_HEADER_BYTES], uint32_t len)
{
    out[0] = (uint8_t)(len >> 24);
    out[1] = (uint8_t)(len >> 16);
    out[2] = (uint8_t)(len >> 8);
    out[3] = (uint8_t)len;
}
