/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The input is a list of what a hostile guest does between turns of a worker that waits in any of the ways,
 * on rings of either format.  After each turn: the used index has moved by no more than what was available,
 * nothing was written but used rings (packed: but the half of a descriptor that is) and what a writable
 * descriptor names, and nothing is left fetched.  The sanitizers see the rest.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "arena.h"

#define MOST_OPERATIONS 200
#define MOST_TURNS 64
#define MOST_LOOKS 3 /* turns of a worker that polls: it never says that it has nothing left */
#define MOST_SWAPS 2 /* twelve system calls each */
#define PLAIN_FEATURES \
    (VU_F_CSUM | VU_F_HOST_TSO4 | VU_F_HOST_TSO6 | VU_F_HOST_UFO | VU_F_HOST_USO | VU_F_HOST_ECN)
#define GUEST_FEATURES (VU_F_GUEST_CSUM | VU_F_GUEST_TSO4 | VU_F_GUEST_TSO6 | VU_F_GUEST_UFO | VU_F_GUEST_ECN)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct arena arena;
static uint8_t before[ARENA_FILE_BYTES];
static int32_t steps[ARENA_FILE_BYTES + 1];
/* For the closing line: how often the writes were held against the descriptors, and how often not. */
static uint64_t checked, unchecked;
static int swaps;

struct input {
    const uint8_t *at;
    size_t left;
};

static uint8_t next8(struct input *input)
{
    if (!input->left)
        return 0;
    input->left--;
    return *input->at++;
}

static uint16_t next16(struct input *input)
{
    uint8_t low = next8(input);

    return (uint16_t)(low | next8(input) << 8);
}

static void farewell(void)
{
    printf("held %llu turns against their descriptors, %llu not\n", (unsigned long long)checked,
           (unsigned long long)unchecked);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    arena_open(&arena);
    atexit(farewell);
    return 0;
}

static uint64_t choose_address(struct input *input)
{
    uint8_t choice = next8(input);
    uint16_t offset = next16(input);

    switch (choice & 15) {
    case 10:
        return ARENA_BORDER - offset % 128;
    case 11:
        return ARENA_FAR + offset % 0x1000;
    case 12:
        return ARENA_GPA + offset; /* rings and tables */
    case 13:
        return ARENA_HOLE - offset % 64 + 32;
    case 14:
        return -(uint64_t)offset;
    case 15:
        return ARENA_FAR + 0x1000 - offset % 64;
    default:
        return ARENA_GPA + ARENA_BUFFERS + offset;
    }
}

static void choose_desc(struct input *input, struct vu_desc *desc)
{
    uint64_t gpa = choose_address(input);
    uint32_t length = next16(input);
    uint8_t flags = next8(input);
    uint8_t next = next8(input);

    if (flags & VU_DESC_INDIRECT && flags & 8) {
        gpa = ARENA_GPA + ARENA_TABLES + (flags >> 6) * ARENA_TABLE_BYTES + (flags & 16 ? length & 15 : 0);
        length = 16 * (length % 300);
    } else if (flags & 16) {
        length %= 100;
    } else if (length >= 0xfff0) {
        length |= 0xffff0000;
    }
    arena_write(&arena, desc, gpa, length, flags & 7, flags & 32 ? (uint16_t)(next << 8) : next);
}

/* What the back-end may write: the ranges of every writable descriptor that a receive chain could reach. */
struct writable {
    bool self_modifying; /* one of them covers rings or tables: then there is no saying */
};

static uint16_t flags_of(const struct vu_desc *desc)
{
    const struct vu_packed_desc *packed = (const void *)desc;

    return vu_read_le16(arena.packed ? &packed->flags : &desc->flags);
}

static void allow(struct writable *writable, const struct vu_desc *desc)
{
    uint64_t gpa = vu_read_le64(&desc->gpa), length = vu_read_le32(&desc->length), room;

    if (!(flags_of(desc) & VU_DESC_WRITE))
        return;
    while (length) {
        int64_t at = arena_offset(gpa, &room);
        uint64_t here = VU_MIN(length, room);

        if (at < 0)
            return;
        if (at < ARENA_BUFFERS)
            writable->self_modifying = true;
        steps[at]++;
        steps[(uint64_t)at + here]--;
        gpa += here;
        length -= here;
    }
}

