/* kevent.c: the kevent that an event loop relies on, a row for each rule.
 * Every row runs on every poller of this system, and calls poller.h alone; the same rows run on real kqueues. Where a
 * system differs, the row has a gate, which names it and says why (docs/kevent.md lists them all).
 *
 *     kevent            all rows on all pollers of this system
 *     kevent NAME       on one poller: kqueue, epoll, poll, select
 *     kevent --rows     the rows: name, phrase
 *     kevent --gates    the gates: row, where it does not run, reason
 *
 * Rows wait for what must come for seconds, and a moment for what must not; so they are quick where the system is,
 * and hold where a clock tick is 10 ms. They need 100 descriptors; only the last rows use more where they may. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __NetBSD__
#include <sys/param.h> /* its version */
#endif

#include "check.h"
#include "poller/poller.h"

#define MILLISECOND_NS INT64_C(1000000)
#define PATIENCE_NS (5000 * MILLISECOND_NS) /* for what must come */
#define MOMENT_NS (40 * MILLISECOND_NS)     /* for what must not */

enum {
    MANY = 1000,         /* descriptors of the row that has many */
    FEW = 6,             /* pairs of sockets that take turns */
    PING_PONG_MAX = 300, /* rounds */
    WAKERS = 4,          /* threads that wake the same wait */
    WAKES = 200,         /* by each of them */
};

/* --- Time, sockets, and small steps --- */

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void sleep_ns(int64_t duration_ns)
{
    struct timespec duration = {.tv_sec = 0, .tv_nsec = (long)duration_ns};
    nanosleep(&duration, NULL);
}

static void set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    CHECK(fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
}

/* Two connected stream sockets that need no network. */
static void pair_open(int fds[2])
{
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    set_nonblocking(fds[0]);
    set_nonblocking(fds[1]);
}

static int listener_open(struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t size = sizeof(*address);
    memset(address, 0, sizeof(*address));
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(fd, (struct sockaddr *)address, size) == 0);
    CHECK(listen(fd, 8) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)address, &size) == 0);
    return fd;
}

/* Two ends of a TCP connection: ours and the peer's. */
static void tcp_open(int fds[2])
{
    struct sockaddr_in address;
    int listener = listener_open(&address);
    fds[1] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fds[1], (struct sockaddr *)&address, sizeof(address)) == 0);
    fds[0] = accept(listener, NULL, NULL);
    CHECK(fds[0] >= 0);
    close(listener);
    set_nonblocking(fds[0]);
    set_nonblocking(fds[1]);
}

/* Closes so that the other end is reset. */
static void close_with_reset(int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0);
    close(fd);
}

static void send_text(int fd, const char *text)
{
    CHECK_INT(write(fd, text, strlen(text)), strlen(text));
}

static void read_all(int fd)
{
    char bytes[4096];
    while (read(fd, bytes, sizeof(bytes)) > 0)
        continue;
}

static void fill(int fd)
{
    static const char bytes[4096];
    while (write(fd, bytes, sizeof(bytes)) > 0)
        continue;
    CHECK_INT(errno, EAGAIN);
}

/* As an owner closes what it has registered. */
static void forget_and_close(struct kqn_poller *poller, int fd)
{
    kqn_poller_forget(poller, fd);
    close(fd);
}

static void pair_close(struct kqn_poller *poller, const int fds[2])
{
    forget_and_close(poller, fds[0]);
    forget_and_close(poller, fds[1]);
}

/* A number that is no open descriptor, until the next one is opened. */
static int closed_number(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    close(fd);
    return fd;
}

static void raise_descriptor_limit(rlim_t wanted)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 0;
    return limit.rlim_cur > 65536 ? 65536 : (int)limit.rlim_cur;
}

/* --- Changes and events --- */

/* Hands in changes that must all be taken. An event that comes with them comes again: all are level-triggered. */
static void apply_list(struct kqn_poller *poller, const struct kevent *changes, int count)
{
    struct kevent events[8];
    int got = kqn_poller_wait(poller, changes, count, events, 8, 0);
    CHECK(got >= 0);
    for (int i = 0; i < got; i++)
        CHECK_CLEAR(events[i].flags, EV_ERROR);
}

static void apply(struct kqn_poller *poller, int fd, int filter, unsigned flags, uint64_t udata)
{
    struct kevent change;
    kqn_event_set(&change, fd, filter, flags, udata);
    apply_list(poller, &change, 1);
}

/* Hands in one change that must fail, and whose record must be true. */
static void apply_in_vain(struct kqn_poller *poller, int fd, int filter, unsigned flags, int error)
{
    struct kevent change, events[2];
    kqn_event_set(&change, fd, filter, flags, 77);
    if (!CHECK_INT(kqn_poller_wait(poller, &change, 1, events, 2, 0), 1))
        return;
    CHECK_SET(events[0].flags, EV_ERROR);
    CHECK_INT(events[0].data, error);
    CHECK(events[0].ident == (uintptr_t)fd);
    CHECK(events[0].filter == change.filter);
    CHECK_INT(kqn_event_udata(&events[0]), 77);
}

/* Waits until a knote brings an event with these flags, and returns it; other events are let pass. */
static struct kevent await(struct kqn_poller *poller, int fd, int filter, unsigned flags)
{
    struct kevent events[8];
    int64_t deadline_ns = now_ns() + PATIENCE_NS;
    while (now_ns() < deadline_ns) {
        int count = kqn_poller_wait(poller, NULL, 0, events, 8, deadline_ns - now_ns());
        if (!CHECK(count >= 0))
            break;
        for (int i = 0; i < count; i++) {
            if (events[i].ident == (uintptr_t)fd && (int)events[i].filter == (int)filter &&
                (events[i].flags & flags) == flags)
                return events[i];
        }
        sleep_ns(MILLISECOND_NS);
    }
    bool has_come = false;
    CHECK(has_come);
    return (struct kevent){0};
}

/* Nothing comes for a moment, and the waits do not spin meanwhile. */
static void check_quiet(struct kqn_poller *poller)
{
    struct kevent events[8];
    int64_t end_ns = now_ns() + MOMENT_NS;
    int waits = 0;
    for (; now_ns() < end_ns; waits++)
        CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 8, end_ns - now_ns()), 0);
    CHECK(waits <= 10);
}

/* --- Rows: what is registered --- */

static void row_registration(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    apply(poller, fds[0], EVFILT_READ, EV_ADD | EV_ENABLE, 11);
    check_quiet(poller);
    send_text(fds[1], "x");
    for (int i = 0; i < 2; i++) { /* once and, as it was not read, again */
        struct kevent event = await(poller, fds[0], EVFILT_READ, 0);
        CHECK_INT(kqn_event_udata(&event), 11);
        CHECK_CLEAR(event.flags, EV_ERROR);
        CHECK_CLEAR(event.flags, EV_EOF);
        CHECK_INT(event.fflags, 0);
    }
    read_all(fds[0]);
    check_quiet(poller);
    pair_close(poller, fds);
}

