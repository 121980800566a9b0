/* framing.h: where a message begins and ends in bytes that have been read.
 * Pure: bytes in, spans into the same bytes out; no memory, no input or output. */
#ifndef KQN_FRAMING_H
#define KQN_FRAMING_H
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "api.h"

enum {
    KQN_U32_HEADER_BYTES = 4,
};

struct kqn_framing {
    enum kqn_framing_kind kind;
    size_t max_message; /* bytes; stream: not used */
};

struct kqn_frame {
    const uint8_t *message;
    size_t message_len;
    size_t consumed;   /* bytes of the input that the message took up, ending and length included */
    size_t ending_len; /* line: of the LF or CRLF behind the message; 0 at the end of input */
};

static inline int kqn_framing_next_stream(const uint8_t *bytes, size_t len, struct kqn_frame *frame)
{
    *frame = (struct kqn_frame){.message = bytes, .message_len = len, .consumed = len};
    return len > 0;
}

/* A line without its LF: it is a message only at the end of the input. A CR at its end may be half of an ending, unless
 * nothing follows. */
static inline int kqn_framing_unfinished_line(const struct kqn_framing *framing, const uint8_t *bytes, size_t len,
                                              bool at_end, size_t *scanned, struct kqn_frame *frame)
{
    bool has_cr = !at_end && bytes[len - 1] == '\r';
    if (len - has_cr > framing->max_message)
        return -EMSGSIZE;
    *scanned = at_end ? 0 : len;
    *frame = (struct kqn_frame){.message = bytes, .message_len = len, .consumed = len};
    return at_end;
}

static inline int kqn_framing_next_line(const struct kqn_framing *framing, const uint8_t *bytes, size_t len,
                                        bool at_end, size_t *scanned, struct kqn_frame *frame)
{
    const uint8_t *lf = memchr(bytes + *scanned, '\n', len - *scanned);
    if (!lf)
        return kqn_framing_unfinished_line(framing, bytes, len, at_end, scanned, frame);
    size_t ending_len = lf > bytes && lf[-1] == '\r' ? 2 : 1;
    frame->message = bytes;
    frame->consumed = (size_t)(lf - bytes) + 1;
    frame->message_len = frame->consumed - ending_len;
    frame->ending_len = ending_len;
    *scanned = 0;
    return frame->message_len > framing->max_message ? -EMSGSIZE : 1;
}

static inline size_t kqn_framing_get_u32(const uint8_t bytes[KQN_U32_HEADER_BYTES])
{
    return (size_t)bytes[0] << 24 | (size_t)bytes[1] << 16 | (size_t)bytes[2] << 8 | bytes[3];
}

static inline int kqn_framing_next_u32(const struct kqn_framing *framing, const uint8_t *bytes, size_t len,
                                       struct kqn_frame *frame)
{
    if (len < KQN_U32_HEADER_BYTES)
        return 0;
    size_t message_len = kqn_framing_get_u32(bytes);
    if (message_len > framing->max_message)
        return -EMSGSIZE;
    if (len - KQN_U32_HEADER_BYTES < message_len)
        return 0;
    *frame = (struct kqn_frame){.message = bytes + KQN_U32_HEADER_BYTES, .message_len = message_len};
    frame->consumed = KQN_U32_HEADER_BYTES + message_len;
    return 1;
}

/* Finds the next message: 1 and *frame; 0, it is not complete; -EMSGSIZE, it is or will be longer than max_message.
 * *scanned (line) is how many of these bytes an earlier call found to hold no ending, and is kept up to date: no byte
 * is looked at twice. at_end: nothing follows, so that an unfinished line is a message. */
static inline int kqn_framing_next(const struct kqn_framing *framing, const uint8_t *bytes, size_t len, bool at_end,
                                   size_t *scanned, struct kqn_frame *frame)
{
    if (len == 0)
        return 0;
    switch (framing->kind) {
    case KQN_FRAMING_LINE:
        return kqn_framing_next_line(framing, bytes, len, at_end, scanned, frame);
    case KQN_FRAMING_U32:
        return kqn_framing_next_u32(framing, bytes, len, frame);
    case KQN_FRAMING_STREAM:
        break;
    }
    return kqn_framing_next_stream(bytes, len, frame);
}

/* How many bytes the unfinished message that begins here lacks, where it says so (u32); else 0. */
static inline size_t kqn_framing_missing(const struct kqn_framing *framing, const uint8_t *bytes, size_t len)
{
    if (framing->kind != KQN_FRAMING_U32 || len < KQN_U32_HEADER_BYTES)
        return 0;
    size_t whole = KQN_U32_HEADER_BYTES + kqn_framing_get_u32(bytes);
    return whole > len ? whole - len : 0;
}

/* How many bytes go before a message. */
static inline size_t kqn_framing_header_len(enum kqn_framing_kind kind)
{
    return kind == KQN_FRAMING_U32 ? KQN_U32_HEADER_BYTES : 0;
}

/* The length that goes before a u32 message. */
static inline void kqn_framing_put_u32(uint8_t out[KQN_U32_HEADER_BYTES], uint32_t len)
{
    out[0] = (uint8_t)(len >> 24);
    out[1] = (uint8_t)(len >> 16);
    out[2] = (uint8_t)(len >> 8);
    out[3] = (uint8_t)len;
}

/* Puts behind an answer the ending that its line had; returns what lies behind that. */
static inline uint8_t *kqn_framing_put_ending(uint8_t *to, size_t ending_len)
{
    if (ending_len == 2)
        *to++ = '\r';
    if (ending_len > 0)
        *to++ = '\n';
    return to;
}
#endif
