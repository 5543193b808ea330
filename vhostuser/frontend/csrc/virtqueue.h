/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's end of a ring: what does not depend on its format.  Private to C.  The formats are
 * split_virtqueue.h and packed_virtqueue.h.
 *
 * Buffers are cut once: slot n of the pool is one chain's buffer for good.  A slot is free, or lent to the
 * device.  Slots are lent first in, first out, so that descriptors are used in table order, which IN_ORDER
 * demands (virtio 1.x, 2.7.14) and caches like.
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
#define VU_DESC_SIZE 16U
#define VU_NUM_BUFFERS_OFFSET 10

struct vu_desc;
struct vu_avail;
struct vu_used;
struct vu_packed_desc;

struct vu_slot_fifo {
    uint16_t *slots;
    uint32_t capacity;
    uint32_t first;
    uint32_t count;
};

/* A split ring, and where we are in it. */
struct vu_split_ring {
    struct vu_desc *desc;
    struct vu_avail *avail;
    struct vu_used *used;
    uint16_t avail_index;
    uint16_t published;
    uint16_t kick_checked;
    uint16_t used_index;
    uint16_t used_seen; /* the device's index when it was last read */
};

/* A packed ring, and where we are in it. */
struct vu_packed_ring {
    struct vu_packed_desc *desc;
    vu_le32 *driver_event; /* offset and wrap counter in the low half, flags in the high one */
    const vu_le32 *device_event;
    uint16_t avail_slot;
    uint16_t used_slot;
    uint16_t avail_wrap; /* 1 or 0, as used_wrap */
    uint16_t used_wrap;
    uint16_t added;     /* descriptors since the last publication */
    uint16_t held_slot; /* the first of them, whose flags make it all visible */
    uint16_t held_flags;
};

struct vu_virtqueue {
    union {
        struct vu_split_ring split;
        struct vu_packed_ring packed; /* with VU_VIRTQUEUE_PACKED */
    };
    uint8_t *pool;
    uint8_t *tables;
    uint64_t pool_gpa;
    uint64_t tables_gpa;
    uint32_t buffer_size;
    uint32_t header_size;
    uint32_t flags;
    uint16_t size;
    uint16_t segments;
    uint16_t per_slot; /* descriptors of the ring that one slot takes: segments, or 1 with indirect tables */
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

/*
 * A ring format, for loops that are written once: each takes it as a constant and is always inlined, so that
 * no indirect call is left.
 */
struct vu_virtqueue_format {
    /* Lend a free slot with its first `length` bytes to the device; not visible before publish. */
    void (*lend)(struct vu_virtqueue *queue, uint16_t slot, uint32_t length);
    /* Make what was lent visible and kick if the device asked for it. */
    void (*publish)(struct vu_virtqueue *queue);
    /* At least how many chains are given back and not yet taken; a VU_DRIVER_* failure if that cannot be. */
    int (*pending)(struct vu_virtqueue *queue);
    /* Take the next chain that is given back: its slot, which is the caller's until freed, or a failure.
     * There has to be one (pending). */
    int (*take)(struct vu_virtqueue *queue, uint32_t *length);
};

/* Write 8 bytes to the kick eventfd; read the call eventfd empty.  In virtqueue.c: they are system calls. */
void vu_virtqueue_kick(struct vu_virtqueue *queue);
void vu_virtqueue_clear_call(struct vu_virtqueue *queue);

/* Ask for a call; 1 if there is something already, so that sleeping would be wrong.  And ask for none. */
int vu_virtqueue_enable_calls(struct vu_virtqueue *queue);
void vu_virtqueue_disable_calls(struct vu_virtqueue *queue);

static vu_always_inline int vu_virtqueue_is_packed(const struct vu_virtqueue *queue)
{
    return (queue->flags & VU_VIRTQUEUE_PACKED) != 0;
}

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

static vu_always_inline uint64_t vu_virtqueue_buffer_gpa(const struct vu_virtqueue *queue, uint16_t slot)
{
    return queue->pool_gpa + (uint64_t)slot * queue->buffer_size;
}

static vu_always_inline uint32_t vu_virtqueue_write_flag(const struct vu_virtqueue *queue)
{
    return (queue->flags & VU_VIRTQUEUE_RECEIVE) != 0 ? VU_DESC_WRITE : 0;
}

/* Bytes of an indirect table: one for each slot, slot n's at n times that. */
static vu_always_inline uint32_t vu_virtqueue_table_bytes(const struct vu_virtqueue *queue)
{
    return VU_DESC_SIZE * queue->segments;
}

/* How a frame of `length` bytes is cut into the chain's segments: header apart, the rest in equal parts. */
static vu_always_inline uint32_t vu_virtqueue_cut(const struct vu_virtqueue *queue, uint32_t length,
                                                  uint32_t piece)
{
    if (queue->segments == 1) {
        return length;
    }
    if (piece == 0) {
        return queue->header_size;
    }
    const uint32_t pieces = queue->segments - 1U;
    const uint32_t body = length - queue->header_size;
    return body / pieces + (piece - 1 < body % pieces ? 1 : 0);
}

static vu_always_inline int vu_need_event(uint16_t event, uint16_t new_index, uint16_t old_index)
{
    return (uint16_t)(new_index - event - 1) < (uint16_t)(new_index - old_index);
}

/* Kick if the device wants it, and count either. */
static vu_always_inline void vu_virtqueue_notify(struct vu_virtqueue *queue, int wanted)
{
    if (wanted) {
        vu_virtqueue_kick(queue);
    } else {
        queue->kicks_saved++;
    }
}

static vu_always_inline void vu_virtqueue_lent(struct vu_virtqueue *queue, uint16_t slot)
{
    if ((queue->flags & VU_VIRTQUEUE_IN_ORDER) != 0) {
        vu_fifo_push(&queue->order, slot);
    }
    queue->lent[slot] = 1;
    queue->in_flight++;
}

/* The device has named `slot` and says that it wrote so much. */
static vu_always_inline void vu_virtqueue_named(struct vu_virtqueue *queue, uint16_t slot, uint32_t length)
{
    queue->batch_last = slot;
    queue->batch_bytes = length;
    queue->batch_open = 1;
}

/* The slot that comes back with what the device named: that one, or in order the oldest, since one entry may
 * stand for all chains up to the one it names (virtio 1.x, 2.7.9 and 2.8.9). */
static vu_always_inline uint16_t vu_virtqueue_returned(struct vu_virtqueue *queue, uint32_t *length)
{
    uint16_t slot = queue->batch_last;
    if ((queue->flags & VU_VIRTQUEUE_IN_ORDER) != 0) {
        slot = vu_fifo_pop(&queue->order);
    }
    *length = 0;
    if (slot == queue->batch_last) {
        *length = queue->batch_bytes;
        queue->batch_open = 0;
    }
    queue->in_flight--;
    queue->lent[slot] = 0;
    return slot;
}

#endif
