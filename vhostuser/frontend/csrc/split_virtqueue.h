/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's end of a split ring (virtio 1.x, 2.7), hot half.  Private to C. */
#ifndef VU_SPLIT_VIRTQUEUE_H
#define VU_SPLIT_VIRTQUEUE_H

#include "virtqueue.h"

#define VU_AVAIL_NO_INTERRUPT 1
#define VU_USED_NO_NOTIFY 1

struct vu_desc {
    vu_le64 gpa;
    vu_le32 length;
    vu_le16 flags;
    vu_le16 next;
};

struct vu_avail {
    vu_le16 flags;
    vu_le16 index;
    vu_le16 ring[]; /* then used_event */
};

struct vu_used_entry {
    vu_le32 head;
    vu_le32 length;
};

struct vu_used {
    vu_le16 flags;
    vu_le16 index;
    struct vu_used_entry ring[]; /* then avail_event */
};

static vu_always_inline void vu_desc_write(struct vu_desc *desc, uint64_t gpa, uint32_t length,
                                           uint32_t flags, uint32_t next)
{
    vu_write_le64(&desc->gpa, gpa);
    vu_write_le32(&desc->length, length);
    vu_write_le16(&desc->flags, (uint16_t)flags);
    vu_write_le16(&desc->next, (uint16_t)next);
}

/* The rows of a chain, in the ring's table or in one of its own; `first` is the index of row 0. */
static vu_always_inline void vu_split_rows(const struct vu_virtqueue *queue, struct vu_desc *row,
                                           uint32_t first, uint64_t gpa, uint32_t length)
{
    const uint32_t write = vu_virtqueue_write_flag(queue);
    if (vu_likely(queue->segments == 1)) {
        vu_desc_write(row, gpa, length, write, 0);
        return;
    }
    for (uint32_t piece = 0; piece < queue->segments; piece++) {
        const uint32_t cut = vu_virtqueue_cut(queue, length, piece);
        const uint32_t more = piece + 1 < queue->segments ? VU_DESC_NEXT : 0;
        vu_desc_write(&row[piece], gpa, cut, write | more, more != 0 ? first + piece + 1 : 0);
        gpa += cut;
    }
}

static vu_always_inline void vu_split_lend(struct vu_virtqueue *queue, uint16_t slot, uint32_t length)
{
    struct vu_split_ring *ring = &queue->split;
    const uint64_t gpa = vu_virtqueue_buffer_gpa(queue, slot);
    const uint32_t head = (uint32_t)slot * queue->per_slot;

    if ((queue->flags & VU_VIRTQUEUE_INDIRECT) != 0) {
        const uint32_t bytes = vu_virtqueue_table_bytes(queue);
        const uint64_t at = (uint64_t)slot * bytes;
        vu_split_rows(queue, (struct vu_desc *)(void *)(queue->tables + at), 0, gpa, length);
        vu_desc_write(&ring->desc[head], queue->tables_gpa + at, bytes, VU_DESC_INDIRECT, 0);
    } else {
        vu_split_rows(queue, &ring->desc[head], head, gpa, length);
    }
    vu_virtqueue_lent(queue, slot);
    vu_write_le16(&ring->avail->ring[ring->avail_index & (queue->size - 1)], (uint16_t)head);
    ring->avail_index++;
}

static vu_always_inline void vu_split_publish(struct vu_virtqueue *queue)
{
    struct vu_split_ring *ring = &queue->split;
    const uint16_t old_index = ring->kick_checked;
    int wanted;

    if (ring->avail_index == ring->published) {
        return;
    }
    /* virtio 1.x, 2.7.13.3: entries before the index.  Pairs with the device's acquire of avail->index. */
    vu_release_le16(&ring->avail->index, ring->avail_index);
    ring->published = ring->avail_index;
    /* 2.7.13.4: the index before the device's wish is read.  Pairs with the device's fence between asking for
     * a kick and looking at the index once more. */
    vu_full_fence();
    if ((queue->flags & VU_VIRTQUEUE_EVENT_IDX) != 0) {
        const vu_le16 *avail_event = (const vu_le16 *)(const void *)&ring->used->ring[queue->size];
        wanted = vu_need_event(vu_read_le16(avail_event), ring->published, old_index);
    } else {
        wanted = (vu_read_le16(&ring->used->flags) & VU_USED_NO_NOTIFY) == 0;
    }
    ring->kick_checked = ring->published;
    vu_virtqueue_notify(queue, wanted);
}

static vu_always_inline int vu_split_pending(struct vu_virtqueue *queue)
{
    struct vu_split_ring *ring = &queue->split;
    uint16_t pending = (uint16_t)(ring->used_seen - ring->used_index);
    if (pending == 0) {
        /* Pairs with the device's release of used->index: the entries are there. */
        ring->used_seen = vu_acquire_le16(&ring->used->index);
        pending = (uint16_t)(ring->used_seen - ring->used_index);
        /* An in-order entry may not name a chain beyond the index it came with. */
        if (vu_unlikely(pending > queue->in_flight || queue->batch_open)) {
            return VU_DRIVER_USED_JUMPED;
        }
    }
    return pending;
}

static vu_always_inline int vu_split_take(struct vu_virtqueue *queue, uint32_t *length)
{
    struct vu_split_ring *ring = &queue->split;
    const struct vu_used_entry *entry = &ring->used->ring[ring->used_index & (queue->size - 1)];

    if (!queue->batch_open) {
        const uint32_t head = vu_read_le32(&entry->head);
        const uint32_t at = queue->per_slot == 1 ? head : head / queue->per_slot;
        if (vu_unlikely(at >= queue->free.capacity || at * queue->per_slot != head || !queue->lent[at])) {
            return VU_DRIVER_USED_UNKNOWN;
        }
        vu_virtqueue_named(queue, (uint16_t)at, vu_read_le32(&entry->length));
    }
    ring->used_index++;
    return vu_virtqueue_returned(queue, length);
}

static const struct vu_virtqueue_format vu_split_format = {
    .lend = vu_split_lend,
    .publish = vu_split_publish,
    .pending = vu_split_pending,
    .take = vu_split_take,
};

#endif
