/* table.h: what is registered, an entry for each descriptor number, where the kernel has no kevent.
 * An entry never moves: it lives in a chunk that is allocated when the first number of its range is registered and
 * freed with the table. So what an idle descriptor costs is the entry, and a pointer to one stays good.
 * Invariants of an entry: enabled is a subset of registered; watched, which only the backend writes, equals enabled
 * between two waits. */
#ifndef KQN_TABLE_H
#define KQN_TABLE_H
#include <stddef.h>
#include <stdint.h>

enum {
    KQN_KNOTE_READ = 1,
    KQN_KNOTE_WRITE = 2,
    KQN_KNOTE_BOTH = 3,
};

struct kqn_entry {
    uint64_t udata[2];   /* of the READ knote and of the WRITE knote */
    uint32_t generation; /* changes when the entry is dropped; what the kernel still says of an older one is stale */
    uint32_t slot;       /* poll: the entry's place in its array, while watched */
    uint16_t error;      /* the socket's error: Linux tells it once, a kqueue again and again; 0: none */
    uint8_t registered;  /* KQN_KNOTE_...: what was added and not deleted */
    uint8_t enabled;
    uint8_t watched;     /* what the backend has been told */
    uint8_t write_first; /* READ had the last place that there was for both */
};
_Static_assert(sizeof(struct kqn_entry) <= 32, "32 bytes are promised for a descriptor");

enum {
    KQN_CHUNK_ENTRIES = 65536 / sizeof(struct kqn_entry),
};

struct kqn_table {
    struct kqn_entry **chunks; /* owned; NULL: no number of that range was ever registered */
    size_t chunk_count;
    int both_count; /* entries with both knotes enabled: they may need two places for their events */
};

/* NULL: the number was never registered, nor one near it. */
static inline struct kqn_entry *kqn_table_find(const struct kqn_table *table, int fd)
{
    size_t chunk = (size_t)fd / KQN_CHUNK_ENTRIES;
    if (chunk >= table->chunk_count || table->chunks[chunk] == NULL)
        return NULL;
    return &table->chunks[chunk][(size_t)fd % KQN_CHUNK_ENTRIES];
}

/* The entry of a number that has been registered. */
static inline struct kqn_entry *kqn_table_at(const struct kqn_table *table, int fd)
{
    return &table->chunks[(unsigned)fd / KQN_CHUNK_ENTRIES][(unsigned)fd % KQN_CHUNK_ENTRIES];
}

/* One more than the highest number that the table can hold now. */
static inline int kqn_table_limit(const struct kqn_table *table)
{
    return (int)(table->chunk_count * KQN_CHUNK_ENTRIES);
}

/* The entry, if need be in a new chunk; NULL: no memory. */
struct kqn_entry *kqn_table_add(struct kqn_table *table, int fd);

/* Its knotes vanish, and its number is ready for another file. The backend no longer watches it. */
void kqn_table_drop(struct kqn_table *table, struct kqn_entry *entry);

void kqn_table_free(struct kqn_table *table);
#endif
