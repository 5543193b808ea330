/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's end of a ring, cold half: making, filling, sleeping, eventfds. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "packed_virtqueue.h"
#include "split_virtqueue.h"

#define VU_MAX_RING_SIZE 32768U
#define VU_MAX_BUFFER (1U << 20)
#define VU_MAX_FRAME (1U << 17)

_Static_assert(sizeof(struct vu_desc) == VU_DESC_SIZE, "virtio 1.x, 2.7.5");
_Static_assert(sizeof(struct vu_packed_desc) == VU_DESC_SIZE, "virtio 1.x, 2.8.13");
_Static_assert(sizeof(struct vu_used_entry) == 8, "virtio 1.x, 2.7.8");
_Static_assert(offsetof(struct vu_avail, ring) == 4, "virtio 1.x, 2.7.6");
_Static_assert(offsetof(struct vu_used, ring) == 4, "virtio 1.x, 2.7.8");

static uint32_t slots_of(const struct vu_virtqueue_config *config)
{
    return (config->flags & VU_VIRTQUEUE_INDIRECT) != 0 ? config->size : config->size / config->segments;
}

static int is_sensible(const struct vu_virtqueue_config *config)
{
    const uint32_t size = config->size;
    const int packed = (config->flags & VU_VIRTQUEUE_PACKED) != 0;
    if (size == 0 || size > VU_MAX_RING_SIZE || (!packed && (size & (size - 1)) != 0)) {
        return 0;
    }
    if (packed && (config->position & (VU_PACKED_WRAP - 1)) >= size) {
        return 0;
    }
    if (config->segments == 0 || config->segments > VU_VIRTQUEUE_MAX_SEGMENTS) {
        return 0;
    }
    if (config->header_size < 10 || config->header_size > 24 || config->buffer_size > VU_MAX_BUFFER ||
        config->buffer_size < config->header_size + config->segments) {
        return 0;
    }
    if ((config->flags & VU_VIRTQUEUE_MRG_RXBUF) != 0 && config->header_size < 12) {
        return 0;
    }
    if ((config->flags & VU_VIRTQUEUE_INDIRECT) != 0) {
        /* A chain may not be longer than the ring, tables included (virtio 1.x, 2.7.5.3.1). */
        return config->segments <= size;
    }
    /* In table order, around the end of a split ring's table: no descriptor may be left over there. */
    return (config->flags & VU_VIRTQUEUE_IN_ORDER) != 0 && !packed ? size % config->segments == 0
                                                                   : config->segments <= size;
}

uint64_t vu_virtqueue_pool_size(const struct vu_virtqueue_config *config)
{
    if (!is_sensible(config)) {
        return 0;
    }
    const uint64_t slots = slots_of(config);
    const uint64_t buffers = (slots * config->buffer_size + VU_DESC_SIZE - 1) & ~((uint64_t)VU_DESC_SIZE - 1);
    const uint64_t tables = (config->flags & VU_VIRTQUEUE_INDIRECT) != 0 ? slots * config->segments : 0;
    return buffers + tables * VU_DESC_SIZE;
}

static int fifo_init(struct vu_slot_fifo *fifo, uint32_t capacity)
{
    fifo->slots = calloc(capacity, sizeof(*fifo->slots));
    fifo->capacity = capacity;
    fifo->first = 0;
    fifo->count = 0;
    return fifo->slots != NULL;
}

static int is_aligned(const struct vu_virtqueue_config *config)
{
    const uint64_t avail = (config->flags & VU_VIRTQUEUE_PACKED) != 0 ? 4 : 2;
    return config->pool != 0 && config->pool % VU_DESC_SIZE == 0 && config->desc % VU_DESC_SIZE == 0 &&
           config->avail % avail == 0 && config->used % 4 == 0;
}

/* The ring may have been used before: go on where its two indices stand.  They are equal in a drained ring.
 */
static void split_init(struct vu_virtqueue *queue, const struct vu_virtqueue_config *config)
{
    struct vu_used *used = (struct vu_used *)(uintptr_t)config->used;
    const uint16_t index = vu_read_le16(&used->index);
    queue->split = (struct vu_split_ring){
        .desc = (struct vu_desc *)(uintptr_t)config->desc,
        .avail = (struct vu_avail *)(uintptr_t)config->avail,
        .used = used,
        .avail_index = index,
        .published = index,
        .kick_checked = index,
        .used_index = index,
        .used_seen = index,
    };
}

