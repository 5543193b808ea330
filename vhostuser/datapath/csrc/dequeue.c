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
    uint32_t header_size;
    uint32_t fetched;
    uint32_t run; /* of the fetched: chain k is one piece, which is piece k */
    uint32_t done;
    struct vu_tally tally;
};

static vu_always_inline const struct iovec *pieces_of(const struct tx *tx, const struct vu_chain *chain)
{
    return &tx->scratch->tx_pieces.piece[chain->first];
}

/* Fetches a burst.  What comes then: VU_OK, or a bad chain, to be reported once those are completed. */
static vu_always_inline int fetch(const struct vu_ring_ops *ops, struct tx *tx)
{
    const struct vu_memory *memory = tx->pair->device->memory;
    struct vu_pieces *pieces = &tx->scratch->tx_pieces;
    uint64_t held = 0;

    vu_pieces_begin(pieces, VU_PIECES);
    if (!ops->general)
        tx->run = ops->fetch_run(tx->vring, memory, VU_BURST, VU_TX, pieces, tx->scratch->tx, &held);
    for (tx->fetched = tx->run; tx->fetched < VU_BURST && pieces->walked < VU_BURST_PIECES; tx->fetched++) {
        struct vu_chain *chain = &tx->scratch->tx[tx->fetched];
        int result = ops->fetch(ops->general, tx->vring, memory, (uint16_t)tx->fetched, VU_TX, pieces, chain);

        if (vu_unlikely(result))
            return result < 0 ? result : VU_OK;
        vu_prefetch_chain(pieces, chain, false);
    }
    return VU_OK;
}

/* Of a chain in one piece: whether its header says nothing, as nearly all do.  False for all others, which
   judge_header is for; else the frame's length is good and its header is one of zeros. */
static vu_always_inline bool is_plain(const struct iovec *piece, uint32_t header_size, uint32_t *length)
{
    const uint64_t frame = piece->iov_len - header_size;
    vu_le16 says;

    if (vu_unlikely(frame - VU_ETH_HEADER > VU_FRAME_MAX - VU_ETH_HEADER))
        return false;
    memcpy(&says, piece->iov_base, sizeof(says));
    vu_settle(says);
    *length = (uint32_t)frame;
    /* What says something is read a second time, and judged by that alone. */
    return vu_likely(!(vu_read_le16(&says) & VU_HDR_SAYS));
}

/* Reads and checks a transmit chain's header.  -1: *header and *length (of the frame) are good; else the
   enum vu_drop. */
static vu_noinline int judge_header(const struct vu_device *device, const struct vu_chain *chain,
                                    const struct iovec *pieces, bool turned, struct vu_net_hdr *header,
                                    uint32_t *length)
{
    *header = (struct vu_net_hdr){0};
    *length = 0;
    if (chain->length < device->header_size)
        return VU_DROP_HEADER_TRUNCATED;
    if (chain->length - device->header_size > VU_FRAME_MAX)
        return VU_DROP_OVERSIZE;
    *length = (uint32_t)chain->length - device->header_size;
    vu_iov_gather(header, vu_cursor_at(pieces, 0), device->header_size);
    vu_settle(*header);
    if (turned)
        vu_net_hdr_turn(header);
    return vu_net_hdr_check(header, *length, device->features);
}

