/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames on and off virtqueues: written, stamped, put together, judged.  Each loop is written once and
 * instantiated for both ring formats.
 */
#define _GNU_SOURCE
#include "exchange.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "packed_virtqueue.h"
#include "split_virtqueue.h"

#define VU_FLOW_SHIFT 56
#define VU_MAX_FRAME (1U << 17) /* what the scratch of a virtqueue holds */

uint64_t vu_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

int vu_options_check(struct vu_virtqueue *const *transmit, uint32_t count,
                     const struct vu_load_options *options)
{
    const uint32_t stamp = (options->flags & VU_LOAD_STAMP) != 0 ? VU_STAMP_SIZE : 0;
    if (count == 0) {
        return 0;
    }
    if (options->frame_size > VU_MAX_FRAME || options->template_size > options->frame_size ||
        options->frame_size - options->template_size < stamp || options->burst == 0) {
        return VU_DRIVER_BAD_CONFIG;
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct vu_virtqueue *queue = transmit[i];
        if ((queue->flags & VU_VIRTQUEUE_RECEIVE) != 0 ||
            options->frame_size + queue->header_size > queue->buffer_size ||
            options->frame_size + 1 < queue->segments) {
            return VU_DRIVER_BAD_CONFIG;
        }
    }
    return 0;
}

static vu_always_inline int reclaim(const struct vu_virtqueue_format *format, struct vu_virtqueue *queue,
                                    struct vu_load_result *result)
{
    int count = 0;
    for (;;) {
        const int pending = format->pending(queue);
        if (pending <= 0) {
            return pending < 0 ? pending : count;
        }
        for (int i = 0; i < pending; i++) {
            uint32_t length;
            const int slot = format->take(queue, &length);
            if (vu_unlikely(slot < 0)) {
                return slot;
            }
            vu_fifo_push(&queue->free, (uint16_t)slot);
        }
        result->returned += (uint64_t)pending;
        count += pending;
    }
}

int vu_reclaim(struct vu_virtqueue *queue, struct vu_load_result *result)
{
    return vu_virtqueue_is_packed(queue) ? reclaim(&vu_packed_format, queue, result)
                                         : reclaim(&vu_split_format, queue, result);
}

static vu_always_inline uint32_t send_frames(const struct vu_virtqueue_format *format,
                                             struct vu_virtqueue *queue, uint32_t number, uint32_t count,
                                             const struct vu_load_options *options,
                                             struct vu_load_result *result)
{
    const uint32_t body = options->frame_size - options->template_size;

    count = VU_MIN(count, queue->free.count);
    for (uint32_t i = 0; i < count; i++) {
        const uint16_t slot = vu_fifo_pop(&queue->free);
        uint8_t *at = vu_virtqueue_buffer(queue, slot);
        const uint64_t sequence = result->next_sent[number]++;
        memcpy(at, options->header, queue->header_size);
        at += queue->header_size;
        memcpy(at, options->template_bytes, options->template_size);
        if ((options->flags & VU_LOAD_STAMP) != 0) {
            vu_stamp_write(at + options->template_size, body, options->run,
                           (uint64_t)number << VU_FLOW_SHIFT | sequence);
        }
        format->lend(queue, slot, queue->header_size + options->frame_size);
    }
    format->publish(queue);
    result->sent += count;
    return count;
}

uint32_t vu_send(struct vu_virtqueue *queue, uint32_t number, uint32_t count,
                 const struct vu_load_options *options, struct vu_load_result *result)
{
    return vu_virtqueue_is_packed(queue)
               ? send_frames(&vu_packed_format, queue, number, count, options, result)
               : send_frames(&vu_split_format, queue, number, count, options, result);
}

/* Keep the sequence of one flow: what was jumped over, and what comes after all. */
static void follow(struct vu_load_result *result, uint64_t stamped)
{
    const uint64_t flow = stamped >> VU_FLOW_SHIFT;
    const uint64_t sequence = stamped & ((1ULL << VU_FLOW_SHIFT) - 1);
    if (flow >= VU_LOAD_MAX_QUEUES) {
        return;
    }
    if (sequence < result->next_received[flow]) {
        result->late++;
        return;
    }
    result->skipped += sequence - result->next_received[flow];
    result->next_received[flow] = sequence + 1;
}

static void judge(const uint8_t *frame, const struct vu_load_options *options, struct vu_load_result *result,
                  struct vu_arrival *arrival)
{
    arrival->verdict = VU_STAMP_WHOLE;
    if ((options->flags & VU_LOAD_STAMP) != 0) {
        arrival->verdict = VU_STAMP_FOREIGN;
        if (arrival->length >= options->template_size) {
            arrival->verdict =
                vu_stamp_check(frame + options->template_size, arrival->length - options->template_size,
                               options->run, &arrival->sequence);
        }
        if (arrival->verdict == VU_STAMP_FOREIGN) {
            result->foreign++;
            return;
        }
        if (arrival->verdict == VU_STAMP_CORRUPT) {
            result->corrupt++;
            return;
        }
        follow(result, arrival->sequence);
    }
    result->received++;
    result->received_bytes += arrival->length;
}

