/* core.c: slab, buffers, journal, inbox, batch and template, each by its contract. */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "core/buffer.h"
#include "core/journal.h"
#include "core/slab.h"
#include "core/template.h"
#include "server/batch.h"
#include "server/connection.h"
#include "server/inbox.h"

struct thing {
    struct kqn_slot slot;
    uint64_t value;
};

static void slab_keys(void)
{
    struct kqn_slab slab;
    kqn_slab_init(&slab, sizeof(struct thing));
    struct thing *first = kqn_slab_take(&slab);
    uint64_t key = kqn_slot_key(&first->slot);
    CHECK(kqn_slab_find(&slab, key) == first);
    CHECK(kqn_slab_find(&slab, key + 1) == NULL); /* another index, never taken */
    first->value = 7;
    kqn_slab_give(&slab, first);
    CHECK(kqn_slab_find(&slab, key) == NULL);
    struct thing *again = kqn_slab_take(&slab);
    CHECK(again == first);
    CHECK_INT(again->value, 0);
    CHECK(kqn_slab_find(&slab, key) == NULL);
    CHECK(kqn_slot_key(&again->slot) != key);
    kqn_slab_reset(&slab);
}

static void slab_slots_never_move(void)
{
    enum {
        count = 3 * KQN_SLAB_CHUNK_SLOTS
    };
    static struct thing *things[count];
    struct kqn_slab slab;
    kqn_slab_init(&slab, sizeof(struct thing));
    for (uint32_t i = 0; i < count; i++) {
        things[i] = kqn_slab_take(&slab);
        things[i]->value = i;
    }
    for (uint32_t i = 0; i < count; i += 2)
        kqn_slab_give(&slab, things[i]);
    uint32_t index = 0;
    uint64_t seen = 0;
    struct thing *thing;
    while ((thing = kqn_slab_next(&slab, &index))) {
        CHECK_INT(thing->value % 2, 1);
        CHECK(thing == things[thing->value]);
        seen++;
    }
    CHECK_INT(seen, count / 2);
    CHECK_INT(slab.taken_count, count / 2);
    kqn_slab_reset(&slab);
}

static void buffer_sizes(void)
{
    struct kqn_pool pool = {0};
    for (size_t len = 1; len < 3000000; len = len * 3 / 2 + 1) {
        struct kqn_buffer *buffer = NULL;
        CHECK_INT(kqn_pool_reserve(&pool, &buffer, len), 0);
        CHECK(buffer->capacity >= len);
        size_t block = buffer->capacity + sizeof(*buffer);
        CHECK(block <= 4 * (len + sizeof(*buffer)) || block == KQN_POOL_SMALLEST_BYTES);
        kqn_pool_give(&pool, buffer);
    }
    CHECK(pool.kept_bytes <= KQN_POOL_KEPT_BYTES);
    CHECK(kqn_pool_take(&pool, (size_t)1 << 32) == NULL);
    kqn_pool_reset(&pool);
    CHECK_INT(pool.kept_bytes, 0);
}

static void buffer_keeps_its_bytes(void)
{
    struct kqn_pool pool = {0};
    struct kqn_buffer *buffer = NULL;
    uint8_t expected = 0;
    uint8_t next = 0;
    size_t consumed = 0;
    for (int i = 0; i < 20000; i++) {
        uint8_t bytes[7];
        for (size_t j = 0; j < sizeof(bytes); j++)
            bytes[j] = next++;
        CHECK_INT(kqn_pool_append(&pool, &buffer, bytes, sizeof(bytes)), 0);
        for (int j = 0; j < 5; j++, consumed++)
            CHECK_INT(buffer->bytes[buffer->begin++], expected++);
    }
    CHECK_INT(kqn_buffer_len(buffer), 20000 * 7 - consumed);
    kqn_pool_give(&pool, buffer);
    kqn_pool_reset(&pool);
}

