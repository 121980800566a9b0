/* held.h: memory of a connection's own, for a message that is not complete.
 * There is none until it is needed, and from then on it grows and stays until the connection ends. */
#ifndef BARE_C_HELD_H
#define BARE_C_HELD_H
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct held { /* all zero: nothing */
    char *memory;
    size_t room;
    size_t begin; /* where the message begins in the memory */
    size_t len;   /* bytes of it; 0: no message is held */
};

static inline void *allocate(void *memory, size_t bytes)
{
    memory = realloc(memory, bytes);
    if (memory == NULL)
        abort();
    return memory;
}

/* Moves what is held to the front of the memory, and makes room for so many bytes of that message. */
static inline void held_make_room(struct held *held, size_t needed)
{
    if (held->begin > 0)
        memmove(held->memory, held->memory + held->begin, held->len);
    held->begin = 0;
    if (needed > held->room) {
        held->memory = allocate(held->memory, needed);
        held->room = needed;
    }
}

/* From now on these bytes, possibly none, are what is held; they may lie in the memory already. */
static inline void held_keep(struct held *held, const char *bytes, size_t len)
{
    held->len = 0;
    if (len == 0)
        return;
    if (held->memory != NULL && bytes >= held->memory && bytes < held->memory + held->room) {
        held->begin = (size_t)(bytes - held->memory);
    } else {
        held->begin = 0;
        held_make_room(held, len);
        memcpy(held->memory, bytes, len);
    }
    held->len = len;
}
#endif
