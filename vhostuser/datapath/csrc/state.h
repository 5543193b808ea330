/* SPDX-License-Identifier: Apache-2.0 */
/* The insides of device, pair and worker: who writes what stands beside each field. */
#ifndef VU_STATE_H
#define VU_STATE_H

#include <pthread.h>

#include "control.h"
#include "filter.h"
#include "guard.h"
#include "iov.h"
#include "net_hdr.h"
#include "packet.h"
#include "ring.h"
#include "ticket.h"
#include "uring.h"
#include "worker.h"

/* Written by the control side while the workers are paused; read by bursts. */
struct vu_device {
    uint64_t features;
    struct vu_memory *memory;     /* one reference */
    struct vu_log *log;           /* the control side's, until it is swapped */
    struct vu_inflight *inflight; /* the control side's, until it is swapped */
    struct vu_iotlb *iotlb;       /* made with its first entry */
    uint32_t misses;              /* the last serial */
    bool misses_told;             /* by an event that the control side has not followed yet; workers', too */
    uint32_t view_pages;          /* workers', too */
    bool general;                 /* its rings are served by the general instances */
    uint32_t header_size;         /* the guest's virtio-net header: 10 or 12 bytes */
    bool mergeable;
    bool faulted; /* by any of its workers, sticky: no ring of the device is touched again */
    bool filters; /* the filter holds */
    uint32_t id;
    struct vu_pair *pairs;
    struct vu_member *member; /* of the switch that its pairs are on, or NULL */
    struct vu_filter filter;
};

static vu_always_inline bool vu_device_is_faulted(const struct vu_device *device)
{
    return __atomic_load_n(&device->faulted, __ATOMIC_RELAXED);
}

/* What a pair has to do; set by events, cleared when a burst finds nothing more. */
#define VU_READY_TX 1
#define VU_READY_RX 2

/* What an epoll event stands for. */
enum vu_source_kind {
    VU_SOURCE_KICK_RX = 0,
    VU_SOURCE_KICK_TX = 1,
    VU_SOURCE_PORT = 2,
    VU_SOURCE_TIMER,
    VU_SOURCE_WAKE
};

struct vu_source {
    struct vu_pair *pair;
    enum vu_source_kind kind;
};

enum vu_control_state {
    VU_CONTROL_IDLE = 0,
    VU_CONTROL_ASKED = 1,   /* the event is out, and the ring rests: set by the worker */
    VU_CONTROL_ANSWERED = 2 /* `ack` is to be written: set by the control side */
};

struct vu_control {
    enum vu_control_state state;
    uint8_t ack;
    uint32_t length; /* of the command, also where it is too long to be copied */
    uint8_t bytes[VU_CONTROL_BYTES];
};

struct vu_pair {
    struct vu_vring vring[2]; /* VU_RX, VU_TX */
    struct vu_device *device;
    struct vu_worker *worker;
    struct vu_pair *next_queued; /* on the worker's run queue; the worker's */
    struct vu_pair *next;        /* of the device */
    struct vu_pair *next_served; /* of the worker */
    uint32_t ready;
    bool queued;
    bool starved;      /* RX found no buffers: the port is not watched until the guest kicks */
    bool port_blocked; /* the port said EAGAIN to a write: TX waits for EPOLLOUT */
    bool port_reads;
    bool port_slow; /* it knows no writes that do not wait: no io_uring */
    bool port_gone; /* what is behind it has gone: not touched again until the port is set anew */
    uint8_t port_kind;
    uint8_t port_header; /* bytes of the virtio-net header on port_fd */
    int port_fd;
    uint32_t port_watched; /* epoll bits now asked for */
    uint32_t frame_size;   /* of VU_PORT_SOURCE */
    uint32_t read_batch;   /* frames to read by the next call */
    uint32_t expected;     /* running estimate of the next frame's length, for the chains a read is given */
    uint64_t sequence;     /* of VU_PORT_SOURCE */
    uint32_t n;
    bool spins;                    /* on the worker's list of those that are looked at (spin.h) */
    struct vu_pair *next_spinning; /* there */
    uint64_t spin_window;          /* ns without work after which it is looked at no longer */
    uint64_t spin_end;             /* when that is, or was */
    struct vu_source sources[3];
    struct vu_ticket filling;   /* of VU_PORT_SWITCH: held while anybody touches its RX ring in a turn */
    struct vu_control *control; /* of a pair that has ever been VU_PORT_CONTROL */
    uint64_t spent;             /* what its turns cost (about ns), ever; read by anybody */
};

static vu_always_inline bool vu_port_has_fd(const struct vu_pair *pair)
{
    return pair->port_kind == VU_PORT_FD || pair->port_kind == VU_PORT_PACKET;
}

#define VU_FILTER_HEAD (VU_ETH_HEADER + 4)

/* Longest run of receive chains in one burst; a frame that needs more is dropped (1-byte buffers). */
#define VU_RX_CHAINS 1024

