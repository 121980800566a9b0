#include "core/slab.h"

#include <stdbool.h>
#include <string.h>

#include "core/sys.h"

struct free_slot {
    struct kqn_slot head;
    uint32_t next; /* as kqn_slab.free_head */
};

void kqn_slab_init(struct kqn_slab *slab, size_t slot_size)
{
    *slab = (struct kqn_slab){.slot_size = slot_size};
}

void kqn_slab_reset(struct kqn_slab *slab)
{
    for (uint32_t i = 0; i < slab->chunk_count; i++)
        kqn_sys_free(slab->chunks[i]);
    kqn_sys_free(slab->chunks);
    kqn_slab_init(slab, slab->slot_size);
}

static bool add_chunk(struct kqn_slab *slab)
{
    uint8_t **chunks = kqn_sys_realloc(slab->chunks, (slab->chunk_count + 1) * sizeof(*chunks));
    if (!chunks)
        return false;
    slab->chunks = chunks;
    chunks[slab->chunk_count] = kqn_sys_alloc(KQN_SLAB_CHUNK_SLOTS * slab->slot_size);
    if (!chunks[slab->chunk_count])
        return false;
    slab->chunk_count++;
    return true;
}

void *kqn_slab_take(struct kqn_slab *slab)
{
    struct kqn_slot head = {0};
    if (slab->free_head) {
        struct free_slot *slot = (void *)kqn_slab_at(slab, slab->free_head - 1);
        slab->free_head = slot->next;
        head = slot->head;
    } else {
        if (slab->slot_count == slab->chunk_count * KQN_SLAB_CHUNK_SLOTS && !add_chunk(slab))
            return NULL;
        head.index = slab->slot_count++;
    }
    struct kqn_slot *slot = kqn_slab_at(slab, head.index);
    memset(slot, 0, slab->slot_size);
    slot->index = head.index;
    slot->generation = head.generation + 1;
    slab->taken_count++;
    return slot;
}

void kqn_slab_give(struct kqn_slab *slab, void *given)
{
    struct free_slot *slot = given;
    slot->head.generation++;
    slot->next = slab->free_head;
    slab->free_head = slot->head.index + 1;
    slab->taken_count--;
}

void *kqn_slab_next(const struct kqn_slab *slab, uint32_t *index)
{
    while (*index < slab->slot_count) {
        struct kqn_slot *slot = kqn_slab_at(slab, (*index)++);
        if (slot->generation % 2)
            return slot;
    }
    return NULL;
}
