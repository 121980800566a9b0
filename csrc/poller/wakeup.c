/* A socket pair and not a pipe: macOS has lost events of those. */
#include "poller/wakeup.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined(SOCK_NONBLOCK) && defined(SOCK_CLOEXEC)
static int open_pair(int fds[2])
{
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0;
}
#else /* macOS: a program that another thread starts meanwhile may get them */
static int set_flags(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    return 0;
}

static int open_pair(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        return -errno;
    int rc = set_flags(fds[0]);
    if (rc == 0)
        rc = set_flags(fds[1]);
    if (rc < 0) {
        close(fds[0]);
        close(fds[1]);
    }
    return rc;
}
#endif

int kqn_wakeup_open(struct kqn_wakeup *wakeup)
{
    int fds[2];
    int rc = open_pair(fds);
    if (rc < 0)
        return rc;
    wakeup->read_fd = fds[0];
    wakeup->write_fd = fds[1];
    atomic_init(&wakeup->pending, false);
    return 0;
}

int kqn_wakeup_send(struct kqn_wakeup *wakeup)
{
    if (atomic_exchange(&wakeup->pending, true))
        return 0;
    ssize_t sent;
    do
        sent = write(wakeup->write_fd, "", 1);
    while (sent < 0 && errno == EINTR);
    if (sent == 1)
        return 0;
    int error = errno;
    atomic_store(&wakeup->pending, false);
    return -error;
}

/* First the byte, then the flag. The other way round, a byte sent between the two would be taken while its flag
 * stays up, and no wake-up would ever be sent again. Who finds the flag still up has told its news before that
 * exchange, so the caller sees them when its wait has returned. */
void kqn_wakeup_take(struct kqn_wakeup *wakeup)
{
    char byte;
    if (read(wakeup->read_fd, &byte, 1) == 1)
        atomic_exchange(&wakeup->pending, false);
}

void kqn_wakeup_close(struct kqn_wakeup *wakeup)
{
    if (wakeup->read_fd < 0)
        return;
    close(wakeup->read_fd);
    close(wakeup->write_fd);
    wakeup->read_fd = -1;
    wakeup->write_fd = -1;
}
