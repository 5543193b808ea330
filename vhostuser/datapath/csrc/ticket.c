/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting for a ticket lock. */
#include "ticket.h"

#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Looks before it sleeps: some microseconds, as a burst of short frames takes. */
#define SPINS 400

void vu_ticket_wait(struct vu_ticket *ticket, uint32_t number)
{
    uint32_t serving;

    for (int i = 0; i < SPINS; i++) {
        if (__atomic_load_n(&ticket->serving, __ATOMIC_ACQUIRE) == number)
            return;
        vu_relax();
    }
    __atomic_fetch_add(&ticket->sleepers, 1, __ATOMIC_SEQ_CST);
    while ((serving = __atomic_load_n(&ticket->serving, __ATOMIC_SEQ_CST)) != number)
        syscall(SYS_futex, &ticket->serving, FUTEX_WAIT_PRIVATE, serving, NULL, NULL, 0);
    __atomic_fetch_sub(&ticket->sleepers, 1, __ATOMIC_RELAXED);
}

/* All of them: which of them it is only they know, and they are no more than there are workers. */
void vu_ticket_wake(struct vu_ticket *ticket)
{
    syscall(SYS_futex, &ticket->serving, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
