/* knotes.h: the real knotes.c on the simulated system. It is compiled with the names of the system calls that it makes
 * replaced (-Dfree=fake_free and so on): system.c has those, and what comes before and after its wait. */
#ifndef KQN_FAKE_KNOTES_H
#define KQN_FAKE_KNOTES_H
#include "../disturb.h"

/* The connections that have left this loop's poller, whose events may come late. */
struct gone *gone_of_loop(int loop);
#endif