/* Both. */
static vu_always_inline int read_header(const struct vu_ring_ops *ops, const struct tx *tx,
                                        const struct vu_chain *chain, struct vu_net_hdr *header,
                                        uint32_t *length)
{
    const struct iovec *pieces = pieces_of(tx, chain);

    if (vu_likely(chain->count == 1 && is_plain(pieces, tx->header_size, length))) {
        *header = (struct vu_net_hdr){0};
        return -1;
    }
    return judge_header(tx->pair->device, chain, pieces, vu_turns(ops, tx->vring), header, length);
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

        out->drop = read_header(ops, tx, &tx->scratch->tx[i], &out->header, &out->length);
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

/* The frames before the first that is something else than nearly all are. */
static vu_always_inline void echo_plain(struct tx *tx, struct vu_enqueue *rx, struct vu_burst *burst)
{
    struct vu_scratch *scratch = tx->scratch;
    const uint32_t run = VU_MIN(rx->run, tx->run), header_size = tx->header_size;
    uint64_t bytes = 0;
    uint32_t k;

    if (vu_unlikely(!vu_enqueue_takes_plain(rx)))
        return;
    for (k = 0; k < run; k++) {
        const struct iovec *piece = &scratch->tx_pieces.piece[k];
        uint32_t length;

        if (vu_unlikely(!is_plain(piece, header_size, &length)) ||
            vu_unlikely(!vu_enqueue_plain(&scratch->rx[k], &scratch->rx_pieces.piece[k], NULL,
                                          (const uint8_t *)piece->iov_base + header_size, length)))
            break;
        bytes += length;
    }
    vu_enqueue_filled(rx, k, bytes);
    tx->done = k;
    tx->tally.packets = k;
    tx->tally.bytes = bytes;
    burst->bytes += bytes;
}

static vu_always_inline void burst_to_same_pair(const struct vu_ring_ops *ops, struct tx *tx,
                                                struct vu_burst *burst)
{
    struct vu_enqueue rx;
    bool open;

    /* Both rings may start in this turn, and this one is served first: what waits in it is not lost. */
    open = vu_ring_runs(&tx->pair->vring[VU_RX]);
    vu_enqueue_begin(&rx, tx->pair, tx->scratch);
    if (!ops->general && open) {
        vu_enqueue_ahead(ops, &rx, tx->fetched);
        echo_plain(tx, &rx, burst);
    }
    /* The first has its chance whatever was fetched for it: else nobody would come further. */
    while (tx->done < tx->fetched && (tx->done == 0 || vu_enqueue_room(&rx)) && !echo_waits(ops, tx->pair)) {
        struct vu_chain *chain = &tx->scratch->tx[tx->done];
        struct vu_net_hdr header;
        uint32_t length;
        int drop = read_header(ops, tx, chain, &header, &length);

        if (vu_likely(drop < 0)) {
            struct vu_net_hdr copy = header;

            drop = vu_net_hdr_deliver(&copy, tx->pair->device->features);
            if (vu_likely(drop < 0))
                drop = open ? vu_enqueue_copy(ops, &rx, &copy, NULL,
                                              vu_cursor_at(pieces_of(tx, chain), tx->header_size), length)
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

static vu_always_inline bool forward_plain(struct vu_forward *forward, const struct iovec *piece,
                                           uint32_t header_size)
{
    if (vu_unlikely(!is_plain(piece, header_size, &forward->length)))
        return false;
    forward->drop = -1;
    forward->plain = true;
    forward->simple = forward->length - VU_FILTER_HEAD <= VU_SHORT_FRAME - VU_FILTER_HEAD;
    forward->bytes = (const uint8_t *)piece->iov_base + header_size;
    forward->frame = (struct vu_cursor){piece, header_size};
    return true;
}

static vu_always_inline void forward_judged(const struct vu_ring_ops *ops, struct tx *tx, uint32_t i)
{
    const struct vu_chain *chain = &tx->scratch->tx[i];
    const struct iovec *pieces = pieces_of(tx, chain);
    struct vu_forward *forward = &tx->scratch->forward[i];

    if (chain->count == 1 && forward_plain(forward, pieces, tx->header_size))
        return;
    forward->drop = (int16_t)judge_header(tx->pair->device, chain, pieces, vu_turns(ops, tx->vring),
                                          &forward->header, &forward->length);
    if (vu_likely(forward->drop < 0))
        forward->frame = vu_cursor_at(pieces, tx->header_size);
    forward->plain = !(forward->header.flags | forward->header.gso_type);
    forward->simple = false;
}

static vu_always_inline void burst_to_switch(const struct vu_ring_ops *ops, struct tx *tx,
                                             struct vu_burst *burst)
{
    struct vu_scratch *scratch = tx->scratch;
    struct vu_forward *frames = scratch->forward;
    const uint32_t header_size = tx->header_size, fetched = tx->fetched;
    uint64_t bytes = 0, offloads = 0;
    struct vu_tally lost = {0};

    for (uint32_t i = 0; i < tx->run; i++) {
        if (vu_unlikely(!forward_plain(&frames[i], &scratch->tx_pieces.piece[i], header_size)))
            forward_judged(ops, tx, i);
    }
    for (uint32_t i = tx->run; i < fetched; i++)
        forward_judged(ops, tx, i);
    tx->done = vu_forward(tx->pair, tx->pair->worker, fetched, burst);
    for (uint32_t i = 0; i < tx->done; i++) {
        const struct vu_forward *forward = &frames[i];

        bytes += forward->length;
        offloads += !forward->plain;
        if (vu_unlikely(forward->drop >= 0)) {
            vu_count(&tx->vring->counters.drops[forward->drop], 1);
            lost.packets++;
            lost.bytes += forward->length;
            lost.offloads += !forward->plain;
        }
    }
    burst->bytes += bytes;
    tx->tally = (struct vu_tally){tx->done - lost.packets, bytes - lost.bytes, offloads - lost.offloads};
}

/* The frames before the first that is something else than nearly all are. */
static vu_always_inline void count_plain(struct tx *tx, struct vu_burst *burst)
{
    const uint32_t run = tx->run, header_size = tx->header_size;
    uint64_t bytes = 0;
    uint32_t k, length;

    for (k = 0; k < run && vu_likely(is_plain(&tx->scratch->tx_pieces.piece[k], header_size, &length)); k++)
        bytes += length;
    tx->done = k;
    tx->tally = (struct vu_tally){.packets = k, .bytes = bytes};
    burst->bytes += bytes;
}

static vu_always_inline void burst_to_nowhere(const struct vu_ring_ops *ops, struct tx *tx,
                                              struct vu_burst *burst, int reason)
{
    if (reason < 0)
        count_plain(tx, burst);
    while (tx->done < tx->fetched) {
        struct vu_chain *chain = &tx->scratch->tx[tx->done];
        struct vu_net_hdr header;
        uint32_t length;
        int drop = read_header(ops, tx, chain, &header, &length);

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
    struct tx tx = {.pair = pair,
                    .vring = &pair->vring[VU_TX],
                    .scratch = pair->worker->scratch,
                    .header_size = pair->device->header_size};
    int error;

    error = fetch(ops, &tx);
    if (vu_unlikely(tx.vring->enabled == VU_RING_DISABLED)) {
        burst_to_nowhere(ops, &tx, burst, VU_DROP_RING_DISABLED);
    } else {
        switch (pair->port_kind) {
        case VU_PORT_FD:
        case VU_PORT_PACKET:
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
    burst->packets += tx.done;
    burst->cost += tx.done * VU_COST_FRAME + tx.scratch->tx_pieces.walked * VU_COST_PIECE;
    /* A port that would block, or a fault, leaves chains behind: they are met again, and so is the error. */
    vu_ring_publish(ops, tx.vring, tx.scratch->tx, tx.done, &tx.tally);
    vu_ring_finish(ops, tx.vring, tx.done, tx.done == tx.fetched ? error : VU_OK);
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
