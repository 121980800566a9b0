#include "load/messages.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/framing.h"
#include "core/sys.h"

enum {
    REPEATED_BYTES_MAX = 64 * 1024, /* of the messages that stand in the block a second time, or oftener */
};

static size_t header_len(enum kqn_framing_kind framing)
{
    return framing == KQN_FRAMING_U32 ? KQN_U32_HEADER_BYTES : 0;
}

static size_t ending_len(enum kqn_framing_kind framing)
{
    return framing == KQN_FRAMING_LINE;
}

static uint8_t *put_framed(enum kqn_framing_kind framing, uint8_t *out, const uint8_t *body, size_t len)
{
    if (framing == KQN_FRAMING_U32)
        kqn_framing_put_u32(out, (uint32_t)len);
    out += header_len(framing);
    if (len > 0)
        memcpy(out, body, len);
    out += len;
    if (framing == KQN_FRAMING_LINE)
        *out++ = '\n';
    return out;
}

static size_t framed_len(const struct kqn_load_settings *settings, size_t slot)
{
    size_t body_len = settings->body_lens[slot % settings->body_count];
    return header_len(settings->framing) + body_len + ending_len(settings->framing);
}

/* How many messages are repeated, so that with the last one before them they are as many as may be in flight. */
static uint32_t count_repeated(const struct kqn_load_settings *settings)
{
    uint32_t count = 0;
    size_t bytes = framed_len(settings, 0);
    while (count + 1 < (uint32_t)settings->depth && bytes <= REPEATED_BYTES_MAX) {
        count++;
        bytes += framed_len(settings, count);
    }
    return count;
}

static int fill_block(struct kqn_messages *messages, const struct kqn_load_settings *settings)
{
    messages->slot_count = (uint32_t)settings->body_count;
    messages->slots_here = messages->slot_count + count_repeated(settings);
    size_t block_len = 0;
    for (size_t slot = 0; slot < messages->slots_here; slot++)
        block_len += framed_len(settings, slot);
    messages->block = kqn_sys_alloc(block_len);
    messages->starts = kqn_sys_alloc((messages->slots_here + 1) * sizeof(*messages->starts));
    if (!messages->block || !messages->starts)
        return -ENOMEM;
    uint8_t *end = messages->block;
    for (size_t slot = 0; slot < messages->slots_here; slot++) {
        size_t body = slot % settings->body_count;
        messages->starts[slot] = (size_t)(end - messages->block);
        end = put_framed(messages->framing, end, settings->bodies[body], settings->body_lens[body]);
    }
    messages->starts[messages->slots_here] = block_len;
    return 0;
}

int kqn_messages_open(struct kqn_messages *messages, const struct kqn_load_settings *settings)
{
    *messages = (struct kqn_messages){.framing = settings->framing, .body_pad = settings->body_pad};
    messages->has_fields = !settings->bodies;
    messages->slots_here = UINT32_MAX;
    size_t error_at;
    int rc = messages->has_fields
                 ? kqn_template_compile(&messages->template, KQN_TEMPLATE_MESSAGE, settings->message_template,
                                        settings->message_template_len, &error_at)
                 : fill_block(messages, settings);
    if (rc < 0)
        kqn_messages_close(messages);
    return rc;
}

void kqn_messages_close(struct kqn_messages *messages)
{
    kqn_sys_free(messages->block);
    kqn_sys_free(messages->starts);
    kqn_template_reset(&messages->template);
    messages->block = NULL;
    messages->starts = NULL;
}

static int append_body(const struct kqn_messages *messages, uint64_t number, uint32_t conn, struct kqn_pool *pool,
                       struct kqn_buffer **out)
{
    const struct kqn_template *template = &messages->template;
    size_t len = 0;
    int rc = 0;
    for (int i = 0; i < template->part_count && rc == 0; i++) {
        const struct kqn_template_part *part = &template->parts[i];
        char digits[24];
        const void *bytes = digits;
        size_t part_len = part->len;
        if (part->kind == KQN_PART_LITERAL)
            bytes = template->literals + part->offset;
        else
            part_len = (size_t)snprintf(digits, sizeof(digits), "%" PRIu64,
                                        part->kind == KQN_PART_NUMBER ? number : (uint64_t)conn);
        rc = kqn_pool_append(pool, out, bytes, part_len);
        len += part_len;
    }
    if (rc == 0 && len < messages->body_pad) {
        rc = kqn_pool_reserve(pool, out, messages->body_pad - len);
        if (rc == 0) {
            memset((*out)->bytes + (*out)->end, 'x', messages->body_pad - len);
            (*out)->end += (uint32_t)(messages->body_pad - len);
        }
    }
    return rc;
}

int kqn_messages_make(const struct kqn_messages *messages, uint64_t number, uint32_t conn, struct kqn_pool *pool,
                      struct kqn_buffer **out)
{
    uint8_t header[KQN_U32_HEADER_BYTES] = {0};
    int rc = kqn_pool_append(pool, out, header, header_len(messages->framing));
    if (rc < 0)
        return rc;
    size_t begin = (*out)->end - (*out)->begin;
    rc = append_body(messages, number, conn, pool, out);
    if (rc == 0 && messages->framing == KQN_FRAMING_U32) {
        uint8_t *body = (*out)->bytes + (*out)->begin + begin;
        kqn_framing_put_u32(body - KQN_U32_HEADER_BYTES, (uint32_t)((*out)->bytes + (*out)->end - body));
    }
    if (rc == 0 && messages->framing == KQN_FRAMING_LINE)
        rc = kqn_pool_append(pool, out, "\n", 1);
    return rc;
}

const uint8_t *kqn_messages_body(const struct kqn_messages *messages, uint64_t number, uint32_t conn,
                                 struct kqn_pool *pool, struct kqn_buffer **made, size_t *len)
{
    if (!messages->has_fields) {
        size_t whole;
        const uint8_t *framed = kqn_messages_span(messages, (uint32_t)(number % messages->slot_count), 1, &whole);
        *len = whole - header_len(messages->framing) - ending_len(messages->framing);
        return framed + header_len(messages->framing);
    }
    if (*made)
        (*made)->begin = (*made)->end = 0;
    if (append_body(messages, number, conn, pool, made) < 0)
        return NULL;
    *len = kqn_buffer_len(*made);
    return *made ? (*made)->bytes + (*made)->begin : NULL;
}
