/* framing.c: rows of input, and the messages that framing finds in it.
 * Each row runs whole, byte by byte, and split at every place, as a connection would feed it: what is not complete is
 * given again with more behind it. The input always ends at an unmapped page, so that reading on crashes. */
#include "core/framing.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

enum {
    MAX_MESSAGE = 8,
    MAX_FOUND = 256,
};

struct row {
    const char *name;
    enum kqn_framing_kind kind;
    const char *input;
    size_t len;
    const char *found;     /* messages, each with '|' behind it; a line's ending as '.' for each of its bytes */
    const char *found_end; /* what the end of input adds */
    bool too_long;
};

#define LINE(name, input, found, found_end) {name, KQN_FRAMING_LINE, input, sizeof(input) - 1, found, found_end, false}
#define LINE_TOO_LONG(name, input, found) {name, KQN_FRAMING_LINE, input, sizeof(input) - 1, found, "", true}
#define U32(name, input, found) {name, KQN_FRAMING_U32, input, sizeof(input) - 1, found, "", false}
#define U32_TOO_LONG(name, input, found) {name, KQN_FRAMING_U32, input, sizeof(input) - 1, found, "", true}

static const struct row rows[] = {
    LINE("nothing is no message", "", "", ""),
    LINE("a line ends with LF", "ab\n", "ab.|", ""),
    LINE("a CR before LF belongs to the ending", "ab\r\n", "ab..|", ""),
    LINE("a CR elsewhere belongs to the message", "a\rb\n\rc\n", "a\rb.|\rc.|", ""),
    LINE("of two CRs before LF one is the message's", "a\r\r\n", "a\r..|", ""),
    LINE("an empty line is a message", "\n\r\n\n", ".|..|.|", ""),
    LINE("half a line is no message until the end", "ab\ncd", "ab.|", "cd|"),
    LINE("one byte is a message at the end", "a", "", "a|"),
    LINE("at the end a CR is the message's", "ab\r", "", "ab\r|"),
    LINE("zero bytes and high bytes are the message's", "a\xff\n", "a\xff.|", ""),
    LINE("the longest line", "12345678\n12345678\r\n", "12345678.|12345678..|", ""),
    LINE("the longest line without an ending", "12345678", "", "12345678|"),
    LINE_TOO_LONG("one byte more is too long", "12345678\n123456789\n", "12345678.|"),
    LINE_TOO_LONG("so it is before an ending came", "ab\n123456789", "ab.|"),
    LINE_TOO_LONG("a CR that no LF follows counts", "12345678\rx", ""),
    U32("a length and its bytes", "\0\0\0\2ab", "ab|"),
    U32("no bytes at all are a message", "\0\0\0\0\0\0\0\1c", "|c|"),
    U32("an unfinished length or message is none, ever", "\0\0\0\2ab\0\0\0\3ab", "ab|"),
    U32("three bytes of a length", "\0\0\0", ""),
    U32("the longest message",
        "\0\0\0\10"
        "12345678",
        "12345678|"),
    U32_TOO_LONG("one byte more is too long before it came", "\0\0\0\1a\0\0\0\11", "a|"),
    U32_TOO_LONG("the longest length does not overflow", "\377\377\377\377", ""),
    U32_TOO_LONG("nor does the sign bit", "\200\0\0\0", ""),
};

static uint8_t *page; /* followed by one that is not mapped */
static size_t page_size;