static void packed_init(struct vu_virtqueue *queue, const struct vu_virtqueue_config *config)
{
    const uint16_t slot = config->position & (VU_PACKED_WRAP - 1);
    const uint16_t wrap = (config->position & VU_PACKED_WRAP) != 0;
    queue->packed = (struct vu_packed_ring){
        .desc = (struct vu_packed_desc *)(uintptr_t)config->desc,
        .driver_event = (vu_le32 *)(uintptr_t)config->avail,
        .device_event = (const vu_le32 *)(uintptr_t)config->used,
        .avail_slot = slot,
        .used_slot = slot,
        .avail_wrap = wrap,
        .used_wrap = wrap,
    };
}

struct vu_virtqueue *vu_virtqueue_new(const struct vu_virtqueue_config *config)
{
    struct vu_virtqueue *queue;
    uint32_t slots;

    if (!is_sensible(config) || !is_aligned(config) ||
        posix_memalign((void **)&queue, VU_CACHE_LINE, (sizeof(*queue) + VU_CACHE_LINE - 1) & ~(size_t)63) !=
            0) {
        return NULL;
    }
    *queue = (struct vu_virtqueue){
        .pool = (uint8_t *)(uintptr_t)config->pool,
        .pool_gpa = config->pool_gpa,
        .buffer_size = config->buffer_size,
        .header_size = config->header_size,
        .flags = config->flags,
        .size = config->size,
        .segments = config->segments,
        .per_slot = (config->flags & VU_VIRTQUEUE_INDIRECT) != 0 ? 1 : config->segments,
        .kick_fd = config->kick_fd,
        .call_fd = config->call_fd,
    };
    slots = slots_of(config);
    const uint64_t tables_at = ((uint64_t)slots * config->buffer_size + 15) & ~15ULL;
    queue->tables = queue->pool + tables_at;
    queue->tables_gpa = config->pool_gpa + tables_at;
    queue->lent = calloc(slots, 1);
    queue->scratch = malloc(VU_MAX_FRAME);
    if (!fifo_init(&queue->free, slots) || !fifo_init(&queue->order, slots) || queue->lent == NULL ||
        queue->scratch == NULL) {
        vu_virtqueue_free(queue);
        return NULL;
    }
    for (uint32_t slot = 0; slot < slots; slot++) {
        vu_fifo_push(&queue->free, (uint16_t)slot);
    }
    if (vu_virtqueue_is_packed(queue)) {
        packed_init(queue, config);
    } else {
        split_init(queue, config);
    }
    vu_virtqueue_disable_calls(queue);
    return queue;
}

void vu_virtqueue_free(struct vu_virtqueue *queue)
{
    if (queue != NULL) {
        free(queue->free.slots);
        free(queue->order.slots);
        free(queue->lent);
        free(queue->scratch);
        free(queue);
    }
}

static vu_always_inline int fill(const struct vu_virtqueue_format *format, struct vu_virtqueue *queue)
{
    int lent = 0;
    while (queue->free.count > 0) {
        format->lend(queue, vu_fifo_pop(&queue->free), queue->buffer_size);
        lent++;
    }
    format->publish(queue);
    return lent;
}

int vu_virtqueue_fill(struct vu_virtqueue *queue)
{
    return vu_virtqueue_is_packed(queue) ? fill(&vu_packed_format, queue) : fill(&vu_split_format, queue);
}

/* How many chains come back with one that the device named, of those from number `first` in order on. */
static uint64_t chains_named(const struct vu_virtqueue *queue, uint64_t first, uint16_t slot)
{
    const struct vu_slot_fifo *order = &queue->order;
    uint64_t count = 1;

    if ((queue->flags & VU_VIRTQUEUE_IN_ORDER) != 0) {
        while (first + count < order->count &&
               order->slots[(order->first + first + count - 1) % order->capacity] != slot) {
            count++;
        }
    }
    return count;
}

