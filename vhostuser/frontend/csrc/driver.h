/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver side in C: split and packed virtqueues with real barriers, and loads over them.  For everything
 * that runs beside a back-end at speed; `virtqueue.py` and `packed_virtqueue.py` say the same things slowly.
 *
 * Read by the C compiler and by cffi: typedefs, complete structs, prototypes and numeric defines only.
 *
 * Guest memory, rings and eventfds belong to the caller and outlive the virtqueue.  A virtqueue is used by
 * one thread at a time; different virtqueues of one driver may run on different threads.
 */
#ifndef VU_DRIVER_H
#define VU_DRIVER_H

#include <stdint.h>

/* struct vu_virtqueue_config.flags: what was negotiated, and which way the buffers go */
#define VU_VIRTQUEUE_EVENT_IDX 1
#define VU_VIRTQUEUE_INDIRECT 2
#define VU_VIRTQUEUE_IN_ORDER 4
#define VU_VIRTQUEUE_MRG_RXBUF 8
#define VU_VIRTQUEUE_RECEIVE 16
#define VU_VIRTQUEUE_PACKED 32

#define VU_VIRTQUEUE_MAX_SEGMENTS 16
#define VU_LOAD_MAX_QUEUES 128

/* Failures, all negative.  After one of USED or MERGE the virtqueue is of no more use. */
enum vu_driver_error {
    VU_DRIVER_BAD_CONFIG = -1,   /* a number in the options makes no sense */
    VU_DRIVER_USED_JUMPED = -2,  /* more chains given back than are in flight */
    VU_DRIVER_USED_UNKNOWN = -3, /* a chain given back that is not in flight */
    VU_DRIVER_USED_LENGTH = -4,  /* more bytes written than the chain has, or less than a header */
    VU_DRIVER_MERGE_BROKEN = -5, /* the buffers of one frame were not given back together */
    VU_DRIVER_USED_FLAGS = -6    /* packed: a descriptor that is neither available nor used */
};

/*
 * struct vu_load_options.flags
 * STAMP: every frame carries a sequence number, a pattern and a checksum, and arrivals are checked.
 * SLEEP: sleep on the call eventfds when nothing moves, else poll.
 * SETTLE: in the end wait until every frame has come back, while something still moves.
 */
#define VU_LOAD_STAMP 1
#define VU_LOAD_SLEEP 2
#define VU_LOAD_SETTLE 4

#define VU_STAMP_SIZE 16
#define VU_HISTOGRAM_BUCKETS 1056

struct vu_virtqueue;

struct vu_virtqueue_config {
    uint64_t desc;     /* where this process has the three parts mapped */
    uint64_t avail;    /* packed: the driver's event suppression area */
    uint64_t used;     /* packed: the device's */
    uint64_t pool;     /* buffers and indirect tables, vu_virtqueue_pool_size() bytes, mapped in one piece */
    uint64_t pool_gpa; /* its guest address */
    uint32_t buffer_size; /* bytes of one buffer, header included */
    uint32_t header_size; /* of the virtio-net header: 10, 12 or 20 */
    uint32_t flags;       /* VU_VIRTQUEUE_* */
    uint16_t size;        /* entries; of a split ring a power of two */
    uint16_t position;    /* packed: slot where both sides are, wrap counter in bit 15; 0x8000 if zeroed */
    uint16_t segments;    /* descriptors of one chain: 1 whole, 2 header apart, more cut the frame too */
    int32_t kick_fd;      /* -1: the device polls */
    int32_t call_fd;      /* -1: sleeping on this queue is not possible */
};

struct vu_virtqueue_counts {
    uint64_t kicks;       /* written to the kick eventfd */
    uint64_t kicks_saved; /* publications that the device wanted no kick for */
    uint64_t calls;       /* read from the call eventfd */
    uint64_t in_flight;   /* chains that the device has */
};

struct vu_load_options {
    uint64_t packets;       /* stop after so many frames sent, or received if nothing is sent; 0 no limit */
    uint64_t duration_ns;   /* stop after so long; 0 no limit */
    uint64_t lost_after_ns; /* with nothing moving for so long, what is in flight counts as lost */
    uint64_t rate;          /* frames a second over all queues, caught up with after a pause; 0 no limit */
    const uint8_t *template_bytes; /* what every frame begins with: Ethernet header and what follows */
    uint32_t template_size;
    uint32_t frame_size; /* of the frames sent, without virtio-net header */
    uint32_t window;     /* frames sent and not yet received, over all queues; 0 as many as the rings hold */
    uint32_t burst;      /* frames between two publications */
    uint32_t flags;      /* VU_LOAD_* */
    uint32_t run;        /* tells the frames of one run from those of another, 16 bits */
    uint8_t header[24];  /* virtio-net header of the frames sent */
};

