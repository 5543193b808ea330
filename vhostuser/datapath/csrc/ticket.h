/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lock that is had in the order in which it was asked for.  With a mutex of the C library who gives it back
 * and asks again at once mostly gets it again: a worker waited 450 ms for one that was never held for longer
 * than a few.  Who waits spins first, since a burst is shorter than a sleep.
 */
#ifndef VU_TICKET_H
#define VU_TICKET_H

#include <stdint.h>

#include "compiler.h"

struct vu_ticket {
    uint32_t next;     /* number that the next to ask gets */
    uint32_t serving;  /* number of who has it */
    uint32_t sleepers; /* in the kernel, until `serving` changes */
};

/* ticket.c: until it is this number's turn. */
void vu_ticket_wait(struct vu_ticket *ticket, uint32_t number);
void vu_ticket_wake(struct vu_ticket *ticket);

static vu_always_inline void vu_ticket_lock(struct vu_ticket *ticket)
{
    uint32_t number = __atomic_fetch_add(&ticket->next, 1, __ATOMIC_RELAXED);

    /* Pairs with the release in unlock. */
    if (vu_unlikely(__atomic_load_n(&ticket->serving, __ATOMIC_ACQUIRE) != number))
        vu_ticket_wait(ticket, number);
}

static vu_always_inline void vu_ticket_unlock(struct vu_ticket *ticket)
{
    /* `serving` first, then the look at who sleeps: pairs with the order in vu_ticket_wait. */
    __atomic_fetch_add(&ticket->serving, 1, __ATOMIC_SEQ_CST);
    if (vu_unlikely(__atomic_load_n(&ticket->sleepers, __ATOMIC_SEQ_CST)))
        vu_ticket_wake(ticket);
}

#endif
