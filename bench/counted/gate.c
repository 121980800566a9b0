/* gate.c: holds the loops of a counted program in step with the script that counts (lockstep.py).
 * Linked with -Wl,--wrap for the two functions below. Before each wait a loop says at the gate that it has come, and
 * waits there until it is let through. Meanwhile the script reads the answers and sends the next messages, on all
 * connections, so that each wait finds the same events in each run, and a count is the same to the instruction. The
 * clock does not tell the time but how often it was looked at: else the log's lines and the sweeps, which come so many
 * a second, would be counted by how fast the machine is. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "poller/poller.h"

int __real_kqn_poller_wait(struct kqn_poller *poller, const struct kevent *changes, int change_count,
                           struct kevent *events, int max_events, int64_t timeout_ns);
int __wrap_kqn_poller_wait(struct kqn_poller *poller, const struct kevent *changes, int change_count,
                           struct kevent *events, int max_events, int64_t timeout_ns);
int64_t __real_kqn_sys_monotonic_ns(void);
int64_t __wrap_kqn_sys_monotonic_ns(void);

static const int64_t look_ns = 1000;

static _Thread_local int gate = -1;
static _Thread_local bool is_deserted; /* nobody stands at the gate any more */

static void connect_gate(void)
{
    const char *path = getenv("KQNATIVE_GATE");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path || strlen(path) >= sizeof(address.sun_path)) {
        fprintf(stderr, "gate: KQNATIVE_GATE names no unix socket\n");
        exit(2);
    }
    strcpy(address.sun_path, path);
    gate = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (gate < 0 || connect(gate, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        perror("gate");
        exit(2);
    }
}

/* Whether the loop is to wait for events, as the script has sent some to each; else it is only to look for them. */
static bool pass_gate(void)
{
    if (gate < 0)
        connect_gate();
    char word = 0;
    is_deserted = is_deserted || send(gate, "", 1, MSG_NOSIGNAL) != 1 || recv(gate, &word, 1, 0) != 1;
    return is_deserted || word == 'w';
}

int __wrap_kqn_poller_wait(struct kqn_poller *poller, const struct kevent *changes, int change_count,
                           struct kevent *events, int max_events, int64_t timeout_ns)
{
    if (!pass_gate())
        timeout_ns = 0;
    return __real_kqn_poller_wait(poller, changes, change_count, events, max_events, timeout_ns);
}

int64_t __wrap_kqn_sys_monotonic_ns(void)
{
    static _Atomic int64_t clock_ns = 1000000000;
    (void)__real_kqn_sys_monotonic_ns(); /* its instructions count */
    return atomic_fetch_add(&clock_ns, look_ns) + look_ns;
}
