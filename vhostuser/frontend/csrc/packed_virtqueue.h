/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's end of a packed ring (virtio 1.x, 2.8), hot half.  Private to C.
 *
 * A chain's buffer id is its slot of the pool; its descriptors are the next ones of the ring.
 */
#ifndef VU_PACKED_VIRTQUEUE_H
#define VU_PACKED_VIRTQUEUE_H

#include "virtqueue.h"

#define VU_PACKED_AVAIL 0x80U
#define VU_PACKED_USED 0x8000U
#define VU_PACKED_STATE (VU_PACKED_AVAIL | VU_PACKED_USED)
#define VU_PACKED_WRAP 0x8000U
#define VU_EVENT_ENABLE 0U
#define VU_EVENT_DISABLE 1U
#define VU_EVENT_DESC 2U

struct vu_packed_desc {
    vu_le64 gpa;
    vu_le32 length;
    vu_le16 buffer_id;
    vu_le16 flags;
};

/* The state bits of a descriptor made available, or given back, with this wrap counter (2.8.1). */
static vu_always_inline uint32_t vu_packed_available(uint16_t wrap)
{
    return wrap ? VU_PACKED_AVAIL : VU_PACKED_USED;
}

static vu_always_inline uint32_t vu_packed_used(uint16_t wrap)
{
    return wrap ? VU_PACKED_STATE : 0;
}

/* `count` descriptors on, at most once around. */
static vu_always_inline void vu_packed_move(const struct vu_virtqueue *queue, uint16_t *slot, uint16_t *wrap,
                                            uint32_t count)
{
    const uint32_t at = *slot + count;
    const int around = at >= queue->size;
    *slot = (uint16_t)(around ? at - queue->size : at);
    *wrap ^= (uint16_t)around;
}

static vu_always_inline void vu_packed_body(struct vu_packed_desc *desc, uint64_t gpa, uint32_t length,
                                            uint32_t buffer_id)
{
    vu_write_le64(&desc->gpa, gpa);
    vu_write_le32(&desc->length, length);
    vu_write_le16(&desc->buffer_id, (uint16_t)buffer_id);
}

/* One descriptor at our place in the ring.  The flags of the first one since the last publication are held
 * back: the device goes no further than it. */
static vu_always_inline void vu_packed_put(struct vu_virtqueue *queue, uint64_t gpa, uint32_t length,
                                           uint32_t buffer_id, uint32_t flags)
{
    struct vu_packed_ring *ring = &queue->packed;
    struct vu_packed_desc *desc = &ring->desc[ring->avail_slot];
    const uint16_t all = (uint16_t)(flags | vu_packed_available(ring->avail_wrap));

    vu_packed_body(desc, gpa, length, buffer_id);
    if (ring->added == 0) {
        ring->held_slot = ring->avail_slot;
        ring->held_flags = all;
    } else {
        vu_write_le16(&desc->flags, all);
    }
    ring->added++;
    vu_packed_move(queue, &ring->avail_slot, &ring->avail_wrap, 1);
}

/* A chain through its slot's indirect table: there only WRITE counts, and the order (2.8.7). */
static vu_always_inline void vu_packed_lend_table(struct vu_virtqueue *queue, uint16_t slot, uint32_t length)
{
    const uint16_t write = (uint16_t)vu_virtqueue_write_flag(queue);
    const uint32_t bytes = vu_virtqueue_table_bytes(queue);
    const uint64_t at = (uint64_t)slot * bytes;
    struct vu_packed_desc *row = (struct vu_packed_desc *)(void *)(queue->tables + at);
    uint64_t gpa = vu_virtqueue_buffer_gpa(queue, slot);

    for (uint32_t piece = 0; piece < queue->segments; piece++) {
        const uint32_t cut = vu_virtqueue_cut(queue, length, piece);
        vu_packed_body(&row[piece], gpa, cut, 0);
        vu_write_le16(&row[piece].flags, write);
        gpa += cut;
    }
    vu_packed_put(queue, queue->tables_gpa + at, bytes, slot, VU_DESC_INDIRECT);
}

