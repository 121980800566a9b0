#include "poller/table.h"

#include "poller/poller.h"

#if !KQN_HAVE_KQUEUE
#include <stdlib.h>

enum {
    CACHE_LINE_BYTES = 64, /* chunks start on one, so that no entry lies on two */
    CHUNK_BYTES = KQN_CHUNK_ENTRIES * sizeof(struct kqn_entry),
};

/* Makes room for a chunk's pointer: 8 bytes for 64 KiB of entries, so doubling wastes nothing worth a word. */
static int chunks_grow(struct kqn_table *table, size_t chunk)
{
    size_t wanted = table->chunk_count == 0 ? 8 : table->chunk_count;
    while (wanted <= chunk)
        wanted *= 2;
    struct kqn_entry **chunks = realloc(table->chunks, wanted * sizeof(struct kqn_entry *));
    if (chunks == NULL)
        return -1;
    for (size_t i = table->chunk_count; i < wanted; i++)
        chunks[i] = NULL;
    table->chunks = chunks;
    table->chunk_count = wanted;
    return 0;
}

struct kqn_entry *kqn_table_add(struct kqn_table *table, int fd)
{
    size_t chunk = (size_t)fd / KQN_CHUNK_ENTRIES;
    if (chunk >= table->chunk_count && chunks_grow(table, chunk) < 0)
        return NULL;
    if (table->chunks[chunk] == NULL) {
        table->chunks[chunk] = aligned_alloc(CACHE_LINE_BYTES, CHUNK_BYTES);
        if (table->chunks[chunk] == NULL)
            return NULL;
        memset(table->chunks[chunk], 0, CHUNK_BYTES);
    }
    return kqn_table_find(table, fd);
}

void kqn_table_drop(struct kqn_table *table, struct kqn_entry *entry)
{
    if (entry->enabled == KQN_KNOTE_BOTH)
        table->both_count--;
    *entry = (struct kqn_entry){.generation = entry->generation + 1};
}

void kqn_table_free(struct kqn_table *table)
{
    for (size_t i = 0; i < table->chunk_count; i++)
        free(table->chunks[i]);
    free(table->chunks);
}
#endif
