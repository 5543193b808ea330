/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of postcopy while a worker touches guest memory: whenever the touch comes, nobody waits afterwards
 * for a page that nobody brings.  One thread touches a page that is not there, in the moment in which another
 * one ends the registration, at random distances.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "arena.h"
#include "postcopy.h"

#define PAGE 4096
#define SPREAD 3000 /* turns of an empty loop: a system call takes about as long */

static volatile const uint8_t *memory_base;
static unsigned asked, touched; /* rounds */
static unsigned wait_before;

static void spin(unsigned turns)
{
    for (volatile unsigned i = 0; i < turns; i++)
        ;
}

static void *touch(void *rounds)
{
    for (unsigned round = 1; round <= *(unsigned *)rounds; round++) {
        while (__atomic_load_n(&asked, __ATOMIC_ACQUIRE) != round)
            ;
        spin(wait_before);
        (void)memory_base[0];
        __atomic_store_n(&touched, round, __ATOMIC_RELEASE);
    }
    return NULL;
}

static bool is_touched(unsigned round)
{
    time_t end = time(NULL) + 10;

    while (__atomic_load_n(&touched, __ATOMIC_ACQUIRE) != round)
        if (time(NULL) > end)
            return false;
    return true;
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 1000;
    int file = memfd_create("guest", MFD_CLOEXEC), uffd = vu_uffd_open(), failed_errno;
    struct vu_region_setup region = {.size = PAGE, .map_length = PAGE, .fd = file, .late = 1};
    struct vu_memory *memory;
    uint32_t failed_region;
    pthread_t toucher;

    arena_require(uffd >= 0 && file >= 0 && ftruncate(file, PAGE) == 0);
    memory = vu_memory_map(&region, 1, &failed_region, &failed_errno);
    arena_require(memory);
    memory_base = (volatile const uint8_t *)(uintptr_t)vu_memory_base(memory, 0);
    arena_require(pthread_create(&toucher, NULL, touch, &rounds) == 0);
    for (unsigned round = 1; round <= rounds; round++) {
        arena_require(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) == 0);
        arena_require(vu_memory_register(memory, uffd) == 0);
        wait_before = (unsigned)rand() % SPREAD;
        __atomic_store_n(&asked, round, __ATOMIC_RELEASE);
        spin((unsigned)rand() % SPREAD);
        vu_memory_unregister(memory, uffd);
        arena_require(is_touched(round));
    }
    pthread_join(toucher, NULL);
    close(uffd);
    vu_memory_put(memory);
    printf("rounds %u\n", rounds);
    return 0;
}
