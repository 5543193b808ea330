/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every burst loop is made of: fetching a burst of transmit chains, filling receive chains, ending a
 * burst.  Each function takes the ring operations as a constant and is inlined into its caller, so no
 * indirect call is left in the machine code.
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

/* Ends a burst that completed `done` chains: one publish, one call decision, then the error, if any. */
static vu_always_inline void vu_ring_finish(const struct vu_ring_ops *ops, struct vu_vring *vring,
                                            const struct vu_chain *chains, uint32_t done, int error)
{
    if (done) {
        if (vu_tracks(ops, vring))
            ops->before_publish(vring, chains, (uint16_t)done);
        ops->publish(vring, chains, (uint16_t)done);
        if (vu_tracks(ops, vring))
            ops->after_publish(vring, chains, (uint16_t)done);
        if (vu_logs(ops, vring->pair->device))
            ops->mark_used(vring, chains, (uint16_t)done);
        vring->used_anything = true;
        vu_count(&vring->counters.chains, done);
        vu_count(&vring->counters.bursts, 1);
        if (ops->wants_call(vring))
            vu_vring_call(vring);
        else
            vu_count(&vring->counters.calls_suppressed, 1);
    }
    if (vu_unlikely(error < 0))
        vu_vring_break(vring, error);
}

/* Fetches up to `most` transmit chains into scratch->tx; the number fetched.  *error: a chain after those is
   bad, to be reported once they are completed. */
static vu_always_inline uint32_t vu_dequeue_fetch(const struct vu_ring_ops *ops, struct vu_vring *vring,
                                                  const struct vu_memory *memory, struct vu_scratch *scratch,
                                                  uint32_t most, int *error)
{
    uint32_t count = 0;

    *error = VU_OK;
    scratch->tx_pieces.used = scratch->tx_pieces.walked = 0;
    while (count < most && scratch->tx_pieces.walked < VU_BURST_PIECES) {
        int result = ops->fetch(ops->general, vring, memory, (uint16_t)count, VU_TX, &scratch->tx_pieces,
                                &scratch->tx[count]);

        if (vu_unlikely(result)) {
            *error = result < 0 ? result : VU_OK;
            break;
        }
        count++;
    }
    return count;
}

/* Reads and checks a transmit chain's header.  -1: *header and *length (of the frame) are good; else the
   enum vu_drop. */
static vu_always_inline int vu_dequeue_header(const struct vu_ring_ops *ops, const struct vu_vring *vring,
                                              const struct vu_scratch *scratch, const struct vu_chain *chain,
                                              struct vu_net_hdr *header, uint32_t *length)
{
    const struct vu_device *device = vring->pair->device;
    const struct iovec *pieces = &scratch->tx_pieces.piece[chain->first];

    *header = (struct vu_net_hdr){0};
    *length = 0;
    if (vu_unlikely(chain->length < device->header_size))
        return VU_DROP_HEADER_TRUNCATED;
    if (vu_unlikely(chain->length - device->header_size > VU_FRAME_MAX))
        return VU_DROP_OVERSIZE;
    *length = (uint32_t)chain->length - device->header_size;
    vu_iov_gather(header, vu_cursor_at(pieces, 0), device->header_size);
    if (vu_turns(ops, vring))
        vu_net_hdr_turn(header);
    return vu_net_hdr_check(header, *length, device->features);
}

static vu_always_inline void vu_count_frame(struct vu_counters *counters, const struct vu_net_hdr *header,
                                            uint32_t length)
{
    vu_count(&counters->packets, 1);
    vu_count(&counters->bytes, length);
    vu_count(&counters->offloads, header->flags | header->gso_type ? 1 : 0);
}

/* Receive chains being filled: scratch->rx[used..fetched) are fetched and empty. */
struct vu_enqueue {
    struct vu_vring *vring;
    const struct vu_device *device;
    struct vu_scratch *scratch;
    uint64_t held; /* bytes in rx[used..fetched) */
    uint32_t fetched;
    uint32_t used;
    bool empty; /* the last reserve wanted a chain that was not there */
    int error;
};

static vu_always_inline void vu_enqueue_begin(struct vu_enqueue *rx, struct vu_pair *pair)
{
    *rx = (struct vu_enqueue){
        .vring = &pair->vring[VU_RX], .device = pair->device, .scratch = pair->worker->scratch};
    rx->scratch->rx_pieces.used = rx->scratch->rx_pieces.walked = 0;
}

/* Whether this burst's own space does for one more frame; false only after it was given one. */
static vu_always_inline bool vu_enqueue_room(const struct vu_enqueue *rx)
{
    return rx->fetched < VU_RX_CHAINS / 2 && rx->scratch->rx_pieces.walked < VU_BURST_PIECES;
}

/* Makes chains ready for header and frame of `bytes` together; what they can hold (less when the guest gave
   less, or one chain does not do and the guest does not merge). */