static void row_add_again(struct kqn_poller *poller)
{
    int fds[2];
    struct kevent events[4];
    pair_open(fds);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 11);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 22);
    send_text(fds[1], "x");
    await(poller, fds[0], EVFILT_READ, 0);
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 4, PATIENCE_NS), 1);
    CHECK_INT(kqn_event_udata(&events[0]), 22);
    pair_close(poller, fds);
}

static void row_udata_of_enable(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    send_text(fds[1], "x");
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    apply(poller, fds[0], EVFILT_READ, EV_ENABLE, 2);
    struct kevent event = await(poller, fds[0], EVFILT_READ, 0);
    CHECK_INT(kqn_event_udata(&event), 2);
    apply(poller, fds[0], EVFILT_READ, EV_DISABLE, 3);
    apply(poller, fds[0], EVFILT_READ, EV_ADD | EV_ENABLE, 4);
    event = await(poller, fds[0], EVFILT_READ, 0);
    CHECK_INT(kqn_event_udata(&event), 4);
    pair_close(poller, fds);
}

static void row_udata_whole(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, UINT64_C(0xfedcba9876543210));
    apply(poller, fds[0], EVFILT_WRITE, EV_ADD, UINT64_MAX);
    send_text(fds[1], "x");
    struct kevent event = await(poller, fds[0], EVFILT_READ, 0);
    CHECK(kqn_event_udata(&event) == UINT64_C(0xfedcba9876543210));
    event = await(poller, fds[0], EVFILT_WRITE, 0);
    CHECK(kqn_event_udata(&event) == UINT64_MAX);
    pair_close(poller, fds);
}

static void row_merged_changes(struct kqn_poller *poller)
{
    int fds[2];
    struct kevent changes[3];
    pair_open(fds);
    send_text(fds[1], "x");
    kqn_event_set(&changes[0], fds[0], EVFILT_READ, EV_ADD | EV_ENABLE, 1);
    kqn_event_set(&changes[1], fds[0], EVFILT_READ, EV_DISABLE, 1);
    apply_list(poller, changes, 2);
    check_quiet(poller);
    kqn_event_set(&changes[0], fds[0], EVFILT_READ, EV_DELETE, 1);
    kqn_event_set(&changes[1], fds[0], EVFILT_READ, EV_ADD | EV_DISABLE, 2);
    kqn_event_set(&changes[2], fds[0], EVFILT_READ, EV_ADD | EV_ENABLE, 3);
    apply_list(poller, changes, 3);
    struct kevent event = await(poller, fds[0], EVFILT_READ, 0);
    CHECK_INT(kqn_event_udata(&event), 3);
    pair_close(poller, fds);
}

static void row_toggle(struct kqn_poller *poller)
{
    int fds[2];
    struct kevent changes[2], events[4];
    pair_open(fds);
    send_text(fds[1], "x");
    apply(poller, fds[0], EVFILT_READ, EV_ADD | EV_ENABLE, 1);
    for (int i = 0; i < 3; i++) {
        kqn_event_set(&changes[0], fds[0], EVFILT_READ, EV_DISABLE, 1);
        kqn_event_set(&changes[1], fds[0], EVFILT_WRITE, EV_ADD | EV_ENABLE, 2);
        apply_list(poller, changes, 2);
        CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 4, PATIENCE_NS), 1);
        CHECK(events[0].filter == EVFILT_WRITE);
        kqn_event_set(&changes[0], fds[0], EVFILT_WRITE, EV_DELETE, 2);
        kqn_event_set(&changes[1], fds[0], EVFILT_READ, EV_ADD | EV_ENABLE, 1);
        apply_list(poller, changes, 2);
        CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 4, PATIENCE_NS), 1);
        CHECK(events[0].filter == EVFILT_READ);
    }
    pair_close(poller, fds);
}

static void row_disabled(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    apply(poller, fds[0], EVFILT_READ, EV_ADD | EV_ENABLE, 1);
    apply(poller, fds[0], EVFILT_READ, EV_DISABLE, 1);
    apply(poller, fds[0], EVFILT_READ, EV_DISABLE, 1);
    send_text(fds[1], "x");
    check_quiet(poller);
    apply(poller, fds[0], EVFILT_READ, EV_ENABLE, 1);
    await(poller, fds[0], EVFILT_READ, 0);
    apply(poller, fds[0], EVFILT_READ, EV_DISABLE, 1);
    read_all(fds[0]);
    apply(poller, fds[0], EVFILT_READ, EV_ENABLE, 1);
    check_quiet(poller);
    pair_close(poller, fds);
}

static void row_add_does_not_enable(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    send_text(fds[1], "x");
    apply(poller, fds[0], EVFILT_READ, EV_ADD | EV_DISABLE, 1);
    check_quiet(poller);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 2);
    check_quiet(poller);
    apply(poller, fds[0], EVFILT_READ, EV_ADD | EV_ENABLE, 3);
    struct kevent event = await(poller, fds[0], EVFILT_READ, 0);
    CHECK_INT(kqn_event_udata(&event), 3);
    apply(poller, fds[0], EVFILT_READ, EV_ADD | EV_DISABLE, 4);
    check_quiet(poller);
    pair_close(poller, fds);
}

static void row_delete(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    send_text(fds[1], "x");
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    apply(poller, fds[0], EVFILT_WRITE, EV_ADD, 2);
    apply(poller, fds[0], EVFILT_WRITE, EV_DELETE, 2);
    struct kevent event = await(poller, fds[0], EVFILT_READ, 0);
    CHECK_INT(kqn_event_udata(&event), 1);
    apply(poller, fds[0], EVFILT_READ, EV_DELETE, 1);
    check_quiet(poller);
    apply(poller, fds[0], EVFILT_READ, EV_ADD | EV_DISABLE, 1);
    apply(poller, fds[0], EVFILT_READ, EV_DELETE, 1);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 3);
    event = await(poller, fds[0], EVFILT_READ, 0);
    CHECK_INT(kqn_event_udata(&event), 3);
    pair_close(poller, fds);
}

static void row_delete_among_others(struct kqn_poller *poller)
{
    int fds[FEW][2];
    struct kevent events[8];
    for (int i = 0; i < FEW; i++) {
        pair_open(fds[i]);
        apply(poller, fds[i][0], EVFILT_READ, EV_ADD, (uint64_t)i);
    }
    apply(poller, fds[0][0], EVFILT_READ, EV_DELETE, 0);
    apply(poller, fds[FEW - 1][0], EVFILT_READ, EV_DISABLE, FEW - 1);
    forget_and_close(poller, fds[1][0]);
    apply(poller, fds[FEW - 2][0], EVFILT_READ, EV_ADD, FEW);
    for (int i = 2; i < FEW; i++)
        send_text(fds[i][1], "x");
    send_text(fds[0][1], "x");
    await(poller, fds[2][0], EVFILT_READ, 0);
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 8, PATIENCE_NS), FEW - 3);
    for (int i = 2; i < FEW - 1; i++) {
        struct kevent event = await(poller, fds[i][0], EVFILT_READ, 0);
        CHECK_INT(kqn_event_udata(&event), i == FEW - 2 ? FEW : i);
    }
    close(fds[1][1]);
    for (int i = 0; i < FEW; i += i == 0 ? 2 : 1)
        pair_close(poller, fds[i]);
}

