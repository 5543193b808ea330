/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker: who runs ring pairs.  It owns an epoll set with every kick and port fd of its pairs, and one
 * function, the turn.  The event loop turns it without waiting when the epoll fd is readable; a C thread
 * turns it and waits inside.
 */
#ifndef VU_WORKER_H
#define VU_WORKER_H

#include <stdint.h>

#include "device.h"

/* Bits of vu_worker_turn's answer. */
#define VU_TURN_MORE 1   /* work is left: turn again */
#define VU_TURN_EVENTS 2 /* vu_worker_events has something */

enum vu_event_kind {
    VU_EVENT_RING_STARTED = 1,   /* value[0] position, [1] base given, [2] used->idx found, [3] avail->idx;
                                    error 1: packed, slot and lap's bit in place of the indices, no [3] */
    VU_EVENT_RING_BROKEN = 2,    /* error; value[0..3] head or index, address, length, flags */
    VU_EVENT_DEVICE_FAULTED = 3, /* MEMORY_FAULT: value[0] host address (0: a system call said so), [1]
                                    guest address of the region, [2] its size; NOTIFY: value[0] ring */
    VU_EVENT_PORT_GONE = 4,      /* error is -errno */
    VU_EVENT_OVERFLOW = 5        /* events were lost: look at every ring */
};

struct vu_event {
    uint32_t kind;
    uint32_t device; /* id given to vu_device_new */
    uint32_t ring;   /* ring index of the device, 2n or 2n+1 */
    int32_t error;
    uint64_t value[4];
};

/* NULL with errno set when the kernel has no epoll fd for us. */
struct vu_worker *vu_worker_new(void);
/* All its pairs must be freed. */
void vu_worker_free(struct vu_worker *worker);
/* Readable when a turn has something to do. Owned by the worker. */
int vu_worker_epoll_fd(const struct vu_worker *worker);
/* One bounded run: waits up to timeout_ms (0 from the loop) when nothing is queued, then serves pairs
   until all had one budget or about 500 us are spent.  Returns VU_TURN_* bits. */
uint32_t vu_worker_turn(struct vu_worker *worker, int timeout_ms);
/* The one primitive of quiescing.  When pause returns, the worker holds nothing of any device and will not
   start a turn until resume; calls nest.  Callable from any thread but the one inside the turn. */
void vu_worker_pause(struct vu_worker *worker);
void vu_worker_resume(struct vu_worker *worker);
/* Moves up to max events out; one reader. */
uint32_t vu_worker_events(struct vu_worker *worker, struct vu_event *events, uint32_t max);

/* Contains a SIGBUS on guest memory to its device; installed once a process, chains to the old handler. */
int vu_guard_install(void);

#endif