/* More pieces than this are copied together first: the kernel takes 1024, but charges for each. */
#define VU_SYSCALL_PIECES 64
/* Up to this many bytes a frame is copied on its way into a port (port_write.c), and out of it (port_read.h).
 */
#define VU_SHORT_FRAME 2048

/* A transmit chain of the burst on its way into a port's fd. */
struct vu_outgoing {
    struct vu_net_hdr header;      /* checked */
    uint8_t bytes[VU_SHORT_FRAME]; /* a short frame, behind its header */
    uint32_t length;               /* of the frame */
    uint32_t pieces;               /* of `list` */
    int drop;                      /* enum vu_drop, or -1: it goes out */
    int32_t result;
    struct iovec list[1 + VU_SYSCALL_PIECES];
};

/* A frame on its way to other members of a switch. */
struct vu_forward {
    struct vu_cursor frame;
    const uint8_t *bytes; /* of a simple one: where it begins */
    uint32_t length;
    int16_t drop;             /* enum vu_drop, or -1: it has been passed on */
    bool plain;               /* its header says nothing, and stands nowhere */
    bool simple;              /* plain, in one piece, no shorter than `head`, and short */
    struct vu_net_hdr header; /* checked */
    /* What it begins with, which decided where it goes; zeros behind a shorter one. */
    uint8_t head[VU_FILTER_HEAD];
};

#define VU_READ_BATCH 16

/* A VLAN tag that a packet socket gives beside the frame has to go back into it: so much is kept free in
   front of a frame in private memory. */
#define VU_TAG_SIZE 4

/* A frame on its way from a port's fd into a receive chain. */
struct vu_incoming {
    struct vu_net_hdr header;
    int32_t result;
    uint32_t room;  /* bytes of the frame that its chain takes, where it is read into that */
    uint8_t *bytes; /* where they are; all of it, if it is in the tail */
    struct iovec list[3];
    uint8_t before[VU_TAG_SIZE];
    /* The others; of a short one all, header included. */
    uint8_t tail[VU_FRAME_MAX + 2 * VU_NET_HDR_SIZE];
};

/* The frames of one burst; a fault forgets them, and with them what was not published. */
struct vu_tally {
    uint64_t packets;
    uint64_t bytes;
    uint64_t offloads;
};

/* One worker's private workspace: bounced frames and the lists of a burst.  Reserved, touched when used. */
struct vu_scratch {
    struct vu_chain tx[VU_BURST];
    struct vu_outgoing out[VU_BURST];
    struct vu_forward forward[VU_BURST];
    struct vu_incoming in[VU_READ_BATCH];
    struct vu_chain rx[VU_RX_CHAINS];
    struct vu_pieces tx_pieces;
    struct vu_pieces rx_pieces;
    uint8_t tail[VU_FRAME_MAX + VU_NET_HDR_SIZE];   /* behind the guest's buffers when a port is read */
    struct vu_message messages[VU_PACKET_BATCH];    /* to or from a packet socket */
    uint8_t linear[VU_FRAME_MAX + VU_NET_HDR_SIZE]; /* one frame: in too many pieces, or to be worked on */
};

#define VU_EVENTS 256

/* quiesce.c.  Under its lock: */
struct vu_gate {
    pthread_mutex_t lock;
    pthread_cond_t moved; /* any of the below */
    uint32_t hold;        /* nested pauses */
    bool turning;         /* a turn runs */
    bool owed;            /* the worker's thread was kept from a turn and has not had it yet */
    bool ending;          /* its thread has to end; read without the lock, too */
};

struct vu_worker {
    /* Worker's own. */
    int epoll_fd;
    int timer_fd;     /* 1 ms, running while a started ring has no kick fd */
    int wake_fd;      /* written when a pause ends with work queued */
    uint32_t polled;  /* rings without a kick fd */
    bool rescan;      /* events were thrown away: look at every pair */
    bool unfinished;  /* the last turn left work: the next one does not wait */
    uint32_t crowded; /* turns with work for several pairs, fewer by each other one */
    struct vu_pair *pairs;
    struct vu_pair *queue_head;
    struct vu_pair *queue_tail;
    struct vu_pair *spinning; /* looked at without being kicked; spin.h */
    enum vu_poll poll;
    uint64_t now;   /* ns, at the last look on the clock; only of a worker that spins */
    uint64_t since; /* all time until then has been accounted for, likewise; 0 after a sleep */
    struct vu_scratch *scratch;
    struct vu_uring *uring; /* NULL where the kernel has none for us */
    struct vu_guard guard;
    struct vu_source timer_source;
    struct vu_source wake_source;
    struct vu_gate gate vu_cache_aligned;
    uint32_t changes; /* pauses ever; written by the control side, read by the worker at each turn */
    /* The thread, while it has one: written before it starts and after it has ended. */
    pthread_t thread;
    bool has_thread;
    int thread_id; /* 0 without; written by itself when it begins */
    int events_fd;
    struct vu_worker_counters counters vu_cache_aligned;
    /* Events up: one writer, one reader. */
    uint32_t events_head vu_cache_aligned;
    bool events_overflow;
    uint32_t events_tail vu_cache_aligned;
    struct vu_event events[VU_EVENTS];
};