static uint32_t packed_base(const struct vu_virtqueue *queue)
{
    const struct vu_packed_ring *ring = &queue->packed;
    uint16_t slot = ring->used_slot;
    uint16_t wrap = ring->used_wrap;
    uint64_t passed = 0;
    uint16_t named = queue->batch_last;
    int more = queue->batch_open;

    for (;;) {
        const struct vu_packed_desc *desc = &ring->desc[slot];
        if (!more) {
            const uint32_t state = vu_acquire_le16(&desc->flags) & VU_PACKED_STATE;
            more = passed < queue->in_flight && state == vu_packed_used(wrap);
            named = vu_read_le16(&desc->buffer_id);
        }
        if (!more) {
            const uint32_t word = slot | (wrap ? VU_PACKED_WRAP : 0);
            return word | word << 16;
        }
        for (uint64_t chains = chains_named(queue, passed, named); chains > 0; chains--) {
            vu_packed_move(queue, &slot, &wrap, queue->per_slot);
            passed++;
        }
        more = 0;
    }
}

uint32_t vu_virtqueue_base(const struct vu_virtqueue *queue)
{
    return vu_virtqueue_is_packed(queue) ? packed_base(queue) : vu_read_le16(&queue->split.used->index);
}

void vu_virtqueue_count(const struct vu_virtqueue *queue, struct vu_virtqueue_counts *counts)
{
    counts->kicks = queue->kicks;
    counts->kicks_saved = queue->kicks_saved;
    counts->calls = queue->calls;
    counts->in_flight = queue->in_flight;
}

void vu_virtqueue_kick(struct vu_virtqueue *queue)
{
    const uint64_t one = 1;
    if (queue->kick_fd < 0) {
        return;
    }
    /* EAGAIN means that the counter is full and so that the device is told already. */
    while (write(queue->kick_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    queue->kicks++;
}

void vu_virtqueue_clear_call(struct vu_virtqueue *queue)
{
    uint64_t count;
    if (queue->call_fd >= 0 && read(queue->call_fd, &count, sizeof(count)) == (ssize_t)sizeof(count)) {
        queue->calls += count;
    }
}

static int split_enable_calls(struct vu_virtqueue *queue)
{
    struct vu_split_ring *ring = &queue->split;
    if ((queue->flags & VU_VIRTQUEUE_EVENT_IDX) != 0) {
        vu_write_le16(&ring->avail->ring[queue->size], ring->used_index);
    }
    vu_write_le16(&ring->avail->flags, 0);
    /* The wish before the index is read.  Pairs with the device's fence between used->index and our wish. */
    vu_full_fence();
    return vu_read_le16(&ring->used->index) != ring->used_index;
}

static void split_disable_calls(struct vu_virtqueue *queue)
{
    struct vu_split_ring *ring = &queue->split;
    if ((queue->flags & VU_VIRTQUEUE_EVENT_IDX) != 0) {
        /* Leave the event one behind: the device would have to go once around the 16 bits. */
        vu_write_le16(&ring->avail->ring[queue->size], (uint16_t)(ring->used_index - 1));
    }
    vu_write_le16(&ring->avail->flags, VU_AVAIL_NO_INTERRUPT);
}

/* Both halves in one store: a device that reads between two would see a place with another wish (2.8.10). */
static void packed_wish(struct vu_virtqueue *queue, uint32_t flags)
{
    struct vu_packed_ring *ring = &queue->packed;
    const uint32_t word = ring->used_slot | (ring->used_wrap ? VU_PACKED_WRAP : 0);
    vu_write_le32(ring->driver_event, word | flags << 16);
}

static int packed_enable_calls(struct vu_virtqueue *queue)
{
    packed_wish(queue, (queue->flags & VU_VIRTQUEUE_EVENT_IDX) != 0 ? VU_EVENT_DESC : VU_EVENT_ENABLE);
    /* The wish before the descriptor is read.  Pairs with the device's fence between its flags and our wish.
     */
    vu_full_fence();
    return vu_packed_pending(queue) != 0;
}

int vu_virtqueue_enable_calls(struct vu_virtqueue *queue)
{
    return vu_virtqueue_is_packed(queue) ? packed_enable_calls(queue) : split_enable_calls(queue);
}

void vu_virtqueue_disable_calls(struct vu_virtqueue *queue)
{
    if (vu_virtqueue_is_packed(queue)) {
        packed_wish(queue, VU_EVENT_DISABLE);
    } else {
        split_disable_calls(queue);
    }
}

void vu_driver_fence(void)
{
    vu_full_fence();
}
