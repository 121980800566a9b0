/* select.c: readiness by select().
 * Two sets of descriptors below FD_SETSIZE, copied for each wait; a number above that is refused, for it would be
 * written past the set's end. select() knows no error and no end of a connection: both are "readable", and a failed
 * connect is "writable" too. The scan starts behind the last descriptor reported, so that a short array of results
 * goes round. */
#include "poller/poller.h"

#if !KQN_HAVE_KQUEUE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/select.h>

#include "poller/readiness.h"
#include "poller/timeout.h"

struct select {
    struct kqn_table *table; /* borrowed */
    fd_set read_set;
    fd_set write_set;
    int limit;  /* one more than the highest descriptor in the sets */
    int cursor; /* the number that the next scan begins with, if it is below limit */
};

static int select_open(void **out, struct kqn_table *table)
{
    struct select *select = calloc(1, sizeof(*select));
    if (select == NULL)
        return -ENOMEM;
    select->table = table;
    FD_ZERO(&select->read_set);
    FD_ZERO(&select->write_set);
    *out = select;
    return 0;
}

static void set_put(fd_set *set, int fd, bool is_member)
{
    if (is_member)
        FD_SET(fd, set);
    else
        FD_CLR(fd, set);
}

static void sets_put(struct select *select, int fd, unsigned wanted)
{
    set_put(&select->read_set, fd, wanted & KQN_KNOTE_READ);
    set_put(&select->write_set, fd, wanted & KQN_KNOTE_WRITE);
    if (wanted != 0 && fd >= select->limit)
        select->limit = fd + 1;
    while (select->limit > 0 && !FD_ISSET(select->limit - 1, &select->read_set) &&
           !FD_ISSET(select->limit - 1, &select->write_set))
        select->limit--;
}

static int select_watch(void *backend, int fd, struct kqn_entry *entry, unsigned wanted)
{
    if (fd >= FD_SETSIZE)
        return -EINVAL;
    /* Linux: select() is silent about a closed number above all open ones. */
    if (entry->watched == 0 && fcntl(fd, F_GETFD) < 0)
        return -errno;
    sets_put(backend, fd, wanted);
    entry->watched = (uint8_t)wanted;
    return 0;
}

static void select_forget(void *backend, int fd, struct kqn_entry *entry)
{
    if (entry->watched != 0)
        sets_put(backend, fd, 0);
}

/* After EBADF: the knotes of descriptors that were closed without forget() vanish, as on a kqueue. */
static void remove_closed(struct select *select)
{
    for (int fd = select->limit; fd-- > 0;) {
        struct kqn_entry *entry = kqn_table_find(select->table, fd);
        if (entry == NULL || entry->watched == 0 || fcntl(fd, F_GETFD) >= 0)
            continue;
        sets_put(select, fd, 0);
        kqn_table_drop(select->table, entry);
    }
}

/* Reports out of the bit_count bits that are set in both sets. */
static int scan(struct select *select, struct kqn_ready *ready, int max, int bit_count, const fd_set *readable,
                const fd_set *writable)
{
    int count = 0;
    int fd = select->cursor < select->limit ? select->cursor : 0;
    for (int seen = 0; seen < select->limit && bit_count > 0 && count < max; seen++) {
        unsigned conditions = 0;
        if (FD_ISSET(fd, readable)) {
            conditions |= KQN_READY_READ;
            bit_count--;
        }
        if (FD_ISSET(fd, writable)) {
            conditions |= KQN_READY_WRITE;
            bit_count--;
        }
        if (conditions != 0) {
            struct kqn_entry *entry = kqn_table_at(select->table, fd);
            ready[count++] = (struct kqn_ready){.entry = entry, .fd = fd, .conditions = conditions};
        }
        fd = fd + 1 < select->limit ? fd + 1 : 0;
    }
    select->cursor = fd;
    return count;
}

static int select_wait(void *backend, struct kqn_ready *ready, int max, int64_t timeout_ns)
{
    struct select *select = backend;
    fd_set readable = select->read_set, writable = select->write_set;
    struct timespec spec;
    int bit_count = pselect(select->limit, &readable, &writable, NULL, kqn_timeout_spec(&spec, timeout_ns), NULL);
    if (bit_count < 0 && errno == EBADF) {
        remove_closed(select);
        return 0;
    }
    if (bit_count <= 0)
        return bit_count < 0 ? -errno : 0;
    return scan(select, ready, max < KQN_READY_MAX ? max : KQN_READY_MAX, bit_count, &readable, &writable);
}

static void select_close(void *backend)
{
    free(backend);
}

const struct kqn_readiness kqn_select = {
    .open = select_open,
    .watch = select_watch,
    .wait = select_wait,
    .forget = select_forget,
    .close = select_close,
};
#endif