/* quiesce.c: the worker's side.  Enter answers false while the worker is paused; leave, whether somebody
   waits for the end of the turn; await returns when the worker no longer is paused, or when its thread has to
   end. */
void vu_gate_open(struct vu_gate *gate);
void vu_gate_close(struct vu_gate *gate);
void vu_gate_end(struct vu_gate *gate, bool ending);
bool vu_turn_enter(struct vu_worker *worker);
bool vu_turn_leave(struct vu_worker *worker);
void vu_turn_await(struct vu_worker *worker);

/* events.c: to the queue of the worker whose turn this thread is in, or else of the pair's own, which is
   paused then: a ring may be filled in another worker's turn, and a queue has one writer. */
void vu_event_put(const struct vu_pair *pair, const struct vu_event *event);
bool vu_events_pending(const struct vu_worker *worker);

/* device.c: the pair's front-end did what none may.  VU_ERR_MEMORY_FAULT: memory went away, at host address
   `where` (0 when a system call said so).  VU_ERR_NOTIFY: an fd of ring `where` blocks. */
void vu_device_fault(const struct vu_pair *pair, int error, uintptr_t where);
/* device.c: the same for a guard that was unwound to. */
void vu_device_unwound(const struct vu_guard *guard);

/* pair.c: puts the pair on its worker's run queue; asks epoll for what the pair can use of its port now. */
void vu_pair_wake(struct vu_pair *pair, uint32_t ready);
void vu_pair_watch_port(struct vu_pair *pair);
void vu_pair_port_gone(struct vu_pair *pair, int error);
void vu_pair_port_down(struct vu_pair *pair);

/* vring.c: ends a ring by its fault, reports it, pokes the err fd; nothing more when it is broken already. */
void vu_vring_break(struct vu_vring *vring, int error);
/* vring.c: translates the ring's parts in the device's present memory; VU_FETCH_MISS when it is parked. */
int vu_vring_translate(struct vu_vring *vring);
/* Bytes of part 0, 1 or 2, event words included, whether negotiated or not (virtio 1.2, 2.7 and 2.8.10). */
uint64_t vu_vring_part_length(const struct vu_vring *vring, int part);
/* vring.c: brings the ring to where a burst may touch it; false when it is stopped, broken or parked. */
bool vu_vring_make_ready(struct vu_vring *vring);
/* position.c: finds where the ring goes on; false when the ring broke. */
bool vu_vring_first_look(struct vu_vring *vring);
/* position.c: where it is, as GET_VRING_BASE has it. */
uint32_t vu_vring_position(const struct vu_vring *vring);

static inline bool vu_vring_is_ready(struct vu_vring *vring)
{
    return (vring->state == VU_VRING_RUNNING && vring->mapped && !vring->parked) ||
           vu_vring_make_ready(vring);
}

/* iotlb.c: the range as one piece.  VU_FETCH_MISS when the ring is parked; VU_ERR_RING_SCATTERED when every
   page of it has a translation, and they lie apart. */
int vu_iotlb_piece(struct vu_vring *vring, uint64_t iova, uint64_t length, uint32_t access, void **host);
/* iotlb.c: forgets everything, and what rings wait for as well. */
void vu_iotlb_flush(struct vu_device *device);
void vu_iotlb_free(struct vu_device *device);
void vu_vring_call(struct vu_vring *vring);
/* vring.c: has the pair's worker woken by its kick fd or, without one, by the timer.  Returns vu_error. */
int vu_vring_watch_kick(struct vu_vring *vring);
void vu_vring_unwatch_kick(struct vu_vring *vring);

/* switch.c: which rings of the device take frames from others may have changed. */
void vu_member_follow(struct vu_device *device);

/* worker.c: ends its wait, now or the next one. */
void vu_worker_wake(struct vu_worker *worker);
/* worker.c: keeps the 1 ms timer running while rings without a kick fd are started. */
void vu_worker_poll_rings(struct vu_worker *worker, int change);

/* dequeue.c, enqueue.c: one budget of a pair's direction.  They return its cost (about ns) and clear the
   bits of pair->ready that have nothing left to do. */
uint32_t vu_serve_tx(struct vu_pair *pair);
uint32_t vu_serve_rx(struct vu_pair *pair);
/* control.c: the same for an RX ring that is a control ring; one command at most. */
uint32_t vu_serve_control(struct vu_pair *pair);

/* filter.c: -1, or why a frame that begins with these VU_FILTER_HEAD bytes is dropped. */
int vu_filter_check(const struct vu_filter *filter, const uint8_t *head);

#endif
