/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ticket lock: nobody is in it beside another, nobody sleeps for ever, and who asks is next.  Two threads
 * take it again as soon as they have given it back; one, patient, counts how often it was had by others while
 * it waited.  Each has it now and then for longer than anybody spins.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "ticket.h"

#define GREEDY 2

static struct vu_ticket ticket;
static unsigned long had; /* only in the lock */
static unsigned inside, rounds, ended;

static void have(unsigned long turn)
{
    if (__atomic_fetch_add(&inside, 1, __ATOMIC_RELAXED)) {
        puts("two are inside");
        exit(1);
    }
    had++;
    for (volatile unsigned i = 0; i < (turn % 64 ? 20 : 20000); i++)
        ;
    __atomic_fetch_sub(&inside, 1, __ATOMIC_RELAXED);
}

static void *be_greedy(void *unused)
{
    for (unsigned long turn = 0; !__atomic_load_n(&ended, __ATOMIC_RELAXED); turn++) {
        vu_ticket_lock(&ticket);
        have(turn);
        vu_ticket_unlock(&ticket);
    }
    return unused;
}

static int by_value(const void *a, const void *b)
{
    return (*(const unsigned *)a > *(const unsigned *)b) - (*(const unsigned *)a < *(const unsigned *)b);
}

int main(int argc, char **argv)
{
    pthread_t greedy[GREEDY];
    unsigned *waited;

    rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 2000;
    waited = calloc(rounds, sizeof(*waited));
    for (int i = 0; i < GREEDY; i++)
        pthread_create(&greedy[i], NULL, be_greedy, NULL);
    for (unsigned round = 0; round < rounds; round++) {
        unsigned asked = __atomic_load_n(&ticket.serving, __ATOMIC_RELAXED);

        vu_ticket_lock(&ticket);
        waited[round] = ticket.serving - asked;
        have(round);
        vu_ticket_unlock(&ticket);
    }
    __atomic_store_n(&ended, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < GREEDY; i++)
        pthread_join(greedy[i], NULL);
    /* Some were kept by the kernel between their look at `serving` and their question. */
    qsort(waited, rounds, sizeof(*waited), by_value);
    printf("had %lu, waited for %u (median) to %u\n", had, waited[rounds / 2], waited[rounds - 1]);
    free(waited);
    return 0;
}
