#include "core/journal.h"

#include <errno.h>
#include <string.h>

#include "core/sys.h"

_Static_assert((int)KQN_RECORD_DISCONNECTED == KQN_JOURNAL_CLIENT_KINDS - 1, "the limited kinds come first");

int kqn_journal_open(struct kqn_journal *journal, int rate)
{
    size_t size = KQN_JOURNAL_RECORDS * sizeof(*journal->records);
    *journal = (struct kqn_journal){.rate = rate, .budget = rate};
    journal->records = kqn_sys_alloc(size);
    if (!journal->records)
        return -ENOMEM;
    /* Touched now, so that a server's memory does not grow as its log does. */
    memset(journal->records, 0, size);
    return 0;
}

void kqn_journal_close(struct kqn_journal *journal)
{
    kqn_sys_free(journal->records);
    journal->records = NULL;
}

struct kqn_record *kqn_journal_begin(struct kqn_journal *journal, enum kqn_record_kind kind)
{
    unsigned written = atomic_load_explicit(&journal->written, memory_order_relaxed);
    unsigned waiting = written - atomic_load_explicit(&journal->read, memory_order_acquire);
    unsigned places = kind == KQN_RECORD_LOOP_ERROR ? KQN_JOURNAL_RECORDS : KQN_JOURNAL_RECORDS - 1;
    if (waiting >= places) {
        journal->dropped++;
        return NULL;
    }
    struct kqn_record *record = &journal->records[written % KQN_JOURNAL_RECORDS];
    *record = (struct kqn_record){.kind = kind, .time_ms = kqn_sys_wall_ms()};
    return record;
}

void kqn_journal_commit(struct kqn_journal *journal)
{
    atomic_fetch_add_explicit(&journal->written, 1, memory_order_release);
}

void kqn_journal_flush(struct kqn_journal *journal)
{
    struct kqn_record *record = journal->any_left_out ? kqn_journal_begin(journal, KQN_RECORD_LEFT_OUT) : NULL;
    if (!record)
        return;
    memcpy(record->left_out, journal->left_out, sizeof(record->left_out));
    kqn_journal_commit(journal);
    memset(journal->left_out, 0, sizeof(journal->left_out));
    journal->any_left_out = false;
}

void kqn_journal_tick(struct kqn_journal *journal, int64_t now_ns)
{
    if (now_ns < journal->second_ends_ns)
        return;
    kqn_journal_flush(journal);
    journal->second_ends_ns = now_ns + 1000000000;
    journal->budget = journal->rate;
}

int64_t kqn_journal_due_ns(const struct kqn_journal *journal)
{
    return journal->any_left_out ? journal->second_ends_ns : INT64_MAX;
}

int kqn_journal_take(struct kqn_journal *journal, struct kqn_record *records, int max)
{
    unsigned read = atomic_load_explicit(&journal->read, memory_order_relaxed);
    unsigned waiting = atomic_load_explicit(&journal->written, memory_order_acquire) - read;
    int count = 0;
    for (; count < max && waiting > 0; count++, waiting--)
        records[count] = journal->records[read++ % KQN_JOURNAL_RECORDS];
    atomic_store_explicit(&journal->read, read, memory_order_release);
    return count;
}
