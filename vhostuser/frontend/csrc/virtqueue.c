/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's end of a split ring, cold half: making, filling, eventfds. */
#include "virtqueue.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define VU_MAX_RING_SIZE 32768U
#define VU_MAX_BUFFER (1U << 20)
#define VU_MAX_FRAME (1U << 17)

_Static_assert(sizeof(struct vu_desc) == 16, "virtio 1.x, 2.7.5");
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
    if (size == 0 || size > VU_MAX_RING_SIZE || (size & (size - 1)) != 0) {
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
    /* In table order, around the end of the table: no descriptor may be left over there. */
    return (config->flags & VU_VIRTQUEUE_IN_ORDER) != 0 ? size % config->segments == 0
                                                        : config->segments <= size;
}

uint64_t vu_virtqueue_pool_size(const struct vu_virtqueue_config *config)
{
    if (!is_sensible(config)) {
        return 0;
    }
    const uint64_t slots = slots_of(config);
    const uint64_t buffers =
        (slots * config->buffer_size + sizeof(struct vu_desc) - 1) & ~(sizeof(struct vu_desc) - 1);
    const uint64_t tables = (config->flags & VU_VIRTQUEUE_INDIRECT) != 0 ? slots * config->segments : 0;
    return buffers + tables * sizeof(struct vu_desc);
}

static int fifo_init(struct vu_slot_fifo *fifo, uint32_t capacity)
{
    fifo->slots = calloc(capacity, sizeof(*fifo->slots));
    fifo->capacity = capacity;
    fifo->first = 0;
    fifo->count = 0;
    return fifo->slots != NULL;
}

struct vu_virtqueue *vu_virtqueue_new(const struct vu_virtqueue_config *config)
{
    struct vu_virtqueue *queue;
    uint32_t slots;

    if (!is_sensible(config) || config->pool == 0 || config->desc % 16 != 0 || config->avail % 2 != 0 ||
        config->used % 4 != 0 || config->pool % sizeof(struct vu_desc) != 0 ||
        posix_memalign((void **)&queue, VU_CACHE_LINE, (sizeof(*queue) + VU_CACHE_LINE - 1) & ~(size_t)63) !=
            0) {
        return NULL;
    }
    *queue = (struct vu_virtqueue){
        .desc = (struct vu_desc *)(uintptr_t)config->desc,
        .avail = (struct vu_avail *)(uintptr_t)config->avail,
        .used = (struct vu_used *)(uintptr_t)config->used,
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
    queue->tables = (struct vu_desc *)(void *)(queue->pool + tables_at);
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
    /* The ring may have been used before: go on where its two indices stand.  They are equal in a drained
     * ring. */
    queue->used_index = vu_read_le16(&queue->used->index);
    queue->used_seen = queue->used_index;
    queue->avail_index = queue->used_index;
    queue->published = queue->used_index;
    queue->kick_checked = queue->used_index;
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

int vu_virtqueue_fill(struct vu_virtqueue *queue)
{
    int lent = 0;
    while (queue->free.count > 0) {
        vu_virtqueue_lend(queue, vu_fifo_pop(&queue->free), queue->buffer_size);
        lent++;
    }
    vu_virtqueue_publish(queue);
    return lent;
}

uint16_t vu_virtqueue_position(const struct vu_virtqueue *queue)
{
    return queue->used_index;
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

int vu_virtqueue_enable_calls(struct vu_virtqueue *queue)
{
    if ((queue->flags & VU_VIRTQUEUE_EVENT_IDX) != 0) {
        vu_write_le16(&queue->avail->ring[queue->size], queue->used_index);
    }
    vu_write_le16(&queue->avail->flags, 0);
    /* The wish before the index is read.  Pairs with the device's fence between used->index and our wish. */
    vu_full_fence();
    return vu_read_le16(&queue->used->index) != queue->used_index;
}

void vu_virtqueue_disable_calls(struct vu_virtqueue *queue)
{
    if ((queue->flags & VU_VIRTQUEUE_EVENT_IDX) != 0) {
        /* Leave the event one behind: the device would have to go once around the 16 bits. */
        vu_write_le16(&queue->avail->ring[queue->size], (uint16_t)(queue->used_index - 1));
    }
    vu_write_le16(&queue->avail->flags, VU_AVAIL_NO_INTERRUPT);
}

void vu_driver_fence(void)
{
    vu_full_fence();
}
