#include "core/buffer.h"

#include <errno.h>
#include <string.h>

#include "core/sys.h"

static const size_t max_block_bytes = (size_t)1 << 31; /* capacity is a uint32_t */

size_t kqn_pool_block_bytes(size_t min_capacity)
{
    size_t bytes = KQN_POOL_SMALLEST_BYTES;
    while (bytes < min_capacity + sizeof(struct kqn_buffer))
        bytes *= bytes < KQN_POOL_LARGEST_BYTES ? 4 : 2;
    return bytes;
}

/* Which list blocks of this size are kept in; KQN_POOL_SIZES: none. */
static unsigned size_index(size_t bytes)
{
    unsigned index = 0;
    for (size_t size = KQN_POOL_SMALLEST_BYTES; size < bytes && index < KQN_POOL_SIZES; size *= 4)
        index++;
    return index;
}

void kqn_pool_reset(struct kqn_pool *pool)
{
    for (unsigned i = 0; i < KQN_POOL_SIZES; i++) {
        while (pool->kept[i]) {
            struct kqn_buffer *buffer = pool->kept[i];
            pool->kept[i] = buffer->next;
            kqn_sys_free(buffer);
        }
    }
    pool->kept_bytes = 0;
}

/* 0, -ENOMEM or -ENOBUFS. */
static int take(struct kqn_pool *pool, struct kqn_buffer **out, size_t min_capacity)
{
    if (min_capacity > max_block_bytes - sizeof(struct kqn_buffer))
        return -ENOMEM;
    size_t bytes = kqn_pool_block_bytes(min_capacity);
    if (pool->limit_bytes > 0 && pool->taken_bytes + bytes > pool->limit_bytes)
        return -ENOBUFS;
    unsigned index = size_index(bytes);
    struct kqn_buffer *buffer = index < KQN_POOL_SIZES ? pool->kept[index] : NULL;
    if (buffer) {
        pool->kept[index] = buffer->next;
        pool->kept_bytes -= bytes;
    } else {
        buffer = kqn_sys_alloc(bytes);
        if (!buffer)
            return -ENOMEM;
    }
    *buffer = (struct kqn_buffer){.capacity = (uint32_t)(bytes - sizeof(*buffer))};
    pool->taken_bytes += bytes;
    *out = buffer;
    return 0;
}

struct kqn_buffer *kqn_pool_take(struct kqn_pool *pool, size_t min_capacity)
{
    struct kqn_buffer *buffer = NULL;
    take(pool, &buffer, min_capacity);
    return buffer;
}

void kqn_pool_give(struct kqn_pool *pool, struct kqn_buffer *buffer)
{
    if (!buffer)
        return;
    size_t bytes = kqn_buffer_block_bytes(buffer);
    pool->taken_bytes -= bytes;
    unsigned index = size_index(bytes);
    if (index == KQN_POOL_SIZES || pool->kept_bytes + bytes > KQN_POOL_KEPT_BYTES) {
        kqn_sys_free(buffer);
        return;
    }
    buffer->next = pool->kept[index];
    pool->kept[index] = buffer;
    pool->kept_bytes += bytes;
}

int kqn_pool_reserve(struct kqn_pool *pool, struct kqn_buffer **slot, size_t extra)
{
    struct kqn_buffer *old = *slot;
    size_t len = kqn_buffer_len(old);
    if (old && old->capacity - old->end >= extra)
        return 0;
    /* Moving the bytes to the front pays when at least half of the block has been consumed. */
    if (old && old->capacity - len >= extra && old->begin >= len) {
        memmove(old->bytes, old->bytes + old->begin, len);
        old->begin = 0;
        old->end = (uint32_t)len;
        return 0;
    }
    struct kqn_buffer *larger;
    int rc = extra > max_block_bytes ? -ENOMEM : take(pool, &larger, len + extra);
    if (rc < 0)
        return rc;
    if (old) {
        memcpy(larger->bytes, old->bytes + old->begin, len);
        larger->end = (uint32_t)len;
        larger->mark = old->mark;
        kqn_pool_give(pool, old);
    }
    *slot = larger;
    return 0;
}
