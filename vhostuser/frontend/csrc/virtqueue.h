/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's end of a split ring, hot half.  Private to C.
 *
 * Buffers are cut once: slot n of the pool belongs to the descriptors of slot n for good.  A slot is free, or
 * lent to the device.  Slots are lent first in, first out, so that descriptors are used in table order, which
 * IN_ORDER demands (virtio 1.x, 2.7.14) and caches like.
 *
 * What the device writes is read once into a local and checked: a device that lies is reported, never
 * followed.
 */
#ifndef VU_VIRTQUEUE_H
#define VU_VIRTQUEUE_H

#include <stddef.h>

#include "../../datapath/csrc/barrier.h"
#include "../../datapath/csrc/compiler.h"
#include "driver.h"

#define VU_DESC_NEXT 1
#define VU_DESC_WRITE 2
#define VU_DESC_INDIRECT 4
#define VU_AVAIL_NO_INTERRUPT 1
#define VU_USED_NO_NOTIFY 1
#define VU_NUM_BUFFERS_OFFSET 10

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

struct vu_slot_fifo {
    uint16_t *slots;
    uint32_t capacity;
    uint32_t first;
    uint32_t count;
};

struct vu_virtqueue {
    struct vu_desc *desc;
    struct vu_avail *avail;
    struct vu_used *used;
    uint8_t *pool;
    struct vu_desc *tables;
    uint64_t pool_gpa;
    uint64_t tables_gpa;
    uint32_t buffer_size;
    uint32_t header_size;
    uint32_t flags;
    uint16_t size;
    uint16_t segments;
    uint16_t per_slot; /* descriptors of the ring that one slot takes: segments, or 1 with indirect tables */
    uint16_t avail_index;
    uint16_t published;
    uint16_t kick_checked;
    uint16_t used_index;
    uint16_t used_seen;   /* the device's index when it was last read */
    uint16_t batch_last;  /* in order: the slot that the entry being worked off names */
    uint16_t batch_open;  /* in order: whether there is such an entry */
    uint32_t batch_bytes; /* in order: what that entry says was written */
    int32_t kick_fd;
    int32_t call_fd;
    struct vu_slot_fifo free;
    struct vu_slot_fifo order; /* what is lent, in the order of lending; in-order only */
    uint8_t *lent;             /* by slot */
    uint8_t *scratch;          /* a frame out of several buffers is put together here to be checked */
    uint64_t in_flight;
    uint64_t kicks;
    uint64_t kicks_saved;
    uint64_t calls;
};

/* Write 8 bytes to the kick eventfd; read the call eventfd empty.  In virtqueue.c: they are system calls. */
void vu_virtqueue_kick(struct vu_virtqueue *queue);
void vu_virtqueue_clear_call(struct vu_virtqueue *queue);

/* Ask for a call; 1 if there is something already, so that sleeping would be wrong.  And ask for none. */
int vu_virtqueue_enable_calls(struct vu_virtqueue *queue);
void vu_virtqueue_disable_calls(struct vu_virtqueue *queue);

static vu_always_inline uint16_t vu_fifo_pop(struct vu_slot_fifo *fifo)
{
    const uint16_t slot = fifo->slots[fifo->first];
    fifo->first = fifo->first + 1 == fifo->capacity ? 0 : fifo->first + 1;
    fifo->count--;
    return slot;
}

static vu_always_inline void vu_fifo_push(struct vu_slot_fifo *fifo, uint16_t slot)
{
    uint32_t at = fifo->first + fifo->count;
    if (at >= fifo->capacity) {
        at -= fifo->capacity;
    }
    fifo->slots[at] = slot;
    fifo->count++;
}

static vu_always_inline uint8_t *vu_virtqueue_buffer(const struct vu_virtqueue *queue, uint16_t slot)
{
    return queue->pool + (size_t)slot * queue->buffer_size;
}

static vu_always_inline void vu_desc_write(struct vu_desc *desc, uint64_t gpa, uint32_t length,
                                           uint32_t flags, uint32_t next)
{
    vu_write_le64(&desc->gpa, gpa);
    vu_write_le32(&desc->length, length);
    vu_write_le16(&desc->flags, (uint16_t)flags);
    vu_write_le16(&desc->next, (uint16_t)next);
}

/* Cut `length` bytes of a slot into the chain's segments: header apart, the rest in equal parts. */
static vu_always_inline void vu_virtqueue_cut(const struct vu_virtqueue *queue, struct vu_desc *row,
                                              uint32_t first, uint64_t gpa, uint32_t length, uint32_t write)
{
    const uint32_t pieces = queue->segments - 1U;
    const uint32_t body = length - queue->header_size;
    vu_desc_write(&row[0], gpa, queue->header_size, write | VU_DESC_NEXT, first + 1);
    gpa += queue->header_size;
    for (uint32_t piece = 0; piece < pieces; piece++) {
        const uint32_t cut = body / pieces + (piece < body % pieces ? 1 : 0);
        const uint32_t more = piece + 1 < pieces ? VU_DESC_NEXT : 0;
        vu_desc_write(&row[piece + 1], gpa, cut, write | more, more != 0 ? first + piece + 2 : 0);
        gpa += cut;
    }
}

