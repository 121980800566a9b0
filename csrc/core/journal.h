/* journal.h: what a loop has to say, handed to the thread that logs.
 * A ring of fixed-size records with one writer, the loop, and one reader at a time. Writing costs no system call and
 * never waits: a full ring drops the record and counts it; its last place is for the word that the loop has failed.
 * Client lines are limited to so many a second before a record is written; what that leaves out is counted by kind and
 * said about once a second. */
#ifndef KQN_JOURNAL_H
#define KQN_JOURNAL_H
#include <stdalign.h>
#include <stdatomic.h>

#include "api.h"
#include "core/sys.h"

enum {
    KQN_JOURNAL_CLIENT_KINDS = 3, /* connected, received, disconnected: the kinds that are limited */
};

struct kqn_journal {
    struct kqn_record *records; /* KQN_JOURNAL_RECORDS of them */
    int rate;                   /* client lines a second */
    int budget;                 /* of them left in this second */
    int64_t second_ends_ns;
    uint64_t left_out[KQN_JOURNAL_CLIENT_KINDS];
    bool any_left_out;
    uint64_t dropped;
    /* Both count records for ever. The reader writes one of them, so they share no line with what the loop counts
     * by. */
    alignas(KQN_LINE_BYTES) atomic_uint written;
    atomic_uint read;
};
KQN_BEGINS_LINE(kqn_journal, written);

int kqn_journal_open(struct kqn_journal *journal, int rate);
void kqn_journal_close(struct kqn_journal *journal);

/* A place for the next record with its kind and time filled in, to be published by kqn_journal_commit(); NULL: the
 * ring is full, which is counted. */
struct kqn_record *kqn_journal_begin(struct kqn_journal *journal, enum kqn_record_kind kind);
void kqn_journal_commit(struct kqn_journal *journal);

/* Whether a client line of this kind may be written now. */
static inline bool kqn_journal_allows(struct kqn_journal *journal, enum kqn_record_kind kind)
{
    if (journal->budget > 0) {
        journal->budget--;
        return true;
    }
    if (journal->rate > 0) {
        journal->left_out[kind]++;
        journal->any_left_out = true;
    }
    return false;
}

/* To be called every turn: begins the next second when it is due, and says what the last one left out. */
void kqn_journal_tick(struct kqn_journal *journal, int64_t now_ns);

/* Says what was left out, if anything was. */
void kqn_journal_flush(struct kqn_journal *journal);

/* When the loop must turn once more to say what was left out; INT64_MAX: it need not. */
int64_t kqn_journal_due_ns(const struct kqn_journal *journal);

/* For the reader: takes up to max records out. */
int kqn_journal_take(struct kqn_journal *journal, struct kqn_record *records, int max);
#endif
