/* framing.c: messages are the same however their bytes arrive.
 * What a peer sent is framed whole, and again as the input's steps cut it, which must find the same messages, endings
 * and error. In stream framing, where a message is what one read returned, only their bytes must be the same.
 *
 * Input: kind, max_message, step count (to 15), the steps (bytes less 1 that one read returns, over and over), and
 * then what the peer sends. */
#include "core/framing.h"

#include <stdbool.h>

#include "fuzz.h"

struct found { /* a message, by where it lies in what the peer sent */
    size_t at;
    size_t len;
    size_t end; /* where the next one may begin */
    size_t ending_len;
};

struct transcript {
    struct found *found; /* room for a message per byte, as none takes less */
    size_t count;
    size_t end; /* bytes that messages took up */
    int error;  /* that ended it; 0: none */
};

struct steps {
    const uint8_t *bytes; /* NULL: all at once */
    size_t count;
};

static void note(struct transcript *transcript, size_t sent_len, const uint8_t *given, const struct kqn_frame *frame)
{
    size_t offset = (size_t)(frame->message - given);
    REQUIRE(frame->consumed > 0 && frame->consumed <= sent_len - transcript->end);
    REQUIRE(offset + frame->message_len + frame->ending_len == frame->consumed);
    struct found *found = &transcript->found[transcript->count++];
    *found = (struct found){.at = transcript->end + offset, .len = frame->message_len, .ending_len = frame->ending_len};
    found->end = transcript->end += frame->consumed;
}

/* Gives the framing what is not used up of the first `to` bytes, and nothing that it could read beyond. */
static void feed(struct transcript *transcript, const struct kqn_framing *framing, const uint8_t *sent, size_t to,
                 bool at_end, size_t *scanned)
{
    size_t given_len = to - transcript->end;
    uint8_t *given = malloc(given_len > 0 ? given_len : 1);
    REQUIRE(given != NULL);
    if (given_len > 0)
        memcpy(given, sent + transcript->end, given_len);
    size_t used = 0;
    struct kqn_frame frame;
    int rc = 0;
    while ((rc = kqn_framing_next(framing, given + used, given_len - used, at_end, scanned, &frame)) == 1) {
        note(transcript, to, given + used, &frame);
        used += frame.consumed;
        REQUIRE(*scanned == 0);
    }
    REQUIRE(*scanned <= given_len - used);
    transcript->error = rc;
    free(given);
}

/* Frames what the peer sent as a connection does: read by read, and then the end. */
static struct transcript frame_all(const struct kqn_framing *framing, const uint8_t *sent, size_t len,
                                   struct steps steps)
{
    struct transcript transcript = {.found = calloc(len + 1, sizeof(struct found))};
    REQUIRE(transcript.found != NULL);
    size_t scanned = 0;
    for (size_t to = 0, i = 0; to < len && transcript.error == 0; i++) {
        size_t step = steps.count > 0 ? (size_t)steps.bytes[i % steps.count] + 1 : len;
        to = step < len - to ? to + step : len;
        feed(&transcript, framing, sent, to, false, &scanned);
    }
    if (transcript.error == 0)
        feed(&transcript, framing, sent, len, true, &scanned);
    return transcript;
}

static void require_same(const struct transcript *whole, const struct transcript *split)
{
    REQUIRE(whole->error == split->error);
    REQUIRE(whole->count == split->count);
    for (size_t i = 0; i < whole->count; i++) {
        REQUIRE(whole->found[i].at == split->found[i].at);
        REQUIRE(whole->found[i].len == split->found[i].len);
        REQUIRE(whole->found[i].end == split->found[i].end);
        REQUIRE(whole->found[i].ending_len == split->found[i].ending_len);
    }
}

/* Every read is a message, so they lie one behind the other and are all that was sent. */
static void require_everything(const struct transcript *transcript, size_t len)
{
    REQUIRE(transcript->error == 0);
    REQUIRE(transcript->end == len);
    for (size_t i = 0, at = 0; i < transcript->count; at = transcript->found[i++].end)
        REQUIRE(transcript->found[i].at == at && transcript->found[i].len > 0);
}

/* What each message may look like, said without the framing's help. */
static void require_sound(const struct transcript *transcript, const struct kqn_framing *framing, const uint8_t *sent)
{
    for (size_t i = 0; i < transcript->count; i++) {
        const struct found *found = &transcript->found[i];
        const uint8_t *message = sent + found->at;
        REQUIRE(found->len <= framing->max_message);
        if (framing->kind == KQN_FRAMING_U32) {
            uint8_t header[KQN_U32_HEADER_BYTES];
            kqn_framing_put_u32(header, (uint32_t)found->len);
            REQUIRE(memcmp(message - sizeof(header), header, sizeof(header)) == 0);
            continue;
        }
        REQUIRE(found->len == 0 || memchr(message, '\n', found->len) == NULL);
        REQUIRE(found->ending_len == 0 || sent[found->end - 1] == '\n');
        REQUIRE(found->ending_len < 2 || sent[found->end - 2] == '\r');
        REQUIRE(found->ending_len != 1 || found->len == 0 || message[found->len - 1] != '\r');
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct input input = {bytes, len};
    struct kqn_framing framing = {.kind = (enum kqn_framing_kind)(take_byte(&input) % 3)};
    framing.max_message = take_byte(&input);
    struct steps steps = {.count = take_byte(&input) % 16u};
    if (steps.count > input.len)
        steps.count = input.len;
    steps.bytes = input.bytes;
    const uint8_t *sent = input.bytes + steps.count;
    size_t sent_len = input.len - steps.count;

    struct transcript whole = frame_all(&framing, sent, sent_len, (struct steps){0});
    struct transcript split = frame_all(&framing, sent, sent_len, steps);
    if (framing.kind == KQN_FRAMING_STREAM) {
        require_everything(&whole, sent_len);
        require_everything(&split, sent_len);
    } else {
        require_same(&whole, &split);
        require_sound(&whole, &framing, sent);
    }
    free(whole.found);
    free(split.found);
    return 0;
}