static void pool_never_exceeds_its_limit(void)
{
    static const uint8_t bytes[20000];
    struct kqn_pool pool = {.limit_bytes = 5 * KQN_POOL_SMALLEST_BYTES};
    struct kqn_buffer *one = NULL, *other = NULL;
    CHECK_INT(kqn_pool_append(&pool, &one, bytes, 1), 0);
    CHECK_INT(pool.taken_bytes, KQN_POOL_SMALLEST_BYTES);
    CHECK_INT(kqn_pool_append(&pool, &other, bytes, 5000), 0); /* 16 KiB: exactly all */
    CHECK_INT(pool.taken_bytes, pool.limit_bytes);
    CHECK(kqn_pool_take(&pool, 1) == NULL);
    CHECK_INT(kqn_pool_append(&pool, &one, bytes, 5000), -ENOBUFS);
    CHECK_INT(kqn_buffer_len(one), 1); /* nothing changed */
    CHECK_INT(kqn_pool_append(&pool, &one, bytes, 100), 0);
    kqn_pool_give(&pool, other);
    CHECK_INT(kqn_pool_append(&pool, &one, bytes, 5000), 0); /* both its blocks fit until its bytes have moved */
    CHECK_INT(kqn_buffer_len(one), 5101);
    CHECK_INT(kqn_pool_append(&pool, &one, bytes, sizeof(bytes)), -ENOBUFS);
    kqn_pool_give(&pool, one);
    CHECK_INT(pool.taken_bytes, 0);
    kqn_pool_reset(&pool);
}

static void journal_is_bounded(void)
{
    struct kqn_journal journal;
    static struct kqn_record records[KQN_JOURNAL_RECORDS];
    CHECK_INT(kqn_journal_open(&journal, 10), 0);
    for (int i = 0; i < KQN_JOURNAL_RECORDS + 5; i++) {
        struct kqn_record *record = kqn_journal_begin(&journal, KQN_RECORD_CONNECTED);
        CHECK_INT(record == NULL, i >= KQN_JOURNAL_RECORDS - 1);
        if (!record)
            continue;
        record->fd = i;
        kqn_journal_commit(&journal);
    }
    CHECK_INT(journal.dropped, 6);
    struct kqn_record *last = kqn_journal_begin(&journal, KQN_RECORD_LOOP_ERROR); /* the last place is kept for it */
    CHECK(last);
    last->fd = KQN_JOURNAL_RECORDS - 1;
    kqn_journal_commit(&journal);
    CHECK(kqn_journal_begin(&journal, KQN_RECORD_LOOP_ERROR) == NULL);
    CHECK_INT(kqn_journal_take(&journal, records, 100), 100);
    CHECK_INT(records[99].fd, 99);
    CHECK_INT(kqn_journal_take(&journal, records, KQN_JOURNAL_RECORDS), KQN_JOURNAL_RECORDS - 100);
    CHECK_INT(records[0].fd, 100);
    CHECK_INT(kqn_journal_take(&journal, records, 1), 0);
    kqn_journal_close(&journal);
}

static void journal_limits_client_lines(void)
{
    struct kqn_journal journal;
    struct kqn_record record;
    const int64_t second = 1000000000;
    CHECK_INT(kqn_journal_open(&journal, 3), 0);
    kqn_journal_tick(&journal, second);
    for (int i = 0; i < 10; i++)
        CHECK_INT(kqn_journal_allows(&journal, KQN_RECORD_RECEIVED), i < 3);
    CHECK_INT(kqn_journal_due_ns(&journal), 2 * second);
    kqn_journal_tick(&journal, 2 * second - 1);
    CHECK_INT(kqn_journal_take(&journal, &record, 1), 0);
    kqn_journal_tick(&journal, 2 * second);
    CHECK_INT(kqn_journal_take(&journal, &record, 1), 1);
    CHECK_INT(record.kind, KQN_RECORD_LEFT_OUT);
    CHECK_INT(record.left_out[KQN_RECORD_RECEIVED], 7);
    CHECK_INT(record.left_out[KQN_RECORD_CONNECTED], 0);
    CHECK_INT(kqn_journal_due_ns(&journal), INT64_MAX);
    CHECK(kqn_journal_allows(&journal, KQN_RECORD_CONNECTED));
    kqn_journal_close(&journal);
}

static void journal_rate_0_is_silent(void)
{
    struct kqn_journal journal;
    CHECK_INT(kqn_journal_open(&journal, 0), 0);
    kqn_journal_tick(&journal, 1);
    CHECK(!kqn_journal_allows(&journal, KQN_RECORD_CONNECTED));
    CHECK_INT(kqn_journal_due_ns(&journal), INT64_MAX);
    kqn_journal_close(&journal);
}

static void inbox_is_first_in_first_out(void)
{
    static struct kqn_inbox inbox;
    struct kqn_client client = {0};
    int put = 0;
    int taken = 0;
    for (int round = 0; round < 3; round++) {
        for (client.fd = put; kqn_inbox_put(&inbox, &client); client.fd = ++put)
            ;
        CHECK_INT(put - taken, KQN_INBOX_CLIENTS);
        for (int i = 0; i < 700 && kqn_inbox_take(&inbox, &client); i++)
            CHECK_INT(client.fd, taken++);
    }
    while (kqn_inbox_take(&inbox, &client))
        CHECK_INT(client.fd, taken++);
    CHECK_INT(put, taken);
}

