/* framing.h: where a message begins and ends in bytes that have been read.
 * Pure: bytes in, spans into the same bytes out; no memory, no input or output. */
#ifndef KQN_FRAMING_H
#define KQN_FRAMING_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/* Finds the next message: 1 and *frame; 0, it is not complete; -EMSGSIZE, it is or will be longer than max_message.
 * *scanned (line) is how many of these bytes an earlier call found to hold no ending, and is kept up to date: no byte
 * is looked at twice. at_end: nothing follows, so that an unfinished line is a message. */
int kqn_framing_next(const struct kqn_framing *framing, const uint8_t *bytes, size_t len, bool at_end, size_t *scanned,
                     struct kqn_frame *frame);

/* The length that goes before a u32 message. */
void kqn_framing_put_u32(uint8_t out[KQN_U32_HEADER_BYTES], uint32_t len);
#endif
