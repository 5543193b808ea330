/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory can vanish: a file that the front-end truncates makes the next access a SIGBUS.  A burst
 * runs under a guard; the handler unwinds to it when the address lies in what a front-end of the burst's
 * pairs shares with us, and hands every other SIGBUS to whoever had the signal before us. Unwinding is sound
 * because of ring.h rule 2: all that a burst changes before it publishes is invisible.
 */
#ifndef VU_GUARD_H
#define VU_GUARD_H

#include <setjmp.h>
#include <stdint.h>

struct vu_pair;
struct vu_ticket;
struct vu_worker;

struct vu_guard {
    sigjmp_buf unwind;
    struct vu_worker *worker; /* whose turn it is */
    struct vu_pair *pair;
    struct vu_pair *receiver; /* of another device, while its ring is filled; else NULL */
    struct vu_ticket *held;   /* to be released by who unwinds; else NULL */
    struct vu_pair *culprit;  /* of the two above: whose front-end it was */
    uintptr_t address;        /* of the fault; within guest memory's own mapping, where it is in a view */
};

/* Of this thread; NULL outside bursts. */
extern __thread struct vu_guard *volatile vu_guard_current;

/* Nonzero after a fault.  A macro, since sigsetjmp must stand in the frame that is unwound to.  The mask
   is not saved (250 ns against 5): the handler is installed with SA_NODEFER, so nothing is blocked. */
#define VU_GUARD_ENTER(guard, guarded)                                                                      \
    ((guard)->pair = (guarded), (guard)->receiver = NULL, (guard)->held = NULL, vu_guard_current = (guard), \
     sigsetjmp((guard)->unwind, 0))

static inline void vu_guard_leave(void)
{
    vu_guard_current = NULL;
}

#endif
