/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One virtio-net device as the packet side sees it: its memory, what was negotiated, its ring pairs and
 * the port queue behind each.  Everything here that changes a pair may only be called while its worker is
 * paused (worker.h), what changes a device, while the workers of all its pairs are; nothing here touches
 * guest memory.
 */
#ifndef VU_DEVICE_H
#define VU_DEVICE_H

#include <stdint.h>

#include "counters.h"
#include "memory.h"

/* Ring of a pair: 2n is RX (we enqueue, the guest receives), 2n+1 TX (we dequeue). */
#define VU_RX 0
#define VU_TX 1

/* Largest descriptor chains of one burst, and the bounds of one pair's turn. */
#define VU_BURST 64
#define VU_TURN_PACKETS 256
#define VU_TURN_BYTES 524288

enum vu_port_kind {
    VU_PORT_NONE = 0,    /* frames from the guest are dropped as VU_DROP_PORT_DOWN */
    VU_PORT_FD = 1,      /* a tap-like fd: one frame a read or write, a virtio-net header in front */
    VU_PORT_ECHO = 2,    /* back to the same pair */
    VU_PORT_SINK = 3,    /* counted and forgotten */
    VU_PORT_SOURCE = 4,  /* sequence-numbered frames into the guest as long as it has buffers; TX like sink */
    VU_PORT_CONTROL = 5, /* none: RX is a control ring, see control.h */
    VU_PORT_SWITCH = 6,  /* the other members of the device's switch; see switch.h */
    VU_PORT_PACKET = 7   /* as VU_PORT_FD, but a packet socket with PACKET_VNET_HDR and PACKET_AUXDATA */
};

/* Vhost-user, "Ring states": a started TX ring that is disabled is emptied and its frames are dropped, an RX
   ring is not filled.  Held is ours: enabled, but the port queue behind it is not ready yet. */
enum vu_ring_enabled { VU_RING_DISABLED = 0, VU_RING_ENABLED = 1, VU_RING_HELD = 2 };

struct vu_device;
struct vu_pair;
struct vu_worker;
struct vu_log;
struct vu_inflight;

struct vu_vring_setup {
    uint64_t desc;    /* user (or I/O) addresses, as SET_VRING_ADDR brought them; packed: the ring, */
    uint64_t avail;   /* the driver's event area */
    uint64_t used;    /* and the device's */
    uint32_t size;    /* entries */
    uint32_t base;    /* the position that the front-end believes in, as SET_VRING_BASE has it */
    int kick_fd;      /* -1: none, the ring is polled; stays the caller's, as all fds here */
    int kick_drained; /* 1: a pipe or socket, to be read empty; 0: an eventfd, never read */
    int call_fd;      /* -1: the guest polls */
    int err_fd;       /* -1: nobody listens */
    int logged;       /* 1: what is written into the ring itself is marked, too, */
    uint64_t log;     /* the used ring at this guest address */
    int big_endian; /* 1: a legacy guest's words and headers are; not believed of VERSION_1 or packed rings */
};

/* id comes back in events.  NULL when out of memory. */
struct vu_device *vu_device_new(uint32_t id);
/* All its pairs must be freed first.  Drops the device's memory reference (unmaps: not on the loop). */
void vu_device_free(struct vu_device *device);
/* Acknowledged virtio features: header size, merging, offloads, event index.  While rings run only offloads
   and LOG_ALL may change. */
void vu_device_set_features(struct vu_device *device, uint64_t features);
/* Takes over the caller's reference to `memory` (may be NULL) and returns the reference to the old table
   (may be NULL).  Each running ring is translated anew; one that no longer fits is stopped and reported. */
struct vu_memory *vu_device_set_memory(struct vu_device *device, struct vu_memory *memory);
/* Where writes to guest memory are marked while LOG_ALL is acknowledged; NULL for none.  Stays the caller's:
   returns the old one, which is used no more. */
struct vu_log *vu_device_set_log(struct vu_device *device, struct vu_log *log);
/* Where rings say how far they are; NULL for none.  No ring may be started.  Stays the caller's: returns the
   old one, which is used no more. */
struct vu_inflight *vu_device_set_inflight(struct vu_device *device, struct vu_inflight *inflight);
int vu_device_faulted(const struct vu_device *device);
/* After the front-end has gone: forget that memory faulted. */
void vu_device_clear_fault(struct vu_device *device);

/* Pair n of `device`, served by `worker`.  NULL when out of memory. */
struct vu_pair *vu_pair_new(struct vu_device *device, struct vu_worker *worker, uint32_t n);
/* From now on `worker` serves the pair, running or not; both workers must be paused.  Its rings are looked
   at once.  A kick fd that the new worker cannot watch breaks its ring, a port fd is gone; both are
   reported. */
void vu_pair_move(struct vu_pair *pair, struct vu_worker *worker);
/* What it has cost its workers, in about nanoseconds; to compare pairs by. */
uint64_t vu_pair_spent(const struct vu_pair *pair);
/* Both rings must be stopped. */
void vu_pair_free(struct vu_pair *pair);
/* fd is used for VU_PORT_FD and VU_PORT_PACKET only and stays the caller's; reads: 1 when this pair reads the
   port queue too (when pairs share a queue, only one does).  size: of VU_PORT_SOURCE, bytes of a frame; of
   those with an fd, of the virtio-net header there, VU_NET_HDR_SIZE or VU_NET_HDR_LEGACY_SIZE.  Returns
   vu_error. */
int vu_pair_set_port(struct vu_pair *pair, int kind, int fd, int reads, uint32_t size);

/* Starts ring VU_RX or VU_TX: translates the ring's three parts, watches the kick fd, and queues the first
   scan, which finds the position: split from used->idx, packed from the inflight region or the base,
   whichever the ring does not contradict.  Returns vu_error, which the err fd was told of too. */
int vu_vring_start(struct vu_pair *pair, int ring, const struct vu_vring_setup *setup);
/* Stops it; returns its position as the protocol has it.  Split: the next avail index, equal to used->idx,
   since nothing is ever left fetched.  Packed: slot and lap's bit, twice.  What an inflight region brought
   and nobody has served yet stays in it, and lies between the two. */
uint32_t vu_vring_stop(struct vu_pair *pair, int ring);
/* See enum vu_ring_enabled; the ring is looked at once afterwards. */
void vu_vring_set_enabled(struct vu_pair *pair, int ring, enum vu_ring_enabled enabled);
/* Swap of a running ring's fd; the ring is scanned once (kick), signalled once if anything was used since
   its start (call).  Returns vu_error. */
int vu_vring_set_kick(struct vu_pair *pair, int ring, int fd, int drained);
void vu_vring_set_call(struct vu_pair *pair, int ring, int fd);
/* For errors from now on: of one that has happened the old fd was told. */
void vu_vring_set_err(struct vu_pair *pair, int ring, int fd);
/* SET_VRING_ADDR while the ring runs: the log flag and address may change. */
void vu_vring_set_log(struct vu_pair *pair, int ring, int logged, uint64_t address);
/* VU_OK or the vu_error that broke the ring or kept it from starting; values: four of them, for the log. */
int vu_vring_error(const struct vu_pair *pair, int ring, uint64_t *values);
/* A copy of what it has done so far; the worker may be at it (stale by a burst, no value torn). */
void vu_vring_counters(const struct vu_pair *pair, int ring, struct vu_counters *counters);
/* What the ring counted elsewhere; only while it is stopped. */
void vu_vring_set_counters(struct vu_pair *pair, int ring, const struct vu_counters *counters);

#endif
