#include "server/batch.h"

#include <errno.h>
#include <string.h>

#include "api.h"
#include "core/sys.h"

static const int64_t long_ns = 10 * 1000000;

int kqn_batch_open(struct kqn_batch *batch, enum kqn_framing_kind framing)
{
    *batch = (struct kqn_batch){.limit = KQN_BATCH_FIRST_MESSAGES, .header_len = kqn_framing_header_len(framing)};
    batch->entries = kqn_sys_alloc(KQN_BATCH_MESSAGES * sizeof(*batch->entries));
    batch->messages = kqn_pool_take(&batch->pool, KQN_BATCH_BYTES);
    if (batch->entries && batch->messages)
        return 0;
    kqn_batch_close(batch);
    return -ENOMEM;
}

void kqn_batch_close(struct kqn_batch *batch)
{
    kqn_sys_free(batch->entries);
    kqn_pool_give(&batch->pool, batch->messages);
    kqn_pool_reset(&batch->pool);
    *batch = (struct kqn_batch){0};
}

int kqn_batch_set_answer(struct kqn_batch *batch, int index, const void *bytes, size_t len)
{
    struct kqn_batch_entry *entry = &batch->entries[index];
    if (len > KQN_ANSWER_MAX)
        return -EMSGSIZE;
    bool is_large = len >= KQN_BATCH_LARGE_ANSWER;
    struct kqn_buffer **block = is_large ? &entry->large : &batch->answers;
    size_t whole_len = batch->header_len + len + entry->ending_len;
    int rc = kqn_pool_make_room(&batch->pool, block, whole_len);
    if (rc < 0)
        return rc;
    uint8_t *to = (*block)->bytes + (*block)->end;
    if (batch->header_len > 0)
        kqn_framing_put_u32(to, (uint32_t)len);
    memcpy(to + batch->header_len, bytes, len);
    kqn_framing_put_ending(to + batch->header_len + len, entry->ending_len);
    entry->answer_at = (*block)->end;
    entry->answer_len = (uint32_t)whole_len;
    entry->verdict = KQN_VERDICT_ANSWERED;
    (*block)->end += (uint32_t)whole_len;
    batch->has_large |= is_large;
    return 0;
}

void kqn_batch_adapt(struct kqn_batch *batch, int64_t took_ns)
{
    if (took_ns > long_ns && batch->limit > KQN_BATCH_LEAST_MESSAGES)
        batch->limit /= 2;
    else if (took_ns < long_ns / 4 && batch->count == batch->limit && batch->limit < KQN_BATCH_MESSAGES)
        batch->limit *= 2;
}

void kqn_batch_clear(struct kqn_batch *batch)
{
    for (int i = 0; i < batch->count && batch->has_large; i++)
        kqn_pool_give(&batch->pool, batch->entries[i].large);
    batch->has_large = false;
    batch->count = 0;
    kqn_pool_give(&batch->pool, batch->answers);
    batch->answers = NULL;
    batch->messages->end = 0;
    if (batch->messages->capacity <= KQN_BATCH_BYTES)
        return;
    struct kqn_buffer *usual = kqn_pool_take(&batch->pool, KQN_BATCH_BYTES);
    if (!usual)
        return; /* without memory the large one does as well */
    kqn_pool_give(&batch->pool, batch->messages);
    batch->messages = usual;
}
