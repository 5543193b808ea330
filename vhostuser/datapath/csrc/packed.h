/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The packed format (virtio 1.2, 2.8): the hot functions, always inlined into a burst loop.
 * Rule 2 of ring.h makes it simple: between turns next available and next used slot are one, `position` with
 * the lap's bit `wrap`.  Nothing of a chain is overwritten before publish, so a process that is killed in a
 * burst leaves the descriptors as the driver wrote them.
 */
#ifndef VU_PACKED_H
#define VU_PACKED_H

#include "chain.h"
#include "marking.h"
#include "tracking.h"

/* virtio 1.2, 2.8.10: what each side's event area asks for. */
#define VU_EVENT_ENABLE 0
#define VU_EVENT_DISABLE 1
#define VU_EVENT_AT 2

static vu_always_inline bool vu_packed_is_available(uint16_t flags, bool wrap)
{
    return !!(flags & VU_PACKED_AVAIL) == wrap && !!(flags & VU_PACKED_USED) != wrap;
}

/* The next slot; the lap's bit flips behind the last. */
static vu_always_inline void vu_packed_advance(const struct vu_vring *vring, uint16_t *slot, bool *wrap,
                                               uint32_t by)
{
    uint32_t next = *slot + by;

    if (next >= vring->size) {
        next -= vring->size;
        *wrap = !*wrap;
    }
    *slot = (uint16_t)next;
}

static vu_always_inline struct vu_desc_copy vu_packed_read(const struct vu_packed_desc *desc)
{
    return (struct vu_desc_copy){
        .gpa = vu_read_le64(&desc->gpa),
        .length = vu_read_le32(&desc->length),
        .flags = vu_read_le16(&desc->flags),
        .next = vu_read_le16(&desc->id),
    };
}

/* Walks the chain at vring->next, whose first descriptor was read. */
int vu_packed_walk_on(bool general, struct vu_vring *vring, const struct vu_memory *memory, int direction,
                      struct vu_desc_copy desc, struct vu_pieces *pieces, struct vu_chain *chain);

/* The driver writes the first descriptor's flags last: once they say available, the whole chain is there. */
static vu_always_inline int vu_packed_walk(bool general, struct vu_vring *vring,
                                           const struct vu_memory *memory, int direction,
                                           struct vu_pieces *pieces, struct vu_chain *chain)
{
    struct vu_desc_copy desc = vu_packed_read(&vring->packed[vring->next]);
    int result;

    if (vu_unlikely(!vu_chain_is_single(desc.flags, direction)))
        return vu_packed_walk_on(general, vring, memory, direction, desc, pieces, chain);
    chain->head = vring->next; /* for the log, as long as the chain is not taken */
    chain->slots = 1;
    result = vu_chain_take_single(general, vring, memory, direction, &desc, pieces, chain);
    if (vu_unlikely(result))
        return result;
    chain->head = desc.next;
    vu_packed_advance(vring, &vring->next, &vring->next_wrap, 1);
    vring->fetched_slots++;
    return VU_OK;
}

static vu_always_inline int vu_packed_fetch(bool general, struct vu_vring *vring,
                                            const struct vu_memory *memory, uint16_t k, int direction,
                                            struct vu_pieces *pieces, struct vu_chain *chain)
{
    if (k == 0) {
        vring->next = vring->position;
        vring->next_wrap = vring->wrap;
        vring->fetched_slots = 0;
    }
    if (general && vu_unlikely(k < vring->resubmit_left))
        return vu_inflight_fetch_packed(vring, memory, k, direction, pieces, chain);
    /* Pairs with the driver's release of these flags after the rest of the chain. */
    if (!vu_packed_is_available(vu_acquire_le16(&vring->packed[vring->next].flags), vring->next_wrap) ||
        vu_unlikely(vring->fetched_slots >= vring->size))
        return VU_FETCH_EMPTY;
    return vu_packed_walk(general, vring, memory, direction, pieces, chain);
}

static vu_always_inline uint32_t vu_packed_fetch_run(struct vu_vring *vring, const struct vu_memory *memory,
                                                     uint32_t most, int direction, struct vu_pieces *pieces,
                                                     struct vu_chain *chains, uint64_t *held)
{
    const uint16_t mask = VU_PACKED_AVAIL | VU_PACKED_USED | VU_DESC_NEXT | VU_DESC_INDIRECT | VU_DESC_WRITE;
    const struct vu_packed_desc *table = vring->packed;
    const uint32_t size = vring->size;
    struct vu_run run = {.memory = memory};
    uint32_t slot = vring->position, k;
    bool wrap = vring->wrap;
    uint16_t wanted = wrap ? VU_PACKED_AVAIL : VU_PACKED_USED;
    uint64_t bytes = 0;

    wanted |= direction == VU_RX ? VU_DESC_WRITE : 0;
    most = VU_MIN(most, size);
    vu_run_in(&run, &memory->regions[vring->region_hint]);
    for (k = 0; k < most; k++) {
        const struct vu_packed_desc *desc = &table[slot];
        uint32_t length;

        /* Pairs with the driver's release of these flags after the rest of the chain. */
        if (vu_unlikely((vu_acquire_le16(&desc->flags) & mask) != wanted))
            break;
        length = vu_read_le32(&desc->length);
        if (vu_unlikely(!vu_run_take(&run, vring, k, vu_read_le16(&desc->id), vu_read_le64(&desc->gpa),
                                     length, direction, pieces, chains)))
            break;
        bytes += length;
        if (vu_unlikely(++slot == size)) {
            slot = 0;
            wrap = !wrap;
            wanted ^= VU_PACKED_AVAIL | VU_PACKED_USED;
        }
    }
    pieces->used = pieces->walked = k;
    vring->next = (uint16_t)slot;
    vring->next_wrap = wrap;
    vring->fetched_slots = k;
    *held += bytes;
    return k;
}