/* Up to its limit. */
static void fill_batch(struct kqn_batch *batch, struct kqn_conn *conn)
{
    const struct kqn_frame frame = {.message = (const uint8_t *)"x", .message_len = 1};
    for (int i = 0; i < batch->limit; i++) {
        CHECK(kqn_batch_has_room(batch, 1));
        CHECK_INT(kqn_batch_add(batch, conn, &frame), 0);
    }
    CHECK(!kqn_batch_has_room(batch, 1));
}

/* A full batch that was answered quickly lets the next one be twice as long, and one that took long half as long. */
static void batch_follows_its_hook(void)
{
    struct kqn_batch batch;
    struct kqn_conn conn = {0};
    CHECK_INT(kqn_batch_open(&batch, KQN_FRAMING_STREAM), 0);
    for (int limit = KQN_BATCH_FIRST_MESSAGES; limit <= KQN_BATCH_MESSAGES; limit *= 2) {
        CHECK_INT(batch.limit, limit);
        fill_batch(&batch, &conn);
        kqn_batch_adapt(&batch, 1000000);
        kqn_batch_clear(&batch);
    }
    CHECK_INT(batch.limit, KQN_BATCH_MESSAGES);
    kqn_batch_adapt(&batch, 5000000);
    CHECK_INT(batch.limit, KQN_BATCH_MESSAGES);
    for (int i = 0; i < 20; i++)
        kqn_batch_adapt(&batch, 20000000);
    CHECK_INT(batch.limit, KQN_BATCH_LEAST_MESSAGES);
    kqn_batch_adapt(&batch, 1000000); /* it was not full: nothing says that a longer one would be as quick */
    CHECK_INT(batch.limit, KQN_BATCH_LEAST_MESSAGES);
    kqn_batch_close(&batch);
}

/* An answer lies in the batch as it will be sent: with its length before it, or its line's ending behind it. */
static void batch_holds_answers_as_sent(void)
{
    static const struct {
        enum kqn_framing_kind framing;
        size_t ending_len;
        const char *sent;
        size_t len;
    } cases[] = {
        {KQN_FRAMING_STREAM, 0, "xyz", 3},   {KQN_FRAMING_LINE, 0, "xyz", 3},        {KQN_FRAMING_LINE, 1, "xyz\n", 4},
        {KQN_FRAMING_LINE, 2, "xyz\r\n", 5}, {KQN_FRAMING_U32, 0, "\0\0\0\3xyz", 7},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct kqn_batch batch;
        struct kqn_conn conn = {0};
        const struct kqn_frame frame = {
            .message = (const uint8_t *)"m", .message_len = 1, .ending_len = cases[i].ending_len};
        CHECK_INT(kqn_batch_open(&batch, cases[i].framing), 0);
        for (int entry = 0; entry < 2; entry++) {
            CHECK_INT(kqn_batch_add(&batch, &conn, &frame), 0);
            CHECK_INT(kqn_batch_set_answer(&batch, entry, "xyz", 3), 0);
            CHECK_INT(batch.entries[entry].answer_len, cases[i].len);
            CHECK_INT(batch.entries[entry].answer_at, (size_t)entry * cases[i].len);
            CHECK(memcmp(kqn_batch_answer(&batch, &batch.entries[entry]), cases[i].sent, cases[i].len) == 0);
        }
        kqn_batch_clear(&batch);
        kqn_batch_close(&batch);
    }
}

static void batch_grows_for_one_message(void)
{
    struct kqn_batch batch;
    struct kqn_conn conn = {0};
    static uint8_t large[KQN_BATCH_BYTES + 1];
    struct kqn_frame frame = {.message = large, .message_len = sizeof(large)};
    CHECK_INT(kqn_batch_open(&batch, KQN_FRAMING_STREAM), 0);
    CHECK(kqn_batch_has_room(&batch, sizeof(large)));
    CHECK_INT(kqn_batch_add(&batch, &conn, &frame), 0);
    CHECK(!kqn_batch_has_room(&batch, sizeof(large)));
    kqn_batch_clear(&batch);
    CHECK(batch.messages->capacity <= KQN_BATCH_BYTES);
    fill_batch(&batch, &conn);
    CHECK_INT(kqn_batch_set_answer(&batch, 0, "xyz", 3), 0);
    CHECK_INT(batch.entries[0].verdict, KQN_VERDICT_ANSWERED);
    CHECK(memcmp(batch.answers->bytes + batch.entries[0].answer_at, "xyz", 3) == 0);
    CHECK_INT(kqn_batch_set_answer(&batch, 1, large, (size_t)KQN_ANSWER_MAX + 1), -EMSGSIZE);
    CHECK_INT(kqn_batch_set_answer(&batch, 2, large, sizeof(large)), 0);
    CHECK_INT(kqn_batch_set_answer(&batch, 3, "abc", 3), 0);
    CHECK_INT(batch.answers->end, 6); /* the long one lies elsewhere */
    CHECK(memcmp(kqn_batch_answer(&batch, &batch.entries[2]), large, sizeof(large)) == 0);
    CHECK(memcmp(kqn_batch_answer(&batch, &batch.entries[3]), "abc", 3) == 0);
    kqn_batch_clear(&batch);
    kqn_batch_close(&batch);
}

