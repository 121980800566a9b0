#include "poller/fork.h"

#include <pthread.h>
#include <stdatomic.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int watch_result;
static atomic_bool happened;
static atomic_uint generation;

/* Before the fork, not after it: a connection that another thread closes meanwhile must already know. */
static void before_fork(void)
{
    atomic_store(&happened, true);
}

static void in_child(void)
{
    atomic_store(&happened, false);
    atomic_fetch_add(&generation, 1);
}

static void watch(void)
{
    watch_result = -pthread_atfork(before_fork, NULL, in_child);
}

int kqn_fork_watch(void)
{
    pthread_once(&once, watch);
    return watch_result;
}

bool kqn_fork_happened(void)
{
    return atomic_load_explicit(&happened, memory_order_relaxed);
}

unsigned kqn_fork_generation(void)
{
    return atomic_load_explicit(&generation, memory_order_relaxed);
}
