/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest for the ring walker, without Python: its memory in one memfd, two rings, a port.  It writes what
 * no driver would, and knows by its own arithmetic what the back-end may have written.
 */
#ifndef ARENA_H
#define ARENA_H

#include <stdbool.h>
#include <stdint.h>

#include "state.h"

/* Places in the file.  A part of the ring never moves; tables and buffers are where descriptors point. */
#define ARENA_RING_BYTES 0x4000
#define ARENA_AVAIL 0x1000
#define ARENA_USED 0x2000
#define ARENA_TABLES 0x8000
#define ARENA_TABLE_BYTES 0x1000
#define ARENA_TABLE_COUNT 4
#define ARENA_BUFFERS 0x10000
#define ARENA_FILE_BYTES 0x34000
#define ARENA_RING_SIZE_MAX 256

/* Three regions: the second adjoins the first for the guest, but not in the file. */
#define ARENA_GPA 0x100000ULL
#define ARENA_BORDER (ARENA_GPA + 0x28000)
#define ARENA_FAR (1ULL << 32)
#define ARENA_HOLE (ARENA_GPA + 0x30000)
#define ARENA_UVA 0x7f0000000000ULL

struct arena {
    int fd;
    uint8_t *view; /* the driver's mapping */
    struct vu_worker *worker;
    struct vu_device *device;
    struct vu_pair *pair;
    bool packed;
    uint32_t size[2];
    /* Packed: where the driver offers next, and the lap's bit there. */
    uint32_t slot[2];
    bool wrap[2];
    int kick[2];
    int call[2];
    int err[2];
    struct vu_memory *memory; /* the present table: one reference of ours */
    int port;                 /* the device's end */
    int network;              /* ours */
    uint64_t broken;
    uint64_t faulted;
};

void arena_open(struct arena *arena);
/* A device with `features`, both rings stopped and memory zero. */
void arena_begin(struct arena *arena, uint64_t features, int kind, uint32_t rx_size, uint32_t tx_size);
void arena_end(struct arena *arena);
void arena_close(struct arena *arena);
/* Maps the table anew and swaps it in. */
void arena_swap_memory(struct arena *arena);
void arena_start(struct arena *arena, int ring);
void arena_kick(struct arena *arena, int ring);
/* Behind an IOMMU: guest addresses are I/O addresses, and the rings' user addresses as well.  Answers each
   miss with its page, or with a refusal where there is none; whether there was one. */
bool arena_answer(struct arena *arena);
/* A frame of the network that a guest without offloads has to have finished: TCP over IPv4, to be cut into
   segments of `size`, or to have its checksum completed where that is 0.  `at` has room for header_size and 54
   bytes, and what is behind them is its payload. */
void arena_put_segments(uint8_t *at, uint32_t header_size, uint16_t size);
/* Takes what was reported and what the port sent. */
void arena_drain(struct arena *arena);

/* The file offset of a guest address, or -1.  *room: bytes to the region's end. */
int64_t arena_offset(uint64_t gpa, uint64_t *room);

static inline struct vu_desc *arena_desc(struct arena *arena, int ring)
{
    return (struct vu_desc *)(void *)(arena->view + ring * ARENA_RING_BYTES);
}

static inline struct vu_desc *arena_table(struct arena *arena, unsigned table)
{
    return (struct vu_desc *)(void *)(arena->view + ARENA_TABLES +
                                      (table % ARENA_TABLE_COUNT) * ARENA_TABLE_BYTES);
}

static inline struct vu_avail *arena_avail(struct arena *arena, int ring)
{
    return (struct vu_avail *)(void *)(arena->view + ring * ARENA_RING_BYTES + ARENA_AVAIL);
}

static inline struct vu_used *arena_used(struct arena *arena, int ring)
{
    return (struct vu_used *)(void *)(arena->view + ring * ARENA_RING_BYTES + ARENA_USED);
}

static inline void arena_write_desc(struct vu_desc *desc, uint64_t gpa, uint32_t length, uint16_t flags,
                                    uint16_t next)
{
    vu_write_le64(&desc->gpa, gpa);
    vu_write_le32(&desc->length, length);
    vu_write_le16(&desc->flags, flags);
    vu_write_le16(&desc->next, next);
}

static inline struct vu_packed_desc *arena_packed(struct arena *arena, int ring)
{
    return (struct vu_packed_desc *)(void *)(arena->view + ring * ARENA_RING_BYTES);
}

/* The same fields where the packed format has them; whether it is available stays as it is. */
static inline void arena_write_packed(struct vu_packed_desc *desc, uint64_t gpa, uint32_t length,
                                      uint16_t flags, uint16_t id)
{
    vu_write_le64(&desc->gpa, gpa);
    vu_write_le32(&desc->length, length);
    vu_write_le16(&desc->id, id);
    vu_write_le16(&desc->flags, flags | (vu_read_le16(&desc->flags) & (VU_PACKED_AVAIL | VU_PACKED_USED)));
}

/* A descriptor of a ring or of a table, in the format of the rings. */
static inline void arena_write(struct arena *arena, struct vu_desc *desc, uint64_t gpa, uint32_t length,
                               uint16_t flags, uint16_t next)
{
    if (arena->packed)
        arena_write_packed((struct vu_packed_desc *)(void *)desc, gpa, length, flags, next);
    else
        arena_write_desc(desc, gpa, length, flags, next);
}

/* Shows `head` as the next chain; packed: whatever stands in the next slot, with that id. */
static inline void arena_offer_packed(struct arena *arena, int ring, uint16_t id)
{
    struct vu_packed_desc *desc = &arena_packed(arena, ring)[arena->slot[ring]];
    uint16_t flags = vu_read_le16(&desc->flags) & (uint16_t) ~(VU_PACKED_AVAIL | VU_PACKED_USED);

    vu_write_le16(&desc->id, id);
    vu_release_le16(&desc->flags, flags | (arena->wrap[ring] ? VU_PACKED_AVAIL : VU_PACKED_USED));
    if (++arena->slot[ring] >= arena->size[ring]) {
        arena->slot[ring] = 0;
        arena->wrap[ring] = !arena->wrap[ring];
    }
}

static inline void arena_offer_split(struct arena *arena, int ring, uint16_t head)
{
    struct vu_avail *avail = arena_avail(arena, ring);
    uint16_t idx = vu_read_le16(&avail->idx);

    vu_write_le16(&avail->ring[idx & (arena->size[ring] - 1)], head);
    vu_release_le16(&avail->idx, (uint16_t)(idx + 1));
}

static inline void arena_offer(struct arena *arena, int ring, uint16_t head)
{
    if (arena->packed)
        arena_offer_packed(arena, ring, head);
    else
        arena_offer_split(arena, ring, head);
}

/* Whether the driver's next slot has come back. */
static inline bool arena_has_room(struct arena *arena, int ring)
{
    uint16_t bits = VU_PACKED_AVAIL | VU_PACKED_USED, flags;

    if (!arena->packed)
        return (uint16_t)(vu_read_le16(&arena_avail(arena, ring)->idx) -
                          vu_read_le16(&arena_used(arena, ring)->idx)) < arena->size[ring] / 2;
    flags = vu_read_le16(&arena_packed(arena, ring)[arena->slot[ring]].flags) & bits;
    return flags == (arena->wrap[ring] ? 0 : bits);
}

/* Ends the process with a message; `assert` that NDEBUG cannot take away. */
#define arena_require(condition) ((condition) ? (void)0 : arena_failed(__FILE__, __LINE__, #condition))
_Noreturn void arena_failed(const char *file, int line, const char *what);

#endif
