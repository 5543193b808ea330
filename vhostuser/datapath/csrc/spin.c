/* SPDX-License-Identifier: Apache-2.0 */
/* Looking into rings without having been kicked. */
#include "spin.h"

#include <time.h>

#include "burst.h"
#include "packed.h"
#include "split.h"

/* Looks between two questions to the kernel, which cost about as much as ten of them. */
#define LOOKS 64

uint64_t vu_spin_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static const struct vu_ring_ops *operations(const struct vu_vring *vring)
{
    if (vu_pair_general(vring->pair))
        return vring->is_packed ? &vu_packed_general_ops : &vu_split_general_ops;
    return vring->is_packed ? &vu_packed_ops : &vu_split_ops;
}

/* Whether it can be looked into, and a burst would be let in. */
static vu_always_inline bool is_open(const struct vu_vring *vring)
{
    return vring->state == VU_VRING_RUNNING && vring->mapped && !vring->parked;
}

static vu_always_inline bool has_grown(struct vu_vring *vring)
{
    return vring->is_packed ? vu_packed_grown(vring) : vu_split_grown(vring, vring->turned);
}

/* A translation that is missing wakes the pair by itself: also the one that an echo's frames wait for. */
static vu_always_inline bool takes_frames(const struct vu_pair *pair)
{
    const struct vu_vring *tx = &pair->vring[VU_TX];

    return is_open(tx) && tx->enabled != VU_RING_HELD && !pair->port_blocked &&
           !(pair->port_kind == VU_PORT_ECHO && pair->vring[VU_RX].parked);
}

static vu_always_inline bool waits_for_buffers(const struct vu_pair *pair)
{
    const struct vu_vring *rx = &pair->vring[VU_RX];

    return pair->starved && is_open(rx) && rx->enabled == VU_RING_ENABLED;
}

static vu_always_inline uint32_t look(struct vu_pair *pair)
{
    uint32_t ready = 0;

    if (takes_frames(pair) && has_grown(&pair->vring[VU_TX]))
        ready |= VU_READY_TX;
    if (vu_unlikely(waits_for_buffers(pair)) && has_grown(&pair->vring[VU_RX])) {
        pair->starved = false;
        ready |= VU_READY_RX;
    }
    return ready;
}

/* Asks for kicks; what has come until then needs none.  Without one the pair could sleep over it. */
static uint32_t arm(struct vu_pair *pair)
{
    if (takes_frames(pair))
        vu_ring_arm(operations(&pair->vring[VU_TX]), &pair->vring[VU_TX]);
    if (waits_for_buffers(pair))
        vu_ring_arm(operations(&pair->vring[VU_RX]), &pair->vring[VU_RX]);
    return look(pair);
}

/* Either of the two under the guard.  A frame of its own: it is what a fault unwinds to. */
static vu_noinline bool guarded(struct vu_worker *worker, struct vu_pair *pair, bool arms)
{
    uint32_t ready;

    if (vu_unlikely(vu_device_is_faulted(pair->device)))
        return false;
    if (vu_unlikely(VU_GUARD_ENTER(&worker->guard, pair))) {
        vu_device_unwound(&worker->guard);
        return false;
    }
    ready = arms ? arm(pair) : look(pair);
    vu_guard_leave();
    if (!ready)
        return false;
    vu_pair_wake(pair, ready);
    if (ready & VU_READY_RX)
        vu_pair_watch_port(pair);
    return true;
}

static void learn(struct vu_pair *pair, uint64_t slept)
{
    if (slept < VU_SPIN_WINDOW_MAX)
        pair->spin_window = VU_MIN(VU_MAX(2 * pair->spin_window, slept), VU_SPIN_WINDOW_MAX);
    else
        pair->spin_window = VU_MAX(pair->spin_window / 2, VU_SPIN_WINDOW_MIN);
}

void vu_spin_join(struct vu_pair *pair, bool worked)
{
    struct vu_worker *worker = pair->worker;

    /* Commands are rare, and a control ring never disarms itself. */
    if (pair->port_kind == VU_PORT_CONTROL)
        return;
    if (!pair->spins) {
        pair->spins = true;
        pair->next_spinning = worker->spinning;
        worker->spinning = pair;
        learn(pair, worker->now - pair->spin_end);
        worked = true;
    }
    if (worked)
        pair->spin_end = worker->now + pair->spin_window;
}

void vu_spin_leave(struct vu_pair *pair)
{
    struct vu_pair **link;

    if (!pair->spins)
        return;
    for (link = &pair->worker->spinning; *link != pair; link = &(*link)->next_spinning)
        ;
    *link = pair->next_spinning;
    pair->spins = false;
}

bool vu_spin_look(struct vu_worker *worker)
{
    bool found = false;

    for (int i = 0; i < LOOKS; i++) {
        for (struct vu_pair *pair = worker->spinning; pair; pair = pair->next_spinning)
            found |= guarded(worker, pair, false);
        if (found)
            return i == 0;
        vu_relax();
    }
    return false;
}

void vu_spin_retire(struct vu_worker *worker)
{
    struct vu_pair *next;

    if (worker->poll == VU_POLL_BUSY)
        return;
    for (struct vu_pair *pair = worker->spinning; pair; pair = next) {
        next = pair->next_spinning;
        if (pair->ready || worker->now < pair->spin_end || guarded(worker, pair, true))
            continue;
        vu_spin_leave(pair);
        pair->spin_end = worker->now;
    }
}