static vu_always_inline uint64_t vu_enqueue_reserve(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                                    uint64_t bytes)
{
    rx->empty = false;
    while (rx->held < bytes && (rx->device->mergeable || rx->fetched == rx->used)) {
        struct vu_chain *chain = &rx->scratch->rx[rx->fetched];
        int result;

        if (vu_unlikely(rx->error || rx->fetched == VU_RX_CHAINS ||
                        rx->scratch->rx_pieces.walked >= VU_PIECES))
            break;
        result = ops->fetch(ops->general, rx->vring, rx->device->memory, (uint16_t)rx->fetched, VU_RX,
                            &rx->scratch->rx_pieces, chain);
        if (vu_unlikely(result)) {
            rx->error = result < 0 ? result : VU_OK;
            rx->empty = result == VU_FETCH_EMPTY;
            break;
        }
        rx->held += chain->length;
        rx->fetched++;
    }
    return rx->held;
}

static vu_always_inline const struct iovec *vu_enqueue_pieces(const struct vu_enqueue *rx)
{
    return &rx->scratch->rx_pieces.piece[rx->scratch->rx[rx->used].first];
}

/* Whether the first chain can hold the header, which may not be split over chains. */
static vu_always_inline bool vu_enqueue_header_fits(const struct vu_enqueue *rx)
{
    return rx->fetched > rx->used && rx->scratch->rx[rx->used].length >= rx->device->header_size;
}

/* Why a frame of `bytes` with header does not fit into what reserve got. */
static vu_always_inline int vu_enqueue_refusal(const struct vu_enqueue *rx)
{
    if (rx->fetched > rx->used && (!rx->device->mergeable || !vu_enqueue_header_fits(rx)))
        return VU_DROP_BUFFER_TOO_SMALL;
    return VU_DROP_NO_BUFFERS;
}

/* The frame's bytes are in place: writes the header, num_buffers last of all, and what each chain holds. */
static vu_always_inline void vu_enqueue_commit(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                               struct vu_net_hdr *header, uint32_t length)
{
    const struct iovec *pieces = vu_enqueue_pieces(rx);
    uint64_t total = rx->device->header_size + (uint64_t)length;
    uint32_t first = rx->used;
    uint16_t buffers = 0;

    do {
        struct vu_chain *chain = &rx->scratch->rx[rx->used];

        chain->written = (uint32_t)VU_MIN(total, chain->length);
        total -= chain->written;
        rx->held -= chain->length;
        rx->used++;
        buffers++;
    } while (total);
    vu_write_le16(&header->num_buffers, rx->device->mergeable ? buffers : 1);
    if (vu_turns(ops, rx->vring))
        vu_net_hdr_turn(header);
    vu_iov_scatter(vu_cursor_at(pieces, 0), header, rx->device->header_size);
    if (vu_logs(ops, rx->device)) {
        for (uint32_t i = first; i < rx->used; i++)
            vu_log_mark_pieces(rx->device->log, rx->device->memory,
                               &rx->scratch->rx_pieces.piece[rx->scratch->rx[i].first], 0,
                               rx->scratch->rx[i].written);
    }
    vu_count_frame(&rx->vring->counters, header, length);
}

/* -1, or the enum vu_drop of a frame that the guest does not want. */
static vu_always_inline int vu_enqueue_filter(const struct vu_enqueue *rx, struct vu_cursor frame,
                                              uint32_t length)
{
    uint8_t head[VU_FILTER_HEAD] = {0};

    if (vu_likely(!rx->device->filters))
        return -1;
    vu_iov_gather(head, frame, VU_MIN(length, sizeof(head)));
    return vu_filter_check(&rx->device->filter, head);
}

/* Copies a frame into receive chains.  -1, or the enum vu_drop (nothing is used then). */
static vu_always_inline int vu_enqueue_copy(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                            struct vu_net_hdr *header, struct vu_cursor frame,
                                            uint32_t length)
{
    uint32_t header_size = rx->device->header_size;
    int drop = vu_enqueue_filter(rx, frame, length);

    if (vu_unlikely(drop >= 0))
        return drop;
    if (vu_unlikely(vu_enqueue_reserve(ops, rx, (uint64_t)header_size + length) <
                        (uint64_t)header_size + length ||
                    !vu_enqueue_header_fits(rx)))
        return vu_enqueue_refusal(rx);
    vu_iov_copy(vu_cursor_at(vu_enqueue_pieces(rx), header_size), frame, length);
    vu_enqueue_commit(ops, rx, header, length);
    return -1;
}

static vu_always_inline void vu_enqueue_end(const struct vu_ring_ops *ops, struct vu_enqueue *rx)
{
    vu_ring_finish(ops, rx->vring, rx->scratch->rx, rx->used, rx->error);
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