/* --- Rows: what fails --- */

static void row_missing_knote(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    apply_in_vain(poller, fds[0], EVFILT_READ, EV_DELETE, ENOENT);
    apply_in_vain(poller, fds[0], EVFILT_READ, EV_ENABLE, ENOENT);
    apply_in_vain(poller, fds[0], EVFILT_READ, EV_DISABLE, ENOENT);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    apply_in_vain(poller, fds[0], EVFILT_WRITE, EV_DELETE, ENOENT);
    apply(poller, fds[0], EVFILT_READ, EV_DELETE, 1);
    apply_in_vain(poller, fds[0], EVFILT_READ, EV_DELETE, ENOENT);
    pair_close(poller, fds);
}

static void row_add_of_closed_descriptor(struct kqn_poller *poller)
{
    int closed = closed_number();
    apply_in_vain(poller, closed, EVFILT_READ, EV_ADD, EBADF);
    apply_in_vain(poller, closed, EVFILT_WRITE, EV_ADD | EV_DISABLE, EBADF);
    apply_in_vain(poller, -1, EVFILT_READ, EV_ADD, EBADF);
}

static void row_change_of_closed_descriptor(struct kqn_poller *poller)
{
    int fds[2];
    int closed = closed_number();
    apply_in_vain(poller, closed, EVFILT_READ, EV_DELETE, EBADF);
    apply_in_vain(poller, closed, EVFILT_READ, EV_ENABLE, EBADF);
    pair_open(fds);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    apply(poller, fds[1], EVFILT_READ, EV_ADD, 1);
    forget_and_close(poller, fds[0]);
    apply_in_vain(poller, fds[0], EVFILT_READ, EV_DELETE, EBADF);
    close(fds[1]); /* without a word */
    apply_in_vain(poller, fds[1], EVFILT_WRITE, EV_DELETE, EBADF);
    kqn_poller_forget(poller, fds[1]);
}

static void row_errors_in_a_list(struct kqn_poller *poller)
{
    int first[2], second[2];
    struct kevent changes[5], events[8];
    pair_open(first);
    pair_open(second);
    int closed = closed_number();
    send_text(first[1], "x");
    send_text(second[1], "x");
    kqn_event_set(&changes[0], first[0], EVFILT_WRITE, EV_DELETE, 1);
    kqn_event_set(&changes[1], first[0], EVFILT_READ, EV_ADD, 2);
    kqn_event_set(&changes[2], closed, EVFILT_READ, EV_ADD, 3);
    kqn_event_set(&changes[3], second[0], EVFILT_READ, EV_ADD, 4);
    kqn_event_set(&changes[4], second[0], EVFILT_WRITE, EV_DISABLE, 5);
    static const int errors[3] = {ENOENT, EBADF, ENOENT};
    static const int udatas[3] = {1, 3, 5};
    CHECK_INT(kqn_poller_wait(poller, changes, 5, events, 8, PATIENCE_NS), 3);
    for (int i = 0; i < 3; i++) {
        CHECK_SET(events[i].flags, EV_ERROR);
        CHECK_INT(events[i].data, errors[i]);
        CHECK_INT(kqn_event_udata(&events[i]), udatas[i]);
    }
    struct kevent event = await(poller, first[0], EVFILT_READ, 0);
    CHECK_INT(kqn_event_udata(&event), 2);
    event = await(poller, second[0], EVFILT_READ, 0);
    CHECK_INT(kqn_event_udata(&event), 4);
    pair_close(poller, first);
    pair_close(poller, second);
}

static void row_room_for_records(struct kqn_poller *poller)
{
    int fds[2];
    struct kevent changes[2], events[2];
    pair_open(fds);
    send_text(fds[1], "x");
    kqn_event_set(&changes[0], fds[0], EVFILT_READ, EV_ADD, 1);
    kqn_event_set(&changes[1], fds[0], EVFILT_WRITE, EV_ADD, 2);
    CHECK_INT(kqn_poller_wait(poller, changes, 2, events, 1, 0), -EINVAL);
    CHECK_INT(kqn_poller_wait(poller, changes, 0, events, 0, 0), -EINVAL);
    check_quiet(poller); /* neither was applied */
    CHECK_INT(kqn_poller_wait(poller, changes, 2, events, 2, PATIENCE_NS), 2);
    pair_close(poller, fds);
}

static void row_unknown_changes(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    send_text(fds[1], "x");
    apply_in_vain(poller, fds[0], EVFILT_READ, 0, EINVAL);
    apply_in_vain(poller, fds[0], EVFILT_READ, EV_ADD | EV_ENABLE | EV_DISABLE, EINVAL);
    apply_in_vain(poller, fds[0], EVFILT_READ, EV_ADD | EV_DELETE, EINVAL);
    apply_in_vain(poller, fds[0], EVFILT_READ, EV_ADD | 0x20, EINVAL); /* EV_CLEAR */
    apply_in_vain(poller, fds[0], -7, EV_ADD, EINVAL);                 /* EVFILT_TIMER */
    apply_in_vain(poller, fds[0], 0, EV_ADD, EINVAL);
    check_quiet(poller);
    pair_close(poller, fds);
}

static void row_select_limit(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    raise_descriptor_limit((rlim_t)kqn_select_limit() + 16);
    int high = fcntl(fds[0], F_DUPFD, kqn_select_limit());
    if (high >= 0) { /* else the process may not have so many, and there is nothing to refuse */
        apply_in_vain(poller, high, EVFILT_READ, EV_ADD, EINVAL);
        apply_in_vain(poller, high, EVFILT_READ, EV_DELETE, ENOENT);
        check_quiet(poller);
        forget_and_close(poller, high);
    }
    pair_close(poller, fds);
}

/* --- Rows: connections --- */

static void row_listener(struct kqn_poller *poller)
{
    struct sockaddr_in address;
    int listener = listener_open(&address);
    set_nonblocking(listener);
    apply(poller, listener, EVFILT_READ, EV_ADD, 1);
    check_quiet(poller);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(client, (struct sockaddr *)&address, sizeof(address)) == 0);
    await(poller, listener, EVFILT_READ, 0);
    int accepted = accept(listener, NULL, NULL);
    CHECK(accepted >= 0);
    check_quiet(poller);
    close(accepted);
    close(client);
    forget_and_close(poller, listener);
}