/* By the memory as it was before the turn. */
static struct writable allow_all(void)
{
    struct writable writable = {false};

    memset(steps, 0, sizeof(steps));
    for (uint32_t i = 0; i < arena.size[VU_RX]; i++) {
        const struct vu_desc *desc = (const struct vu_desc *)(const void *)before + i;

        if (flags_of(desc) & VU_DESC_INDIRECT) {
            uint64_t gpa = vu_read_le64(&desc->gpa), length = vu_read_le32(&desc->length);

            for (uint64_t done = 0; done + 16 <= length && done < 16 * 1024; done += 16) {
                struct vu_desc entry;
                uint64_t room;
                bool whole = true;

                for (unsigned byte = 0; byte < sizeof(entry); byte++) {
                    int64_t at = arena_offset(gpa + done + byte, &room);

                    if (at < 0)
                        whole = false;
                    else
                        ((uint8_t *)&entry)[byte] = before[at];
                }
                if (whole)
                    allow(&writable, &entry);
            }
        } else {
            allow(&writable, desc);
        }
    }
    return writable;
}

/* What the device may write of a ring itself. */
static bool is_used(size_t at)
{
    uint32_t size = arena.size[at / ARENA_RING_BYTES];

    at %= ARENA_RING_BYTES;
    if (arena.packed)
        return (at < 16 * (size_t)size && at % 16 >= 8) || (at >= ARENA_USED && at < ARENA_USED + 4);
    return at >= ARENA_USED && at < ARENA_USED + 6 + 8 * (size_t)size;
}

static void hold_against_descriptors(void)
{
    int32_t level = 0;

    for (size_t at = 0; at < ARENA_FILE_BYTES; at++) {
        level += steps[at];
        arena_require(before[at] == arena.view[at] || level > 0 || (at < ARENA_TABLES && is_used(at)));
    }
}

/* Chains that may be taken: those shown now, and those shown before that the guest would like to take back.
   An index that is too far ahead is not when those shown before have been taken first. */
static uint16_t pending(int ring)
{
    uint16_t used = vu_read_le16(&arena_used(&arena, ring)->idx);
    uint16_t count = (uint16_t)(vu_read_le16(&arena_avail(&arena, ring)->idx) - used);
    uint16_t seen = (uint16_t)(arena.pair->vring[ring].avail_seen - used);

    seen = seen > arena.size[ring] ? 0 : seen;
    if (count > arena.size[ring] && (!seen || (uint16_t)(count - seen) > arena.size[ring]))
        return seen;
    return count > seen ? count : seen;
}

static void turn(void)
{
    const int most_turns = arena.worker->poll == VU_POLL_EVENT ? MOST_TURNS : MOST_LOOKS;
    uint32_t result;
    int turns = 0;

    do {
        uint16_t most[2] = {pending(VU_RX), pending(VU_TX)};
        uint16_t used[2] = {vu_read_le16(&arena_used(&arena, VU_RX)->idx),
                            vu_read_le16(&arena_used(&arena, VU_TX)->idx)};

        memcpy(before, arena.view, sizeof(before));
        result = vu_worker_turn(arena.worker, 0);
        if (memcmp(before, arena.view, sizeof(before)) != 0) {
            if (allow_all().self_modifying) {
                unchecked++;
            } else {
                checked++;
                hold_against_descriptors();
                for (int ring = 0; ring < 2; ring++) {
                    const struct vu_vring *vring = &arena.pair->vring[ring];
                    uint16_t now = vu_read_le16(&arena_used(&arena, ring)->idx);

                    if (arena.packed) {
                        arena_require(vring->position < arena.size[ring]);
                        continue;
                    }
                    arena_require((uint16_t)(now - used[ring]) <= most[ring]);
                    arena_require(vring->state != VU_VRING_RUNNING || vring->position == now);
                }
            }
        }
        arena_require(!arena.pair->device->faulted);
        arena_drain(&arena);
        if (arena_answer(&arena))
            result |= VU_TURN_MORE;
    } while (result & VU_TURN_MORE && ++turns < most_turns);
}