/* Lend a free slot with its first `length` bytes to the device; not visible before vu_virtqueue_publish. */
static vu_always_inline void vu_virtqueue_lend(struct vu_virtqueue *queue, uint16_t slot, uint32_t length)
{
    const uint64_t gpa = queue->pool_gpa + (uint64_t)slot * queue->buffer_size;
    const uint32_t write = (queue->flags & VU_VIRTQUEUE_RECEIVE) != 0 ? VU_DESC_WRITE : 0;
    const uint32_t head = (uint32_t)slot * queue->per_slot;

    if ((queue->flags & VU_VIRTQUEUE_INDIRECT) != 0) {
        struct vu_desc *table = queue->tables + (size_t)slot * queue->segments;
        const uint32_t bytes = (uint32_t)sizeof(struct vu_desc) * queue->segments;
        if (queue->segments == 1) {
            vu_desc_write(table, gpa, length, write, 0);
        } else {
            vu_virtqueue_cut(queue, table, 0, gpa, length, write);
        }
        vu_desc_write(&queue->desc[head], queue->tables_gpa + (uint64_t)slot * bytes, bytes, VU_DESC_INDIRECT,
                      0);
    } else if (queue->segments == 1) {
        vu_desc_write(&queue->desc[head], gpa, length, write, 0);
    } else {
        vu_virtqueue_cut(queue, &queue->desc[head], head, gpa, length, write);
    }
    if ((queue->flags & VU_VIRTQUEUE_IN_ORDER) != 0) {
        vu_fifo_push(&queue->order, slot);
    }
    queue->lent[slot] = 1;
    queue->in_flight++;
    vu_write_le16(&queue->avail->ring[queue->avail_index & (queue->size - 1)], (uint16_t)head);
    queue->avail_index++;
}

static vu_always_inline int vu_need_event(uint16_t event, uint16_t new_index, uint16_t old_index)
{
    return (uint16_t)(new_index - event - 1) < (uint16_t)(new_index - old_index);
}

/* Make what was lent visible and kick if the device asked for it. */
static vu_always_inline void vu_virtqueue_publish(struct vu_virtqueue *queue)
{
    const uint16_t old_index = queue->kick_checked;
    int wanted;

    if (queue->avail_index == queue->published) {
        return;
    }
    /* virtio 1.x, 2.7.13.3: entries before the index.  Pairs with the device's acquire of avail->index. */
    vu_release_le16(&queue->avail->index, queue->avail_index);
    queue->published = queue->avail_index;
    /* 2.7.13.4: the index before the device's wish is read.  Pairs with the device's fence between asking for
     * a kick and looking at the index once more. */
    vu_full_fence();
    if ((queue->flags & VU_VIRTQUEUE_EVENT_IDX) != 0) {
        const vu_le16 *avail_event = (const vu_le16 *)(const void *)&queue->used->ring[queue->size];
        wanted = vu_need_event(vu_read_le16(avail_event), queue->published, old_index);
    } else {
        wanted = (vu_read_le16(&queue->used->flags) & VU_USED_NO_NOTIFY) == 0;
    }
    queue->kick_checked = queue->published;
    if (wanted) {
        vu_virtqueue_kick(queue);
    } else {
        queue->kicks_saved++;
    }
}

/* How many chains are given back and not yet taken; a VU_DRIVER_* failure if that cannot be. */
static vu_always_inline int vu_virtqueue_pending(struct vu_virtqueue *queue)
{
    uint16_t pending = (uint16_t)(queue->used_seen - queue->used_index);
    if (pending == 0) {
        /* Pairs with the device's release of used->index: the entries are there. */
        queue->used_seen = vu_acquire_le16(&queue->used->index);
        pending = (uint16_t)(queue->used_seen - queue->used_index);
        /* An in-order entry may not name a chain beyond the index it came with. */
        if (vu_unlikely(pending > queue->in_flight || queue->batch_open)) {
            return VU_DRIVER_USED_JUMPED;
        }
    }
    return pending;
}

/* Take the next chain that is given back: its slot, which is the caller's until freed, or a failure.  There
 * has to be one (vu_virtqueue_pending). */
static vu_always_inline int vu_virtqueue_take(struct vu_virtqueue *queue, uint32_t *length)
{
    const struct vu_used_entry *entry = &queue->used->ring[queue->used_index & (queue->size - 1)];
    uint16_t slot = queue->batch_last;

    if (!queue->batch_open) {
        const uint32_t head = vu_read_le32(&entry->head);
        const uint32_t at = queue->per_slot == 1 ? head : head / queue->per_slot;
        *length = vu_read_le32(&entry->length);
        if (vu_unlikely(at >= queue->free.capacity || at * queue->per_slot != head || !queue->lent[at])) {
            return VU_DRIVER_USED_UNKNOWN;
        }
        slot = (uint16_t)at;
        if ((queue->flags & VU_VIRTQUEUE_IN_ORDER) != 0) {
            queue->batch_last = slot;
            queue->batch_bytes = *length;
            queue->batch_open = 1;
        }
    }
    if ((queue->flags & VU_VIRTQUEUE_IN_ORDER) != 0) {
        /* One entry may stand for all chains up to the one it names (virtio 1.x, 2.7.9). */
        slot = vu_fifo_pop(&queue->order);
        *length = 0;
        if (slot == queue->batch_last) {
            *length = queue->batch_bytes;
            queue->batch_open = 0;
        }
    }
    queue->used_index++;
    queue->in_flight--;
    queue->lent[slot] = 0;
    return slot;
}

#endif