/* Added to, never cleared: a run can go on in slices.  The caller zeroes it at the start of a run. */
struct vu_load_result {
    uint64_t sent;
    uint64_t returned; /* sent frames whose chain the device gave back */
    uint64_t received; /* with VU_LOAD_STAMP only frames of this run that arrived whole */
    uint64_t received_bytes;
    uint64_t received_chains; /* more than frames where mergeable buffers were needed */
    uint64_t foreign;         /* not of this run: no stamp, or another's */
    uint64_t corrupt;         /* ours by its magic, but the checksum is wrong */
    uint64_t skipped;         /* sequence numbers that were jumped over */
    uint64_t late;            /* frames whose sequence number had been passed already: reordered or doubled */
    uint64_t lost;            /* given up on after lost_after_ns */
    uint64_t full;            /* turns that found a transmit ring full */
    uint64_t sleeps;
    uint64_t elapsed_ns;                        /* less the time at the end in which nothing moved any more */
    uint64_t last_moved;                        /* on CLOCK_MONOTONIC */
    uint64_t next_sent[VU_LOAD_MAX_QUEUES];     /* sequence numbers, by transmit queue */
    uint64_t next_received[VU_LOAD_MAX_QUEUES]; /* by the transmit queue that the stamp names */
};

/* Bytes of pool that such a virtqueue needs; 0 if the configuration makes no sense. */
uint64_t vu_virtqueue_pool_size(const struct vu_virtqueue_config *config);

/* A virtqueue over a ring that is zeroed or that was left with nothing in flight.  NULL if the configuration
 * makes no sense or memory is short.  Free it after the device has stopped using the ring. */
struct vu_virtqueue *vu_virtqueue_new(const struct vu_virtqueue_config *config);
void vu_virtqueue_free(struct vu_virtqueue *queue);

/* Lend every buffer of a receive queue to the device and kick it if it wants that; how many were lent. */
int vu_virtqueue_fill(struct vu_virtqueue *queue);

/* SET_VRING_BASE for a device that goes on where this ring shows that the last one stood. */
uint32_t vu_virtqueue_base(const struct vu_virtqueue *queue);
void vu_virtqueue_count(const struct vu_virtqueue *queue, struct vu_virtqueue_counts *counts);

/*
 * Send on `transmit`, take in on `receive`, until a limit of the options is reached: 0, or a VU_DRIVER_*
 * failure. Without transmit queues it drains, without receive queues it floods; with a window it keeps that
 * many frames on their way, as an echo or a loop through another guest needs.  A signal during a sleep ends
 * it early.
 */
int vu_load_run(struct vu_virtqueue **transmit, uint32_t transmit_count, struct vu_virtqueue **receive,
                uint32_t receive_count, const struct vu_load_options *options, struct vu_load_result *result);

/*
 * One frame at a time: send, wait for it, note the nanoseconds in between in a histogram of
 * VU_HISTOGRAM_BUCKETS. Without VU_LOAD_STAMP any frame of the size sent is taken for the answer.
 */
int vu_ping_run(struct vu_virtqueue *transmit, struct vu_virtqueue *receive,
                const struct vu_load_options *options, struct vu_load_result *result, uint64_t *histogram);

/* The bucket of a value, and the smallest value of a bucket: exact below 64, then 32 steps to each doubling.
 */
uint32_t vu_histogram_bucket(uint64_t value);
uint64_t vu_histogram_floor(uint32_t bucket);

/* Write the stamp and the pattern behind it into `length` bytes; how they are judged when they arrive. */
void vu_stamp_write(uint8_t *bytes, uint32_t length, uint32_t run, uint64_t sequence);
int vu_stamp_check(const uint8_t *bytes, uint32_t length, uint32_t run, uint64_t *sequence);
#define VU_STAMP_FOREIGN 0
#define VU_STAMP_WHOLE 1
#define VU_STAMP_CORRUPT 2

/* A full memory fence, for rings driven from Python. */
void vu_driver_fence(void);

#endif
