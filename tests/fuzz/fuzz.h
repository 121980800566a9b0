/* fuzz.h: what a fuzz target needs: to take an input apart, and to fail.
 * A target is one LLVMFuzzerTestOneInput(). libFuzzer looks for inputs that make it fail (make fuzz); replay.c gives it
 * those that are kept. Inputs are taken apart from the front, so that a seed can be written by hand, and one that is too
 * short goes on with zeros. */
#ifndef KQN_FUZZ_H
#define KQN_FUZZ_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

/* What must hold for every input. */
#define REQUIRE(condition) ((condition) ? (void)0 : require_failed(#condition, __FILE__, __LINE__))

static inline void require_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: %s is false\n", file, line, condition);
    abort();
}

struct input {
    const uint8_t *bytes;
    size_t len; /* that are left */
};

static inline uint8_t take_byte(struct input *input)
{
    if (input->len == 0)
        return 0;
    input->len--;
    return *input->bytes++;
}

/* In memory of their own and no more, so that the address sanitizer sees a byte read too far. */
static inline char *copy_of(const uint8_t *bytes, size_t len)
{
    char *copy = malloc(len > 0 ? len : 1);
    REQUIRE(copy != NULL);
    if (len > 0)
        memcpy(copy, bytes, len);
    return copy;
}

/* The same as a C text, which ends at the first 0. */
static inline char *text_of(const uint8_t *bytes, size_t len)
{
    const uint8_t *end = len > 0 ? memchr(bytes, 0, len) : NULL;
    size_t text_len = end ? (size_t)(end - bytes) : len;
    char *text = malloc(text_len + 1);
    REQUIRE(text != NULL);
    if (text_len > 0)
        memcpy(text, bytes, text_len);
    text[text_len] = 0;
    return text;
}
#endif
