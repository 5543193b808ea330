/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bursts of frames through one pair, or from one device's into another's, on one thread, so that a simulator
 * can count the instructions of each: a driver that fills its rings, a turn of the worker, and again.
 *
 *   bursts sink|echo|switch split|packed BYTES ROUNDS
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "forward.h"
#include "packed.h"
#include "spin.h"
#include "state.h"

#define SIZE 256 /* entries of a ring */
#define PART 0x2000
#define RINGS (2 * 3 * PART)
#define BUFFER 2048
#define BYTES (RINGS + 2 * SIZE * BUFFER)
#define GPA 0x100000ULL
#define UVA 0x7f0000000000ULL

#define require(condition) ((condition) ? (void)0 : failed(__LINE__, #condition))

static _Noreturn void failed(int line, const char *what)
{
    fprintf(stderr, "line %d: %s does not hold\n", line, what);
    exit(1);
}

static uint8_t *view;
static int kicks[2];
static uint16_t next[2]; /* split: avail->idx; packed: the slot */
static uint16_t seen[2]; /* split: used->idx that was taken */
static bool wrap[2] = {true, true};

static void *part(int ring, int number)
{
    return view + (ring * 3 + number) * PART;
}

static uint64_t buffer(int ring, unsigned slot)
{
    return GPA + RINGS + ((uint64_t)ring * SIZE + slot) * BUFFER;
}

static void offer_split(int ring, uint32_t length)
{
    struct vu_desc *desc = part(ring, 0);
    struct vu_avail *avail = part(ring, 1);

    for (unsigned i = 0; i < SIZE; i++) {
        unsigned slot = next[ring] & (SIZE - 1);

        vu_write_le64(&desc[slot].gpa, buffer(ring, slot));
        vu_write_le32(&desc[slot].length, length);
        vu_write_le16(&desc[slot].flags, ring == VU_RX ? VU_DESC_WRITE : 0);
        vu_write_le16(&avail->ring[slot], (uint16_t)slot);
        next[ring]++;
    }
    vu_release_le16(&avail->idx, next[ring]);
}

static void offer_packed(int ring, uint32_t length)
{
    struct vu_packed_desc *desc = part(ring, 0);

    for (unsigned slot = 0; slot < SIZE; slot++) {
        vu_write_le64(&desc[slot].gpa, buffer(ring, slot));
        vu_write_le32(&desc[slot].length, length);
        vu_write_le16(&desc[slot].id, (uint16_t)slot);
        vu_release_le16(&desc[slot].flags, (uint16_t)((ring == VU_RX ? VU_DESC_WRITE : 0) |
                                                      (wrap[ring] ? VU_PACKED_AVAIL : VU_PACKED_USED)));
    }
    wrap[ring] = !wrap[ring];
}

static void taken(int ring, bool packed)
{
    if (packed) {
        const struct vu_packed_desc *desc = part(ring, 0);
        uint16_t flags = vu_read_le16(&desc[SIZE - 1].flags);

        require(!!(flags & VU_PACKED_USED) == !wrap[ring] && !!(flags & VU_PACKED_AVAIL) == !wrap[ring]);
    } else {
        const struct vu_used *used = part(ring, 2);

        seen[ring] = (uint16_t)(seen[ring] + SIZE);
        require(vu_read_le16(&used->idx) == seen[ring]);
    }
}

static void start(struct vu_pair *pair, int ring)
{
    struct vu_vring_setup setup = {.desc = UVA + (uint64_t)(ring * 3) * PART,
                                   .avail = UVA + (uint64_t)(ring * 3 + 1) * PART,
                                   .used = UVA + (uint64_t)(ring * 3 + 2) * PART,
                                   .size = SIZE,
                                   .base = pair->device->features & VU_F_RING_PACKED ? 0x80008000U : 0,
                                   .kick_fd = kicks[ring] = eventfd(0, EFD_NONBLOCK),
                                   .call_fd = -1,
                                   .err_fd = -1};

    vu_vring_set_enabled(pair, ring, VU_RING_ENABLED);
    require(vu_vring_start(pair, ring, &setup) == VU_OK);
}