static vu_always_inline void vu_packed_lend_rows(struct vu_virtqueue *queue, uint16_t slot, uint32_t length)
{
    const uint32_t write = vu_virtqueue_write_flag(queue);
    uint64_t gpa = vu_virtqueue_buffer_gpa(queue, slot);

    for (uint32_t piece = 0; piece < queue->segments; piece++) {
        const uint32_t cut = vu_virtqueue_cut(queue, length, piece);
        const uint32_t more = piece + 1 < queue->segments ? VU_DESC_NEXT : 0;
        vu_packed_put(queue, gpa, cut, slot, write | more);
        gpa += cut;
    }
}

static vu_always_inline void vu_packed_lend(struct vu_virtqueue *queue, uint16_t slot, uint32_t length)
{
    if ((queue->flags & VU_VIRTQUEUE_INDIRECT) != 0) {
        vu_packed_lend_table(queue, slot, length);
    } else if (vu_likely(queue->segments == 1)) {
        vu_packed_put(queue, vu_virtqueue_buffer_gpa(queue, slot), length, slot,
                      vu_virtqueue_write_flag(queue));
    } else {
        vu_packed_lend_rows(queue, slot, length);
    }
    vu_virtqueue_lent(queue, slot);
}

static vu_always_inline int vu_packed_wants_kick(const struct vu_virtqueue *queue, uint16_t added)
{
    const struct vu_packed_ring *ring = &queue->packed;
    const uint32_t event = vu_read_le32(ring->device_event); /* both halves in one load (2.8.10) */
    const uint32_t flags = event >> 16;

    if (flags == VU_EVENT_DESC && (queue->flags & VU_VIRTQUEUE_EVENT_IDX) != 0) {
        const uint32_t slot = event & (VU_PACKED_WRAP - 1);
        const int other_lap = ((event & VU_PACKED_WRAP) != 0) != ring->avail_wrap;
        return vu_need_event((uint16_t)(slot - (other_lap ? queue->size : 0)), ring->avail_slot,
                             (uint16_t)(ring->avail_slot - added));
    }
    /* Flags that make no sense get a kick: it never hurts. */
    return flags != VU_EVENT_DISABLE;
}

static vu_always_inline void vu_packed_publish(struct vu_virtqueue *queue)
{
    struct vu_packed_ring *ring = &queue->packed;
    const uint16_t added = ring->added;

    if (added == 0) {
        return;
    }
    /* 2.8.14: everything of the batch before the flags of its first descriptor.  Pairs with the device's
     * acquire of them. */
    vu_release_le16(&ring->desc[ring->held_slot].flags, ring->held_flags);
    ring->added = 0;
    /* 2.8.21.3: the descriptors before the device's wish is read.  Pairs with the device's fence between
     * asking for a kick and looking at the ring once more. */
    vu_full_fence();
    vu_virtqueue_notify(queue, vu_packed_wants_kick(queue, added));
}

static vu_always_inline int vu_packed_pending(struct vu_virtqueue *queue)
{
    const struct vu_packed_ring *ring = &queue->packed;

    /* With nothing lent, what lies here is of the last lap. */
    if (queue->batch_open || queue->in_flight == 0) {
        return queue->batch_open;
    }
    /* Pairs with the device's release of the flags: id, length and buffer are there. */
    const uint32_t state = vu_acquire_le16(&ring->desc[ring->used_slot].flags) & VU_PACKED_STATE;
    if (state == vu_packed_available(ring->used_wrap)) {
        return 0;
    }
    return vu_likely(state == vu_packed_used(ring->used_wrap)) ? 1 : VU_DRIVER_USED_FLAGS;
}

static vu_always_inline int vu_packed_take(struct vu_virtqueue *queue, uint32_t *length)
{
    struct vu_packed_ring *ring = &queue->packed;

    if (!queue->batch_open) {
        const struct vu_packed_desc *desc = &ring->desc[ring->used_slot];
        const uint16_t slot = vu_read_le16(&desc->buffer_id);
        if (vu_unlikely(slot >= queue->free.capacity || !queue->lent[slot])) {
            return VU_DRIVER_USED_UNKNOWN;
        }
        vu_virtqueue_named(queue, slot, vu_read_le32(&desc->length));
    }
    vu_packed_move(queue, &ring->used_slot, &ring->used_wrap, queue->per_slot);
    return vu_virtqueue_returned(queue, length);
}

static const struct vu_virtqueue_format vu_packed_format = {
    .lend = vu_packed_lend,
    .publish = vu_packed_publish,
    .pending = vu_packed_pending,
    .take = vu_packed_take,
};

#endif
