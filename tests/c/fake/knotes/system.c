/* system.c: what knotes.c and table.c call instead of the system, and the wait around theirs. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include "../fibers.h"
#include "../judge.h"
#include "../sockets.h"
#include "../world.h"
#include "knotes.h"
#include "poller/wakeup.h"

void *fake_calloc(size_t count, size_t size);
void *fake_realloc(void *memory, size_t size);
void *fake_aligned_alloc(size_t alignment, size_t size);
void fake_free(void *memory);
int fake_fcntl(int fd, int command, ...);
int fake_getsockopt(int fd, int level, int option, void *value, socklen_t *size);
int knotes_wait(struct kqn_poller *poller, const struct kevent *changes, int change_count, struct kevent *events,
                int max_events, int64_t timeout_ns); /* the real one */

void *fake_calloc(size_t count, size_t size)
{
    void *memory = world_alloc(count * size);
    return memory ? memset(memory, 0, count * size) : NULL;
}

void *fake_realloc(void *memory, size_t size)
{
    return world_realloc(memory, size);
}

void *fake_aligned_alloc(size_t alignment, size_t size)
{
    (void)alignment;
    return world_alloc(size);
}

void fake_free(void *memory)
{
    world_free(memory);
}

int fake_fcntl(int fd, int command, ...)
{
    (void)command;
    errno = EBADF;
    return socket_at(fd) ? 0 : -1;
}

/* SO_ERROR, which takes the error from the socket. */
int fake_getsockopt(int fd, int level, int option, void *value, socklen_t *size)
{
    (void)level;
    (void)option;
    int error = socket_error(fd);
    memcpy(value, &error, *size);
    if (sockets.list[fd].client)
        sockets.list[fd].client->error = 0;
    return 0;
}

/* --- Waking --- */

int kqn_wakeup_open(struct kqn_wakeup *wakeup)
{
    int error = world_failure(CALL_SOCKET);
    wakeup->read_fd = error ? -error : socket_open(SOCKET_WAKEUP);
    int rc = wakeup->read_fd;
    if (rc < 0)
        wakeup->read_fd = -1;
    return rc < 0 ? rc : 0;
}

int kqn_wakeup_send(struct kqn_wakeup *wakeup)
{
    world_trace("wake", -1, 0);
    sockets.list[wakeup->read_fd].is_readable = true;
    return 0;
}

void kqn_wakeup_take(struct kqn_wakeup *wakeup)
{
    sockets.list[wakeup->read_fd].is_readable = false;
}

void kqn_wakeup_close(struct kqn_wakeup *wakeup)
{
    if (wakeup->read_fd >= 0)
        socket_close(wakeup->read_fd);
    wakeup->read_fd = -1;
}

/* --- The wait --- */

int kqn_poller_wait(struct kqn_poller *poller, const struct kevent *changes, int change_count, struct kevent *events,
                    int max_events, int64_t timeout_ns)
{
    judge_turn(world.loop);
    int count = knotes_wait(poller, changes, change_count, events, max_events, timeout_ns);
    fiber_wakes();
    bool has_records = count > 0 && events[0].flags & EV_ERROR;
    if (count >= 0 && !has_records)
        count = disturb(gone_of_loop(world.loop), events, count, max_events);
    world_trace("wait", -1, count);
    return count;
}
