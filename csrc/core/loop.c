#include "core/loop.h"

#include <errno.h>

#include "poller/fork.h"

int kqn_loop_open(struct kqn_loop *loop, enum kqn_poller_kind kind, int batch, size_t slot_size)
{
    *loop = (struct kqn_loop){.batch = batch, .now_ns = kqn_sys_monotonic_ns()};
    kqn_slab_init(&loop->watches, slot_size);
    size_t array_bytes = (size_t)batch * sizeof(struct kevent);
    loop->changes = kqn_sys_alloc(array_bytes);
    loop->events = kqn_sys_alloc(array_bytes);
    int rc = -ENOMEM;
    if (loop->changes && loop->events)
        rc = kqn_poller_open(&loop->poller, kind);
    if (rc < 0)
        kqn_loop_close(loop);
    return rc;
}

void kqn_loop_close(struct kqn_loop *loop)
{
    kqn_poller_close(loop->poller);
    kqn_sys_free(loop->changes);
    kqn_sys_free(loop->events);
    kqn_slab_reset(&loop->watches);
    kqn_pool_reset(&loop->pool);
    loop->poller = NULL;
    loop->changes = loop->events = NULL;
}

static struct kqn_watch *watch_at(const struct kqn_loop *loop, uint32_t index_plus_1)
{
    return (struct kqn_watch *)(void *)kqn_slab_at(&loop->watches, index_plus_1 - 1);
}

struct kqn_watch *kqn_loop_add(struct kqn_loop *loop, int fd)
{
    struct kqn_watch *watch = kqn_slab_take(&loop->watches);
    if (watch)
        watch->fd = fd;
    return watch;
}

void kqn_loop_want(struct kqn_loop *loop, struct kqn_watch *watch, unsigned wanted)
{
    watch->wanted = (uint8_t)wanted;
    if (watch->dirty || watch->wanted == watch->told)
        return;
    watch->dirty = true;
    watch->next_dirty = 0;
    if (loop->dirty_tail)
        watch_at(loop, loop->dirty_tail)->next_dirty = watch->slot.index + 1;
    else
        loop->dirty_head = watch->slot.index + 1;
    loop->dirty_tail = watch->slot.index + 1;
}

void kqn_loop_end(struct kqn_loop *loop, struct kqn_watch *watch)
{
    watch->ended = true;
    watch->next_ended = loop->ended_head;
    loop->ended_head = watch->slot.index + 1;
    loop->ended_dirty |= watch->dirty;
}

static void put_change(struct kqn_loop *loop, int *count, const struct kqn_watch *watch, int filter, unsigned flags)
{
    kqn_event_set(&loop->changes[(*count)++], watch->fd, filter, flags, kqn_slot_key(&watch->slot));
}

/* The next thing to tell the kernel of this watch, as one change; false: it knows all. */
static bool tell_next(struct kqn_loop *loop, int *count, struct kqn_watch *watch)
{
    enum {
        read_bits = KQN_WANT_READ_KEPT | KQN_WANT_READ
    };
    unsigned told = watch->told;
    unsigned changed = told ^ watch->wanted;
    if (changed & read_bits) {
        unsigned wanted = watch->wanted & read_bits;
        if (wanted == KQN_WANT_READ)
            put_change(loop, count, watch, EVFILT_READ, EV_ADD | EV_ENABLE);
        else if (told & read_bits)
            put_change(loop, count, watch, EVFILT_READ, wanted ? EV_DISABLE : EV_DELETE);
        watch->told = (uint8_t)((told & ~(unsigned)read_bits) | wanted);
        return true;
    }
    if (changed & KQN_WANT_WRITE) {
        bool on = watch->wanted & KQN_WANT_WRITE;
        put_change(loop, count, watch, EVFILT_WRITE, on ? EV_ADD | EV_ENABLE : EV_DELETE);
        watch->told = (uint8_t)(told ^ KQN_WANT_WRITE);
        return true;
    }
    return false;
}

/* As many changes as the array holds; what is left waits for the next turn. */
static int collect_changes(struct kqn_loop *loop)
{
    int count = 0;
    while (loop->dirty_head) {
        struct kqn_watch *watch = watch_at(loop, loop->dirty_head);
        while (count < loop->batch && tell_next(loop, &count, watch))
            ;
        if (watch->told != watch->wanted)
            return count;
        watch->dirty = false;
        loop->dirty_head = watch->next_dirty;
    }
    loop->dirty_tail = 0;
    return count;
}