static void row_connect(struct kqn_poller *poller)
{
    struct sockaddr_in address;
    int listener = listener_open(&address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    set_nonblocking(fd);
    CHECK(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 || errno == EINPROGRESS);
    apply(poller, fd, EVFILT_WRITE, EV_ADD, 1);
    struct kevent event = await(poller, fd, EVFILT_WRITE, 0);
    CHECK_CLEAR(event.flags, EV_EOF);
    CHECK_INT(event.fflags, 0);
    forget_and_close(poller, fd);
    close(listener);
}

static void row_refused_connect(struct kqn_poller *poller)
{
    struct sockaddr_in address;
    int listener = listener_open(&address);
    close(listener);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    set_nonblocking(fd);
    CHECK_INT(connect(fd, (struct sockaddr *)&address, sizeof(address)), -1);
    if (errno == EINPROGRESS) { /* else the system refused at once, and connect() has said so */
        apply(poller, fd, EVFILT_WRITE, EV_ADD, 1);
        for (int i = 0; i < 2; i++) {
            struct kevent event = await(poller, fd, EVFILT_WRITE, EV_EOF);
            CHECK_INT(event.fflags, ECONNREFUSED);
        }
    }
    forget_and_close(poller, fd);
}

static void row_eof_with_unread_data(struct kqn_poller *poller)
{
    int fds[2];
    char bytes[16];
    tcp_open(fds);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    send_text(fds[1], "0123456789");
    CHECK_INT(shutdown(fds[1], SHUT_WR), 0);
    struct kevent event = await(poller, fds[0], EVFILT_READ, EV_EOF);
    CHECK_INT(event.fflags, 0);
    CHECK(event.data > 0);
    CHECK_INT(read(fds[0], bytes, 4), 4);
    await(poller, fds[0], EVFILT_READ, EV_EOF);
    CHECK_INT(read(fds[0], bytes, sizeof(bytes)), 6);
    await(poller, fds[0], EVFILT_READ, EV_EOF);
    CHECK_INT(read(fds[0], bytes, sizeof(bytes)), 0);
    await(poller, fds[0], EVFILT_READ, EV_EOF); /* it stays */
    apply(poller, fds[0], EVFILT_READ, EV_DELETE, 1);
    check_quiet(poller);
    pair_close(poller, fds);
}

static void row_half_close(struct kqn_poller *poller)
{
    int fds[2];
    char bytes[16];
    tcp_open(fds);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    CHECK_INT(shutdown(fds[1], SHUT_WR), 0);
    await(poller, fds[0], EVFILT_READ, 0);
    CHECK_INT(read(fds[0], bytes, sizeof(bytes)), 0);
    apply(poller, fds[0], EVFILT_READ, EV_DELETE, 1);
    check_quiet(poller);
    apply(poller, fds[0], EVFILT_WRITE, EV_ADD, 2);
    struct kevent event = await(poller, fds[0], EVFILT_WRITE, 0);
    CHECK_CLEAR(event.flags, EV_EOF);
    send_text(fds[0], "answer");
    apply(poller, fds[1], EVFILT_READ, EV_ADD, 3);
    await(poller, fds[1], EVFILT_READ, 0);
    CHECK_INT(read(fds[1], bytes, sizeof(bytes)), 6);
    pair_close(poller, fds);
}

static void row_hangup_is_silent(struct kqn_poller *poller)
{
    int fds[2];
    tcp_open(fds);
    apply(poller, fds[0], EVFILT_READ, EV_ADD | EV_ENABLE, 1);
    apply(poller, fds[0], EVFILT_WRITE, EV_ADD | EV_ENABLE, 2);
    close_with_reset(fds[1]);
    await(poller, fds[0], EVFILT_READ, 0);
    apply(poller, fds[0], EVFILT_READ, EV_DISABLE, 1);
    apply(poller, fds[0], EVFILT_WRITE, EV_DISABLE, 2);
    check_quiet(poller);
    apply(poller, fds[0], EVFILT_WRITE, EV_ENABLE, 2);
    await(poller, fds[0], EVFILT_WRITE, 0);
    forget_and_close(poller, fds[0]);
}

static void row_reset(struct kqn_poller *poller)
{
    int fds[2];
    tcp_open(fds);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    apply(poller, fds[0], EVFILT_WRITE, EV_ADD, 2);
    close_with_reset(fds[1]);
    for (int i = 0; i < 2; i++) { /* looking at the error does not take it */
        struct kevent event = await(poller, fds[0], EVFILT_READ, EV_EOF);
        CHECK_INT(event.fflags, ECONNRESET);
        event = await(poller, fds[0], EVFILT_WRITE, EV_EOF);
        CHECK_INT(event.fflags, ECONNRESET);
    }
    forget_and_close(poller, fds[0]);
}

static void row_write_readiness(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    apply(poller, fds[0], EVFILT_WRITE, EV_ADD, 1);
    struct kevent event = await(poller, fds[0], EVFILT_WRITE, 0);
    CHECK(event.data > 0);
    fill(fds[0]);
    check_quiet(poller);
    read_all(fds[1]);
    await(poller, fds[0], EVFILT_WRITE, 0);
    pair_close(poller, fds);
}

static void row_only_what_is_due(struct kqn_poller *poller)
{
    int fds[2];
    struct kevent events[8];
    pair_open(fds);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    apply(poller, fds[0], EVFILT_WRITE, EV_ADD, 2);
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 8, PATIENCE_NS), 1);
    CHECK((int)events[0].filter == (int)EVFILT_WRITE);
    fill(fds[0]);
    check_quiet(poller);
    send_text(fds[1], "x");
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 8, PATIENCE_NS), 1);
    CHECK((int)events[0].filter == (int)EVFILT_READ);
    pair_close(poller, fds);
}

/* --- Rows: short arrays --- */

/* Takes events until every udata below count was seen `wanted` times, in at most max_waits waits of `room` places. */
static void check_turns(struct kqn_poller *poller, int count, int wanted, int room, int max_waits)
{
    struct kevent events[8];
    int seen[2 * FEW] = {0};
    for (int i = 0; i < max_waits; i++) {
        int got = kqn_poller_wait(poller, NULL, 0, events, room, PATIENCE_NS);
        CHECK(got >= 1 && got <= room);
        for (int j = 0; j < got; j++)
            seen[kqn_event_udata(&events[j])]++;
    }
    for (int i = 0; i < count; i++)
        CHECK_INT(seen[i] >= wanted ? wanted : seen[i], wanted);
}

