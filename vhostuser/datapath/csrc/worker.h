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
#define VU_TURN_PAUSED 4 /* nothing was done: the worker is paused */
#define VU_TURN_HELD 8   /* somebody waits for the end of this turn */

enum vu_event_kind {
    VU_EVENT_RING_STARTED = 1,   /* value[0] position, [1] base given, [2] used->idx found, [3] avail->idx,
                                    and above its 32 bits the chains in flight that are served again;
                                    error 1: packed, slot and lap's bit in place of [0..2], no avail->idx */
    VU_EVENT_RING_BROKEN = 2,    /* error; value[0..3] head or index, address, length, flags */
    VU_EVENT_DEVICE_FAULTED = 3, /* MEMORY_FAULT: value[0] host address (0: a system call said so), [1]
                                    guest address of the region, [2] its size; NOTIFY: value[0] ring */
    VU_EVENT_PORT_GONE = 4,      /* error is -errno */
    VU_EVENT_OVERFLOW = 5,       /* events were lost: look at every ring */
    VU_EVENT_CONTROL = 6,        /* a command waits for its answer (control.h) */
    VU_EVENT_IOTLB_MISS = 7,     /* vu_iotlb_take_misses has something for this device */
    VU_EVENT_CROWDED = 8,        /* the worker that serves this device found work for several pairs in turn
                                    after turn: some may be better off elsewhere */
    VU_EVENT_PORT_DOWN = 9       /* the interface behind a packet socket is down, perhaps on its way away */
};

/* How a worker's thread waits when no pair of it has work. */
enum vu_poll {
    VU_POLL_EVENT = 0,    /* asleep until a kick or a frame */
    VU_POLL_ADAPTIVE = 1, /* looks at rings that had work for a while, then sleeps */
    VU_POLL_BUSY = 2      /* never sleeps */
};

struct vu_event {
    uint32_t kind;
    uint32_t device; /* id given to vu_device_new */
    uint32_t ring;   /* ring index of the device, 2n or 2n+1 */
    int32_t error;
    uint64_t value[4];
};

/* What a worker has done since it was made; read by anybody (stale by a turn). */
struct vu_worker_counters {
    uint64_t turns;
    uint64_t sleeps;  /* waits in a thread's turn that had no end but an event */
    uint64_t busy_ns; /* in turns that had work; of a thread that polls only, as the next */
    uint64_t idle_ns; /* awake without work */
};

/* NULL with errno set when the kernel has no epoll fd for us. */
struct vu_worker *vu_worker_new(void);
/* All its pairs must be freed, and its thread stopped. */
void vu_worker_free(struct vu_worker *worker);
/* Readable when a turn has something to do. Owned by the worker. */
int vu_worker_epoll_fd(const struct vu_worker *worker);
/* One bounded run: waits up to timeout_ms (0 from the loop, -1 for ever) when nothing is queued, then serves
   pairs until all had one budget or about 500 us are spent.  Returns VU_TURN_* bits. */
uint32_t vu_worker_turn(struct vu_worker *worker, int timeout_ms);
/* A thread of its own, called `name` (15 characters), turns the worker from now on and sleeps in the turn.
   cpu: the only one that it may use, -1 for any.  poll: enum vu_poll.  events_fd: an eventfd, stays the
   caller's, written after a turn that left VU_TURN_EVENTS or VU_TURN_HELD.  Returns -errno: EINVAL when there
   is no such CPU for us. */
int vu_worker_start(struct vu_worker *worker, const char *name, int cpu, int poll, int events_fd);
/* Ends the thread, if there is one, after the turn that it is in. */
void vu_worker_stop(struct vu_worker *worker);
/* The one primitive of quiescing.  When pause returns, the worker holds nothing of any device and will not
   start a turn until resume; calls nest.  Callable from any thread but the one inside the turn.
   It is two steps: hold keeps the worker from starting a turn, quiesce waits, asleep, for the one that it is
   in.  Who pauses several workers holds them all first, and then waits for the longest turn, not for the sum.
   A worker that sleeps in its wait is quiet as it is.  A turn is bounded (above) but for page faults: where
   somebody else fills guest memory in (a handler of userfaultfd, a file system in user space) it lasts as
   long as they take, and whoever quiesces that worker waits as long.  So such a device belongs on a worker
   of its own (vu_pair_move): then nothing waits but what changes that device. */
void vu_worker_pause(struct vu_worker *worker);
void vu_worker_hold(struct vu_worker *worker);
void vu_worker_quiesce(struct vu_worker *worker);
/* Whether it is in no turn, and so, while it is held, paused: quiesce for who must not wait.  Who was told
   no is told by the thread's events_fd when to ask again. */
int vu_worker_is_quiet(struct vu_worker *worker);
void vu_worker_resume(struct vu_worker *worker);
/* Of its thread, as the kernel counts them; 0 without one, and until it runs. */
int vu_worker_thread_id(const struct vu_worker *worker);
void vu_worker_read_counters(const struct vu_worker *worker, struct vu_worker_counters *counters);
/* Moves up to max events out; one reader. */
uint32_t vu_worker_events(struct vu_worker *worker, struct vu_event *events, uint32_t max);

/* Contains a SIGBUS on guest memory to its device; installed once a process, chains to the old handler. */
int vu_guard_install(void);

#endif
