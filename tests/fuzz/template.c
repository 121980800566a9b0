/* template.c: a template is what its text says.
 * One that is taken can be written out again from its parts, and is its text; its answer has the length that was told
 * beforehand, and around a message the same bytes. One that is refused is wrong at a brace. And any text at all, with
 * its braces doubled, is a template that says just that text.
 *
 * Input: what the template is for, the message's length, the peer's, and then the text. */
#include "core/template.h"

#include <errno.h>

#include "fuzz.h"

struct text {
    uint8_t *bytes; /* owned; for twice the bytes of an input, and one message and peer per byte */
    size_t len;
};

static struct text text_for(size_t len)
{
    struct text text = {.bytes = malloc(len + 1)};
    REQUIRE(text.bytes != NULL);
    return text;
}

static void put(struct text *text, const void *bytes, size_t len)
{
    if (len > 0)
        memcpy(text->bytes + text->len, bytes, len);
    text->len += len;
}

static void put_with_doubled_braces(struct text *text, const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] == '{' || bytes[i] == '}')
            put(text, &bytes[i], 1);
        put(text, &bytes[i], 1);
    }
}

static void require_is(const struct text *text, const void *bytes, size_t len)
{
    REQUIRE(text->len == len);
    REQUIRE(len == 0 || memcmp(text->bytes, bytes, len) == 0);
}

/* The text that a template was made from. */
static void require_writes_out(const struct kqn_template *template, const char *original, size_t len)
{
    static const char *const names[] = {"", "{message}", "{peer}", "{n}", "{conn}"};
    struct text text = text_for(2 * len);
    for (int i = 0; i < template->part_count; i++) {
        const struct kqn_template_part *part = &template->parts[i];
        if (part->kind == KQN_PART_LITERAL)
            put_with_doubled_braces(&text, template->literals + part->offset, part->len);
        else
            put(&text, names[part->kind], strlen(names[part->kind]));
    }
    require_is(&text, original, len);
    free(text.bytes);
}

/* The answer, part by part as a server makes it, against its length and against what stands around a message. */
static void require_expands(const struct kqn_template *template, const struct text *message, const struct text *peer)
{
    size_t expected_len = kqn_template_len(template, message->len, peer->len);
    struct text answer = text_for(expected_len);
    for (int i = 0; i < template->part_count; i++) {
        const struct kqn_template_part *part = &template->parts[i];
        if (part->kind == KQN_PART_MESSAGE)
            put(&answer, message->bytes, message->len);
        else if (part->kind == KQN_PART_PEER)
            put(&answer, peer->bytes, peer->len);
        else
            put(&answer, template->literals + part->offset, part->len);
    }
    REQUIRE(answer.len == expected_len);

    const uint8_t *prefix, *suffix;
    size_t prefix_len, suffix_len;
    if (kqn_template_surrounds(template, &prefix, &prefix_len, &suffix, &suffix_len)) {
        struct text around = text_for(expected_len);
        REQUIRE(prefix_len + message->len + suffix_len == expected_len);
        put(&around, prefix, prefix_len);
        put(&around, message->bytes, message->len);
        put(&around, suffix, suffix_len);
        require_is(&around, answer.bytes, answer.len);
        free(around.bytes);
    }
    free(answer.bytes);
}

static void require_braces_double(enum kqn_template_use use, const char *bytes, size_t len)
{
    struct text doubled = text_for(2 * len);
    put_with_doubled_braces(&doubled, (const uint8_t *)bytes, len);
    struct kqn_template template;
    size_t error_at;
    REQUIRE(kqn_template_compile(&template, use, (const char *)doubled.bytes, doubled.len, &error_at) == 0);
    REQUIRE(template.part_count == (len > 0));
    REQUIRE(len == 0 || template.parts[0].kind == KQN_PART_LITERAL);
    struct text said = {.bytes = template.literals, .len = len > 0 ? template.parts[0].len : 0};
    require_is(&said, bytes, len);
    kqn_template_reset(&template);
    free(doubled.bytes);
}

static struct text filled(char byte, size_t len)
{
    struct text text = text_for(len);
    memset(text.bytes, byte, len);
    text.len = len;
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct input input = {bytes, len};
    enum kqn_template_use use = (enum kqn_template_use)(take_byte(&input) % 3);
    struct text message = filled('m', take_byte(&input));
    struct text peer = filled('p', take_byte(&input));
    char *text = copy_of(input.bytes, input.len);

    struct kqn_template template;
    size_t error_at = 0;
    int rc = kqn_template_compile(&template, use, text, input.len, &error_at);
    size_t checked_error_at = 0;
    REQUIRE(kqn_template_check(use, text, input.len, &checked_error_at) == rc);
    REQUIRE(error_at == checked_error_at);
    if (rc == 0) {
        require_writes_out(&template, text, input.len);
        if (use != KQN_TEMPLATE_MESSAGE)
            require_expands(&template, &message, &peer);
        kqn_template_reset(&template);
    } else {
        REQUIRE(rc == -EINVAL);
        REQUIRE(error_at < input.len && (text[error_at] == '{' || text[error_at] == '}'));
        REQUIRE(kqn_template_check(use, text, error_at, &checked_error_at) == 0);
    }
    require_braces_double(use, text, input.len);
    free(message.bytes);
    free(peer.bytes);
    free(text);
    return 0;
}