/* The frames that are sent again and again: from one station of a switch to another, which is known there. */
static void address(struct vu_switch *lan, struct vu_device *receiver)
{
    static const uint8_t head[VU_ETH_HEADER] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5};

    for (unsigned slot = 0; slot < SIZE; slot++)
        memcpy(view + (buffer(VU_TX, slot) - GPA) + VU_NET_HDR_SIZE, head, sizeof(head));
    vu_fdb_learn(&lan->fdb, 0x020000000002, receiver->member->number,
                 (uint32_t)(vu_spin_clock() / 1000000000));
}

int main(int argc, char **argv)
{
    struct vu_region_setup setup = {.gpa = GPA, .size = BYTES, .uva = UVA, .map_length = BYTES};
    struct vu_worker *worker = vu_worker_new();
    struct vu_switch *lan = vu_switch_new(300, 1);
    struct vu_device *device[2] = {vu_device_new(0),
                                   vu_device_new(1)}; /* by ring; one for both but on a switch */
    struct vu_pair *pair[2];
    struct vu_memory *memory;
    struct vu_counters counters;
    uint32_t failed_region, length, rounds;
    int failed_errno, first, kind;
    bool packed;

    require(argc == 5 && worker && lan && device[0] && device[1]);
    kind = !strcmp(argv[1], "echo")     ? VU_PORT_ECHO
           : !strcmp(argv[1], "switch") ? VU_PORT_SWITCH
                                        : VU_PORT_SINK;
    first = kind == VU_PORT_SINK ? VU_TX : VU_RX;
    packed = !strcmp(argv[2], "packed");
    length = (uint32_t)atoi(argv[3]) + VU_NET_HDR_SIZE;
    rounds = (uint32_t)atoi(argv[4]);
    setup.fd = memfd_create("guest", MFD_CLOEXEC);
    require(setup.fd >= 0 && ftruncate(setup.fd, BYTES) == 0);
    view = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, setup.fd, 0);
    memory = vu_memory_map(&setup, 1, &failed_region, &failed_errno);
    require(view != MAP_FAILED && memory);

    vu_worker_pause(worker);
    for (int ring = VU_RX; ring <= VU_TX; ring++) {
        vu_memory_get(memory);
        vu_device_set_memory(device[ring], memory);
        vu_device_set_features(device[ring],
                               VU_F_VERSION_1 | VU_F_MRG_RXBUF | (packed ? VU_F_RING_PACKED : 0));
        if (kind == VU_PORT_SWITCH)
            require(vu_switch_join(lan, device[ring]));
        pair[ring] =
            ring == VU_TX && kind != VU_PORT_SWITCH ? pair[VU_RX] : vu_pair_new(device[ring], worker, 0);
        require(pair[ring] && vu_pair_set_port(pair[ring], kind, -1, 0, 0) == VU_OK);
    }
    if (kind == VU_PORT_SWITCH)
        address(lan, device[VU_RX]);
    start(pair[VU_RX], VU_RX);
    start(pair[VU_TX], VU_TX);
    vu_worker_resume(worker);
    for (uint32_t round = 0; round < rounds; round++) {
        for (int ring = first; ring <= VU_TX; ring++) {
            if (packed)
                offer_packed(ring, ring == VU_RX ? BUFFER : length);
            else
                offer_split(ring, ring == VU_RX ? BUFFER : length);
            require(eventfd_write(kicks[ring], 1) == 0);
        }
        while (vu_worker_turn(worker, 0) & VU_TURN_MORE)
            ;
        for (int ring = first; ring <= VU_TX; ring++)
            taken(ring, packed);
    }
    vu_vring_counters(pair[VU_TX], VU_TX, &counters);
    require(counters.packets == (uint64_t)rounds * SIZE);
    printf("frames %lu\n", (unsigned long)counters.packets);
    return 0;
}
