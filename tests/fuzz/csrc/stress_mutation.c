/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that changes descriptors, tables, avail entries, indices and headers while they are being read, on
 * another CPU.  The sanitizers see what happens; used->idx stays where the device says that it is.
 *
 *     stress_mutation MILLISECONDS   for each kind of port, a control ring among them, either ring format,
 * the fast and the general instance, and a worker that sleeps and one that polls
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "arena.h"
#include "switch.h"

#define FEATURES                                                                                          \
    (VU_F_VERSION_1 | VU_F_MRG_RXBUF | VU_F_INDIRECT_DESC | VU_F_EVENT_IDX | VU_F_CSUM | VU_F_HOST_TSO4 | \
     VU_F_GUEST_CSUM | VU_F_GUEST_TSO4)
#define SIZE 64

static struct arena arena;
/* By ring; the same for both but on a switch, where another device, which takes no offloads, receives. */
static struct vu_pair *pairs[2];
static struct vu_switch *lan;
static bool stop;
static uint64_t flips;

static uint32_t draw(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Mostly what a driver might write, so that the rings do not break at once. */
static void flip_desc(struct vu_desc *desc, int ring, uint32_t *state)
{
    uint32_t choice = draw(state), value = draw(state);

    struct vu_packed_desc *packed = (struct vu_packed_desc *)(void *)desc;

    switch (choice % 8) {
    case 0:
        vu_write_le16(arena.packed ? &packed->id : &desc->next,
                      (uint16_t)(value % (choice & 0x1000 ? SIZE : 0x10000)));
        break;
    case 1:
        if (!arena.packed)
            vu_write_le16(&desc->flags, (uint16_t)(value & 7));
        else if (choice & 0xff00)
            vu_write_le16(&packed->flags, (uint16_t)((vu_read_le16(&packed->flags) & ~7U) | (value & 7)));
        else
            vu_write_le16(&packed->flags, (uint16_t)value);
        break;
    case 2:
        vu_write_le64(&desc->gpa, choice & 0x100 ? value : ARENA_BORDER - value % 4096);
        break;
    case 3:
        vu_write_le32(&desc->length, choice & 0x100 ? value : value % 200);
        break;
    default:
        arena_write(&arena, desc, ARENA_GPA + ARENA_BUFFERS + value % 0x10000, 20 + value % 3000,
                    (uint16_t)(ring == VU_RX ? VU_DESC_WRITE : 0), 0);
        if (choice & 0x100)
            arena_write(&arena, desc, ARENA_GPA + ARENA_TABLES, 16 + 16 * (value % 8), VU_DESC_INDIRECT, 0);
    }
}

static void *mutate(void *unused)
{
    uint32_t state = 2463534242U;

    (void)unused;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        uint32_t choice = draw(&state), value = draw(&state);
        int ring = choice >> 31;

        switch (choice % 16) {
        case 0:
            if (choice % 1024 == 0 && arena.packed)
                arena_offer(&arena, ring, (uint16_t)value);
            else if (choice % 1024 == 0)
                vu_write_le16(&arena_avail(&arena, ring)->idx, (uint16_t)value);
            break;
        case 1:
            vu_write_le16(&arena_avail(&arena, ring)->ring[value % (SIZE + 1)],
                          (uint16_t)(choice & 0xff00 ? value % SIZE : value));
            break;
        case 2:
            vu_write_le16(&arena_avail(&arena, ring)->flags, value & 1);
            break;
        case 3:
            flip_desc(&arena_table(&arena, 0)[value % 8], ring, &state);
            break;
        case 4:
        case 5:
        case 6:
            __atomic_store_n(arena.view + ARENA_BUFFERS + value % 0x10000, (uint8_t)(choice >> 8),
                             __ATOMIC_RELAXED);
            break;
        case 7:
        case 8:
            flip_desc(&arena_desc(&arena, ring)[value % SIZE], ring, &state);
            break;
        default:
            /* What keeps the traffic going: packed, past what can never come back, too. */
            if (arena_has_room(&arena, ring) || (arena.packed && choice % 4096 < 256))
                arena_offer(&arena, ring, (uint16_t)(value % SIZE));
        }
        flips++;
    }
    return NULL;
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static void restart(int ring)
{
    bool commands = ring == VU_RX && arena.pair->port_kind == VU_PORT_CONTROL;

    if (arena.packed)
        memset(arena_packed(&arena, ring), 0, SIZE * sizeof(struct vu_packed_desc));
    else
        vu_write_le16(&arena_avail(&arena, ring)->idx, vu_read_le16(&arena_used(&arena, ring)->idx));
    for (int i = 0; i < SIZE; i++) {
        uint16_t flags = ring == VU_RX ? VU_DESC_WRITE : 0;

        if (commands && i % 2 == 0)
            flags = VU_DESC_NEXT;
        arena_write(&arena, &arena_desc(&arena, ring)[i], ARENA_GPA + ARENA_BUFFERS + 1024U * (unsigned)i,
                    1024, flags, (uint16_t)(i + 1));
    }
    arena.pair = pairs[ring];
    arena_start(&arena, ring);
    arena.pair = pairs[VU_TX];
}

static void begin(int kind, uint64_t features)
{
    struct vu_device *receiver;

    arena_begin(&arena, FEATURES | features, kind, SIZE, SIZE);
    pairs[VU_RX] = pairs[VU_TX] = arena.pair;
    if (kind != VU_PORT_SWITCH)
        return;
    lan = vu_switch_new(300, 1);
    receiver = vu_device_new(8);
    arena_require(lan && receiver);
    vu_worker_pause(arena.worker);
    vu_memory_get(arena.memory);
    vu_device_set_memory(receiver, arena.memory);
    vu_device_set_features(receiver,
                           VU_F_VERSION_1 | VU_F_MRG_RXBUF | VU_F_INDIRECT_DESC | VU_F_EVENT_IDX | features);
    arena_require(vu_switch_join(lan, arena.device) && vu_switch_join(lan, receiver));
    pairs[VU_RX] = vu_pair_new(receiver, arena.worker, 0);
    arena_require(pairs[VU_RX] && vu_pair_set_port(pairs[VU_RX], kind, -1, 0, 0) == VU_OK);
    vu_worker_resume(arena.worker);
}

static void end(void)
{
    if (lan) {
        struct vu_device *receiver = pairs[VU_RX]->device;

        arena_require(!vu_device_faulted(receiver));
        vu_worker_pause(arena.worker);
        vu_vring_stop(pairs[VU_RX], VU_RX);
        vu_pair_free(pairs[VU_RX]);
        vu_switch_leave(receiver->member);
        vu_switch_leave(arena.device->member);
        vu_device_free(receiver);
        vu_switch_free(lan);
        lan = NULL;
        vu_worker_resume(arena.worker);
    }
    arena_require(!vu_device_faulted(arena.device));
    arena_end(&arena);
}

/* What waits on the control ring is answered; how many that were. */
static uint64_t answer(void)
{
    static uint8_t command[VU_CONTROL_BYTES];
    uint64_t found = 0;

    vu_worker_pause(arena.worker);
    if (vu_control_command(arena.pair, command)) {
        vu_control_answer(arena.pair, command[0] & 1);
        found = 1;
    }
    vu_worker_resume(arena.worker);
    return found;
}

struct sums {
    uint64_t turns, packets, drops, filtered, commands, switched;
};

static void stress(int kind, uint64_t features, enum vu_poll poll, double span, struct sums *sums)
{
    /* Lets the frames of the port through, which go to address 0. */
    static const struct vu_filter filter = {.unicast = VU_ACCEPT_LISTED,
                                            .multicast = VU_ACCEPT_LISTED,
                                            .broadcast = VU_ACCEPT_ALL,
                                            .tagged = VU_ACCEPT_LISTED,
                                            .mac_count = 1};
    static uint8_t frame[4096];
    double last = now() + span;
    pthread_t thread;

    begin(kind, features);
    vu_worker_pause(arena.worker);
    arena.worker->poll = poll;
    /* Of frames between guests it would leave next to nothing; without any there are the tightest loops. */
    if (kind != VU_PORT_SWITCH && poll == VU_POLL_EVENT)
        vu_device_set_filter(pairs[VU_RX]->device, &filter);
    if (kind == VU_PORT_CONTROL)
        arena_require(vu_pair_set_control(arena.pair) == VU_OK);
    vu_worker_resume(arena.worker);
    restart(VU_RX);
    restart(VU_TX);
    __atomic_store_n(&stop, false, __ATOMIC_RELAXED);
    arena_require(pthread_create(&thread, NULL, mutate, NULL) == 0);
    while (now() < last) {
        if (kind == VU_PORT_FD || kind == VU_PORT_PACKET) {
            /* Of these, some have to be finished for this guest. */
            memset(frame, 0, 12);
            if (sums->turns % 8 >= 4)
                arena_put_segments(frame, 12, sums->turns % 8 >= 6 ? 300 : 0);
            frame[12] = sums->turns & 1 ? 2 : 0; /* every other one is not for this guest */
            (void)!send(arena.network, frame, 12 + sums->turns * 7 % 3500, MSG_DONTWAIT);
        }
        arena_kick(&arena, VU_RX);
        arena_kick(&arena, VU_TX);
        vu_worker_turn(arena.worker, 0);
        sums->turns++;
        sums->commands += answer();
        arena_drain(&arena);
        for (int ring = 0; ring < 2; ring++) {
            const struct vu_vring *vring = &pairs[ring]->vring[ring];

            if (vring->state != VU_VRING_RUNNING)
                restart(ring);
            else if (arena.packed)
                arena_require(vring->position < SIZE);
            else
                arena_require(vring->position == vu_read_le16(&arena_used(&arena, ring)->idx));
        }
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    for (int ring = 0; ring < 2; ring++) {
        sums->packets += pairs[ring]->vring[ring].counters.packets;
        for (int i = 0; i < VU_DROP_COUNT; i++)
            sums->drops += pairs[ring]->vring[ring].counters.drops[i];
        sums->filtered += pairs[ring]->vring[ring].counters.drops[VU_DROP_FILTERED];
    }
    if (kind == VU_PORT_SWITCH)
        sums->switched += pairs[VU_RX]->vring[VU_RX].counters.packets;
    end();
}

int main(int argc, char **argv)
{
    static const int kinds[] = {VU_PORT_FD,     VU_PORT_PACKET, VU_PORT_ECHO,   VU_PORT_SINK,
                                VU_PORT_SOURCE, VU_PORT_SWITCH, VU_PORT_CONTROL};
    static const uint64_t instances[] = {0, VU_F_LOG_ALL};
    static const enum vu_poll polls[] = {VU_POLL_EVENT, VU_POLL_BUSY};
    double span = argc > 1 ? atof(argv[1]) : 500;

    arena_open(&arena);
    for (int packed = 0; packed < 2; packed++) {
        struct sums sums = {0};
        uint64_t broken = arena.broken, flipped = flips;

        for (unsigned kind = 0; kind < VU_ARRAY_SIZE(kinds); kind++)
            for (unsigned instance = 0; instance < VU_ARRAY_SIZE(instances); instance++)
                for (unsigned poll = 0; poll < VU_ARRAY_SIZE(polls); poll++)
                    stress(kinds[kind], instances[instance] | (packed ? VU_F_RING_PACKED : 0), polls[poll],
                           span, &sums);
        printf("%s: turns %llu flips %llu packets %llu drops %llu filtered %llu switched %llu commands %llu "
               "broken %llu\n",
               packed ? "packed" : "split", (unsigned long long)sums.turns,
               (unsigned long long)(flips - flipped), (unsigned long long)sums.packets,
               (unsigned long long)sums.drops, (unsigned long long)sums.filtered,
               (unsigned long long)sums.switched, (unsigned long long)sums.commands,
               (unsigned long long)(arena.broken - broken));
    }
    arena_close(&arena);
    return 0;
}
