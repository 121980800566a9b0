/* slab.h: slots that never move, each found by an index and known by a generation.
 * A slot's generation is odd while it is taken and grows whenever it changes hands, so the key of a slot that has been
 * given back never fits again: a late event costs a compare. Slots stand in chunks, and a chunk's untouched pages
 * stay the system's. */
#ifndef KQN_SLAB_H
#define KQN_SLAB_H
#include <stddef.h>
#include <stdint.h>

enum {
    KQN_SLAB_CHUNK_SLOTS = 512,
};

struct kqn_slot { /* how every slot begins; written by the slab alone */
    uint32_t index;
    uint32_t generation;
};

struct kqn_slab {
    size_t slot_size;
    uint8_t **chunks;
    uint32_t chunk_count;
    uint32_t slot_count; /* slots that have ever been taken */
    uint32_t free_head;  /* index + 1 of the slot given back last; 0: none */
    uint32_t taken_count;
};

void kqn_slab_init(struct kqn_slab *slab, size_t slot_size);
void kqn_slab_reset(struct kqn_slab *slab); /* frees all slots */

/* A slot whose bytes but its head are 0, or NULL without memory. */
void *kqn_slab_take(struct kqn_slab *slab);
void kqn_slab_give(struct kqn_slab *slab, void *slot);

static inline struct kqn_slot *kqn_slab_at(const struct kqn_slab *slab, uint32_t index)
{
    uint8_t *chunk = slab->chunks[index / KQN_SLAB_CHUNK_SLOTS];
    return (struct kqn_slot *)(void *)(chunk + (index % KQN_SLAB_CHUNK_SLOTS) * slab->slot_size);
}

static inline uint64_t kqn_slot_key(const struct kqn_slot *slot)
{
    return (uint64_t)slot->generation << 32 | slot->index;
}

/* The slot with this key, or NULL: it has been given back. */
static inline void *kqn_slab_find(const struct kqn_slab *slab, uint64_t key)
{
    if ((uint32_t)key >= slab->slot_count)
        return NULL;
    struct kqn_slot *slot = kqn_slab_at(slab, (uint32_t)key);
    return slot->generation == key >> 32 ? slot : NULL;
}

/* The next taken slot from *index on, which moves behind it; NULL: that was all. */
void *kqn_slab_next(const struct kqn_slab *slab, uint32_t *index);
#endif
