/* phase.h: where one loop of the load tester is in its run (enum kqn_load_phase), and what ends each phase.
 * Some phases all loops leave together (load.h); what is sent, counted and awaited follows from the phase. */
#ifndef KQN_PHASE_H
#define KQN_PHASE_H

struct kqn_driver;

/* At the end of each turn: goes on to the next phase, or to several, if the time has come, or the run is to stop. */
void kqn_phase_advance(struct kqn_driver *driver);
/* The loop turns no more, whatever phase it was in. */
void kqn_phase_end(struct kqn_driver *driver);
#endif