static int map_guarded_page(void)
{
    page_size = (size_t)sysconf(_SC_PAGESIZE);
    void *pages = mmap(NULL, 2 * page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (pages == MAP_FAILED)
        return -errno;
    page = pages;
    return mprotect(page + page_size, page_size, PROT_NONE);
}

struct feed {
    struct kqn_framing framing;
    size_t from;    /* bytes used up */
    size_t scanned; /* as kqn_framing_next() keeps it */
    int error;
    char found[MAX_FOUND];
    size_t found_len;
};

static void note(struct feed *feed, const struct kqn_frame *frame)
{
    memcpy(feed->found + feed->found_len, frame->message, frame->message_len);
    feed->found_len += frame->message_len;
    for (size_t i = 0; i < frame->ending_len; i++)
        feed->found[feed->found_len++] = '.';
    feed->found[feed->found_len++] = '|';
}

/* Gives the input's first `to` bytes, less what is used up. */
static void feed_up_to(struct feed *feed, const struct row *row, size_t to, bool at_end)
{
    uint8_t *bytes = page + page_size - (to - feed->from);
    memcpy(bytes, row->input + feed->from, to - feed->from);
    while (feed->error == 0) {
        struct kqn_frame frame;
        size_t len = (size_t)(page + page_size - bytes);
        int rc = kqn_framing_next(&feed->framing, bytes, len, at_end, &feed->scanned, &frame);
        if (rc < 0)
            feed->error = rc;
        if (rc <= 0)
            return;
        CHECK_INT(rc, 1);
        CHECK_INT(feed->scanned, 0); /* of what follows nothing has been looked at */
        note(feed, &frame);
        bytes += frame.consumed;
        feed->from += frame.consumed;
    }
}

static void check_found(const struct feed *feed, const struct row *row)
{
    char expected[MAX_FOUND];
    size_t len = strlen(row->found);
    memcpy(expected, row->found, len);
    memcpy(expected + len, row->found_end, strlen(row->found_end));
    len += strlen(row->found_end);
    CHECK_INT(feed->error, row->too_long ? -EMSGSIZE : 0);
    CHECK_INT(feed->found_len, len);
    CHECK(feed->found_len == len && memcmp(feed->found, expected, len) == 0);
}

static void run_split(const struct row *row, size_t split)
{
    struct feed feed = {.framing = {.kind = row->kind, .max_message = MAX_MESSAGE}};
    feed_up_to(&feed, row, split, false);
    feed_up_to(&feed, row, row->len, false);
    feed_up_to(&feed, row, row->len, true);
    check_found(&feed, row);
}

static void run_bytewise(const struct row *row)
{
    struct feed feed = {.framing = {.kind = row->kind, .max_message = MAX_MESSAGE}};
    for (size_t i = 1; i <= row->len; i++)
        feed_up_to(&feed, row, i, false);
    feed_up_to(&feed, row, row->len, true);
    check_found(&feed, row);
}

static void check_stream(void)
{
    struct kqn_framing framing = {.kind = KQN_FRAMING_STREAM};
    struct kqn_frame frame;
    size_t scanned = 0;
    check_begin("in stream framing all that was read is one message");
    CHECK_INT(kqn_framing_next(&framing, (const uint8_t *)"a\nb", 3, false, &scanned, &frame), 1);
    CHECK_INT(frame.message_len, 3);
    CHECK_INT(frame.consumed, 3);
    CHECK_INT(kqn_framing_next(&framing, (const uint8_t *)"a", 1, false, &scanned, &frame), 1);
    CHECK_INT(kqn_framing_next(&framing, (const uint8_t *)"", 0, true, &scanned, &frame), 0);
    check_end();
}

static void check_length_has_its_bytes_in_order(void)
{
    enum {
        LENGTH = 0x01020304
    };
    uint8_t header[KQN_U32_HEADER_BYTES];
    struct kqn_frame frame;
    size_t scanned = 0;
    check_begin("a length is written and read with its most significant byte first");
    kqn_framing_put_u32(header, LENGTH);
    CHECK(memcmp(header, "\1\2\3\4", sizeof(header)) == 0);
    /* What fits exactly is awaited, and by one byte less it is too long: so it was read as this number. */
    struct kqn_framing framing = {.kind = KQN_FRAMING_U32, .max_message = LENGTH};
    CHECK_INT(kqn_framing_next(&framing, header, sizeof(header), false, &scanned, &frame), 0);
    framing.max_message--;
    CHECK_INT(kqn_framing_next(&framing, header, sizeof(header), false, &scanned, &frame), -EMSGSIZE);
    check_end();
}

static void check_no_byte_is_scanned_twice(void)
{
    struct kqn_framing framing = {.kind = KQN_FRAMING_LINE, .max_message = MAX_MESSAGE};
    struct kqn_frame frame;
    size_t scanned = 0;
    check_begin("no byte of a line is scanned twice");
    CHECK_INT(kqn_framing_next(&framing, (const uint8_t *)"abc", 3, false, &scanned, &frame), 0);
    CHECK_INT(scanned, 3);
    /* An LF put where it was looked at already goes unseen. */
    CHECK_INT(kqn_framing_next(&framing, (const uint8_t *)"a\nc\n", 4, false, &scanned, &frame), 1);
    CHECK_INT(frame.message_len, 3);
    CHECK_INT(scanned, 0);
    check_end();
}

static void check_missing(void)
{
    struct kqn_framing framing = {.kind = KQN_FRAMING_U32, .max_message = MAX_MESSAGE};
    static const uint8_t message[] = "\0\0\0\5abcde";
    check_begin("an unfinished u32 message says how many bytes it lacks, once its length is there");
    CHECK_INT(kqn_framing_missing(&framing, message, 0), 0);
    CHECK_INT(kqn_framing_missing(&framing, message, 3), 0);
    CHECK_INT(kqn_framing_missing(&framing, message, 4), 5);
    CHECK_INT(kqn_framing_missing(&framing, message, 8), 1);
    CHECK_INT(kqn_framing_missing(&framing, message, 9), 0);
    CHECK_INT(kqn_framing_missing(&framing, message, 10), 0);
    framing.kind = KQN_FRAMING_LINE;
    CHECK_INT(kqn_framing_missing(&framing, message, 4), 0);
    check_end();
}

int main(void)
{
    check_begin("a page with a hole behind it");
    CHECK_INT(map_guarded_page(), 0);
    check_end();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        check_begin(rows[i].name);
        for (size_t split = 0; split <= rows[i].len; split++)
            run_split(&rows[i], split);
        run_bytewise(&rows[i]);
        check_end();
    }
    check_stream();
    check_length_has_its_bytes_in_order();
    check_no_byte_is_scanned_twice();
    check_missing();
    return check_finish();
}
