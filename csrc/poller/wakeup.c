/* A socket pair and not a pipe: macOS has lost events of those. */
#include "poller/wakeup.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

static int set_flags(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    return 0;
}

int kqn_wakeup_open(struct kqn_wakeup *wakeup)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        return -errno;
    wakeup->read_fd = fds[0];
    wakeup->write_fd = fds[1];
    atomic_init(&wakeup->pending, false);
    int rc = set_flags(wakeup->read_fd);
    if (rc == 0)
        rc = set_flags(wakeup->write_fd);
    if (rc < 0)
        kqn_wakeup_close(wakeup);
    return rc;
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