static const struct {
    const char *text;
    int error_at; /* -1: none */
    int part_count;
} templates[] = {
    {"", -1, 0},
    {"system: {message}", -1, 2},
    {"{message}", -1, 1},
    {"{peer}> {message}!", -1, 4},
    {"{{{message}}}", -1, 3},
    {"a{{b}}c", -1, 1},
    {"{", 0, 0},
    {"a}", 1, 0},
    {"{nobody}", 0, 0},
    {"{message} {message", 10, 0},
    {"{{{", 2, 0},
    {"{}", 0, 0},
};

static void template_parts(void)
{
    for (size_t i = 0; i < sizeof(templates) / sizeof(templates[0]); i++) {
        struct kqn_template template;
        size_t error_at = 0;
        int rc = kqn_template_compile(&template, KQN_TEMPLATE_REPLY, templates[i].text, strlen(templates[i].text),
                                      &error_at);
        CHECK_INT(rc, templates[i].error_at < 0 ? 0 : -EINVAL);
        CHECK_INT(template.part_count, templates[i].part_count);
        if (rc < 0)
            CHECK_INT(error_at, templates[i].error_at);
        kqn_template_reset(&template);
    }
}

static void template_that_surrounds(void)
{
    struct kqn_template template;
    const uint8_t *prefix, *suffix;
    size_t prefix_len, suffix_len, error_at;
    CHECK_INT(kqn_template_compile(&template, KQN_TEMPLATE_REPLY, "<{{{message}>", 13, &error_at), 0);
    CHECK(kqn_template_surrounds(&template, &prefix, &prefix_len, &suffix, &suffix_len));
    CHECK(prefix_len == 2 && memcmp(prefix, "<{", 2) == 0);
    CHECK(suffix_len == 1 && suffix[0] == '>');
    CHECK_INT(kqn_template_len(&template, 10, 0), 13);
    kqn_template_reset(&template);
    CHECK_INT(kqn_template_compile(&template, KQN_TEMPLATE_REPLY, "{message}{message}", 18, &error_at), 0);
    CHECK(!kqn_template_surrounds(&template, &prefix, &prefix_len, &suffix, &suffix_len));
    kqn_template_reset(&template);
    CHECK_INT(kqn_template_compile(&template, KQN_TEMPLATE_REPLY, "{peer}{message}", 15, &error_at), 0);
    CHECK(!kqn_template_surrounds(&template, &prefix, &prefix_len, &suffix, &suffix_len));
    kqn_template_reset(&template);
}

static const struct {
    const char *name;
    void (*run)(void);
} rows[] = {
    {"the key of a slot given back never fits again", slab_keys},
    {"slots never move, and only the taken ones are walked", slab_slots_never_move},
    {"a block costs at most four times its bytes", buffer_sizes},
    {"a buffer keeps its bytes and their order while it grows", buffer_keeps_its_bytes},
    {"a pool never exceeds its limit, and says that it was that", pool_never_exceeds_its_limit},
    {"a full journal drops and counts", journal_is_bounded},
    {"client lines are limited, and what is left out is said", journal_limits_client_lines},
    {"at rate 0 nothing is written and nothing missed", journal_rate_0_is_silent},
    {"an inbox is first in, first out, and says when it is full", inbox_is_first_in_first_out},
    {"a batch is bounded, but for one message that is longer", batch_grows_for_one_message},
    {"a batch holds answers as they will be sent", batch_holds_answers_as_sent},
    {"a batch is as long as its hook is quick", batch_follows_its_hook},
    {"a template's parts, and where it is wrong", template_parts},
    {"a template that surrounds the message", template_that_surrounds},
};

int main(void)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        check_begin(rows[i].name);
        rows[i].run();
        check_end();
    }
    return check_finish();
}