static void operate(struct input *input)
{
    uint8_t operation = next8(input);
    int ring = operation >> 7;
    uint8_t frame[12 + 4096];
    size_t length;

    switch (operation % 16) {
    case 0:
    case 1:
    case 2:
        choose_desc(input, &arena_desc(&arena, ring)[next8(input) % ARENA_RING_SIZE_MAX]);
        break;
    case 3:
    case 4:
        choose_desc(input, &arena_table(&arena, operation >> 4)[next8(input)]);
        break;
    case 5:
    case 6:
        arena_offer(&arena, ring, next8(input));
        break;
    case 7:
        for (unsigned i = next8(input), head = next8(input); i; i--)
            arena_offer(&arena, ring, (uint16_t)head);
        break;
    case 8:
        if (arena.packed)
            vu_write_le16(&arena_packed(&arena, ring)[next8(input)].flags, next16(input));
        else
            vu_write_le16(&arena_avail(&arena, ring)->idx, next16(input));
        break;
    case 9:
        vu_write_le16(&arena_avail(&arena, ring)->ring[next8(input)], next16(input));
        vu_write_le16(&arena_avail(&arena, ring)->flags, next8(input) & 1);
        break;
    case 10: { /* a header, where a descriptor of the buffers would find it */
        uint8_t *at = arena.view + ARENA_BUFFERS + next16(input);

        for (int i = 0; i < 12; i++)
            at[i] = next8(input);
        break;
    }
    case 11:
    case 12:
        arena_kick(&arena, VU_RX);
        arena_kick(&arena, VU_TX);
        turn();
        break;
    case 13: /* a frame from the network */
        length = next16(input) % sizeof(frame);
        memset(frame, 0x5a, sizeof(frame));
        for (int i = 0; i < 10; i++)
            frame[i] = operation & 16 ? next8(input) : 0;
        if (operation & 32) {
            arena_put_segments(frame, arena.pair->port_header, next8(input));
            if (operation & 64)
                frame[next8(input) % 66] = next8(input);
        }
        (void)!send(arena.network, frame, length, MSG_DONTWAIT);
        break;
    case 14:
        vu_worker_pause(arena.worker);
        if (operation & 16 && operation & 32)
            vu_iotlb_invalidate(arena.device, 0, UINT64_MAX);
        else if (operation & 16)
            vu_iotlb_invalidate(arena.device, choose_address(input), UINT64_MAX - next16(input));
        else
            vu_vring_set_enabled(arena.pair, ring, (enum vu_ring_enabled)(next8(input) % 3));
        vu_worker_resume(arena.worker);
        break;
    default:
        if (!(operation & 16))
            arena_start(&arena, ring);
        else if (swaps++ < MOST_SWAPS)
            arena_swap_memory(&arena);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    uint8_t choice = next8(&input), kind = next8(&input);
    uint64_t features = (choice & 1 ? VU_F_EVENT_IDX : 0) | (choice & 2 ? VU_F_INDIRECT_DESC : 0) |
                        (choice & 4 ? VU_F_MRG_RXBUF : 0) | (choice & 8 ? VU_F_VERSION_1 : 0) |
                        (choice & 16 ? PLAIN_FEATURES : 0) | (choice & 32 ? GUEST_FEATURES : 0) |
                        (choice & 64 ? VU_F_ACCESS_PLATFORM : 0) | (choice & 128 ? VU_F_RING_PACKED : 0);
    uint8_t rest = next8(&input), port = kind % 5, how = rest / 27 % 3;

    swaps = 0;
    if (port == VU_PORT_FD && how)
        port = VU_PORT_PACKET;
    arena_begin(&arena, features | (how ? VU_F_IN_ORDER : 0), port, 1U << (kind >> 4) % 9, 1U << rest % 9);
    if (how == 2 && port == VU_PORT_PACKET) {
        vu_worker_pause(arena.worker);
        arena_require(vu_pair_set_port(arena.pair, port, arena.port, 1, VU_NET_HDR_LEGACY_SIZE) == VU_OK);
        vu_worker_resume(arena.worker);
    }
    arena.worker->poll = (enum vu_poll)(rest / 9 % 3);
    arena_start(&arena, VU_RX);
    arena_start(&arena, VU_TX);
    for (int i = 0; i < MOST_OPERATIONS && input.left; i++)
        operate(&input);
    arena_kick(&arena, VU_RX);
    arena_kick(&arena, VU_TX);
    turn();
    arena_end(&arena);
    return 0;
}
