/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two devices of two pairs on three worker threads, and a control side that pauses, swaps and moves while
 * guests kick and somebody reads the counters.  Under the thread sanitizer; the longest pauses are printed.
 * Frames go back to their sender, or by a switch into the rings of the other device, which any worker fills
 * then.
 *
 *     stress_workers ROUNDS [switch]
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "arena.h"
#include "switch.h"

#define WORKERS 3
#define DEVICES 2
#define PAIRS 2
#define SIZE 256
#define UVA 0x7f0000000000ULL
#define BYTES 0x100000ULL
#define BUFFERS 0x40000
#define FRAME 100

static struct vu_worker *workers[WORKERS];
static int told;
static bool stop;
static uint64_t reads;
static struct vu_switch *lan; /* NULL: they echo */

/* A device with its memory: ring r of pair p lies at (2 * p + r) * ARENA_RING_BYTES. */
struct guest {
    int fd;
    uint8_t *view;
    struct vu_device *device;
    struct vu_member *member;
    struct vu_memory *memory;
    struct vu_pair *pair[PAIRS];
    int kick[PAIRS][2];
    int call[PAIRS][2];
};

static struct guest guests[DEVICES];

static void *ring_part(struct guest *guest, int pair, int ring, size_t part)
{
    return guest->view + (2 * pair + ring) * ARENA_RING_BYTES + part;
}

static struct vu_avail *avail_of(struct guest *guest, int pair, int ring)
{
    return ring_part(guest, pair, ring, ARENA_AVAIL);
}

static uint16_t used_index(struct guest *guest, int pair, int ring)
{
    struct vu_used *used = ring_part(guest, pair, ring, ARENA_USED);

    return vu_acquire_le16(&used->idx);
}

static struct vu_memory *map_memory(struct guest *guest)
{
    int fd = dup(guest->fd); /* the mapping's */
    struct vu_region_setup setup = {.gpa = 0, .size = BYTES, .uva = UVA, .map_length = BYTES, .fd = fd};
    uint32_t failed_region;
    int failed_errno;
    struct vu_memory *memory = vu_memory_map(&setup, 1, &failed_region, &failed_errno);

    arena_require(memory);
    return memory;
}

/* All workers of a device, as the control side pauses them: first held, then waited for. */
static void pause_all(void)
{
    for (int i = 0; i < WORKERS; i++)
        vu_worker_hold(workers[i]);
    for (int i = 0; i < WORKERS; i++)
        vu_worker_quiesce(workers[i]);
}

static void resume_all(void)
{
    for (int i = 0; i < WORKERS; i++)
        vu_worker_resume(workers[i]);
}

static void start(struct guest *guest, int pair, int ring)
{
    uint64_t at = UVA + (uint64_t)(2 * pair + ring) * ARENA_RING_BYTES;
    struct vu_vring_setup setup = {.desc = at,
                                   .avail = at + ARENA_AVAIL,
                                   .used = at + ARENA_USED,
                                   .size = SIZE,
                                   .kick_fd = guest->kick[pair][ring],
                                   .call_fd = guest->call[pair][ring],
                                   .err_fd = -1};

    vu_vring_set_enabled(guest->pair[pair], ring, VU_RING_ENABLED);
    arena_require(vu_vring_start(guest->pair[pair], ring, &setup) == VU_OK);
}

/* To everybody, to what the other device has sent from, to itself, and to nobody that is known. */
static void write_frames(struct guest *guest, int pair, uint32_t id)
{
    for (unsigned i = 0; i < SIZE; i++) {
        uint8_t *head = guest->view + BUFFERS * (1U + (unsigned)pair) + 1024U * i + 512U + VU_NET_HDR_SIZE;

        memset(head, i % 4 ? 2 : 0xff, 6);
        if (i % 4)
            head[5] = (uint8_t)(i % 4 == 3 ? 77 : (id + i) % DEVICES);
        head[6] = 2;
        head[7] = head[8] = head[9] = head[10] = 2;
        head[11] = (uint8_t)id;
    }
}

