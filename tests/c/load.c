/* load.c: the pure modules of the load tester, each by its contract: answers, messages, schedule, histogram, tally.
 * Answers are fed whole, byte by byte, and split at every place, as a connection would see them. Each piece ends at an
 * unmapped page, and so does the message that an answer is compared with: reading on crashes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "core/framing.h"
#include "load/answers.h"
#include "load/histogram.h"
#include "load/messages.h"
#include "load/schedule.h"
#include "load/tally.h"

enum {
    MAX_TEXT = 512,
    FRAMINGS = 3,
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const int64_t second_ns = 1000000000;

static uint8_t *input_end; /* what follows is not mapped; so for the others */
static uint8_t *message_end;
static uint8_t *copy_end;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The end of a page that another one follows, which is not mapped; NULL: there is none. */
static uint8_t *map_guarded_page(void)
{
    size_t page_size = (size_t)sysconf(_SC_PAGESIZE);
    void *pages = mmap(NULL, 2 * page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
    uint8_t *end = (uint8_t *)pages + page_size;
    return mprotect(end, page_size, PROT_NONE) == 0 ? end : NULL;
}

static const uint8_t *put_before(uint8_t *end, const void *bytes, size_t len)
{
    if (len > 0)
        memcpy(end - len, bytes, len);
    return end - len;
}

/* A body in its framing, written once more so that the core's is not compared with itself; returns its length. */
static size_t put_framed(enum kqn_framing_kind framing, char *out, const char *body, size_t len)
{
    char *at = out;
    if (framing == KQN_FRAMING_U32)
        for (int shift = 24; shift >= 0; shift -= 8)
            *at++ = (char)(len >> shift & 255);
    if (len > 0)
        memcpy(at, body, len);
    at += len;
    if (framing == KQN_FRAMING_LINE)
        *at++ = '\n';
    return (size_t)(at - out);
}

/* --- Answers --- */

struct answers {
    const char *name;
    enum kqn_framing_kind framing;
    const char *expect; /* a template; NULL: the answers are only found */
    const char *message;
    const char *input;
    size_t len;
    size_t size;       /* of an answer in stream framing */
    const char *found; /* contents, each with '|' behind it, or with '!' behind a wrong one */
    size_t wrong_at;   /* bytes of input by which the first answer is known to be wrong; 0: it is not */
};

#define STREAM(name, size, input, found) {name, KQN_FRAMING_STREAM, NULL, "", input, sizeof(input) - 1, size, found, 0}
#define LINE(name, input, found) {name, KQN_FRAMING_LINE, NULL, "", input, sizeof(input) - 1, 0, found, 0}
#define U32(name, input, found) {name, KQN_FRAMING_U32, NULL, "", input, sizeof(input) - 1, 0, found, 0}
#define STREAM_AS(name, expect, message, size, input, found, wrong_at)                                                 \
    {name, KQN_FRAMING_STREAM, expect, message, input, sizeof(input) - 1, size, found, wrong_at}
#define LINE_AS(name, expect, message, input, found, wrong_at)                                                         \
    {name, KQN_FRAMING_LINE, expect, message, input, sizeof(input) - 1, 0, found, wrong_at}
#define U32_AS(name, expect, message, input, found, wrong_at)                                                          \
    {name, KQN_FRAMING_U32, expect, message, input, sizeof(input) - 1, 0, found, wrong_at}

static const struct answers answer_rows[] = {
    STREAM("a stream's answer has as many bytes as were said", 3, "abcdefg", "abc|def|g"),
    STREAM("an answer of one byte", 1, "a\nb", "a|\n|b|"),
    STREAM("a stream's answer that is not complete", 9, "abcdefg", "abcdefg"),
    LINE("a line's answer ends with its LF", "ab\ncd\n", "ab|cd|"),
    LINE("a line without content is an answer", "\n\na\n", "||a|"),
    LINE("a CR is a line's content, wherever it stands", "a\rb\r\n\r\n", "a\rb\r|\r|"),
    LINE("half a line is no answer", "ab\ncd", "ab|cd"),
    U32("a length and as many bytes", "\0\0\0\2ab\0\0\0\1\n", "ab|\n|"),
    U32("a length of 0 is an answer without content", "\0\0\0\0\0\0\0\1c\0\0\0\0", "|c||"),
    U32("three bytes of a length", "\0\0\0\1a\0\0\0", "a|"),
    U32("half a u32 answer is none", "\0\0\0\2ab\0\0\0\3cd", "ab|cd"),
    U32("the longest length does not overflow", "\377\377\377\377ab", "ab"),
    U32("nor does the sign bit", "\200\0\0\0ab", "ab"),

    STREAM_AS("a right answer in a stream", "<{message}>", "hi", 4, "<hi><hi>", "<hi>|<hi>|", 0),
    STREAM_AS("after a wrong one the next is right", "<{message}>", "hi", 4, "<hx><hi>", "<hx>!<hi>|", 3),
    STREAM_AS("a stream's answer of fewer bytes than expected", "<{message}>", "hi", 3, "<hi", "<hi!", 3),
    STREAM_AS("a stream's answer of more bytes than expected", "<{message}>", "hi", 5, "<hi>>", "<hi>>!", 5),

    LINE_AS("a right line", "system: {message}", "hi", "system: hi\nsystem: hi\n", "system: hi|system: hi|", 0),
    LINE_AS("a line whose first byte is wrong", "system: {message}", "hi", "System: hi\n", "System: hi!", 1),
    LINE_AS("a line whose last byte is wrong", "system: {message}", "hi", "system: ho\n", "system: ho!", 10),
    LINE_AS("a line that is too short", "system: {message}", "hi", "system: h\n", "system: h!", 10),
    LINE_AS("a line that is too long", "system: {message}", "hi", "system: hi!\n", "system: hi!!", 11),
    LINE_AS("a line without the content that is expected", "{message}", "hi", "\n", "!", 1),
    LINE_AS("a wrong line spoils no other", "{message}", "hi", "hi\nho\nhi\nh\nhi\n", "hi|ho!hi|h!hi|", 0),

    LINE_AS("a CR before the LF is part of the ending", "{message}", "hi", "hi\r\nhi\r\n", "hi\r|hi\r|", 0),
    LINE_AS("two CRs are not", "{message}", "hi", "hi\r\r\n", "hi\r\r!", 4),
    LINE_AS("a CR that no LF follows is not", "{message}", "hi", "hi\rx\n", "hi\rx!", 4),
    LINE_AS("a CR in place of the last byte is not", "{message}", "hi", "h\r\n", "h\r!", 2),
    LINE_AS("another byte in place of the CR is not", "{message}", "hi", "hix\n", "hix!", 3),
    LINE_AS("a CR that is expected must be there", "{message}", "hi\r", "hi\n", "hi!", 3),
    LINE_AS("a CR that is expected", "{message}", "hi\r", "hi\r\n", "hi\r|", 0),
    LINE_AS("a CR that is expected, and one of the ending", "{message}", "hi\r", "hi\r\r\n", "hi\r\r|", 0),
    LINE_AS("a CR that is expected, and two more", "{message}", "hi\r", "hi\r\r\r\n", "hi\r\r\r!", 5),
    LINE_AS("a CR within what is expected", "{message}", "h\ri", "h\ri\nh\ri\r\n", "h\ri|h\ri\r|", 0),

    LINE_AS("an empty message is answered with an empty line", "{message}", "", "\n\r\n\n", "|\r||", 0),
    LINE_AS("an empty message with a byte", "{message}", "", "a\n", "a!", 1),
    LINE_AS("an empty message with two CRs", "{message}", "", "\r\r\n", "\r\r!", 2),
    LINE_AS("an empty message within literals", "<{message}>", "", "<>\n<x>\n", "<>|<x>!", 0),

    U32_AS("a right u32 answer", "<{message}>", "hi", "\0\0\0\4<hi>\0\0\0\4<hi>", "<hi>|<hi>|", 0),
    U32_AS("a u32 answer whose first byte is wrong", "<{message}>", "hi", "\0\0\0\4(hi>", "(hi>!", 5),
    U32_AS("a u32 answer whose last byte is wrong", "<{message}>", "hi", "\0\0\0\4<hi)", "<hi)!", 8),
    U32_AS("a u32 length that is smaller is known by the length", "<{message}>", "hi", "\0\0\0\3<hi", "<hi!", 4),
    U32_AS("a u32 length that is greater is too", "<{message}>", "hi", "\0\0\0\5<hi>>", "<hi>>!", 4),
    U32_AS("a u32 length of 0 where bytes are expected", "<{message}>", "hi", "\0\0\0\0", "!", 4),
    U32_AS("a u32 length that differs in its first byte", "<{message}>", "hi", "\1\0\0\4<hi>", "<hi>", 4),
    U32_AS("a CR before a u32 answer's end is content", "{message}", "hi", "\0\0\0\3hi\r", "hi\r!", 4),
    U32_AS("an LF in a u32 answer is content", "{message}", "a\n", "\0\0\0\2a\n", "a\n|", 0),
    U32_AS("an empty message in u32", "{message}", "", "\0\0\0\0\0\0\0\1a", "|a!", 0),
};

struct feed {
    const struct answers *row;
    struct kqn_expectation expected;
    struct kqn_answer_place place;
    size_t fed;     /* bytes of the input */
    size_t content; /* of the answer under way */
    size_t answers;
    size_t wrong_at;
    char found[MAX_TEXT];
    size_t found_len;
};

static void note_content(struct feed *feed, const uint8_t *bytes, size_t len, bool ended)
{
    CHECK_INT(kqn_answer_content(feed->row->framing, &feed->place, ended, &bytes, &len), feed->content);
    memcpy(feed->found + feed->found_len, bytes, len);
    feed->found_len += len;
    feed->content += len;
}

static void note_end(struct feed *feed)
{
    feed->found[feed->found_len++] = feed->place.wrong ? '!' : '|';
    feed->place = (struct kqn_answer_place){0};
    feed->content = 0;
    feed->answers++;
}

/* As a connection of the load tester takes in what it has read. */
static void feed_piece(struct feed *feed, size_t piece_len)
{
    const struct answers *row = feed->row;
    const uint8_t *bytes = put_before(input_end, row->input + feed->fed, piece_len);
    for (size_t len = piece_len; len > 0;) {
        bool ended;
        size_t taken = kqn_answer_next(row->framing, row->size, &feed->place, bytes, len, &ended);
        if (!CHECK(taken > 0 && taken <= len))
            return;
        if (row->expect)
            kqn_answer_compare(row->framing, &feed->expected, &feed->place, bytes, taken, ended);
        note_content(feed, bytes, taken, ended);
        feed->place.seen += taken;
        feed->fed += taken;
        if (feed->answers == 0 && feed->place.wrong && feed->wrong_at == 0)
            feed->wrong_at = feed->fed;
        if (ended)
            note_end(feed);
        bytes += taken;
        len -= taken;
    }
}

static void check_found(const struct feed *feed)
{
    size_t len = strlen(feed->row->found);
    CHECK_INT(feed->found_len, len);
    CHECK(feed->found_len == len && memcmp(feed->found, feed->row->found, len) == 0);
}

static void feed_all_ways(const struct answers *row)
{
    struct kqn_template template = {0};
    size_t error_at;
    if (row->expect)
        CHECK_INT(kqn_template_compile(&template, KQN_TEMPLATE_EXPECT, row->expect, strlen(row->expect), &error_at), 0);
    struct feed start = {.row = row, .expected = {.template = &template, .message_len = strlen(row->message)}};
    start.expected.message = put_before(message_end, row->message, start.expected.message_len);
    for (size_t split = 0; split <= row->len; split++) {
        struct feed feed = start;
        feed_piece(&feed, split);
        feed_piece(&feed, row->len - split);
        check_found(&feed);
    }
    struct feed bytewise = start;
    while (bytewise.fed < row->len && check.failed_checks == 0)
        feed_piece(&bytewise, 1);
    check_found(&bytewise);
    CHECK_INT(bytewise.wrong_at, row->wrong_at);
    kqn_template_reset(&template);
}

static void u32_lengths(void)
{
    static const uint8_t header[] = {0x81, 0x02, 0x43, 0x04};
    struct kqn_answer_place place = {0};
    bool ended;
    for (size_t i = 0; i < sizeof(header); i++, place.seen++)
        CHECK_INT(kqn_answer_next(KQN_FRAMING_U32, 0, &place, put_before(input_end, &header[i], 1), 1, &ended), 1);
    CHECK_INT(place.announced, 0x81024304);
    CHECK(!ended);
    char body[2000], input[3000] = {0};
    memset(body, 'b', sizeof(body));
    size_t len = put_framed(KQN_FRAMING_U32, input, body, sizeof(body));
    for (size_t more = 0; more < 2; more++) { /* bytes of the next answer */
        const uint8_t *bytes = put_before(input_end, input, len + more);
        place = (struct kqn_answer_place){0};
        CHECK_INT(kqn_answer_next(KQN_FRAMING_U32, 0, &place, bytes, len + more, &ended), len);
        CHECK(ended);
    }
}

static void answer_of_4_gib(void)
{
    const uint8_t *bytes = put_before(input_end, "ab", 2);
    struct kqn_answer_place place = {.seen = UINT64_C(4) + UINT32_MAX - 1, .announced = UINT32_MAX};
    bool ended = false;
    CHECK_INT(kqn_answer_next(KQN_FRAMING_U32, 0, &place, bytes, 2, &ended), 1);
    CHECK(ended);
    place.seen--;
    CHECK_INT(kqn_answer_next(KQN_FRAMING_U32, 0, &place, bytes, 1, &ended), 1);
    CHECK(!ended);
}

/* As the same bytes are found one answer after another. */
static void skip_piece(const struct answers *row, struct kqn_answer_place *place, const uint8_t *bytes, size_t len,
                       uint32_t max)
{
    while (len > 0) {
        struct kqn_answer_place by_one = *place;
        size_t expected = 0;
        uint32_t count = 0, expected_count = 0;
        while (expected < len && expected_count < max) {
            bool ended;
            size_t taken = kqn_answer_next(row->framing, row->size, &by_one, bytes + expected, len - expected, &ended);
            expected += taken;
            by_one.seen += taken;
            expected_count += ended;
            if (ended)
                by_one = (struct kqn_answer_place){0};
        }
        size_t skipped = kqn_answer_skip(row->framing, row->size, place, bytes, len, max, &count);
        CHECK_INT(count, expected_count);
        CHECK_INT(place->seen, by_one.seen);
        CHECK_INT(place->announced, by_one.announced);
        if (!CHECK_INT(skipped, expected))
            return;
        bytes += skipped;
        len -= skipped;
    }
}

static void skip_all_ways(const struct answers *row)
{
    for (size_t split = 0; split <= row->len; split++) {
        for (uint32_t max = 1; max <= 4; max++) {
            struct kqn_answer_place place = {0};
            size_t rest = row->len - split;
            skip_piece(row, &place, put_before(input_end, row->input, split), split, max);
            skip_piece(row, &place, put_before(input_end, row->input + split, rest), rest, max);
        }
    }
}

static void answers_skipped(void)
{
    for (size_t i = 0; i < COUNT(answer_rows); i++)
        if (!answer_rows[i].expect)
            skip_all_ways(&answer_rows[i]);
}

/* --- What is expected --- */

static const struct expectation {
    const char *template;
    const char *message;
    const char *whole;
} expectations[] = {
    {"{message}", "ping", "ping"},
    {"system: {message}", "ping", "system: ping"},
    {"{message}, thanks", "ping", "ping, thanks"},
    {"<{message}>", "ping", "<ping>"},
    {"<{message}>", "", "<>"},
    {"{{{message}}}", "{n}", "{{n}}"},
    {"pong", "ping", "pong"},
    {"", "ping", ""},
    {"{message}{message}", "ab", "abab"},
    {"{message} and {message}.", "ab", "ab and ab."},
    {"{message}{message}", "", ""},
    {"a{message}b{message}c{message}d", "xy", "axybxycxyd"},
};

static void expectation_copies(void)
{
    for (size_t i = 0; i < COUNT(expectations); i++) {
        const struct expectation *row = &expectations[i];
        struct kqn_template template;
        size_t error_at, len = strlen(row->whole), message_len = strlen(row->message);
        CHECK_INT(kqn_template_compile(&template, KQN_TEMPLATE_EXPECT, row->template, strlen(row->template), &error_at),
                  0);
        struct kqn_expectation expected = {.template = &template, .message_len = message_len};
        expected.message = put_before(message_end, row->message, message_len);
        CHECK_INT(kqn_expectation_len(&expected), len);
        for (size_t max = 0; max <= len + 2; max++) {
            size_t copied = kqn_expectation_copy(&expected, copy_end - max, max);
            CHECK_INT(copied, smaller(len, max));
            CHECK(memcmp(copy_end - max, row->whole, smaller(copied, len)) == 0);
        }
        kqn_template_reset(&template);
    }
}

/* One answer with this content, which is right or is known to be wrong with byte `wrong_at` of its content; a u32
 * answer of another length is known by that. */
static void feed_answer(enum kqn_framing_kind framing, const struct expectation *expected, const char *content,
                        size_t wrong_at)
{
    char input[MAX_TEXT], found[MAX_TEXT];
    size_t len = strlen(content);
    struct answers row = {.framing = framing, .expect = expected->template, .message = expected->message};
    row.len = put_framed(framing, input, content, len);
    row.input = input;
    row.size = len;
    row.wrong_at = wrong_at;
    if (framing == KQN_FRAMING_U32 && wrong_at > 0)
        row.wrong_at = len == strlen(expected->whole) ? 4 + wrong_at : 4;
    snprintf(found, sizeof(found), "%s%c", content, wrong_at > 0 ? '!' : '|');
    row.found = found;
    feed_all_ways(&row);
}

/* Right; each byte wrong in turn; each shorter length; one byte longer, and with a CR. */
static void vary(enum kqn_framing_kind framing, const struct expectation *expected)
{
    size_t len = strlen(expected->whole);
    bool is_line = framing == KQN_FRAMING_LINE, is_stream = framing == KQN_FRAMING_STREAM;
    char content[MAX_TEXT];
    if (len > 0 || !is_stream)
        feed_answer(framing, expected, expected->whole, 0);
    for (size_t i = 0; i < len; i++) {
        memcpy(content, expected->whole, len + 1);
        content[i] ^= 1;
        feed_answer(framing, expected, content, i + 1);
        content[i] = 0;
        if (i > 0 || !is_stream) /* line: its LF says that there is no more, a stream's last byte does */
            feed_answer(framing, expected, content, is_stream ? i : i + 1);
    }
    snprintf(content, sizeof(content), "%sx", expected->whole);
    feed_answer(framing, expected, content, len + 1);
    snprintf(content, sizeof(content), "%s\r", expected->whole);
    feed_answer(framing, expected, content, is_line ? 0 : len + 1);
    snprintf(content, sizeof(content), "%s\r\r", expected->whole);
    feed_answer(framing, expected, content, is_line ? len + 2 : len + 1);
}

static void expectation_variants(void)
{
    for (size_t i = 0; i < COUNT(expectations); i++)
        for (int framing = 0; framing < FRAMINGS; framing++)
            vary((enum kqn_framing_kind)framing, &expectations[i]);
}

/* --- Messages --- */

static const struct load_bodies {
    const char *const *bodies;
    size_t count;
} fixed_messages[] = {
    {(const char *const[]){"ping"}, 1},
    {(const char *const[]){"a", "bcd", "ef"}, 3},
    {(const char *const[]){"1", "22", "333", "4444", "55555", "666666", "7777777"}, 7},
};

/* That this is the body in its framing, and no more. */
static void check_framed(enum kqn_framing_kind framing, const uint8_t *framed, size_t framed_len, const char *body,
                         size_t len)
{
    char *expected = malloc(len + KQN_U32_HEADER_BYTES + 1);
    size_t expected_len = put_framed(framing, expected, body, len);
    CHECK_INT(framed_len, expected_len);
    CHECK(memcmp(framed, expected, smaller(framed_len, expected_len)) == 0);
    free(expected);
}

/* Spans from every slot on, to the block's end and many shorter ones: each byte is that of the messages in turn. */
static void check_spans(const struct kqn_messages *messages, const struct kqn_load_settings *settings)
{
    enum {
        SPANS = 300
    };
    size_t whole_len, len, one;
    const uint8_t *end = kqn_messages_span(messages, 0, messages->slots_here, &whole_len) + whole_len;
    for (uint32_t slot = 0; slot < messages->slots_here; slot++) {
        uint32_t left = messages->slots_here - slot;
        const uint8_t *framed = kqn_messages_span(messages, slot, left, &len);
        CHECK(framed + len == end);
        for (uint32_t i = 0; i < left && i < SPANS; i++) {
            CHECK(kqn_messages_span(messages, slot, i, &len) + len == framed);
            CHECK(kqn_messages_span(messages, slot + i, 1, &one) == framed);
            size_t body = (slot + i) % settings->body_count;
            check_framed(settings->framing, framed, one, (const char *)settings->bodies[body],
                         settings->body_lens[body]);
            framed += one;
        }
    }
}

static void check_bodies(const struct kqn_messages *messages, const struct kqn_load_settings *settings)
{
    const uint64_t slots = messages->slot_count;
    const uint64_t numbers[] = {0, 1, slots - 1, slots, 3 * slots + 1, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX};
    struct kqn_pool pool = {0};
    struct kqn_buffer *made = NULL;
    for (size_t i = 0; i < COUNT(numbers); i++) {
        size_t at = (size_t)(numbers[i] % slots);
        size_t len = 0;
        const uint8_t *body = kqn_messages_body(messages, numbers[i], 5, &pool, &made, &len);
        CHECK_INT(len, settings->body_lens[at]);
        CHECK(memcmp(body, settings->bodies[at], settings->body_lens[at]) == 0);
    }
    CHECK(made == NULL); /* they lie in the block */
    kqn_pool_reset(&pool);
}

/* Checks the block that these messages make in each framing; returns how many slots the last one repeats. */
static uint32_t check_block(const char *const *bodies, const size_t *lens, size_t count, int depth)
{
    struct kqn_messages messages = {0};
    uint32_t repeated = 0;
    for (int framing = 0; framing < FRAMINGS; framing++) {
        struct kqn_load_settings settings = {
            .framing = (enum kqn_framing_kind)framing, .body_count = count, .depth = depth};
        settings.bodies = (const uint8_t *const *)(const void *)bodies;
        settings.body_lens = lens;
        if (!CHECK_INT(kqn_messages_open(&messages, &settings), 0))
            return 0;
        CHECK(!messages.has_fields);
        CHECK_INT(messages.slot_count, count);
        check_spans(&messages, &settings);
        check_bodies(&messages, &settings);
        repeated = messages.slots_here - messages.slot_count;
        kqn_messages_close(&messages);
    }
    return repeated;
}

static void messages_in_a_block(void)
{
    for (size_t i = 0; i < COUNT(fixed_messages); i++) {
        size_t lens[16];
        for (size_t j = 0; j < fixed_messages[i].count; j++)
            lens[j] = strlen(fixed_messages[i].bodies[j]);
        for (int depth = 1; depth <= 40; depth++)
            CHECK_INT(check_block(fixed_messages[i].bodies, lens, fixed_messages[i].count, depth), depth - 1);
    }
}

/* One is longer than all that is repeated, and one is empty. */
static void messages_too_long_to_be_repeated(void)
{
    enum {
        long_len = 200000
    };
    char *text = malloc(long_len);
    for (size_t i = 0; i < long_len; i++)
        text[i] = (char)('a' + i % 26);
    const char *bodies[] = {"b", text, ""};
    const size_t lens[] = {1, long_len, 0};
    CHECK_INT(check_block(bodies, lens, 3, 16), 1);
    CHECK_INT(check_block(bodies + 1, lens + 1, 2, 16), 0);
    free(text);
}

static void more_messages_than_go_out_together(void)
{
    enum {
        count = 5000
    };
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    static const char *bodies[count];
    static size_t lens[count];
    for (size_t i = 0; i < count; i++) {
        bodies[i] = digits + i % 31;
        lens[i] = 1 + i % 3;
    }
    CHECK_INT(check_block(bodies, lens, count, 300), 299);
}

static const struct fields {
    const char *template;
    size_t pad;
    uint64_t number;
    uint32_t conn;
    const char *body;
} field_rows[] = {
    {"hello {n} from {conn}", 0, 0, 0, "hello 0 from 0"},
    {"hello {n} from {conn}", 0, 1234567, 89, "hello 1234567 from 89"},
    {"{n}", 0, UINT64_MAX, 1, "18446744073709551615"},
    {"{conn}{n}", 0, 12, UINT32_MAX, "429496729512"},
    {"{n}{n}-{conn}{conn}", 0, 10, 7, "1010-77"},
    {"{{{n}}}", 0, 5, 1, "{5}"},
    {"{{n}}", 0, 5, 1, "{n}"},
    {"{n}", 8, 42, 1, "42xxxxxx"},
    {"<{n}>", 4, 42, 1, "<42>"},
    {"<{n}>", 3, 42, 1, "<42>"},
    {"no field", 10, 42, 1, "no fieldxx"},
    {"", 3, 42, 1, "xxx"},
};

static struct kqn_load_settings with_fields(int framing, const char *template, size_t pad)
{
    return (struct kqn_load_settings){.framing = (enum kqn_framing_kind)framing,
                                      .message_template = template,
                                      .message_template_len = strlen(template),
                                      .body_pad = pad};
}

static void messages_with_fields(void)
{
    struct kqn_pool pool = {0};
    struct kqn_buffer *body = NULL; /* made anew in place of the last */
    for (size_t i = 0; i < COUNT(field_rows) * FRAMINGS; i++) {
        const struct fields *row = &field_rows[i / FRAMINGS];
        struct kqn_load_settings settings = with_fields((int)(i % FRAMINGS), row->template, row->pad);
        struct kqn_messages messages;
        struct kqn_buffer *out = NULL;
        size_t len = 0;
        CHECK_INT(kqn_messages_open(&messages, &settings), 0);
        CHECK(messages.has_fields);
        CHECK_INT(kqn_messages_make(&messages, row->number, row->conn, &pool, &out), 0);
        check_framed(settings.framing, out->bytes + out->begin, kqn_buffer_len(out), row->body, strlen(row->body));
        const uint8_t *made = kqn_messages_body(&messages, row->number, row->conn, &pool, &body, &len);
        CHECK_INT(len, strlen(row->body));
        CHECK(made && memcmp(made, row->body, len) == 0);
        kqn_pool_give(&pool, out);
        kqn_messages_close(&messages);
    }
    kqn_pool_give(&pool, body);
    kqn_pool_reset(&pool);
}

static void messages_behind_each_other(void)
{
    struct kqn_pool pool = {0};
    for (int framing = 0; framing < FRAMINGS; framing++) {
        struct kqn_load_settings settings = with_fields(framing, "{n}/{conn}", 9);
        struct kqn_messages messages;
        struct kqn_buffer *out = NULL;
        static char expected[5000 * 32];
        size_t len = 0, taken = 0;
        CHECK_INT(kqn_messages_open(&messages, &settings), 0);
        for (uint32_t i = 0; i < 5000; i++) {
            char body[32];
            CHECK_INT(kqn_messages_make(&messages, i * UINT64_C(999), i, &pool, &out), 0);
            snprintf(body, sizeof(body), "%" PRIu64 "/%" PRIu32 "xxxxxxxxx", i * UINT64_C(999), i);
            size_t made_len = strcspn(body, "x");
            len += put_framed(settings.framing, expected + len, body, made_len < 9 ? 9 : made_len);
            /* The peer takes some of it now and then, and of all in the end more than half. */
            for (int j = 0; j < 9 && i % 2; j++)
                CHECK_INT(out->bytes[out->begin++], (uint8_t)expected[taken++]);
        }
        CHECK_INT(kqn_buffer_len(out), len - taken);
        CHECK(memcmp(out->bytes + out->begin, expected + taken, len - taken) == 0);
        kqn_pool_give(&pool, out);
        kqn_messages_close(&messages);
    }
    kqn_pool_reset(&pool);
}

static void messages_filled_up(void)
{
    enum {
        pad = 3000000
    };
    struct kqn_load_settings settings = with_fields(KQN_FRAMING_U32, "{n}", pad);
    struct kqn_messages messages;
    struct kqn_pool pool = {0};
    struct kqn_buffer *out = NULL;
    CHECK_INT(kqn_messages_open(&messages, &settings), 0);
    for (int i = 0; i < 2; i++)
        CHECK_INT(kqn_messages_make(&messages, 7, 0, &pool, &out), 0);
    CHECK_INT(kqn_buffer_len(out), 2 * (4 + pad));
    for (size_t i = 0; i < 2 * (4 + pad); i++) {
        size_t at = i % (4 + pad);
        char expected = at < 4 ? (char)(pad >> (24 - 8 * at) & 255) : at == 4 ? '7' : 'x';
        CHECK_INT((char)out->bytes[i], expected);
    }
    kqn_pool_give(&pool, out);
    kqn_messages_close(&messages);
    kqn_pool_reset(&pool);
}

static void messages_with_a_wrong_template(void)
{
    struct kqn_load_settings settings = with_fields(KQN_FRAMING_LINE, "{message}", 0);
    struct kqn_messages messages;
    CHECK_INT(kqn_messages_open(&messages, &settings), -EINVAL);
    kqn_messages_close(&messages);
}

/* --- Schedule --- */

static const int64_t start_ns = INT64_C(123456789012345);

static const struct rate {
    int64_t messages; /* in so many seconds */
    int64_t seconds;
} rates[] = {
    {1, 1},    {3, 1},     {7, 1},       {29, 1},        {83, 1},       {333, 1}, {1000, 3}, {22, 7},   {1, 3},
    {4099, 1}, {99991, 1}, {1000003, 1}, {100000000, 1}, {1234567, 89}, {625, 2}, {100, 1},  {1000, 1}, {1000000, 1},
};

static double per_second(const struct rate *rate)
{
    return (double)rate->messages / (double)rate->seconds;
}

/* When message k of the whole run is due, without a fraction. */
static int64_t due_ns(const struct rate *rate, int64_t k)
{
    return start_ns + k * rate->seconds * second_ns / rate->messages;
}

static void schedule_does_not_drift(void)
{
    for (size_t i = 0; i < COUNT(rates); i++) {
        struct kqn_schedule schedule;
        kqn_schedule_start(&schedule, start_ns, per_second(&rates[i]), false, 0, 1);
        for (int64_t k = 0; k < 1000000; k++, kqn_schedule_advance(&schedule)) {
            int64_t difference = schedule.next_ns - due_ns(&rates[i], k);
            CHECK(difference >= -1 && difference <= 1);
        }
    }
}

static void schedule_of_several_loops(void)
{
    for (size_t i = 0; i < COUNT(rates); i++) {
        for (int parts = 2; parts <= 5; parts++) {
            struct kqn_schedule schedules[5];
            for (int part = 0; part < parts; part++)
                kqn_schedule_start(&schedules[part], start_ns, per_second(&rates[i]), false, part, parts);
            for (int64_t k = 0; k < 20000; k++) {
                struct kqn_schedule *schedule = &schedules[k % parts];
                int64_t difference = schedule->next_ns - due_ns(&rates[i], k);
                CHECK(difference >= -1 && difference <= 1);
                kqn_schedule_advance(schedule);
            }
        }
    }
}

static void poisson_has_its_rate(void)
{
    enum {
        count = 1000000
    };
    static const double own_rates[] = {1, 12345.6, 5000000};
    for (size_t i = 0; i < COUNT(own_rates); i++) {
        struct kqn_schedule schedule;
        double mean_ns = 1e9 / own_rates[i];
        int64_t before_ns = start_ns;
        int longer = 0; /* gaps than the mean: of an exponential distribution 1 of e */
        kqn_schedule_start(&schedule, start_ns, own_rates[i], true, 0, 1);
        for (int k = 0; k < count; k++, kqn_schedule_advance(&schedule)) {
            CHECK(schedule.next_ns >= before_ns);
            longer += (double)(schedule.next_ns - before_ns) > mean_ns;
            before_ns = schedule.next_ns;
        }
        double length_ns = (double)(before_ns - start_ns);
        CHECK(length_ns > 0.99 * mean_ns * (double)count && length_ns < 1.01 * mean_ns * (double)count);
        CHECK(longer > 0.36 * (double)count && longer < 0.375 * (double)count);
    }
}

static void poisson_of_several_loops(void)
{
    struct kqn_schedule schedules[3], again;
    int64_t end_ns = start_ns + 100 * second_ns;
    int same = 0, total = 0;
    for (int part = 0; part < 3; part++) {
        kqn_schedule_start(&schedules[part], start_ns, 3000, true, part, 3);
        kqn_schedule_start(&again, start_ns, 3000, true, part, 3);
        for (; schedules[part].next_ns < end_ns; total++) {
            CHECK_INT(again.next_ns, schedules[part].next_ns);
            kqn_schedule_advance(&schedules[part]);
            kqn_schedule_advance(&again);
        }
    }
    CHECK(total > 0.99 * 300000 && total < 1.01 * 300000);
    for (int part = 0; part < 3; part++)
        kqn_schedule_start(&schedules[part], start_ns, 3000, true, part, 3);
    for (int k = 0; k < 1000; k++) {
        same += schedules[0].next_ns == schedules[1].next_ns || schedules[1].next_ns == schedules[2].next_ns;
        for (int part = 0; part < 3; part++)
            kqn_schedule_advance(&schedules[part]);
    }
    CHECK(same < 10); /* each loop has its own sequence */
}

/* How many are due before this time, one after another. */
static uint64_t step_until(struct kqn_schedule schedule, int64_t end_ns)
{
    uint64_t count = 0;
    for (; schedule.next_ns < end_ns; kqn_schedule_advance(&schedule))
        count++;
    return count;
}

/* At a message, next to it, and in the middle between two. */
static void check_counts(struct kqn_schedule schedule)
{
    for (int k = 0; k < 20; k++, kqn_schedule_advance(&schedule)) {
        CHECK_INT(kqn_schedule_count_until(&schedule, schedule.next_ns), 0);
        CHECK_INT(kqn_schedule_count_until(&schedule, schedule.next_ns - second_ns), 0);
        CHECK_INT(kqn_schedule_count_until(&schedule, schedule.next_ns + 1), 1);
        for (int64_t ahead = 0; ahead < 1000; ahead += 1 + ahead / 4) {
            int64_t at_ns = schedule.next_ns + (int64_t)((double)ahead * schedule.interval_ns);
            int64_t end_ns = at_ns + (int64_t)(schedule.interval_ns / 2);
            CHECK_INT(kqn_schedule_count_until(&schedule, end_ns), step_until(schedule, end_ns));
            for (end_ns = at_ns - 1; end_ns <= at_ns + 1; end_ns++)
                CHECK_INT(kqn_schedule_count_until(&schedule, end_ns), step_until(schedule, end_ns));
        }
    }
}

static void schedule_counts_ahead(void)
{
    for (size_t i = 0; i < COUNT(rates); i++) {
        for (int part = 0; part < 3; part++) {
            struct kqn_schedule schedule;
            kqn_schedule_start(&schedule, start_ns, per_second(&rates[i]), false, part, 3);
            check_counts(schedule);
        }
    }
}

/* A message that is due with the end of a second is not due before it. */
static void schedule_of_a_second(void)
{
    for (uint64_t rate = 1; rate <= 2000; rate++) {
        uint64_t count = 0;
        for (int part = 0; part < 3; part++) {
            struct kqn_schedule schedule;
            kqn_schedule_start(&schedule, start_ns, (double)rate, false, part, 3);
            count += step_until(schedule, start_ns + second_ns);
        }
        CHECK_INT(count, rate);
    }
}

static void schedule_counts_poisson(void)
{
    struct kqn_schedule schedule;
    kqn_schedule_start(&schedule, start_ns, 1000, true, 0, 1);
    for (int k = 0; k < 100; k++, kqn_schedule_advance(&schedule)) {
        CHECK_INT(kqn_schedule_count_until(&schedule, schedule.next_ns), 0);
        uint64_t count = kqn_schedule_count_until(&schedule, schedule.next_ns + 10 * second_ns);
        CHECK(count >= 9999 && count <= 10001);
    }
}

/* --- Histogram --- */

static struct kqn_histogram histograms[3]; /* too large for a stack */

static struct kqn_histogram *empty_histogram(int index)
{
    memset(&histograms[index], 0, sizeof(histograms[index]));
    return &histograms[index];
}

static bool are_equal(const struct kqn_histogram *a, const struct kqn_histogram *b)
{
    return a->total == b->total && a->min_ns == b->min_ns && a->max_ns == b->max_ns && a->sum_ns == b->sum_ns &&
           memcmp(a->counts, b->counts, sizeof(a->counts)) == 0;
}

static void check_bucket_of(int64_t duration_ns)
{
    uint32_t index = kqn_histogram_index((uint64_t)duration_ns);
    int64_t upper_ns = kqn_histogram_upper_ns(index);
    int64_t lower_ns = index > 0 ? kqn_histogram_upper_ns(index - 1) + 1 : 0;
    CHECK(index < KQN_HISTOGRAM_COUNTS);
    CHECK(lower_ns <= duration_ns && duration_ns <= upper_ns);
    CHECK((upper_ns - lower_ns + 1) * 1000 <= lower_ns || upper_ns == lower_ns);
}

static void histogram_buckets(void)
{
    uint32_t last = kqn_histogram_index((uint64_t)kqn_histogram_max_ns);
    for (int64_t power = 1; power <= 2 * kqn_histogram_max_ns; power *= 2)
        for (int64_t duration_ns = power - 2; duration_ns <= power + 2; duration_ns++)
            if (duration_ns >= 0 && duration_ns <= kqn_histogram_max_ns)
                check_bucket_of(duration_ns);
    CHECK(last < KQN_HISTOGRAM_COUNTS);
    for (uint32_t index = 0; index <= last; index++) {
        int64_t upper_ns = kqn_histogram_upper_ns(index);
        CHECK_INT(kqn_histogram_index((uint64_t)upper_ns), index);
        CHECK_INT(kqn_histogram_index((uint64_t)upper_ns + 1), index + 1);
        check_bucket_of(upper_ns);
        CHECK(index >= 2048 || upper_ns == index);
    }
}

static void histogram_records(void)
{
    struct kqn_histogram *histogram = empty_histogram(0);
    kqn_histogram_record(histogram, 5001);
    CHECK_INT(histogram->min_ns, 5001);
    CHECK_INT(histogram->max_ns, 5001);
    kqn_histogram_record(histogram, 17);
    kqn_histogram_record(histogram, 5001);
    CHECK_INT(histogram->total, 3);
    CHECK_INT(histogram->min_ns, 17);
    CHECK_INT(histogram->max_ns, 5001);
    CHECK(histogram->sum_ns == 10019.0);
    CHECK_INT(histogram->counts[17], 1);
    CHECK_INT(histogram->counts[kqn_histogram_index(5001)], 2);
    kqn_histogram_record(histogram, 5002); /* in the same bucket */
    kqn_histogram_record(histogram, 16);
    CHECK_INT(histogram->min_ns, 16);
    CHECK_INT(histogram->max_ns, 5002);
    CHECK_INT(histogram->counts[kqn_histogram_index(5001)], 3);
}

static void histogram_records_many(void)
{
    struct kqn_histogram *many = empty_histogram(0), *one = empty_histogram(1);
    for (int64_t duration_ns = -1; duration_ns < 2 * kqn_histogram_max_ns; duration_ns = 5 * duration_ns + 9) {
        kqn_histogram_record_many(many, duration_ns, 7);
        for (int i = 0; i < 7; i++)
            kqn_histogram_record(one, duration_ns);
        CHECK(are_equal(many, one));
    }
}

static void histogram_clamps(void)
{
    struct kqn_histogram *histogram = empty_histogram(0);
    kqn_histogram_record(histogram, kqn_histogram_max_ns + 1);
    CHECK_INT(histogram->min_ns, kqn_histogram_max_ns);
    kqn_histogram_record(histogram, INT64_MAX);
    kqn_histogram_record(histogram, -1);
    kqn_histogram_record(histogram, INT64_MIN);
    CHECK_INT(histogram->total, 4);
    CHECK_INT(histogram->min_ns, 0);
    CHECK_INT(histogram->max_ns, kqn_histogram_max_ns);
    CHECK(histogram->sum_ns == 2.0 * (double)kqn_histogram_max_ns);
    CHECK_INT(histogram->counts[0], 2);
    CHECK_INT(histogram->counts[kqn_histogram_index((uint64_t)kqn_histogram_max_ns)], 2);
    CHECK_INT(kqn_histogram_percentile(histogram, 50), 0);
    CHECK_INT(kqn_histogram_percentile(histogram, 51), kqn_histogram_max_ns);
}

static void percentiles_of_known_sets(void)
{
    struct kqn_histogram *histogram = empty_histogram(0);
    CHECK_INT(kqn_histogram_percentile(histogram, 50), 0);
    for (int64_t duration_ns = 1000; duration_ns > 0; duration_ns--)
        kqn_histogram_record(histogram, duration_ns);
    const struct {
        double percent;
        int64_t duration_ns;
    } known[] = {{0, 1},    {0.1, 1},    {0.11, 2},     {1, 10},       {50, 500},        {50.01, 501},
                 {99, 990}, {99.9, 999}, {99.91, 1000}, {99.99, 1000}, {99.99999, 1000}, {100, 1000}};
    for (size_t i = 0; i < COUNT(known); i++)
        CHECK_INT(kqn_histogram_percentile(histogram, known[i].percent), known[i].duration_ns);
    histogram = empty_histogram(0);
    kqn_histogram_record(histogram, 5001);
    CHECK_INT(kqn_histogram_percentile(histogram, 0), 5001); /* never above the greatest */
    kqn_histogram_record(histogram, 9001);
    CHECK_INT(kqn_histogram_percentile(histogram, 50), 5003); /* 4 ns wide is this bucket */
    CHECK_INT(kqn_histogram_percentile(histogram, 50.1), 9001);
    CHECK_INT(kqn_histogram_percentile(histogram, 100), 9001);
}

static int compare_durations(const void *a, const void *b)
{
    int64_t first = *(const int64_t *)a, second = *(const int64_t *)b;
    return (first > second) - (first < second);
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 20;
}

/* By its definition, from the sorted durations themselves. thousandths: of a percent. */
static void percentiles_by_definition(void)
{
    uint64_t random = 1;
    for (int round = 0; round < 200; round++) {
        struct kqn_histogram *histogram = empty_histogram(0);
        int64_t durations[200];
        uint64_t count = 1 + next_random(&random) % COUNT(durations);
        for (uint64_t i = 0; i < count; i++) {
            durations[i] = (int64_t)(next_random(&random) >> next_random(&random) % 40) % kqn_histogram_max_ns;
            kqn_histogram_record(histogram, durations[i]);
        }
        qsort(durations, (size_t)count, sizeof(durations[0]), compare_durations);
        for (uint64_t thousandths = 0; thousandths <= 100000; thousandths += 125) {
            uint64_t rank = (thousandths * count + 99999) / 100000;
            int64_t exact_ns = durations[rank > 0 ? rank - 1 : 0];
            int64_t upper_ns = kqn_histogram_upper_ns(kqn_histogram_index((uint64_t)exact_ns));
            int64_t expected_ns = upper_ns < durations[count - 1] ? upper_ns : durations[count - 1];
            CHECK_INT(kqn_histogram_percentile(histogram, (double)thousandths / 1000), expected_ns);
        }
    }
}

static void histogram_adds(void)
{
    struct kqn_histogram *sum = empty_histogram(0), *both = empty_histogram(1), *one = empty_histogram(2);
    kqn_histogram_add(sum, one);
    CHECK(are_equal(sum, both)); /* nothing to nothing */
    for (int part = 0; part < 3; part++) {
        memset(one, 0, sizeof(*one));
        for (int64_t duration_ns = 100000 - part * 40000; duration_ns < INT64_C(1000000000); duration_ns *= 3) {
            kqn_histogram_record(one, duration_ns);
            kqn_histogram_record(both, duration_ns);
        }
        kqn_histogram_add(sum, one);
        CHECK(are_equal(sum, both));
    }
    memset(one, 0, sizeof(*one));
    kqn_histogram_add(sum, one);
    CHECK(are_equal(sum, both)); /* nothing to something */
    kqn_histogram_add(one, sum);
    CHECK(are_equal(one, both)); /* something to nothing */
}

static void histogram_clears(void)
{
    struct kqn_histogram *histogram = empty_histogram(0), *zero = empty_histogram(1);
    kqn_histogram_clear(histogram);
    CHECK(memcmp(histogram, zero, sizeof(*zero)) == 0);
    for (int round = 0; round < 3; round++) {
        for (int64_t duration_ns = round; duration_ns <= kqn_histogram_max_ns; duration_ns = 2 * duration_ns + 1)
            kqn_histogram_record(histogram, duration_ns);
        kqn_histogram_record(histogram, kqn_histogram_max_ns);
        kqn_histogram_clear(histogram);
        CHECK(memcmp(histogram, zero, sizeof(*zero)) == 0);
    }
}

/* --- Tally --- */

/* A message was answered, as a connection says it. */
static void answered(struct kqn_tally *tally, int64_t latency_ns)
{
    tally->totals.messages++;
    tally->interval.messages++;
    kqn_histogram_record(tally->of_interval, latency_ns);
}

static void sent(struct kqn_tally *tally, uint64_t count)
{
    tally->totals.sent += count;
    tally->interval.sent += count;
}

static void tally_without_a_measured_time(void)
{
    struct kqn_tally tally;
    struct kqn_load_interval sum = {0};
    CHECK_INT(kqn_tally_open(&tally), 0);
    kqn_tally_error(&tally, KQN_LOAD_REFUSED, ECONNREFUSED, 1);
    CHECK_INT(kqn_tally_tick(&tally, start_ns), 0);
    CHECK_INT(kqn_tally_has_interval(&tally, 0), 0);
    CHECK_INT(kqn_tally_end(&tally, start_ns + 5 * second_ns), 0);
    CHECK_INT(kqn_tally_has_interval(&tally, 0), -ENOENT);
    kqn_tally_take_interval(&tally, 0, &sum, empty_histogram(0));
    CHECK_INT(sum.errors, 0);
    CHECK(!tally.totals.measured);
    CHECK_INT(tally.totals.errors[KQN_LOAD_REFUSED], 1);
    kqn_tally_close(&tally);
}

static void tally_forgets_the_warm_up(void)
{
    struct kqn_tally tally;
    struct kqn_load_interval sum = {0};
    CHECK_INT(kqn_tally_open(&tally), 0);
    tally.totals.bytes_sent = tally.totals.bytes_received = 100;
    kqn_tally_error(&tally, KQN_LOAD_TIMEOUT, 0, 2);
    kqn_tally_begin(&tally, start_ns);
    CHECK(tally.totals.measured);
    CHECK_INT(tally.totals.bytes_sent + tally.totals.bytes_received, 0);
    CHECK_INT(tally.totals.errors[KQN_LOAD_TIMEOUT], 2); /* they are of the whole run */
    kqn_tally_error(&tally, KQN_LOAD_TIMEOUT, 0, 3);
    CHECK_INT(kqn_tally_tick(&tally, start_ns + second_ns), 0);
    kqn_tally_take_interval(&tally, 0, &sum, empty_histogram(0));
    CHECK_INT(sum.errors, 3);
    CHECK_INT(tally.totals.errors[KQN_LOAD_TIMEOUT], 5);
    kqn_tally_close(&tally); /* with an interval that has not ended */
}

static void check_interval(struct kqn_tally *tally, uint64_t index, int64_t length_ns, uint64_t messages)
{
    struct kqn_load_interval sum = {0};
    struct kqn_histogram *latency = empty_histogram(0);
    CHECK_INT(kqn_tally_has_interval(tally, index), 1);
    kqn_tally_take_interval(tally, index, &sum, latency);
    CHECK_INT(sum.length_ns, length_ns);
    CHECK_INT(sum.messages, messages);
    CHECK_INT(latency->total, messages);
}

static void tally_hands_intervals_over(void)
{
    struct kqn_tally tally;
    CHECK_INT(kqn_tally_open(&tally), 0);
    kqn_tally_begin(&tally, start_ns);
    answered(&tally, 5000);
    CHECK_INT(kqn_tally_tick(&tally, start_ns + second_ns - 1), 0);
    CHECK_INT(kqn_tally_has_interval(&tally, 0), 0);
    CHECK_INT(tally.latency->total, 0);
    CHECK_INT(kqn_tally_tick(&tally, start_ns + second_ns), 0);
    CHECK_INT(tally.latency->total, 1);
    check_interval(&tally, 0, second_ns, 1);
    CHECK_INT(kqn_tally_has_interval(&tally, 1), 0);
    answered(&tally, 6000);
    answered(&tally, 7000);
    /* The loop slept over the end of three: what it counted belongs to the first. */
    CHECK_INT(kqn_tally_tick(&tally, start_ns + 4 * second_ns + 5), 0);
    answered(&tally, 8000);
    CHECK_INT(kqn_tally_end(&tally, start_ns + 4 * second_ns + 250), 0);
    for (uint64_t index = 1; index < 4; index++)
        check_interval(&tally, index, second_ns, index == 1 ? 2 : 0);
    check_interval(&tally, 4, 250, 1);
    CHECK_INT(kqn_tally_has_interval(&tally, 5), -ENOENT);
    CHECK_INT(tally.latency->total, 4);
    CHECK_INT(tally.of_interval->total, 0);
    kqn_tally_close(&tally);
}

static void tally_ends_between_two_intervals(void)
{
    struct kqn_tally tally;
    CHECK_INT(kqn_tally_open(&tally), 0);
    kqn_tally_begin(&tally, start_ns);
    answered(&tally, 5000);
    CHECK_INT(kqn_tally_end(&tally, start_ns + second_ns), 0);
    CHECK_INT(kqn_tally_has_interval(&tally, 0), 1);
    check_interval(&tally, 0, second_ns, 1);
    CHECK_INT(kqn_tally_has_interval(&tally, 1), -ENOENT);
    kqn_tally_close(&tally);
}

static void tally_ends_after_a_long_sleep(void)
{
    struct kqn_tally tally;
    CHECK_INT(kqn_tally_open(&tally), 0);
    kqn_tally_begin(&tally, start_ns);
    answered(&tally, 5000);
    CHECK_INT(kqn_tally_end(&tally, start_ns + 2 * second_ns + 3), 0);
    check_interval(&tally, 0, second_ns, 1);
    check_interval(&tally, 1, second_ns, 0);
    check_interval(&tally, 2, 3, 0);
    CHECK_INT(kqn_tally_has_interval(&tally, 3), -ENOENT);
    kqn_tally_close(&tally);
}

static void tally_closes_with_intervals(void)
{
    struct kqn_tally tally;
    CHECK_INT(kqn_tally_open(&tally), 0);
    kqn_tally_begin(&tally, start_ns);
    answered(&tally, 5000);
    CHECK_INT(kqn_tally_end(&tally, start_ns + 3 * second_ns + 3), 0);
    kqn_tally_close(&tally); /* ASan finds what is left */
}

enum {
    MERGED = 3, /* intervals of two loops */
};

/* Of the messages of each interval and loop; 0: none. One loop ends two seconds in, and one of the two has an interval
 * without a message. */
static const int64_t merged_ns[MERGED][2][3] = {
    {{9000, 700, 2000000}, {8000, 701, 3000000000}},
    {{800000, 800001, 800002}, {0}},
    {{0}, {50, 60, 70}},
};
static const int64_t merged_lengths_ns[MERGED] = {1000000000, 1000000000, 400};

static void fill_merged(struct kqn_tally *tally, int loop)
{
    CHECK_INT(kqn_tally_open(tally), 0);
    kqn_tally_begin(tally, start_ns);
    sent(tally, 3 + (uint64_t)loop);
    kqn_tally_error(tally, KQN_LOAD_RESET, ECONNRESET, 10);
    for (int index = 0; index < MERGED - (loop == 0); index++) {
        for (int i = 0; i < 3 && merged_ns[index][loop][i] > 0; i++)
            answered(tally, merged_ns[index][loop][i]);
        if (index + 1 < MERGED)
            CHECK_INT(kqn_tally_tick(tally, start_ns + (index + 1) * second_ns), 0);
    }
    CHECK_INT(kqn_tally_end(tally, start_ns + 2 * second_ns + loop * 400), 0);
}

static void tallies_are_merged(void)
{
    struct kqn_tally tallies[2];
    struct kqn_histogram *all = empty_histogram(1), *total = empty_histogram(2);
    for (int loop = 0; loop < 2; loop++)
        fill_merged(&tallies[loop], loop);
    for (int index = 0; index < MERGED; index++) {
        struct kqn_load_interval sum = {0};
        struct kqn_histogram *latency = empty_histogram(0);
        memset(all, 0, sizeof(*all));
        for (int loop = 0; loop < 2; loop++) {
            kqn_tally_take_interval(&tallies[loop], (uint64_t)index, &sum, latency);
            for (int i = 0; i < 3 && merged_ns[index][loop][i] > 0; i++)
                kqn_histogram_record(all, merged_ns[index][loop][i]);
        }
        kqn_histogram_add(total, all);
        CHECK(are_equal(latency, all));
        CHECK_INT(sum.messages, all->total);
        CHECK_INT(sum.sent, index == 0 ? 7 : 0);
        CHECK_INT(sum.errors, index == 0 ? 20 : 0);
        CHECK_INT(sum.length_ns, merged_lengths_ns[index]);
    }
    memset(all, 0, sizeof(*all));
    for (int loop = 0; loop < 2; loop++) {
        CHECK_INT(kqn_tally_has_interval(&tallies[loop], MERGED), -ENOENT);
        kqn_histogram_add(all, tallies[loop].latency);
        kqn_tally_close(&tallies[loop]);
    }
    CHECK(are_equal(all, total));
}

static void tally_counts_errors(void)
{
    struct kqn_tally tally;
    CHECK_INT(kqn_tally_open(&tally), 0);
    kqn_tally_error(&tally, KQN_LOAD_WRONG_ANSWER, EPERM, 4);
    CHECK_INT(tally.totals.other_errors[0].count, 0);
    for (int error = 1; error <= KQN_ERRNO_KINDS + 3; error++)
        kqn_tally_error(&tally, KQN_LOAD_OTHER, error, 2);
    kqn_tally_error(&tally, KQN_LOAD_OTHER, 1, 5);
    CHECK_INT(tally.totals.errors[KQN_LOAD_WRONG_ANSWER], 4);
    CHECK_INT(tally.totals.errors[KQN_LOAD_OTHER], 2 * (KQN_ERRNO_KINDS + 3) + 5);
    CHECK_INT(tally.totals.other_errors[0].error, 1);
    CHECK_INT(tally.totals.other_errors[0].count, 7);
    CHECK_INT(tally.totals.other_errors[1].count, 2);
    CHECK_INT(tally.totals.other_errors[KQN_ERRNO_KINDS - 1].error, 0);
    CHECK_INT(tally.totals.other_errors[KQN_ERRNO_KINDS - 1].count, 8);
    kqn_tally_close(&tally);
}

static const struct example {
    size_t expected_len;
    size_t right;
    size_t len;
    uint32_t got_len;
    bool is_asked;
    bool expected_is_cut;
    bool got_is_cut;
} example_rows[] = {
    {10, 0, 10, 10, true, false, false},     {10, 4, 6, 10, true, false, false},
    {10, 10, 3, 13, true, false, false}, /* too long */
    {10, 11, 1, 11, true, false, false}, /* a CR was right before it, and is not expected */
    {0, 0, 5, 5, true, false, false},        {10, 3, 0, 3, true, false, false}, /* too short */
    {200, 150, 50, 200, true, false, false}, {200, 150, 51, 200, true, false, true},
    {201, 0, 7, 7, true, true, false},       {300, 250, 9, 200, true, true, true},
    {0, 0, 200, 200, false, false, false},   {0, 0, 201, 200, false, false, true},
    {0, 7, 5, 5, false, false, false}, /* the bytes before are known to nobody */
};

/* Expected are letters, and what came is digits behind the letters that were right. */
static void check_example(const struct kqn_tally *tally, int index, const struct example *row)
{
    const struct kqn_load_example *example = &tally->totals.examples[index];
    size_t right = row->is_asked ? smaller(row->right, smaller(row->expected_len, KQN_EXAMPLE_TEXT_MAX)) : 0;
    CHECK_INT(example->conn, 70 + index);
    CHECK_INT(example->asked, row->is_asked);
    CHECK_INT(example->expected_len, smaller(row->expected_len, KQN_EXAMPLE_TEXT_MAX));
    CHECK_INT(example->expected_is_cut, row->expected_is_cut);
    CHECK_INT(example->got_len, row->got_len);
    CHECK_INT(example->got_is_cut, row->got_is_cut);
    for (size_t i = 0; i < example->expected_len; i++)
        CHECK_INT(example->expected[i], 'a' + i % 26);
    for (size_t i = 0; i < example->got_len; i++)
        CHECK_INT(example->got[i], i < right ? 'a' + i % 26 : '0' + (i - right) % 10);
}

static void tally_keeps_examples(void)
{
    char letters[300], digits[300];
    for (size_t i = 0; i < 300; i++) {
        letters[i] = (char)('a' + i % 26);
        digits[i] = (char)('0' + i % 10);
    }
    struct kqn_template template;
    size_t error_at;
    CHECK_INT(kqn_template_compile(&template, KQN_TEMPLATE_EXPECT, "{message}", 9, &error_at), 0);
    for (size_t first = 0; first < COUNT(example_rows); first++) {
        struct kqn_tally tally;
        CHECK_INT(kqn_tally_open(&tally), 0);
        for (size_t i = 0; i < KQN_EXAMPLES_MAX + 2; i++) { /* two more than there is room for */
            const struct example *row = &example_rows[(first + i) % COUNT(example_rows)];
            struct kqn_expectation expected = {.template = &template, .message_len = row->expected_len};
            expected.message = (const uint8_t *)letters;
            const uint8_t *bytes = put_before(input_end, digits, row->len);
            kqn_tally_example(&tally, row->is_asked ? &expected : NULL, (uint32_t)(70 + i), row->right, bytes, row->len,
                              true);
        }
        CHECK_INT(tally.totals.example_count, KQN_EXAMPLES_MAX);
        for (int i = 0; i < KQN_EXAMPLES_MAX; i++)
            check_example(&tally, i, &example_rows[(first + (size_t)i) % COUNT(example_rows)]);
        kqn_tally_close(&tally);
    }
    kqn_template_reset(&template);
}

static void tally_marks_an_example_that_is_not_whole(void)
{
    struct kqn_tally tally;
    CHECK_INT(kqn_tally_open(&tally), 0);
    kqn_tally_example(&tally, NULL, 0, 0, (const uint8_t *)"some", 4, false);
    CHECK_INT(tally.totals.examples[0].got_len, 4);
    CHECK(tally.totals.examples[0].got_is_cut);
    kqn_tally_close(&tally);
}

/* Each counter has a value of its own, so that none stands for another. */
static void fill_totals(struct kqn_load_totals *totals, uint64_t factor)
{
    uint64_t *counters[] = {&totals->messages,   &totals->in_time,        &totals->sent,
                            &totals->unsent,     &totals->unsent_own,     &totals->warmup_messages,
                            &totals->bytes_sent, &totals->bytes_received, &totals->reconnects,
                            &totals->late};
    for (size_t i = 0; i < COUNT(counters); i++)
        *counters[i] = (100 + i) * factor;
    for (size_t i = 0; i < KQN_LOAD_ERROR_COUNT; i++)
        totals->errors[i] = (200 + i) * factor;
    for (int i = 0; i < 2; i++)
        totals->other_errors[i] = (struct kqn_errno_count){.error = (int)factor + i, .count = factor};
}

static void check_sums(struct kqn_load_totals *sum, uint64_t factor)
{
    struct kqn_load_totals expected;
    fill_totals(&expected, factor);
    CHECK_INT(sum->messages, expected.messages);
    CHECK_INT(sum->in_time, expected.in_time);
    CHECK_INT(sum->sent, expected.sent);
    CHECK_INT(sum->unsent, expected.unsent);
    CHECK_INT(sum->unsent_own, expected.unsent_own);
    CHECK_INT(sum->warmup_messages, expected.warmup_messages);
    CHECK_INT(sum->bytes_sent, expected.bytes_sent);
    CHECK_INT(sum->bytes_received, expected.bytes_received);
    CHECK_INT(sum->reconnects, expected.reconnects);
    CHECK_INT(sum->late, expected.late);
    for (int i = 0; i < KQN_LOAD_ERROR_COUNT; i++)
        CHECK_INT(sum->errors[i], expected.errors[i]);
}

static void tally_adds_up(void)
{
    static struct kqn_load_totals sum;
    static struct kqn_tally tallies[3];
    for (int i = 0; i < 3; i++) {
        struct kqn_load_totals *totals = &tallies[i].totals;
        fill_totals(totals, 1u << i);
        totals->measured = i == 1;
        totals->seconds_ns = i == 1 ? 900 : 500 + i;
        totals->late_max_ns = i == 1 ? 90 : 50 + i;
        totals->busiest_share = i == 1 ? 0.9 : 0.5;
        totals->example_count = i + 1;
        for (int j = 0; j <= i; j++)
            totals->examples[j].conn = (uint32_t)(10 * i + j);
        kqn_tally_add(&tallies[i], &sum);
        CHECK_INT(sum.measured, i >= 1);
    }
    check_sums(&sum, 1 + 2 + 4);
    CHECK_INT(sum.seconds_ns, 900);
    CHECK_INT(sum.late_max_ns, 90);
    CHECK(sum.busiest_share == 0.9);
    CHECK_INT(sum.example_count, KQN_EXAMPLES_MAX);
    CHECK(sum.examples[0].conn == 0 && sum.examples[1].conn == 10 && sum.examples[2].conn == 11);
    /* 1 and 2 of the first, 2 and 3 of the second, 4 and 5 of the third. */
    static const uint64_t counts[] = {1, 1 + 2, 2, 4, 4, 0};
    for (int i = 0; i < 6; i++) {
        CHECK_INT(sum.other_errors[i].error, counts[i] > 0 ? i + 1 : 0);
        CHECK_INT(sum.other_errors[i].count, counts[i]);
    }
}

static const struct {
    const char *name;
    void (*run)(void);
} rows[] = {
    {"all four bytes of a u32 length count", u32_lengths},
    {"an answer of 4 GiB ends where it says", answer_of_4_gib},
    {"answers skipped are those found one after another", answers_skipped},
    {"what is expected is copied as far as there is room", expectation_copies},
    {"each byte of an answer counts, and none more or less", expectation_variants},
    {"messages stand in a block in turn, the first again behind the last", messages_in_a_block},
    {"a message that is longer than a block may grow stands once", messages_too_long_to_be_repeated},
    {"more messages than go out together", more_messages_than_go_out_together},
    {"a message with fields, sent and compared with", messages_with_fields},
    {"many messages made behind each other", messages_behind_each_other},
    {"messages filled up to 3 MB", messages_filled_up},
    {"a template with another use's field is refused", messages_with_a_wrong_template},
    {"a million messages on, the schedule has not drifted", schedule_does_not_drift},
    {"the messages of several loops interleave evenly", schedule_of_several_loops},
    {"a poisson schedule has its rate, and its spread", poisson_has_its_rate},
    {"a poisson schedule is the same each time, and another in each loop", poisson_of_several_loops},
    {"messages still due are counted as if stepped through", schedule_counts_ahead},
    {"in a second as many messages are due as the rate says", schedule_of_a_second},
    {"those of a poisson schedule by their mean", schedule_counts_poisson},
    {"a bucket is a thousandth of its durations wide, up to 1 hour", histogram_buckets},
    {"a duration is in one bucket, the smallest, the greatest and the sum", histogram_records},
    {"a duration recorded many times", histogram_records_many},
    {"a duration is at least 0 and at most 1 hour", histogram_clamps},
    {"percentiles of known sets", percentiles_of_known_sets},
    {"percentiles are what their definition says", percentiles_by_definition},
    {"a sum of histograms is the histogram of all", histogram_adds},
    {"a histogram cleared is all 0", histogram_clears},
    {"without a measured time there is no interval", tally_without_a_measured_time},
    {"what the warm-up counted is no interval's", tally_forgets_the_warm_up},
    {"an interval is handed over once its second is complete", tally_hands_intervals_over},
    {"at the end of an interval no empty one follows", tally_ends_between_two_intervals},
    {"an end that comes late completes the intervals before it", tally_ends_after_a_long_sleep},
    {"intervals that nobody took go with the tally", tally_closes_with_intervals},
    {"the intervals of two loops make one", tallies_are_merged},
    {"errors are counted by kind, and others by errno", tally_counts_errors},
    {"three wrong answers are kept, as far as they can be shown", tally_keeps_examples},
    {"an example that more may follow is marked as cut", tally_marks_an_example_that_is_not_whole},
    {"the totals of all loops make one", tally_adds_up},
};

int main(void)
{
    check_begin("pages with a hole behind them");
    CHECK((input_end = map_guarded_page()) != NULL);
    CHECK((message_end = map_guarded_page()) != NULL);
    CHECK((copy_end = map_guarded_page()) != NULL);
    check_end();
    if (check.failed > 0)
        return check_finish();
    for (size_t i = 0; i < COUNT(answer_rows); i++) {
        check_begin(answer_rows[i].name);
        feed_all_ways(&answer_rows[i]);
        check_end();
    }
    for (size_t i = 0; i < COUNT(rows); i++) {
        check_begin(rows[i].name);
        rows[i].run();
        check_end();
    }
    return check_finish();
}
