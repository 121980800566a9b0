/* torture.h: short scenarios in which every call that can fail does so: each once, and each for good from then on. */
#ifndef KQN_FAKE_TORTURE_H
#define KQN_FAKE_TORTURE_H
#include <stdbool.h>

/* Prints its figures. false: one of them failed, and was printed. */
bool torture(void);
#endif