static void open_guest(struct guest *guest, uint32_t id)
{
    guest->fd = memfd_create("guest", MFD_CLOEXEC);
    arena_require(guest->fd >= 0 && ftruncate(guest->fd, BYTES) == 0);
    guest->view = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, guest->fd, 0);
    arena_require(guest->view != MAP_FAILED);
    guest->device = vu_device_new(id);
    guest->memory = map_memory(guest);
    vu_memory_get(guest->memory);
    vu_device_set_memory(guest->device, guest->memory);
    vu_device_set_features(guest->device, VU_F_VERSION_1 | VU_F_MRG_RXBUF);
    if (lan)
        arena_require((guest->member = vu_switch_join(lan, guest->device)));
    for (int pair = 0; pair < PAIRS; pair++) {
        guest->pair[pair] =
            vu_pair_new(guest->device, workers[(id + (uint32_t)pair) % WORKERS], (uint32_t)pair);
        arena_require(vu_pair_set_port(guest->pair[pair], lan ? VU_PORT_SWITCH : VU_PORT_ECHO, -1, 0, 0) ==
                      VU_OK);
        write_frames(guest, pair, id);
        for (int ring = 0; ring < 2; ring++) {
            struct vu_desc *desc = ring_part(guest, pair, ring, 0);

            for (unsigned i = 0; i < SIZE; i++)
                arena_write_desc(&desc[i],
                                 BUFFERS * (1U + (unsigned)pair) + 1024U * i + 512U * (unsigned)ring,
                                 ring ? FRAME : 512, ring ? 0 : VU_DESC_WRITE, 0);
            guest->kick[pair][ring] = eventfd(0, EFD_NONBLOCK);
            guest->call[pair][ring] = eventfd(0, EFD_NONBLOCK);
            start(guest, pair, ring);
        }
    }
}

static void close_guest(struct guest *guest)
{
    for (int pair = 0; pair < PAIRS; pair++) {
        for (int ring = 0; ring < 2; ring++) {
            vu_vring_stop(guest->pair[pair], ring);
            close(guest->kick[pair][ring]);
            close(guest->call[pair][ring]);
        }
        vu_pair_free(guest->pair[pair]);
    }
    if (lan)
        vu_switch_leave(guest->member);
    vu_device_free(guest->device);
    vu_memory_put(guest->memory);
    munmap(guest->view, BYTES);
    close(guest->fd);
}

/* Without pausing anybody: what a control socket does when it is asked for figures. */
static void *read_counters(void *unused)
{
    uint64_t last[DEVICES][PAIRS] = {0};

    (void)unused;
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
        for (int i = 0; i < DEVICES; i++) {
            for (int pair = 0; pair < PAIRS; pair++) {
                struct vu_counters counters;

                vu_vring_counters(guests[i].pair[pair], VU_TX, &counters);
                arena_require(counters.packets >= last[i][pair] && !vu_device_faulted(guests[i].device));
                last[i][pair] = counters.packets;
                reads++;
            }
        }
        if (lan) { /* as the helper thread does when a device stops, and changes its MTU */
            vu_member_set_mtu(guests[reads % DEVICES].member, 1500);
            vu_member_forget(guests[reads % DEVICES].member);
            arena_require(vu_switch_addresses(lan) <= DEVICES);
        }
        sched_yield();
    }
    return NULL;
}

static void offer(struct guest *guest, int pair)
{
    for (int ring = 0; ring < 2; ring++) {
        struct vu_avail *avail = avail_of(guest, pair, ring);
        uint16_t idx = vu_read_le16(&avail->idx);
        int room = SIZE - (uint16_t)(idx - used_index(guest, pair, ring));

        for (int i = 0; i < room / 2; i++, idx++)
            vu_write_le16(&avail->ring[idx % SIZE], idx % SIZE);
        vu_release_le16(&avail->idx, idx);
        arena_require(eventfd_write(guest->kick[pair][ring], 1) == 0);
    }
}

static void change(int round)
{
    struct guest *guest = &guests[round % DEVICES];
    int pair = round / DEVICES % PAIRS;
    int old;

    switch (round % 5) {
    case 0: /* the whole device to one worker, as postcopy does */
    case 1: /* and apart again */
        for (int i = 0; i < PAIRS; i++)
            vu_pair_move(guest->pair[i], workers[(round + round % 5 * i) % WORKERS]);
        break;
    case 2:
        vu_memory_put(guest->memory);
        guest->memory = map_memory(guest);
        vu_memory_get(guest->memory);
        vu_memory_put(vu_device_set_memory(guest->device, guest->memory));
        break;
    case 3:
        old = guest->kick[pair][VU_TX];
        guest->kick[pair][VU_TX] = eventfd(0, EFD_NONBLOCK);
        arena_require(vu_vring_set_kick(guest->pair[pair], VU_TX, guest->kick[pair][VU_TX], 0) == VU_OK);
        close(old);
        break;
    default:
        arena_require(vu_vring_stop(guest->pair[pair], VU_TX) == used_index(guest, pair, VU_TX));
        start(guest, pair, VU_TX);
    }
}

