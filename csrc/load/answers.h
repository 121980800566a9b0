/* answers.h: where an answer ends, and whether it is the right one.
 * Nothing is stored: answers of any length pass by, and of the one that is under way a connection remembers its place.
 * Pure, as core/framing.h is. */
#ifndef KQN_ANSWERS_H
#define KQN_ANSWERS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/template.h"

struct kqn_answer_place { /* in the answer that is under way; all 0 where one begins */
    uint64_t seen;        /* bytes of it that have come, a u32 length included */
    uint32_t announced;   /* u32: what its length says, as far as that has come */
    bool wrong;           /* it differs from what was expected */
    bool shown;           /* and is kept as an example */
};

/* How many of these bytes (at least one) belong to the answer under way, and in *ended whether it ends with them.
 * size: of a whole answer in stream framing. The caller adds them to place->seen, and empties the place at an end. */
size_t kqn_answer_next(enum kqn_framing_kind framing, size_t size, struct kqn_answer_place *place, const uint8_t *bytes,
                       size_t len, bool *ended);

struct kqn_answers { /* whole ones that were passed over, and the beginning of another */
    size_t len;
    uint32_t count;
};

/* Lines: the loop that a fast server keeps busy. */
static inline struct kqn_answers kqn_answer_skip_lines(struct kqn_answer_place *place, const uint8_t *bytes, size_t len,
                                                       uint32_t max)
{
    const uint8_t *at = bytes, *end = bytes + len;
    uint32_t left = max;
    do {
        const uint8_t *lf = memchr(at, '\n', (size_t)(end - at));
        if (!lf)
            break;
        at = lf + 1;
        left--;
    } while (left > 0 && at < end);
    if (left < max)
        *place = (struct kqn_answer_place){0};
    if (left > 0) {
        place->seen += (size_t)(end - at);
        at = end;
    }
    return (struct kqn_answers){.len = (size_t)(at - bytes), .count = max - left};
}

/* What has a length, said or known. */
struct kqn_answers kqn_answer_skip_sized(enum kqn_framing_kind framing, size_t size, struct kqn_answer_place *place,
                                         const uint8_t *bytes, size_t len, uint32_t max);

/* Passes over whole answers, at most max (at least one) of them, and what there is of the next; returns how many bytes
 * that were, and in *count how many answers. Moves the place itself. */
static inline size_t kqn_answer_skip(enum kqn_framing_kind framing, size_t size, struct kqn_answer_place *place,
                                     const uint8_t *bytes, size_t len, uint32_t max, uint32_t *count)
{
    struct kqn_answers skipped = framing == KQN_FRAMING_LINE
                                     ? kqn_answer_skip_lines(place, bytes, len, max)
                                     : kqn_answer_skip_sized(framing, size, place, bytes, len, max);
    *count = skipped.count;
    return skipped.len;
}

/* Narrows the bytes that kqn_answer_next() found to the answer's content, without length or LF; returns where in the
 * content they stand. */
size_t kqn_answer_content(enum kqn_framing_kind framing, const struct kqn_answer_place *place, bool ended,
                          const uint8_t **bytes, size_t *len);

/* What an answer must be: the template's literals around the message. */
struct kqn_expectation {
    const struct kqn_template *template;
    const uint8_t *message;
    size_t message_len;
};

size_t kqn_expectation_len(const struct kqn_expectation *expected);

/* Copies what is expected from its beginning; returns how many bytes there were. */
size_t kqn_expectation_copy(const struct kqn_expectation *expected, uint8_t *out, size_t max);

/* Compares the bytes that kqn_answer_next() found, before the place moves; a difference is kept in the place. An
 * answer that ends too early is one. */
void kqn_answer_compare(enum kqn_framing_kind framing, const struct kqn_expectation *expected,
                        struct kqn_answer_place *place, const uint8_t *bytes, size_t len, bool ended);
#endif