/* The further buffers of a merged frame (virtio 1.x, 5.1.6.4): all of them given back together. */
static vu_always_inline int merge(const struct vu_virtqueue_format *format, struct vu_virtqueue *queue,
                                  uint32_t more, int keep, struct vu_arrival *arrival)
{
    for (uint32_t i = 0; i < more; i++) {
        uint32_t length = 0;
        const int pending = format->pending(queue);
        if (pending <= 0) {
            return pending < 0 ? pending : VU_DRIVER_MERGE_BROKEN;
        }
        const int slot = format->take(queue, &length);
        if (slot < 0) {
            return slot;
        }
        if (length > queue->buffer_size || arrival->length + length > VU_MAX_FRAME) {
            return VU_DRIVER_USED_LENGTH;
        }
        if (keep) {
            memcpy(queue->scratch + arrival->length, vu_virtqueue_buffer(queue, (uint16_t)slot), length);
        }
        arrival->length += length;
        vu_fifo_push(&queue->free, (uint16_t)slot);
    }
    return 0;
}

static vu_always_inline int take_in(const struct vu_virtqueue_format *format, struct vu_virtqueue *queue,
                                    const struct vu_load_options *options, struct vu_load_result *result,
                                    struct vu_arrival *arrival)
{
    const int keep = (options->flags & VU_LOAD_STAMP) != 0;
    uint16_t buffers = 1;
    uint32_t length = 0;
    int slot;

    const int pending = format->pending(queue);
    if (pending <= 0) {
        return pending;
    }
    slot = format->take(queue, &length);
    if (slot < 0) {
        return slot;
    }
    if (length < queue->header_size || length > queue->buffer_size) {
        return VU_DRIVER_USED_LENGTH;
    }
    const uint8_t *at = vu_virtqueue_buffer(queue, (uint16_t)slot);
    const uint8_t *frame = at + queue->header_size;
    arrival->length = length - queue->header_size;
    if ((queue->flags & VU_VIRTQUEUE_MRG_RXBUF) != 0) {
        memcpy(&buffers, at + VU_NUM_BUFFERS_OFFSET, sizeof(buffers));
        buffers = le16toh(buffers);
        if (buffers == 0) {
            return VU_DRIVER_MERGE_BROKEN;
        }
    }
    if (buffers > 1) {
        int failure;
        if (keep) {
            memcpy(queue->scratch, frame, arrival->length);
        }
        failure = merge(format, queue, buffers - 1U, keep, arrival);
        if (failure < 0) {
            return failure;
        }
        frame = queue->scratch;
    }
    vu_fifo_push(&queue->free, (uint16_t)slot);
    result->received_chains += buffers;
    judge(frame, options, result, arrival);
    return 1;
}

int vu_receive(struct vu_virtqueue *queue, const struct vu_load_options *options,
               struct vu_load_result *result, struct vu_arrival *arrival)
{
    return vu_virtqueue_is_packed(queue) ? take_in(&vu_packed_format, queue, options, result, arrival)
                                         : take_in(&vu_split_format, queue, options, result, arrival);
}

static uint32_t arm(struct vu_virtqueue *const *queues, uint32_t count, struct pollfd *fds, int *pending)
{
    for (uint32_t i = 0; i < count; i++) {
        fds[i] = (struct pollfd){.fd = queues[i]->call_fd, .events = POLLIN};
        *pending |= vu_virtqueue_enable_calls(queues[i]);
    }
    return count;
}

static void disarm(struct vu_virtqueue *const *queues, uint32_t count, const struct pollfd *fds)
{
    for (uint32_t i = 0; i < count; i++) {
        if ((fds[i].revents & POLLIN) != 0) {
            vu_virtqueue_clear_call(queues[i]);
        }
        vu_virtqueue_disable_calls(queues[i]);
    }
}

int vu_sleep(struct vu_virtqueue *const *transmit, uint32_t transmit_count,
             struct vu_virtqueue *const *receive, uint32_t receive_count, uint64_t timeout_ns)
{
    struct pollfd fds[2 * VU_LOAD_MAX_QUEUES];
    const struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000ULL),
                                     .tv_nsec = (long)(timeout_ns % 1000000000ULL)};
    int pending = 0;
    int interrupted = 0;
    uint32_t count = arm(transmit, transmit_count, fds, &pending);

    count += arm(receive, receive_count, fds + count, &pending);
    if (!pending) {
        interrupted = ppoll(fds, count, &timeout, NULL) < 0 && errno == EINTR;
    }
    disarm(transmit, transmit_count, fds);
    disarm(receive, receive_count, fds + transmit_count);
    return interrupted;
}
