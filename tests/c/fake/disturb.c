#include "disturb.h"

#include <errno.h>

#include "judge.h"
#include "world.h"

void remember_gone(struct gone *gone, int fd, int filter, uint64_t udata)
{
    struct kevent *event = &gone->events[gone->count++ % GONE_MAX];
    kqn_event_set(event, fd, filter, EV_EOF, udata);
    event->fflags = ECONNRESET;
}

static int add_stale(const struct gone *gone, struct kevent *events, int count, int max_events)
{
    int known = gone->count < GONE_MAX ? gone->count : GONE_MAX;
    if (known == 0 || count == max_events || !world_fault(FAULT_EVENT_STALE))
        return count;
    events[count] = gone->events[below((unsigned)known)];
    judge.stale_events++;
    return count + 1;
}

static int add_duplicate(struct kevent *events, int count, int max_events)
{
    if (count == 0 || count == max_events || !world_fault(FAULT_EVENT_DUPLICATED))
        return count;
    events[count] = events[below((unsigned)count)];
    return count + 1;
}

static void reorder(struct kevent *events, int count)
{
    if (count < 2 || !world_fault(FAULT_EVENTS_REORDERED))
        return;
    for (int i = count - 1; i > 0; i--) {
        int other = (int)below((unsigned)i + 1);
        struct kevent event = events[i];
        events[i] = events[other];
        events[other] = event;
    }
}

int disturb(const struct gone *gone, struct kevent *events, int count, int max_events)
{
    count = add_stale(gone, events, count, max_events);
    count = add_duplicate(events, count, max_events);
    reorder(events, count);
    for (int i = 0; i < count; i++)
        world_trace(events[i].filter == EVFILT_WRITE ? "event WRITE" : "event READ", (int)events[i].ident,
                    events[i].flags);
    return count;
}
