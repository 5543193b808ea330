/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker on its thread, and a control side that changes everything under it: when pause has returned,
 * nothing of the device moves until resume, and no kick is lost over it.  Under the thread sanitizer.
 *
 *     stress_pause ROUNDS
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "arena.h"

#define SIZE 256
#define FRAMES 20

static struct arena arena;

static uint16_t used_index(int ring)
{
    return vu_acquire_le16(&arena_used(&arena, ring)->idx);
}

static void swap_kick(int ring)
{
    int old = arena.kick[ring];

    arena.kick[ring] = eventfd(0, EFD_NONBLOCK);
    arena_require(vu_vring_set_kick(arena.pair, ring, arena.kick[ring], 0) == VU_OK);
    close(old);
}

static void change(int round)
{
    static const int kinds[] = {VU_PORT_SINK, VU_PORT_ECHO, VU_PORT_SOURCE};
    struct vu_memory *old;

    switch (round % 8) {
    case 0: /* the old table's pages are gone when the worker goes on */
        arena_swap_memory(&arena);
        break;
    case 1:
        arena_start(&arena, VU_TX);
        break;
    case 2:
        arena_start(&arena, VU_RX);
        break;
    case 3:
        swap_kick(VU_TX);
        break;
    case 4:
        swap_kick(VU_RX);
        break;
    case 5:
        vu_vring_set_call(arena.pair, VU_TX, round & 8 ? arena.call[VU_TX] : -1);
        break;
    case 6:
        vu_pair_set_port(arena.pair, kinds[round / 8 % 3], -1, 0, 60);
        break;
    default: /* no table at all, and a new one: both rings break and are started again */
        old = vu_device_set_memory(arena.device, NULL);
        vu_memory_put(old);
        arena_swap_memory(&arena);
        arena_start(&arena, VU_RX);
        arena_start(&arena, VU_TX);
    }
}

static bool is_kept_out(void)
{
    bool owed;

    pthread_mutex_lock(&arena.worker->gate.lock);
    owed = arena.worker->gate.owed;
    pthread_mutex_unlock(&arena.worker->gate.lock);
    return owed;
}

/* A front-end that says one thing after the other pauses again before the thread that the last pause kept out
   can be awake: it has its turn in between all the same. */
static void pause_after_pause(void)
{
    uint16_t before = used_index(VU_TX);

    vu_worker_pause(arena.worker);
    arena_offer(&arena, VU_TX, 0);
    arena_kick(&arena, VU_TX);
    while (!is_kept_out())
        sched_yield();
    vu_worker_resume(arena.worker);
    vu_worker_pause(arena.worker);
    arena_require(used_index(VU_TX) == (uint16_t)(before + 1));
    vu_worker_resume(arena.worker);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 200;
    uint64_t waits = 0, events = 0;
    int told = eventfd(0, EFD_NONBLOCK);

    arena_open(&arena);
    arena_begin(&arena, VU_F_VERSION_1, VU_PORT_SINK, SIZE, SIZE);
    for (unsigned i = 0; i < SIZE; i++) {
        arena_write_desc(&arena_desc(&arena, VU_TX)[i], ARENA_GPA + ARENA_BUFFERS + 256 * i, 100, 0, 0);
        arena_write_desc(&arena_desc(&arena, VU_RX)[i], ARENA_GPA + ARENA_BUFFERS + 256 * i + 128, 128,
                         VU_DESC_WRITE, 0);
    }
    arena_start(&arena, VU_RX);
    arena_start(&arena, VU_TX);
    arena_require(vu_worker_start(arena.worker, "worker", -1, VU_POLL_EVENT, told) == 0);
    for (int round = 0; round < rounds; round++) {
        uint16_t before[2], end = (uint16_t)(FRAMES * (round + 1));
        struct vu_counters counters, later;
        struct vu_event taken[8];

        for (uint16_t i = 0; i < FRAMES; i++) {
            uint16_t slot = (uint16_t)(FRAMES * round + i) % SIZE;

            arena_offer(&arena, VU_TX, slot);
            if ((uint16_t)(vu_read_le16(&arena_avail(&arena, VU_RX)->idx) - used_index(VU_RX)) < SIZE)
                arena_offer(&arena, VU_RX, slot);
            if (i % 4 == 0)
                arena_kick(&arena, VU_TX);
        }
        arena_kick(&arena, VU_RX);
        arena_kick(&arena, VU_TX);

        vu_worker_pause(arena.worker);
        vu_vring_counters(arena.pair, VU_TX, &counters);
        before[VU_RX] = used_index(VU_RX);
        before[VU_TX] = used_index(VU_TX);
        for (int i = 0; i < 3; i++)
            sched_yield();
        vu_vring_counters(arena.pair, VU_TX, &later);
        arena_require(memcmp(&counters, &later, sizeof(counters)) == 0);
        arena_require(used_index(VU_RX) == before[VU_RX] && used_index(VU_TX) == before[VU_TX]);
        arena_require(arena.pair->vring[VU_TX].position == before[VU_TX] ||
                      arena.pair->vring[VU_TX].state == VU_VRING_STARTING);
        change(round);
        for (int i = 0; i < 3; i++)
            sched_yield();
        arena_require(used_index(VU_RX) == before[VU_RX] && used_index(VU_TX) == before[VU_TX]);
        vu_worker_resume(arena.worker);

        /* A lost kick shows as a wait without end; the caller's time limit is its report. */
        while (used_index(VU_TX) != end) {
            waits++;
            sched_yield();
        }
        events += vu_worker_events(arena.worker, taken, VU_ARRAY_SIZE(taken));
    }
    for (int i = 0; i < rounds; i++)
        pause_after_pause();
    vu_worker_stop(arena.worker);
    printf("rounds %d waits %llu events %llu\n", rounds, (unsigned long long)waits,
           (unsigned long long)events);
    arena_end(&arena);
    arena_close(&arena);
    close(told);
    return 0;
}