static void row_rotation(struct kqn_poller *poller)
{
    int fds[FEW][2];
    for (int i = 0; i < FEW; i++) {
        pair_open(fds[i]);
        send_text(fds[i][1], "x");
        apply(poller, fds[i][0], EVFILT_READ, EV_ADD, (uint64_t)i);
    }
    check_turns(poller, FEW, 3, 1, 4 * FEW);
    check_turns(poller, FEW, 3, 2, 2 * FEW);
    check_turns(poller, FEW, 3, 4, FEW);
    for (int i = 0; i < FEW; i++)
        pair_close(poller, fds[i]);
}

static void row_both_filters_one_place(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    send_text(fds[1], "x");
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 0);
    apply(poller, fds[0], EVFILT_WRITE, EV_ADD, 1);
    check_turns(poller, 2, 3, 1, 8);
    pair_close(poller, fds);
}

static void row_rotation_of_both(struct kqn_poller *poller)
{
    int fds[FEW][2];
    for (int i = 0; i < FEW; i++) {
        pair_open(fds[i]);
        send_text(fds[i][1], "x");
        apply(poller, fds[i][0], EVFILT_READ, EV_ADD, (uint64_t)(2 * i));
        apply(poller, fds[i][0], EVFILT_WRITE, EV_ADD, (uint64_t)(2 * i + 1));
    }
    for (int room = 1; room <= 5; room++)
        check_turns(poller, 2 * FEW, 2, room, 8 * FEW);
    for (int i = 0; i < FEW; i++)
        pair_close(poller, fds[i]);
}

static void row_full_array(struct kqn_poller *poller)
{
    struct kevent events[FEW];
    for (int round = 0; round < 2; round++) {
        int fds[FEW][2];
        for (int i = 0; i < FEW; i++) {
            pair_open(fds[i]);
            send_text(fds[i][1], "x");
            apply(poller, fds[i][0], EVFILT_READ, EV_ADD, (uint64_t)i);
        }
        CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, FEW, PATIENCE_NS), FEW);
        for (int i = 0; i < FEW; i++) { /* closed with both knotes enabled, they leave no trace */
            apply(poller, fds[i][0], EVFILT_WRITE, EV_ADD, (uint64_t)i);
            pair_close(poller, fds[i]);
        }
    }
}

/* --- Rows: closing --- */

static void row_close(struct kqn_poller *poller)
{
    int fds[2], others[2];
    pair_open(fds);
    pair_open(others);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    apply(poller, others[0], EVFILT_READ, EV_ADD, 2);
    send_text(fds[1], "x");
    await(poller, fds[0], EVFILT_READ, 0);
    forget_and_close(poller, fds[0]);
    check_quiet(poller);
    send_text(others[1], "x");
    await(poller, others[0], EVFILT_READ, 0);
    pair_close(poller, others);
    close(fds[1]);
}

static void row_close_without_forget(struct kqn_poller *poller)
{
    int fds[2], others[2];
    struct kevent events[4];
    pair_open(fds);
    pair_open(others);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    apply(poller, others[0], EVFILT_READ, EV_ADD, 2);
    send_text(fds[1], "x");
    await(poller, fds[0], EVFILT_READ, 0);
    close(fds[0]);
    check_quiet(poller);
    send_text(others[1], "x");
    await(poller, others[0], EVFILT_READ, 0);
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 4, PATIENCE_NS), 1);
    pair_close(poller, others);
    close(fds[1]);
}

static void row_close_with_dup(struct kqn_poller *poller)
{
    int fds[2], others[2];
    pair_open(fds);
    pair_open(others);
    apply(poller, others[0], EVFILT_READ, EV_ADD, 2);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    send_text(fds[1], "x");
    int copy = dup(fds[0]);
    forget_and_close(poller, fds[0]);
    check_quiet(poller);
    apply_in_vain(poller, copy, EVFILT_READ, EV_DELETE, ENOENT);
    apply(poller, copy, EVFILT_READ, EV_ADD, 3);
    struct kevent event = await(poller, copy, EVFILT_READ, 0);
    CHECK_INT(kqn_event_udata(&event), 3);
    send_text(others[1], "x");
    event = await(poller, others[0], EVFILT_READ, 0); /* nobody else is lost */
    CHECK_INT(kqn_event_udata(&event), 2);
    CHECK_INT(kqn_poller_wake(poller), 0);
    forget_and_close(poller, copy);
    pair_close(poller, others);
    close(fds[1]);
}

static void row_reuse(struct kqn_poller *poller)
{
    int old[2], other[2], fresh[2];
    struct kevent events[4];
    pair_open(old);
    pair_open(other);
    send_text(old[1], "x");
    send_text(other[1], "x");
    apply(poller, old[0], EVFILT_READ, EV_ADD, 1);
    apply(poller, other[0], EVFILT_READ, EV_ADD, 2);
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 4, PATIENCE_NS), 2);
    forget_and_close(poller, old[0]); /* one batch of a loop: out with the old, in with the new */
    pair_open(fresh);
    CHECK_INT(fresh[0], old[0]);
    apply(poller, fresh[0], EVFILT_READ, EV_ADD, 3);
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 4, PATIENCE_NS), 1);
    CHECK_INT(kqn_event_udata(&events[0]), 2);
    read_all(other[0]);
    check_quiet(poller);
    send_text(fresh[1], "x");
    struct kevent event = await(poller, fresh[0], EVFILT_READ, 0);
    CHECK_INT(kqn_event_udata(&event), 3);
    pair_close(poller, fresh);
    pair_close(poller, other);
    close(old[1]);
}

static void row_reuse_with_dup(struct kqn_poller *poller)
{
    int old[2], fresh[2];
    pair_open(old);
    send_text(old[1], "x");
    apply(poller, old[0], EVFILT_READ, EV_ADD, 1);
    int copy = dup(old[0]);
    forget_and_close(poller, old[0]);
    pair_open(fresh);
    CHECK_INT(fresh[0], old[0]);
    apply(poller, fresh[0], EVFILT_READ, EV_ADD, 3);
    check_quiet(poller);
    send_text(fresh[1], "x");
    struct kevent event = await(poller, fresh[0], EVFILT_READ, 0);
    CHECK_INT(kqn_event_udata(&event), 3);
    read_all(fresh[0]);
    check_quiet(poller);
    pair_close(poller, fresh);
    close(copy);
    close(old[1]);
}

static void row_reuse_without_forget(struct kqn_poller *poller)
{
    int old[2], fresh[2];
    struct kevent events[4];
    pair_open(old);
    apply(poller, old[0], EVFILT_READ, EV_ADD, 1);
    close(old[0]);
    pair_open(fresh);
    CHECK_INT(fresh[0], old[0]);
    send_text(fresh[1], "x");
    apply(poller, fresh[0], EVFILT_WRITE, EV_ADD, 2);
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 4, PATIENCE_NS), 1);
    CHECK_INT(kqn_event_udata(&events[0]), 2);
    apply_in_vain(poller, fresh[0], EVFILT_READ, EV_DELETE, ENOENT);
    pair_close(poller, fresh);
    close(old[1]);
}