/* The lap's bits in a used descriptor, and all of it but its address, which stays. */
#define VU_PACKED_LAP ((uint64_t)(VU_PACKED_AVAIL | VU_PACKED_USED) << 48)

static vu_always_inline uint64_t vu_packed_used(const struct vu_chain *chain, uint64_t lap)
{
    return lap | chain->written | (uint64_t)chain->head << 32 |
           (chain->written ? (uint64_t)VU_DESC_WRITE << 48 : 0);
}

static vu_always_inline void vu_packed_publish(struct vu_vring *vring, const struct vu_chain *chains,
                                               uint16_t n)
{
    struct vu_packed_desc *table = vring->packed;
    const uint32_t size = vring->size;
    const uint32_t skipped = vring->batches ? n - 1u : 0;
    uint32_t slot = vring->position + chains[0].slots;
    uint64_t lap = vring->wrap ? VU_PACKED_LAP : 0;
    /* One for all is where the first one's would be, and names the last (virtio 1.2, 2.8.9). */
    const uint64_t first = vu_packed_used(&chains[skipped], lap);

    for (uint32_t k = 1; k <= skipped; k++)
        slot += chains[k].slots;
    for (uint32_t k = 1 + skipped; k < n; k++) {
        if (vu_unlikely(slot >= size)) {
            slot -= size;
            lap ^= VU_PACKED_LAP;
        }
        vu_write_le64(&table[slot].used, vu_packed_used(&chains[k], lap));
        slot += chains[k].slots;
    }
    if (slot >= size) {
        slot -= size;
        lap ^= VU_PACKED_LAP;
    }
    /* Pairs with the driver's acquire of these flags: who sees the first chain used sees all that is behind
       it, buffers included. */
    vu_release_le64(&table[vring->position].used, first);
    vring->position = (uint16_t)slot;
    vring->wrap = lap != 0;
}

static vu_always_inline bool vu_packed_wants_call(struct vu_vring *vring)
{
    uint16_t now = vring->position, before = vring->signalled, at;
    bool valid = vring->signalled_valid;
    uint32_t event, flags;

    /* Used flags first, then the driver's wish: pairs with the driver's fence between writing its event area
       and looking at the ring again. */
    vu_full_fence();
    event = vu_read_le32(vring->driver_event); /* offset and flags belong together */
    flags = event >> 16 & 3;
    vring->signalled = now;
    vring->signalled_valid = true;
    if (flags != VU_EVENT_AT || !vring->event_idx)
        return flags != VU_EVENT_DISABLE;
    if (vu_unlikely(!valid))
        return true;
    at = event & 0x7fff;
    /* Slots as numbers that only grow: what lies in the lap before is `size` less. */
    if (now <= before)
        before = (uint16_t)(before - vring->size);
    if (!!(event & 0x8000) != vring->wrap)
        at = (uint16_t)(at - vring->size);
    return (uint16_t)(now - at - 1) < (uint16_t)(now - before);
}

static vu_always_inline void vu_packed_arm(struct vu_vring *vring)
{
    uint32_t at = vring->next | (uint32_t)vring->next_wrap << 15;

    vring->kick_armed = true;
    vu_write_le32(vring->device_event, vring->event_idx ? at | VU_EVENT_AT << 16 : VU_EVENT_ENABLE << 16);
    /* Wish first, then the caller's last look at the ring: pairs with the driver's fence between its flags
       and its reading of our event area.  Without it a kick is lost for ever. */
    vu_full_fence();
}

static vu_always_inline bool vu_packed_grown(struct vu_vring *vring)
{
    return vu_packed_is_available(vu_acquire_le16(&vring->packed[vring->next].flags), vring->next_wrap);
}

static vu_always_inline bool vu_packed_disarm(struct vu_vring *vring)
{
    if (!vring->kick_armed)
        return false;
    vring->kick_armed = false;
    vu_write_le32(vring->device_event, (uint32_t)VU_EVENT_DISABLE << 16);
    return true;
}

#define VU_PACKED_OPS                                                                           \
    .fetch = vu_packed_fetch, .publish = vu_packed_publish, .wants_call = vu_packed_wants_call, \
    .arm = vu_packed_arm, .grown = vu_packed_grown, .disarm = vu_packed_disarm

static const struct vu_ring_ops vu_packed_ops = {VU_PACKED_OPS, .fetch_run = vu_packed_fetch_run};
static const struct vu_ring_ops vu_packed_general_ops = {VU_PACKED_OPS,
                                                         .general = true,
                                                         .mark_used = vu_log_mark_packed_used,
                                                         .mark_wish = vu_log_mark_packed_wish,
                                                         .before_publish = vu_inflight_before_packed,
                                                         .after_publish = vu_inflight_after_packed};

#endif
