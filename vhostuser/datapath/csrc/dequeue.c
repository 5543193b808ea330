/* SPDX-License-Identifier: Apache-2.0 */
/* Guest to port: one burst loop a port kind, and the budgeted serving of a transmit ring. */
#include "fill.h"
#include "forward.h"
#include "packed.h"
#include "port_write.h"
#include "split.h"

/* The ring operations are passed beside it: in a struct whose address is taken they would not be constant. */
struct tx {
    struct vu_pair *pair;
    struct vu_vring *vring;
    struct vu_scratch *scratch;
    uint32_t fetched;
    uint32_t done;
    struct vu_tally tally;
};

static vu_always_inline struct vu_cursor frame_at(const struct tx *tx, const struct vu_chain *chain)
{
    return vu_cursor_at(&tx->scratch->tx_pieces.piece[chain->first], tx->pair->device->header_size);
}

static vu_always_inline void tx_complete(struct tx *tx, int drop)
{
    if (vu_unlikely(drop >= 0))
        vu_count(&tx->vring->counters.drops[drop], 1);
    tx->done++;
}

static vu_always_inline void burst_to_fd(const struct vu_ring_ops *ops, struct tx *tx, struct vu_burst *burst)
{
    for (uint32_t i = 0; i < tx->fetched; i++) {
        struct vu_outgoing *out = &tx->scratch->out[i];

        out->drop =
            vu_dequeue_header(ops, tx->vring, tx->scratch, &tx->scratch->tx[i], &out->header, &out->length);
    }
    vu_port_write(tx->pair, &tx->done, tx->fetched, &tx->tally);
    for (uint32_t i = 0; i < tx->done; i++)
        burst->bytes += tx->scratch->out[i].length;
    burst->cost += tx->done * VU_COST_SYSCALL;
}

/* The ring that frames go back to waits for a translation: they stay with their sender, which is no loss. */
static vu_always_inline bool echo_waits(const struct vu_ring_ops *ops, const struct vu_pair *pair)
{
    const struct vu_vring *rx = &pair->vring[VU_RX];

    return vu_ring_parked(ops, rx) && rx->enabled == VU_RING_ENABLED;
}

static vu_always_inline void burst_to_same_pair(const struct vu_ring_ops *ops, struct tx *tx,
                                                struct vu_burst *burst)
{
    struct vu_enqueue rx;
    bool open;

    /* Both rings may start in this turn, and this one is served first: what waits in it is not lost. */
    open = vu_ring_runs(&tx->pair->vring[VU_RX]);
    vu_enqueue_begin(&rx, tx->pair, tx->scratch);
    if (!ops->general && open)
        vu_enqueue_ahead(ops, &rx, tx->fetched);
    /* The first has its chance whatever was fetched for it: else nobody would come further. */
    while (tx->done < tx->fetched && (tx->done == 0 || vu_enqueue_room(&rx)) && !echo_waits(ops, tx->pair)) {
        struct vu_chain *chain = &tx->scratch->tx[tx->done];
        struct vu_net_hdr header;
        uint32_t length;
        int drop = vu_dequeue_header(ops, tx->vring, tx->scratch, chain, &header, &length);

        if (vu_likely(drop < 0)) {
            struct vu_net_hdr copy = header;

            drop = vu_net_hdr_deliver(&copy, tx->pair->device->features);
            if (vu_likely(drop < 0))
                drop = open ? vu_enqueue_copy(ops, &rx, &copy, NULL, frame_at(tx, chain), length)
                            : VU_DROP_NO_BUFFERS;
            if (vu_unlikely(echo_waits(ops, tx->pair)))
                break;
            vu_tally_frame(&tx->tally, &header, length);
            /* Taken from the sender, not delivered: the receiver's loss. */
            if (vu_unlikely(drop >= 0)) {
                vu_count(&rx.vring->counters.drops[drop], 1);
                drop = -1;
            }
        }
        burst->bytes += length;
        tx_complete(tx, drop);
    }
    burst->cost += rx.scratch->rx_pieces.walked * VU_COST_PIECE;
    if (open)
        vu_enqueue_end(ops, &rx);
}

static vu_always_inline void burst_to_switch(const struct vu_ring_ops *ops, struct tx *tx,
                                             struct vu_burst *burst)
{
    struct vu_forward *frames = tx->scratch->forward;
    uint32_t count;

    for (uint32_t i = 0; i < tx->fetched; i++) {
        const struct vu_chain *chain = &tx->scratch->tx[i];
        struct vu_forward *forward = &frames[i];

        forward->drop = (int16_t)vu_dequeue_header(ops, tx->vring, tx->scratch, chain, &forward->header,
                                                   &forward->length);
        if (vu_unlikely(forward->drop >= 0))
            continue;
        forward->frame = frame_at(tx, chain);
        forward->plain = !(forward->header.flags | forward->header.gso_type);
        forward->whole = forward->frame.piece->iov_len - forward->frame.offset >= forward->length;
    }
    count = vu_forward(tx->pair, tx->pair->worker, tx->fetched, burst);
    while (tx->done < count) {
        const struct vu_forward *forward = &frames[tx->done];

        if (vu_likely(forward->drop < 0))
            vu_tally_frame(&tx->tally, &forward->header, forward->length);
        burst->bytes += forward->length;
        tx_complete(tx, forward->drop);
    }
}