static void row_forget_and_add_again(struct kqn_poller *poller)
{
    int fds[2];
    pair_open(fds);
    send_text(fds[1], "x");
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    kqn_poller_forget(poller, fds[0]);
    apply(poller, fds[0], EVFILT_READ, EV_ADD | EV_ENABLE, 2);
    for (int i = 0; i < 2; i++) {
        struct kevent event = await(poller, fds[0], EVFILT_READ, 0);
        CHECK_INT(kqn_event_udata(&event), 2);
    }
    read_all(fds[0]);
    check_quiet(poller);
    pair_close(poller, fds);
}

static void row_close_after_fork(struct kqn_poller *poller)
{
    int fds[2], gate[2];
    char byte;
    pair_open(fds);
    CHECK_INT(pipe(gate), 0);
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    send_text(fds[1], "x");
    pid_t child = fork();
    if (child == 0) { /* holds every descriptor until the gate closes */
        close(gate[1]);
        ssize_t got = read(gate[0], &byte, 1);
        _exit(got == 0 ? 0 : 1);
    }
    CHECK(child > 0);
    close(gate[0]);
    await(poller, fds[0], EVFILT_READ, 0);
    forget_and_close(poller, fds[0]);
    check_quiet(poller);
    close(gate[1]);
    waitpid(child, NULL, 0);
    close(fds[1]);
}

/* --- Rows: waking and waiting --- */

static void *wake_soon(void *argument)
{
    sleep_ns(MOMENT_NS);
    kqn_poller_wake(argument);
    return NULL;
}

/* A wait with this timeout ends when another thread wakes it, and not before. */
static void check_woken(struct kqn_poller *poller, int64_t timeout_ns)
{
    struct kevent events[2];
    pthread_t thread;
    int64_t begin_ns = now_ns();
    CHECK_INT(pthread_create(&thread, NULL, wake_soon, poller), 0);
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 2, timeout_ns), 0);
    int64_t took_ns = now_ns() - begin_ns;
    pthread_join(thread, NULL);
    CHECK(took_ns >= MOMENT_NS);
    CHECK(took_ns < PATIENCE_NS);
}

static void row_wake_from_thread(struct kqn_poller *poller)
{
    check_woken(poller, 2 * PATIENCE_NS);
    check_woken(poller, 2 * PATIENCE_NS);
}

static void row_wake_before_wait(struct kqn_poller *poller)
{
    struct kevent events[2];
    int64_t begin_ns = now_ns();
    CHECK_INT(kqn_poller_wake(poller), 0);
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 2, 2 * PATIENCE_NS), 0);
    CHECK(now_ns() - begin_ns < PATIENCE_NS);
    check_quiet(poller);
}

static void row_wakes_coalesce(struct kqn_poller *poller)
{
    struct kevent events[2];
    for (int i = 0; i < WAKES; i++)
        CHECK_INT(kqn_poller_wake(poller), 0);
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 2, 2 * PATIENCE_NS), 0);
    int64_t begin_ns = now_ns();
    CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 2, MOMENT_NS), 0);
    CHECK(now_ns() - begin_ns >= MOMENT_NS);
}

static void row_wake_among_events(struct kqn_poller *poller)
{
    int fds[2];
    struct kevent events[4];
    pair_open(fds);
    send_text(fds[1], "x");
    apply(poller, fds[0], EVFILT_READ, EV_ADD, 1);
    await(poller, fds[0], EVFILT_READ, 0);
    for (int i = 0; i < 10; i++) {
        CHECK_INT(kqn_poller_wake(poller), 0);
        CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 4, PATIENCE_NS), 1);
        CHECK_INT(kqn_event_udata(&events[0]), 1);
    }
    pair_close(poller, fds);
}

struct rally { /* a ball between two threads, each with a poller */
    struct kqn_poller *near, *far;
    atomic_int ball;
};

/* Waits until the ball has come to `wanted`. False: a wake-up was lost. */
static bool rally_receive(struct kqn_poller *poller, struct rally *rally, int wanted)
{
    struct kevent events[2];
    int64_t deadline_ns = now_ns() + PATIENCE_NS;
    while (atomic_load(&rally->ball) != wanted) {
        int64_t left_ns = deadline_ns - now_ns();
        if (left_ns <= 0)
            return false;
        kqn_poller_wait(poller, NULL, 0, events, 2, left_ns);
    }
    return now_ns() < deadline_ns;
}

static void *rally_far_end(void *argument)
{
    struct rally *rally = argument;
    for (int i = 0; i < PING_PONG_MAX; i++) {
        if (!rally_receive(rally->far, rally, 2 * i + 1))
            break;
        atomic_store(&rally->ball, 2 * i + 2);
        kqn_poller_wake(rally->near);
    }
    return NULL;
}

static enum kqn_poller_kind row_kind; /* of the poller that the row was given */

static void row_wake_ping_pong(struct kqn_poller *poller)
{
    struct rally rally = {.near = poller};
    pthread_t thread;
    CHECK_INT(kqn_poller_open(&rally.far, row_kind), 0);
    CHECK_INT(pthread_create(&thread, NULL, rally_far_end, &rally), 0);
    for (int i = 0; i < PING_PONG_MAX; i++) {
        atomic_store(&rally.ball, 2 * i + 1);
        kqn_poller_wake(rally.far);
        if (!CHECK(rally_receive(poller, &rally, 2 * i + 2)))
            break;
    }
    pthread_join(thread, NULL);
    kqn_poller_close(rally.far);
}

struct crowd {
    struct kqn_poller *poller;
    atomic_int told;
};

static void *tell_often(void *argument)
{
    struct crowd *crowd = argument;
    for (int i = 0; i < WAKES; i++) {
        atomic_fetch_add(&crowd->told, 1);
        kqn_poller_wake(crowd->poller);
    }
    return NULL;
}

static void row_wakes_of_many_threads(struct kqn_poller *poller)
{
    struct crowd crowd = {.poller = poller};
    struct kevent events[2];
    pthread_t threads[WAKERS];
    int64_t deadline_ns = now_ns() + PATIENCE_NS;
    for (int i = 0; i < WAKERS; i++)
        CHECK_INT(pthread_create(&threads[i], NULL, tell_often, &crowd), 0);
    while (atomic_load(&crowd.told) < WAKERS * WAKES && now_ns() < deadline_ns)
        CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 2, deadline_ns - now_ns()), 0);
    CHECK(now_ns() < deadline_ns);
    for (int i = 0; i < WAKERS; i++)
        pthread_join(threads[i], NULL);
}

static void row_timeout_none(struct kqn_poller *poller)
{
    check_woken(poller, -1);
}

static void row_timeout_huge(struct kqn_poller *poller)
{
    check_woken(poller, INT64_MAX);
}

