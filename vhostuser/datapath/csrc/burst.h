/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every burst loop is made of: what it costs, and ending it; filling receive chains is in fill.h.  Each
 * function takes the ring operations as a constant and is inlined into its caller, so no indirect call is
 * left in the machine code.
 */
#ifndef VU_BURST_H
#define VU_BURST_H

#include "iov.h"
#include "marking.h"
#include "state.h"

/* A burst stops after this many descriptors, so that long chains cost their sender its own budget. */
#define VU_BURST_PIECES 2048
/* And a pair's turn when it has cost this much, whatever came of it. */
#define VU_TURN_COST 500000

/* Costs, in about nanoseconds, that share a turn out (measured on a 2-core EPYC, 64 B frames). */
#define VU_COST_FRAME 60
#define VU_COST_PIECE 8
#define VU_COST_SYSCALL 900
#define vu_cost_bytes(bytes) ((uint32_t)((bytes) / 8))

struct vu_burst {
    uint32_t packets; /* frames looked at, for the turn's bound */
    uint64_t bytes;
    uint32_t cost;
};

static vu_always_inline bool vu_burst_spent(const struct vu_burst *burst)
{
    return burst->packets >= VU_TURN_PACKETS || burst->bytes >= VU_TURN_BYTES || burst->cost >= VU_TURN_COST;
}

static vu_always_inline bool vu_logs(const struct vu_ring_ops *ops, const struct vu_device *device)
{
    return ops->general && device->log && (device->features & VU_F_LOG_ALL);
}

/* Which instances serve the pair; what it depends on changes only while the pair's worker is paused. */
static vu_always_inline bool vu_pair_general(const struct vu_pair *pair)
{
    return pair->device->general || pair->vring[VU_RX].turned || pair->vring[VU_TX].turned;
}

static vu_always_inline bool vu_tracks(const struct vu_ring_ops *ops, const struct vu_vring *vring)
{
    return ops->general && vring->tracked;
}

static vu_always_inline bool vu_turns(const struct vu_ring_ops *ops, const struct vu_vring *vring)
{
    return ops->general && vring->turned;
}

/* It waits for a translation: what is left in it is met again. */
static vu_always_inline bool vu_ring_parked(const struct vu_ring_ops *ops, const struct vu_vring *vring)
{
    return ops->general && vring->parked;
}

static vu_always_inline void vu_ring_arm(const struct vu_ring_ops *ops, struct vu_vring *vring)
{
    ops->arm(vring);
    if (vu_logs(ops, vring->pair->device))
        ops->mark_wish(vring);
}

static vu_always_inline void vu_ring_disarm(const struct vu_ring_ops *ops, struct vu_vring *vring)
{
    if (ops->disarm(vring) && vu_logs(ops, vring->pair->device))
        ops->mark_wish(vring);
}

static vu_always_inline void vu_tally_frame(struct vu_tally *tally, const struct vu_net_hdr *header,
                                            uint32_t length)
{
    tally->packets++;
    tally->bytes += length;
    tally->offloads += header->flags | header->gso_type ? 1 : 0;
}

static vu_always_inline void vu_count_tally(struct vu_counters *counters, const struct vu_tally *tally)
{
    vu_count(&counters->packets, tally->packets);
    vu_count(&counters->bytes, tally->bytes);
    vu_count(&counters->offloads, tally->offloads);
}

/* Gives the first `done` chains of the burst back; what is counted then is visible to the guest. */
static vu_always_inline void vu_ring_publish(const struct vu_ring_ops *ops, struct vu_vring *vring,
                                             const struct vu_chain *chains, uint32_t done,
                                             const struct vu_tally *tally)
{
    if (!done)
        return;
    if (vu_tracks(ops, vring))
        ops->before_publish(vring, chains, (uint16_t)done);
    ops->publish(vring, chains, (uint16_t)done);
    vring->used_anything = true;
    vu_count_tally(&vring->counters, tally);
    vu_count(&vring->counters.chains, done);
    vu_count(&vring->counters.bursts, 1);
    if (vu_tracks(ops, vring))
        ops->after_publish(vring, chains, (uint16_t)done);
    if (vu_logs(ops, vring->pair->device))
        ops->mark_used(vring, chains, (uint16_t)done);
}

/* Ends a burst of which `done` chains were given back: one call decision, then the error, if any. */
static vu_always_inline void vu_ring_finish(const struct vu_ring_ops *ops, struct vu_vring *vring,
                                            uint32_t done, int error)
{
    if (done) {
        if (ops->wants_call(vring))
            vu_vring_call(vring);
        else
            vu_count(&vring->counters.calls_suppressed, 1);
    }
    if (vu_unlikely(error < 0))
        vu_vring_break(vring, error);
}

/* Header and first bytes of a chain: what nearly every frame needs of the guest's memory. */
static vu_always_inline void vu_prefetch_chain(const struct vu_pieces *pieces, const struct vu_chain *chain,
                                               bool write)
{
    const uint8_t *bytes = pieces->piece[chain->first].iov_base;

    if (vu_unlikely(!chain->count))
        return;
    if (write) {
        vu_prefetch_write(bytes);
        vu_prefetch_write(bytes + VU_CACHE_LINE);
    } else {
        vu_prefetch(bytes);
        vu_prefetch(bytes + VU_CACHE_LINE);
    }
}

/* What is served here is looked at afterwards (spin.h): no kick has to be asked for. */
static vu_always_inline bool vu_pair_spins(const struct vu_pair *pair)
{
    return pair->worker->poll != VU_POLL_EVENT;
}

static vu_always_inline bool vu_ring_runs(struct vu_vring *vring)
{
    return vu_vring_is_ready(vring) && vring->enabled == VU_RING_ENABLED;
}

#endif
