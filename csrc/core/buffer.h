/* buffer.h: blocks of bytes that belong to a loop.
 * A connection owns one only while it holds an unfinished message or unwritten bytes. Blocks have a few sizes, each
 * four times the last from 4 KiB to 1 MiB and then twice the last, so what a connection holds costs it at most four
 * times its bytes. A pool keeps some of the blocks given back for the next who asks, and may have a limit, which the
 * blocks that are taken never exceed together. */
#ifndef KQN_BUFFER_H
#define KQN_BUFFER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    KQN_POOL_SIZES = 5,                   /* 4, 16, 64, 256 and 1,024 KiB are kept */
    KQN_POOL_SMALLEST_BYTES = 4096,       /* of a block, its head included */
    KQN_POOL_LARGEST_BYTES = 1024 * 1024, /* of a block that is kept */
    KQN_POOL_KEPT_BYTES = 1024 * 1024,    /* of all the blocks that a pool keeps for nobody */
};

struct kqn_buffer {          /* the bytes from begin to end are held, those from end to capacity are free */
    struct kqn_buffer *next; /* in the pool's list */
    uint32_t capacity;
    uint32_t begin;
    uint32_t end;
    uint32_t mark; /* the owner's: bytes scanned for an ending, or answers held */
    uint8_t bytes[];
};

struct kqn_pool {
    struct kqn_buffer *kept[KQN_POOL_SIZES];
    size_t kept_bytes;
    size_t taken_bytes; /* of the blocks that somebody holds, their heads included */
    size_t limit_bytes; /* that taken_bytes never exceeds; 0: there is none */
};

void kqn_pool_reset(struct kqn_pool *pool); /* frees what is kept */

/* Of the block, its head included, that a buffer for at least so many bytes lies in. */
size_t kqn_pool_block_bytes(size_t min_capacity);

/* An empty block for at least this many bytes, or NULL: no memory, or the limit. */
struct kqn_buffer *kqn_pool_take(struct kqn_pool *pool, size_t min_capacity);
void kqn_pool_give(struct kqn_pool *pool, struct kqn_buffer *buffer); /* NULL is allowed */

/* Makes room for at least `extra` bytes behind end, in *buffer or in a larger one in its place (NULL: a new one).
 * 0; or with nothing changed -ENOMEM, or -ENOBUFS: the pool's limit. Both blocks count until the bytes have moved. */
int kqn_pool_reserve(struct kqn_pool *pool, struct kqn_buffer **buffer, size_t extra);

/* kqn_pool_reserve(), which is called only where there is no room: seldom so for the short messages and answers of a
 * batch. */
static inline int kqn_pool_make_room(struct kqn_pool *pool, struct kqn_buffer **buffer, size_t extra)
{
    bool has_room = *buffer && (*buffer)->capacity - (*buffer)->end >= extra;
    return has_room ? 0 : kqn_pool_reserve(pool, buffer, extra);
}

/* Makes room for these bytes, and appends them. */
static inline int kqn_pool_append(struct kqn_pool *pool, struct kqn_buffer **buffer, const void *bytes, size_t len)
{
    int rc = kqn_pool_make_room(pool, buffer, len);
    if (rc == 0) {
        memcpy((*buffer)->bytes + (*buffer)->end, bytes, len);
        (*buffer)->end += (uint32_t)len;
    }
    return rc;
}

/* What it counts for in a pool. */
static inline size_t kqn_buffer_block_bytes(const struct kqn_buffer *buffer)
{
    return buffer ? buffer->capacity + sizeof(*buffer) : 0;
}

static inline size_t kqn_buffer_len(const struct kqn_buffer *buffer)
{
    return buffer ? buffer->end - buffer->begin : 0;
}
#endif