static void row_timeout_zero(struct kqn_poller *poller)
{
    struct kevent events[2];
    int64_t begin_ns = now_ns();
    for (int i = 0; i < 3; i++)
        CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 2, 0), 0);
    CHECK(now_ns() - begin_ns < PATIENCE_NS);
}

static void row_timeout_never_early(struct kqn_poller *poller)
{
    static const int64_t timeouts_ns[] = {1, 100000, MILLISECOND_NS, 5 * MILLISECOND_NS + 1, MOMENT_NS};
    struct kevent events[2];
    for (size_t i = 0; i < sizeof(timeouts_ns) / sizeof(timeouts_ns[0]); i++) {
        int64_t begin_ns = now_ns();
        CHECK_INT(kqn_poller_wait(poller, NULL, 0, events, 2, timeouts_ns[i]), 0);
        int64_t took_ns = now_ns() - begin_ns;
        CHECK(took_ns >= timeouts_ns[i]);
        CHECK(took_ns < PATIENCE_NS);
    }
}

struct pest {
    pthread_t victim;
    atomic_bool is_done;
};

static void on_signal(int number)
{
    (void)number;
}

static void *interrupt_until_done(void *argument)
{
    struct pest *pest = argument;
    while (!atomic_load(&pest->is_done)) {
        sleep_ns(MOMENT_NS);
        pthread_kill(pest->victim, SIGUSR1);
    }
    return NULL;
}

static void row_signal(struct kqn_poller *poller)
{
    int fds[2];
    struct pest pest = {.victim = pthread_self()};
    struct sigaction action = {.sa_handler = on_signal}, before;
    struct kevent change, events[2];
    pthread_t thread;
    pair_open(fds);
    CHECK_INT(sigaction(SIGUSR1, &action, &before), 0);
    CHECK_INT(pthread_create(&thread, NULL, interrupt_until_done, &pest), 0);
    kqn_event_set(&change, fds[0], EVFILT_READ, EV_ADD, 1);
    int64_t begin_ns = now_ns();
    CHECK_INT(kqn_poller_wait(poller, &change, 1, events, 2, 2 * PATIENCE_NS), 0);
    CHECK(now_ns() - begin_ns < PATIENCE_NS);
    atomic_store(&pest.is_done, true);
    pthread_join(thread, NULL);
    sigaction(SIGUSR1, &before, NULL);
    send_text(fds[1], "x");
    await(poller, fds[0], EVFILT_READ, 0); /* the change is in */
    pair_close(poller, fds);
}

/* --- Rows: many descriptors --- */

static void row_many_descriptors(struct kqn_poller *poller)
{
    static int fds[MANY];
    static bool is_seen[MANY];
    struct kevent events[64];
    raise_descriptor_limit(MANY + 20);
    int count = descriptor_limit() - 20 < MANY ? descriptor_limit() - 20 : MANY;
    count -= count % 2;
    CHECK(count >= 100);
    memset(is_seen, 0, sizeof(is_seen));
    for (int i = 0; i < count; i += 2) {
        pair_open(&fds[i]);
        apply(poller, fds[i], EVFILT_READ, EV_ADD, (uint64_t)i);
        apply(poller, fds[i + 1], EVFILT_READ, EV_ADD, (uint64_t)i + 1);
    }
    check_quiet(poller);
    for (int i = 0; i < count; i++)
        send_text(fds[i], "x");
    int seen = 0;
    for (int waits = 0; waits < count && seen < count; waits++) {
        int got = kqn_poller_wait(poller, NULL, 0, events, 64, PATIENCE_NS);
        for (int i = 0; i < got; i++) {
            uint64_t udata = kqn_event_udata(&events[i]);
            CHECK(events[i].ident == (uintptr_t)fds[udata]);
            seen += !is_seen[udata];
            is_seen[udata] = true;
        }
    }
    CHECK_INT(seen, count);
    for (int i = 0; i < count; i++)
        forget_and_close(poller, fds[i]);
    check_quiet(poller);
}

/* --- The table --- */

struct row {
    const char *name;
    const char *phrase;
    void (*run)(struct kqn_poller *);
    const char *gated; /* pollers and systems, as words, on which the row does not run; NULL: none */
    const char *reason;
};

#define SELECT_IS_BLIND "select() tells that a socket is readable, not why"

