/* messages.h: where messages end, and what answers them.
 * Each function answers the complete messages at the beginning of some bytes: bytes in, bytes out, and nothing else.
 * They are inline, as in a loop that is written for one framing. */
#ifndef BARE_C_MESSAGES_H
#define BARE_C_MESSAGES_H
#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct answers {
    const char *bytes; /* borrowed */
    size_t len;
    size_t used; /* bytes of the input that have been answered */
};

/* Copies each line with its line feed into the output, which has room for all the input. The first `scanned` bytes are
 * known to hold no line feed. */
static inline struct answers answer_lines(const char *input, size_t len, size_t scanned, char *output)
{
    const char *end = input + len, *line = input, *from = input + scanned, *newline;
    char *out = output;
    while (from < end && (newline = memchr(from, '\n', (size_t)(end - from))) != NULL) {
        size_t line_bytes = (size_t)(newline + 1 - line);
        memcpy(out, line, line_bytes);
        out += line_bytes;
        from = line = newline + 1;
    }
    return (struct answers){.bytes = output, .len = (size_t)(out - output), .used = (size_t)(line - input)};
}

/* A frame with its length's own 4 bytes, which are there. */
static inline size_t frame_bytes(const char *frame)
{
    uint32_t payload_bytes;
    memcpy(&payload_bytes, frame, sizeof(payload_bytes));
    return sizeof(payload_bytes) + ntohl(payload_bytes);
}

/* The answers are the frames themselves, where they lie. */
static inline struct answers answer_frames(const char *input, size_t len)
{
    size_t used = 0;
    while (len - used >= sizeof(uint32_t) && frame_bytes(input + used) <= len - used)
        used += frame_bytes(input + used);
    return (struct answers){.bytes = input, .len = used, .used = used};
}

/* Answers each request head. The output needs room for 10 times the input: the shortest head is its blank line. */
static inline struct answers answer_heads(const char *input, size_t len, char *output)
{
    static const char response[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    static const size_t response_bytes = sizeof(response) - 1;
    const char *end = input + len, *head = input, *blank_line;
    char *out = output;
    while (head < end && (blank_line = memmem(head, (size_t)(end - head), "\r\n\r\n", 4)) != NULL) {
        memcpy(out, response, response_bytes);
        out += response_bytes;
        head = blank_line + 4;
    }
    return (struct answers){.bytes = output, .len = (size_t)(out - output), .used = (size_t)(head - input)};
}
#endif
