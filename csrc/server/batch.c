#include "server/batch.h"

#include <errno.h>
#include <string.h>

#include "api.h"
#include "core/sys.h"

static const int64_t long_ns = 10 * 1000000;

int kqn_batch_open(struct kqn_batch *batch)
{
    *batch = (struct kqn_batch){.limit = KQN_BATCH_FIRST_MESSAGES};
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

bool kqn_batch_has_room(const struct kqn_batch *batch, size_t message_len)
{
    return batch->count < batch->limit && (batch->count == 0 || batch->messages->end + message_len <= KQN_BATCH_BYTES);
}

int kqn_batch_add(struct kqn_batch *batch, struct kqn_conn *conn, const struct kqn_frame *frame)
{
    struct kqn_batch_entry *entry = &batch->entries[batch->count];
    uint32_t at = batch->messages->end;
    int rc = kqn_pool_append(&batch->pool, &batch->messages, frame->message, frame->message_len);
    if (rc < 0)
        return rc;
    *entry = (struct kqn_batch_entry){.conn = conn, .message_at = at, .message_len = (uint32_t)frame->message_len};
    entry->ending_len = (uint8_t)frame->ending_len;
    batch->count++;
    return 0;
}

int kqn_batch_set_answer(struct kqn_batch *batch, int index, const void *bytes, size_t len)
{
    struct kqn_batch_entry *entry = &batch->entries[index];
    if (len > KQN_ANSWER_MAX)
        return -EMSGSIZE;
    bool is_large = len >= KQN_BATCH_LARGE_ANSWER;
    size_t at = batch->answers && !is_large ? batch->answers->end : 0;
    int rc = kqn_pool_append(&batch->pool, is_large ? &entry->large : &batch->answers, bytes, len);
    if (rc < 0)
        return rc;
    entry->answer_at = at;
    entry->answer_len = len;
    entry->verdict = KQN_VERDICT_ANSWERED;
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
    for (int i = 0; i < batch->count; i++)
        kqn_pool_give(&batch->pool, batch->entries[i].large);
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
