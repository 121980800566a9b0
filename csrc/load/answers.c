#include "load/answers.h"

#include <string.h>

#include "core/framing.h"

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t next_u32(struct kqn_answer_place *place, const uint8_t *bytes, size_t len, bool *ended)
{
    size_t taken = 0;
    for (uint64_t at = place->seen; at < KQN_U32_HEADER_BYTES && taken < len; at++)
        place->announced = place->announced << 8 | bytes[taken++];
    uint64_t seen = place->seen + taken;
    *ended = false;
    if (seen < KQN_U32_HEADER_BYTES)
        return taken;
    uint64_t missing = KQN_U32_HEADER_BYTES + (uint64_t)place->announced - seen;
    *ended = len - taken >= missing;
    return taken + smaller(len - taken, missing);
}

size_t kqn_answer_next(enum kqn_framing_kind framing, size_t size, struct kqn_answer_place *place, const uint8_t *bytes,
                       size_t len, bool *ended)
{
    if (framing == KQN_FRAMING_LINE) {
        const uint8_t *lf = memchr(bytes, '\n', len);
        *ended = lf != NULL;
        return lf ? (size_t)(lf - bytes) + 1 : len;
    }
    if (framing == KQN_FRAMING_U32)
        return next_u32(place, bytes, len, ended);
    size_t missing = size - (size_t)place->seen;
    *ended = len >= missing;
    return smaller(len, missing);
}

struct kqn_answers kqn_answer_skip_sized(enum kqn_framing_kind framing, size_t size, struct kqn_answer_place *place,
                                         const uint8_t *bytes, size_t len, uint32_t max)
{
    struct kqn_answers skipped = {0};
    while (skipped.len < len && skipped.count < max) {
        bool ended;
        size_t taken = kqn_answer_next(framing, size, place, bytes + skipped.len, len - skipped.len, &ended);
        skipped.len += taken;
        place->seen += taken;
        if (ended) {
            skipped.count++;
            *place = (struct kqn_answer_place){0};
        }
    }
    return skipped;
}

size_t kqn_answer_content(enum kqn_framing_kind framing, const struct kqn_answer_place *place, bool ended,
                          const uint8_t **bytes, size_t *len)
{
    size_t at = (size_t)place->seen;
    if (framing == KQN_FRAMING_LINE)
        *len -= ended;
    if (framing != KQN_FRAMING_U32)
        return at;
    size_t header = at < KQN_U32_HEADER_BYTES ? smaller(*len, KQN_U32_HEADER_BYTES - at) : 0;
    *bytes += header;
    *len -= header;
    return at < KQN_U32_HEADER_BYTES ? 0 : at - KQN_U32_HEADER_BYTES;
}

/* A part's bytes: of the message, or of the literals. */
static const uint8_t *part_bytes(const struct kqn_expectation *expected, const struct kqn_template_part *part,
                                 size_t *len)
{
    bool is_message = part->kind == KQN_PART_MESSAGE;
    *len = is_message ? expected->message_len : part->len;
    return is_message ? expected->message : expected->template->literals + part->offset;
}

size_t kqn_expectation_len(const struct kqn_expectation *expected)
{
    return kqn_template_len(expected->template, expected->message_len, 0);
}

size_t kqn_expectation_copy(const struct kqn_expectation *expected, uint8_t *out, size_t max)
{
    size_t copied = 0;
    for (int i = 0; i < expected->template->part_count; i++) {
        size_t part_len;
        const uint8_t *part = part_bytes(expected, &expected->template->parts[i], &part_len);
        size_t len = smaller(part_len, max - copied);
        if (len > 0)
            memcpy(out + copied, part, len);
        copied += len;
    }
    return copied;
}

/* Whether these bytes stand at this position of what is expected. */
static bool matches(const struct kqn_expectation *expected, size_t at, const uint8_t *bytes, size_t len)
{
    for (int i = 0; i < expected->template->part_count && len > 0; i++) {
        size_t part_len;
        const uint8_t *part = part_bytes(expected, &expected->template->parts[i], &part_len);
        if (at >= part_len) {
            at -= part_len;
            continue;
        }
        size_t compared = smaller(part_len - at, len);
        if (memcmp(part + at, bytes, compared) != 0)
            return false;
        bytes += compared;
        len -= compared;
        at = 0;
    }
    return len == 0;
}

void kqn_answer_compare(enum kqn_framing_kind framing, const struct kqn_expectation *expected,
                        struct kqn_answer_place *place, const uint8_t *bytes, size_t len, bool ended)
{
    size_t whole = kqn_expectation_len(expected);
    uint64_t seen = place->seen + len;
    size_t at = kqn_answer_content(framing, place, ended, &bytes, &len);
    if (framing == KQN_FRAMING_U32 && seen >= KQN_U32_HEADER_BYTES)
        place->wrong |= place->announced != whole;
    /* A CR behind all that was expected can be half of a line's ending; it may have come with earlier bytes. */
    if (framing == KQN_FRAMING_LINE && len > 0 && at + len == whole + 1 && bytes[len - 1] == '\r')
        len--;
    else if (framing == KQN_FRAMING_LINE && len == 0 && at == whole + 1)
        at = whole;
    size_t end = at + len;
    place->wrong |= end > whole || (ended && end < whole) || !matches(expected, at, bytes, len);
}