int kqn_loop_wait(struct kqn_loop *loop, int64_t timeout_ns)
{
    int change_count = collect_changes(loop);
    if (loop->dirty_head)
        timeout_ns = 0;
    int rc = kqn_poller_wait(loop->poller, loop->changes, change_count, loop->events, loop->batch, timeout_ns);
    kqn_loop_read_clock(loop);
    loop->turns++;
    loop->event_count = rc > 0 ? rc : 0;
    return rc < 0 ? rc : 0;
}

/* A change that took something away can only fail because it was gone already, as after a close. */
static bool is_moot(const struct kqn_watch *watch, const struct kevent *event)
{
    unsigned filter_bits = event->filter == EVFILT_WRITE ? KQN_WANT_WRITE : KQN_WANT_READ;
    return (event->flags & EV_ERROR) && !(watch->told & filter_bits);
}

/* A change that failed is not in: or the same wish, said again, would change nothing, and nobody would be told. */
static void untell(struct kqn_watch *watch, const struct kevent *event)
{
    unsigned filter_bits = event->filter == EVFILT_WRITE ? KQN_WANT_WRITE : KQN_WANT_READ | KQN_WANT_READ_KEPT;
    watch->told = (uint8_t)(watch->told & ~filter_bits);
}

/* With thousands of connections a slot has left the nearest caches when its next event comes. */
static void fetch_ahead(const struct kqn_loop *loop, int index)
{
    uint32_t slot = index < loop->event_count ? (uint32_t)kqn_event_udata(&loop->events[index]) : UINT32_MAX;
    if (slot < loop->watches.slot_count)
        __builtin_prefetch(kqn_slab_at(&loop->watches, slot));
}

void kqn_loop_dispatch(struct kqn_loop *loop, kqn_loop_handler *handler)
{
    loop->events_taken += (uint64_t)loop->event_count;
    for (int i = 0; i < loop->event_count; i++) {
        fetch_ahead(loop, i + 2);
        const struct kevent *event = &loop->events[i];
        struct kqn_watch *watch = kqn_slab_find(&loop->watches, kqn_event_udata(event));
        if (!watch || watch->ended) {
            loop->stale_events++;
        } else if (!is_moot(watch, event)) {
            if (event->flags & EV_ERROR)
                untell(watch, event);
            handler(loop, watch, event);
        }
    }
}

/* Withdraws the changes of those that ended: closing a descriptor takes its knotes along. */
static void forget_ended_changes(struct kqn_loop *loop)
{
    uint32_t next = loop->dirty_head;
    loop->dirty_head = loop->dirty_tail = 0;
    loop->ended_dirty = false;
    while (next) {
        struct kqn_watch *watch = watch_at(loop, next);
        next = watch->next_dirty;
        watch->dirty = false;
        if (!watch->ended)
            kqn_loop_want(loop, watch, watch->wanted);
    }
}

/* A forked child that holds the socket would keep the peer from seeing its end, and a listener listening. A peer that
 * still sends is reset by its next byte, and one that waits for room must get some to send it. */
static void end_shared(int fd)
{
    enum {
        reads_max = 1024
    };
    uint8_t thrown_away[16384];
    kqn_sys_shutdown_both(fd);
    for (int i = 0; i < reads_max && kqn_sys_read(fd, thrown_away, sizeof(thrown_away)) > 0; i++)
        ;
}

struct kqn_watch *kqn_loop_reap(struct kqn_loop *loop)
{
    if (loop->ended_dirty)
        forget_ended_changes(loop);
    if (!loop->ended_head)
        return NULL;
    struct kqn_watch *watch = watch_at(loop, loop->ended_head);
    loop->ended_head = watch->next_ended;
    kqn_poller_forget(loop->poller, watch->fd);
    if (kqn_fork_happened())
        end_shared(watch->fd);
    kqn_sys_close(watch->fd);
    return watch;
}

void kqn_loop_give(struct kqn_loop *loop, struct kqn_watch *watch)
{
    kqn_slab_give(&loop->watches, watch);
}
