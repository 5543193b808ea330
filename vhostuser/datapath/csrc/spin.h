/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spinning: a pair that was just served is looked at again and again for a while, and its guest need not kick
 * meanwhile.  Adaptive: for its window, which grows when kicks come soon after the worker went to sleep and
 * shrinks when they do not.  Busy: for ever.
 */
#ifndef VU_SPIN_H
#define VU_SPIN_H

#include "state.h"

#define VU_SPIN_WINDOW_MIN 4000   /* ns; about what a round trip through two eventfds takes */
#define VU_SPIN_WINDOW_MAX 100000 /* ns; what waking an idle guest and its kick take, and then some */

/* ns, of the clock that the worker measures all its times by. */
uint64_t vu_spin_clock(void);
/* The pair was served, with work done or not, and is looked at from now on. */
void vu_spin_join(struct vu_pair *pair, bool worked);
/* It is looked at no longer; its rings may be disarmed, so it has to be woken or stopped as well. */
void vu_spin_leave(struct vu_pair *pair);
/* Looks at every pair that is looked at, until one has work, which is queued then, or it is time to hear what
   else has happened.  Whether the first look found work. */
bool vu_spin_look(struct vu_worker *worker);
/* Lets pairs go whose time is over: their rings are armed first. */
void vu_spin_retire(struct vu_worker *worker);

#endif
