/* SPDX-License-Identifier: Apache-2.0 */
/* Frames on and off virtqueues, shared by the loads.  Private to C. */
#ifndef VU_EXCHANGE_H
#define VU_EXCHANGE_H

#include "virtqueue.h"

/* One frame that arrived. */
struct vu_arrival {
    uint64_t sequence; /* with VU_LOAD_STAMP and unless foreign */
    uint32_t length;   /* without header */
    int verdict;       /* VU_STAMP_* */
};

uint64_t vu_now(void);

/* 0 or VU_DRIVER_BAD_CONFIG: whether frames of these options fit into the buffers of these queues. */
int vu_options_check(struct vu_virtqueue *const *transmit, uint32_t count,
                     const struct vu_load_options *options);

/* Take back what was sent: how many chains, or a failure. */
int vu_reclaim(struct vu_virtqueue *queue, struct vu_load_result *result);

/* Lend up to `count` frames and publish them: how many there was room for.  `number` goes into the stamps. */
uint32_t vu_send(struct vu_virtqueue *queue, uint32_t number, uint32_t count,
                 const struct vu_load_options *options, struct vu_load_result *result);

/* Take one frame in: 1, 0 if there is none, or a failure.  Its buffers are free until vu_virtqueue_fill. */
int vu_receive(struct vu_virtqueue *queue, const struct vu_load_options *options,
               struct vu_load_result *result, struct vu_arrival *arrival);

/* Sleep until a call or for `timeout_ns`; returns at once if anything is there already.  1 after a signal. */
int vu_sleep(struct vu_virtqueue *const *transmit, uint32_t transmit_count,
             struct vu_virtqueue *const *receive, uint32_t receive_count, uint64_t timeout_ns);

#endif