static int by_value(const void *left, const void *right)
{
    const double *a = left, *b = right;

    return (*a > *b) - (*a < *b);
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 200;
    double *pauses = calloc((size_t)rounds + 1, sizeof(*pauses));
    uint64_t started = 0, waits = 0, received = 0;
    struct vu_counters counters;
    struct vu_event taken[32];
    pthread_t reader;

    arena_require(pauses && vu_guard_install() == 0);
    told = eventfd(0, EFD_NONBLOCK);
    if (argc > 2 && !strcmp(argv[2], "switch"))
        arena_require((lan = vu_switch_new(300, 0x9e3779b97f4a7c15)));
    for (int i = 0; i < WORKERS; i++)
        arena_require((workers[i] = vu_worker_new()));
    for (int i = 0; i < WORKERS; i++) /* each waits in another way */
        arena_require(vu_worker_start(workers[i], "worker", -1, i % (VU_POLL_BUSY + 1), told) == 0);
    pause_all();
    for (uint32_t i = 0; i < DEVICES; i++)
        open_guest(&guests[i], i);
    resume_all();
    arena_require(pthread_create(&reader, NULL, read_counters, NULL) == 0);

    /* And one without a change: what the last change started reports only once it has something to do. */
    for (int round = 0; round <= rounds; round++) {
        uint16_t before[DEVICES][PAIRS][2];
        double began;

        for (int i = 0; i < DEVICES; i++) {
            for (int pair = 0; pair < PAIRS; pair++)
                offer(&guests[i], pair);
        }
        began = now();
        pause_all();
        pauses[round] = now() - began;
        for (int i = 0; i < DEVICES; i++) {
            for (int pair = 0; pair < PAIRS; pair++)
                for (int ring = 0; ring < 2; ring++)
                    before[i][pair][ring] = used_index(&guests[i], pair, ring);
        }
        if (round < rounds)
            change(round);
        for (int i = 0; i < DEVICES; i++) {
            for (int pair = 0; pair < PAIRS; pair++)
                for (int ring = 0; ring < 2; ring++)
                    arena_require(used_index(&guests[i], pair, ring) == before[i][pair][ring]);
        }
        resume_all();
        /* A lost wake-up shows as a wait without end; the caller's time limit is its report. */
        for (int i = 0; i < DEVICES; i++) {
            for (int pair = 0; pair < PAIRS; pair++) {
                uint16_t end = vu_read_le16(&avail_of(&guests[i], pair, VU_TX)->idx);

                for (; used_index(&guests[i], pair, VU_TX) != end; waits++)
                    sched_yield();
            }
        }
        for (int i = 0; i < WORKERS; i++) {
            uint32_t count = vu_worker_events(workers[i], taken, VU_ARRAY_SIZE(taken));

            for (uint32_t k = 0; k < count; k++)
                started += taken[k].kind == VU_EVENT_RING_STARTED;
        }
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
    pthread_join(reader, NULL);
    pause_all();
    for (int i = 0; i < DEVICES; i++) {
        for (int pair = 0; pair < PAIRS; pair++) {
            vu_vring_counters(guests[i].pair[pair], VU_RX, &counters);
            received += counters.packets;
        }
    }
    for (int i = 0; i < DEVICES; i++)
        close_guest(&guests[i]);
    resume_all();
    for (int i = 0; i < WORKERS; i++) {
        vu_worker_stop(workers[i]);
        vu_worker_free(workers[i]);
    }
    close(told);
    if (lan)
        vu_switch_free(lan);
    arena_require(vu_memory_live_regions() == 0);
    qsort(pauses, (size_t)rounds, sizeof(*pauses), by_value);
    printf("rounds %d started %llu received %llu reads %llu waits %llu\n", rounds,
           (unsigned long long)started, (unsigned long long)received, (unsigned long long)reads,
           (unsigned long long)waits);
    printf("a pause of %d workers took us: half %.0f, 99 of 100 %.0f, all %.0f\n", WORKERS,
           pauses[rounds / 2], pauses[rounds * 99 / 100], pauses[rounds - 1]);
    free(pauses);
    return 0;
}