static vu_always_inline void burst_to_nowhere(const struct vu_ring_ops *ops, struct tx *tx,
                                              struct vu_burst *burst, int reason)
{
    while (tx->done < tx->fetched) {
        struct vu_chain *chain = &tx->scratch->tx[tx->done];
        struct vu_net_hdr header;
        uint32_t length;
        int drop = vu_dequeue_header(ops, tx->vring, tx->scratch, chain, &header, &length);

        if (drop < 0) {
            drop = reason;
            if (reason < 0)
                vu_tally_frame(&tx->tally, &header, length);
        }
        burst->bytes += length;
        tx_complete(tx, drop);
    }
}

/* One burst; the chains it completed, 0 when the ring is empty or cannot go on. */
static vu_always_inline uint32_t dequeue_burst(const struct vu_ring_ops *ops, struct vu_pair *pair,
                                               struct vu_burst *burst)
{
    struct tx tx = {.pair = pair, .vring = &pair->vring[VU_TX], .scratch = pair->worker->scratch};
    int error;

    tx.fetched = vu_dequeue_fetch(ops, tx.vring, pair->device->memory, tx.scratch, VU_BURST, &error);
    if (vu_unlikely(tx.vring->enabled == VU_RING_DISABLED)) {
        burst_to_nowhere(ops, &tx, burst, VU_DROP_RING_DISABLED);
    } else {
        switch (pair->port_kind) {
        case VU_PORT_FD:
            burst_to_fd(ops, &tx, burst);
            break;
        case VU_PORT_ECHO:
            burst_to_same_pair(ops, &tx, burst);
            break;
        case VU_PORT_SWITCH:
            burst_to_switch(ops, &tx, burst);
            break;
        case VU_PORT_SINK:
        case VU_PORT_SOURCE:
            burst_to_nowhere(ops, &tx, burst, -1);
            break;
        default:
            burst_to_nowhere(ops, &tx, burst, VU_DROP_PORT_DOWN);
        }
    }
    vu_count_tally(&tx.vring->counters, &tx.tally);
    burst->packets += tx.done;
    burst->cost += tx.done * VU_COST_FRAME + tx.scratch->tx_pieces.walked * VU_COST_PIECE;
    /* A port that would block, or a fault, leaves chains behind: they are met again, and so is the error. */
    vu_ring_finish(ops, tx.vring, tx.scratch->tx, tx.done, tx.done == tx.fetched ? error : VU_OK);
    return tx.done;
}

/* Until there is a translation, for itself or for the ring that its frames go to; either wakes the pair. */
static vu_always_inline bool tx_waits(const struct vu_ring_ops *ops, const struct vu_pair *pair)
{
    return vu_ring_parked(ops, &pair->vring[VU_TX]) ||
           (pair->port_kind == VU_PORT_ECHO && echo_waits(ops, pair));
}

static vu_always_inline uint32_t serve_tx(const struct vu_ring_ops *ops, struct vu_pair *pair)
{
    struct vu_vring *vring = &pair->vring[VU_TX];
    const bool spins = vu_pair_spins(pair);
    struct vu_burst burst = {0};

    vu_ring_disarm(ops, vring);
    while (!vu_burst_spent(&burst)) {
        uint32_t done = dequeue_burst(ops, pair, &burst);

        if (vring->state != VU_VRING_RUNNING || pair->port_blocked || vu_device_is_faulted(pair->device) ||
            tx_waits(ops, pair)) {
            pair->ready &= ~(uint32_t)VU_READY_TX;
            break;
        }
        if (done)
            continue;
        if (!spins)
            vu_ring_arm(ops, vring);
        if (spins || !ops->grown(vring)) {
            pair->ready &= ~(uint32_t)VU_READY_TX;
            break;
        }
        vu_ring_disarm(ops, vring);
    }
    burst.cost += vu_cost_bytes(burst.bytes);
    return burst.cost;
}

uint32_t vu_serve_tx(struct vu_pair *pair)
{
    struct vu_vring *vring = &pair->vring[VU_TX];

    if (!vu_vring_is_ready(vring) || vring->enabled == VU_RING_HELD || pair->port_blocked) {
        pair->ready &= ~(uint32_t)VU_READY_TX;
        return 0;
    }
    if (vu_unlikely(vu_pair_general(pair)))
        return vring->is_packed ? serve_tx(&vu_packed_general_ops, pair)
                                : serve_tx(&vu_split_general_ops, pair);
    return vring->is_packed ? serve_tx(&vu_packed_ops, pair) : serve_tx(&vu_split_ops, pair);
}
