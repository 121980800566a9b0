#include "core/template.h"

#include <errno.h>
#include <string.h>

#include "core/sys.h"

static const struct {
    const char *name;
    enum kqn_template_part_kind kind;
    unsigned uses; /* a bit for each enum kqn_template_use that has it */
} fields[] = {
    {"{message}", KQN_PART_MESSAGE, 1u << KQN_TEMPLATE_REPLY | 1u << KQN_TEMPLATE_EXPECT},
    {"{peer}", KQN_PART_PEER, 1u << KQN_TEMPLATE_REPLY},
    {"{n}", KQN_PART_NUMBER, 1u << KQN_TEMPLATE_MESSAGE},
    {"{conn}", KQN_PART_CONNECTION, 1u << KQN_TEMPLATE_MESSAGE},
};

/* The field that begins here, and how long its name is with the braces; 0: none. */
static size_t match_field(enum kqn_template_use use, const char *text, size_t len, enum kqn_template_part_kind *kind)
{
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        size_t name_len = strlen(fields[i].name);
        if ((fields[i].uses & 1u << use) && len >= name_len && memcmp(text, fields[i].name, name_len) == 0) {
            *kind = fields[i].kind;
            return name_len;
        }
    }
    return 0;
}

static void add_literal(struct kqn_template *template, size_t *literal_len, char byte)
{
    int count = template->part_count;
    if (count == 0 || template->parts[count - 1].kind != KQN_PART_LITERAL) {
        template->parts[count] = (struct kqn_template_part){.kind = KQN_PART_LITERAL, .offset = *literal_len};
        template->part_count = ++count;
    }
    template->literals[(*literal_len)++] = (uint8_t)byte;
    template->parts[count - 1].len++;
}

int kqn_template_compile(struct kqn_template *out, enum kqn_template_use use, const char *text, size_t len,
                         size_t *error_at)
{
    *out = (struct kqn_template){0};
    *error_at = 0;
    /* A part takes at least one byte of the text. */
    out->parts = kqn_sys_alloc((len + 1) * sizeof(*out->parts));
    out->literals = kqn_sys_alloc(len + 1);
    if (!out->parts || !out->literals) {
        kqn_template_reset(out);
        return -ENOMEM;
    }
    size_t literal_len = 0;
    for (size_t i = 0; i < len;) {
        bool is_brace = text[i] == '{' || text[i] == '}';
        bool is_doubled = is_brace && i + 1 < len && text[i + 1] == text[i];
        if (!is_brace || is_doubled) {
            add_literal(out, &literal_len, text[i]);
            i += is_doubled ? 2 : 1;
            continue;
        }
        struct kqn_template_part *part = &out->parts[out->part_count];
        *part = (struct kqn_template_part){0};
        size_t field_len = match_field(use, text + i, len - i, &part->kind);
        if (field_len == 0) {
            *error_at = i;
            kqn_template_reset(out);
            return -EINVAL;
        }
        out->part_count++;
        i += field_len;
    }
    return 0;
}

void kqn_template_reset(struct kqn_template *template)
{
    kqn_sys_free(template->parts);
    kqn_sys_free(template->literals);
    *template = (struct kqn_template){0};
}

bool kqn_template_surrounds(const struct kqn_template *template, const uint8_t **prefix, size_t *prefix_len,
                            const uint8_t **suffix, size_t *suffix_len)
{
    *prefix = *suffix = template->literals;
    *prefix_len = *suffix_len = 0;
    int message_count = 0;
    bool has_others = false;
    for (int i = 0; i < template->part_count; i++) {
        const struct kqn_template_part *part = &template->parts[i];
        if (part->kind == KQN_PART_MESSAGE) {
            message_count++;
        } else if (part->kind != KQN_PART_LITERAL) {
            has_others = true;
        } else if (message_count == 0) {
            *prefix = template->literals + part->offset;
            *prefix_len = part->len;
        } else {
            *suffix = template->literals + part->offset;
            *suffix_len = part->len;
        }
    }
    if (message_count == 1 && !has_others)
        return true;
    *prefix_len = *suffix_len = 0;
    return false;
}

size_t kqn_template_len(const struct kqn_template *template, size_t message_len, size_t peer_len)
{
    size_t len = 0;
    for (int i = 0; i < template->part_count; i++) {
        const struct kqn_template_part *part = &template->parts[i];
        len += part->kind == KQN_PART_MESSAGE ? message_len : part->kind == KQN_PART_PEER ? peer_len : part->len;
    }
    return len;
}

int kqn_template_check(enum kqn_template_use use, const char *text, size_t len, size_t *error_at)
{
    struct kqn_template template;
    int rc = kqn_template_compile(&template, use, text, len, error_at);
    if (rc == 0)
        kqn_template_reset(&template);
    return rc;
}