static const struct row rows[] = {
    {"registration", "a knote brings events with its udata until nothing is left", row_registration, NULL, NULL},
    {"add_again", "EV_ADD of a knote that is there replaces its udata and makes no second one", row_add_again, NULL,
     NULL},
    {"udata_of_enable", "every change stores its udata", row_udata_of_enable, "netbsd<10 openbsd dragonfly",
     "only an EV_ADD stores its udata there"},
    {"udata_whole", "udata comes back with all its 64 bits", row_udata_whole, NULL, NULL},
    {"merged_changes", "of several changes of a knote in one list the last state holds", row_merged_changes, NULL,
     NULL},
    {"toggle", "READ off and WRITE on in one list, and back", row_toggle, NULL, NULL},
    {"disabled", "a disabled knote is silent, and EV_ENABLE looks at its condition anew", row_disabled, NULL, NULL},
    {"add_does_not_enable", "EV_ADD leaves a disabled knote disabled", row_add_does_not_enable, NULL, NULL},
    {"delete", "EV_DELETE ends a knote, and EV_ADD makes a new one", row_delete, NULL, NULL},
    {"delete_among_others", "deleted, disabled and closed knotes leave the others as they were",
     row_delete_among_others, NULL, NULL},
    {"missing_knote", "a change of a knote that is not there is ENOENT", row_missing_knote, NULL, NULL},
    {"add_of_closed_descriptor", "EV_ADD of a closed descriptor is EBADF", row_add_of_closed_descriptor, NULL, NULL},
    {"change_of_closed_descriptor", "so is a change of a knote that went with its descriptor",
     row_change_of_closed_descriptor, "macos", "the kernel looks for the knote first: ENOENT"},
    {"errors_in_a_list", "failed changes come back in order and alone, the others are applied", row_errors_in_a_list,
     NULL, NULL},
    {"room_for_records", "fewer places for events than changes is -EINVAL, and nothing is applied",
     row_room_for_records, NULL, NULL},
    {"unknown_changes", "other filters, other flags, contrary flags and no flags are EINVAL", row_unknown_changes,
     "kqueue", "the kernel has more filters and flags, and its own ways with contrary ones"},
    {"select_limit", "a descriptor that no set can hold is EINVAL", row_select_limit, "kqueue epoll poll",
     "only select() has such a limit"},
    {"listener", "a listener is readable while connections wait", row_listener, NULL, NULL},
    {"connect", "a connection that came about is writable, without EV_EOF", row_connect, NULL, NULL},
    {"refused_connect", "a refused connect is WRITE with EV_EOF and ECONNREFUSED", row_refused_connect, "select",
     SELECT_IS_BLIND},
    {"eof_with_unread_data", "EV_EOF comes with data unread, and stays when it is read", row_eof_with_unread_data,
     "select", SELECT_IS_BLIND},
    {"half_close", "the end of input leaves WRITE as it was", row_half_close, NULL, NULL},
    {"hangup_is_silent", "a connection that ended is silent while its knotes are disabled", row_hangup_is_silent, NULL,
     NULL},
    {"reset", "after a reset both filters have EV_EOF and ECONNRESET, each time", row_reset, "select", SELECT_IS_BLIND},
    {"write_readiness", "a full socket is silent, a drained one is writable", row_write_readiness, NULL, NULL},
    {"only_what_is_due", "with both knotes enabled, the one alone that is due brings an event", row_only_what_is_due,
     NULL, NULL},
    {"rotation", "with a short array all that are ready take turns", row_rotation, NULL, NULL},
    {"both_filters_one_place", "with one place READ and WRITE of a descriptor take turns", row_both_filters_one_place,
     NULL, NULL},
    {"rotation_of_both", "with a short array both filters of many descriptors take turns", row_rotation_of_both, NULL,
     NULL},
    {"full_array", "one wait brings all that are ready, if they fit", row_full_array, NULL, NULL},
    {"close", "a closed descriptor brings no event, the others do", row_close, NULL, NULL},
    {"close_without_forget", "nor does one that was closed without a word", row_close_without_forget, NULL, NULL},
    {"close_with_dup", "nor one whose file a dup holds open; the dup is registered for itself", row_close_with_dup,
     NULL, NULL},
    {"reuse", "a number that was closed and opened in one batch has only its new events", row_reuse, NULL, NULL},
    {"reuse_with_dup", "so it has when a dup holds the old file open", row_reuse_with_dup, NULL, NULL},
    {"reuse_without_forget", "so it has when only the change of another knote tells of the reuse",
     row_reuse_without_forget, "poll select", "only forget() tells them that a number is another file's"},
    {"forget_and_add_again", "a descriptor that was forgotten and kept open can be registered anew",
     row_forget_and_add_again, NULL, NULL},
    {"wake_from_thread", "another thread ends a wait", row_wake_from_thread, NULL, NULL},
    {"wake_before_wait", "a wake-up before the wait ends it at once, and only that one", row_wake_before_wait, NULL,
     NULL},
    {"wakes_coalesce", "many wake-ups end one wait", row_wakes_coalesce, NULL, NULL},
    {"wake_among_events", "a wake-up is no event, and takes none away", row_wake_among_events, NULL, NULL},
    {"wake_ping_pong", "two threads that wake each other lose no wake-up", row_wake_ping_pong, NULL, NULL},
    {"wakes_of_many_threads", "threads that wake at the same time lose no wake-up", row_wakes_of_many_threads, NULL,
     NULL},
    {"timeout_none", "a negative timeout waits until the wake-up", row_timeout_none, NULL, NULL},
    {"timeout_huge", "the greatest timeout waits until the wake-up", row_timeout_huge, NULL, NULL},
    {"timeout_zero", "a timeout of 0 does not wait", row_timeout_zero, NULL, NULL},
    {"timeout_never_early", "a wait without events lasts its timeout, down to 1 ns", row_timeout_never_early, NULL,
     NULL},
    {"signal", "a signal ends the wait with 0 events, and the changes are in", row_signal, "netbsd",
     "the bare NetBSD kernel that runs these rows has no signals"},
    {"many_descriptors", "1,000 descriptors bring their events, 64 at a time", row_many_descriptors, NULL, NULL},
    {"close_after_fork", "a closed descriptor brings no event while a forked child holds its file",
     row_close_after_fork, "netbsd", "the bare NetBSD kernel that runs these rows has no processes"},
};

static const char *const kind_names[] = {
    [KQN_POLLER_KQUEUE] = "kqueue",
    [KQN_POLLER_EPOLL] = "epoll",
    [KQN_POLLER_POLL] = "poll",
    [KQN_POLLER_SELECT] = "select",
};

/* The words under which a gate may name this system. */
static const char *const system_words[] = {
#if defined(__APPLE__)
    "macos",
#elif defined(__FreeBSD__)
    "freebsd",
#elif defined(__OpenBSD__)
    "openbsd",
#elif defined(__DragonFly__)
    "dragonfly",
#elif defined(__NetBSD__)
    "netbsd",
#if __NetBSD_Version__ < 1000000000
    "netbsd<10",
#endif
#elif defined(__linux__)
    "linux",
#endif
    NULL,
};

static bool has_word(const char *text, const char *word)
{
    size_t len = strlen(word);
    for (; text != NULL; text = strchr(text, ' ')) {
        text += *text == ' ';
        if (strncmp(text, word, len) == 0 && (text[len] == ' ' || text[len] == '\0'))
            return true;
    }
    return false;
}

static bool is_gated(const struct row *row, const char *kind_name)
{
    for (const char *const *word = system_words; *word != NULL; word++) {
        if (has_word(row->gated, *word))
            return true;
    }
    return has_word(row->gated, kind_name);
}

static void run_row(const struct row *row, enum kqn_poller_kind kind)
{
    char name[128];
    struct kqn_poller *poller;
    snprintf(name, sizeof(name), "%s/%s", kind_names[kind], row->name);
    if (is_gated(row, kind_names[kind])) {
        check_skip(name, row->reason);
        return;
    }
    check_begin(name);
    row_kind = kind;
    if (CHECK_INT(kqn_poller_open(&poller, kind), 0)) {
        row->run(poller);
        kqn_poller_close(poller);
    }
    check_end();
}

static int print_rows(bool gates_only)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (!gates_only)
            printf("%s\t%s\n", rows[i].name, rows[i].phrase);
        else if (rows[i].gated != NULL)
            printf("%s\t%s\t%s\n", rows[i].name, rows[i].gated, rows[i].reason);
    }
    return 0;
}

static void run_kind(enum kqn_poller_kind kind)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        run_row(&rows[i], kind);
}

int main(int argc, char **argv)
{
    const char *wanted = argc > 1 ? argv[1] : NULL;
    bool is_found = false;
    if (wanted != NULL && (strcmp(wanted, "--gates") == 0 || strcmp(wanted, "--rows") == 0))
        return print_rows(strcmp(wanted, "--gates") == 0);
    for (int kind = KQN_POLLER_KQUEUE; kind <= KQN_POLLER_SELECT; kind++) {
        if (!kqn_poller_available((enum kqn_poller_kind)kind))
            continue;
        if (wanted != NULL && strcmp(wanted, kind_names[kind]) != 0)
            continue;
        is_found = true;
        run_kind((enum kqn_poller_kind)kind);
    }
    if (!is_found) {
        fprintf(stderr, "kevent: there is no poller %s here\n", wanted == NULL ? "at all" : wanted);
        return 2;
    }
    return check_finish();
}
