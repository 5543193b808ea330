/* SPDX-License-Identifier: Apache-2.0 */
/* Filling receive chains: what burst loops that have frames for a guest are made of, inlined into them. */
#ifndef VU_FILL_H
#define VU_FILL_H

#include "burst.h"

/* Receive chains being filled: scratch->rx[used..fetched) are fetched and empty. */
struct vu_enqueue {
    struct vu_vring *vring;
    const struct vu_device *device;
    struct vu_scratch *scratch;
    uint64_t held; /* bytes in rx[used..fetched) */
    uint32_t run;  /* of rx[0..fetched): chain k is one piece, which is piece k */
    uint32_t fetched;
    uint32_t used;
    bool empty; /* the last reserve wanted a chain that was not there */
    int error;
    struct vu_tally tally;
};

/* scratch: of the worker whose turn it is. */
static vu_always_inline void vu_enqueue_begin(struct vu_enqueue *rx, struct vu_pair *pair,
                                              struct vu_scratch *scratch)
{
    *rx = (struct vu_enqueue){.vring = &pair->vring[VU_RX], .device = pair->device, .scratch = scratch};
    vu_pieces_begin(&rx->scratch->rx_pieces, VU_PIECES);
}

/* In the middle of what makes several bursts: a device that has faulted gives no more chains. */
static vu_always_inline void vu_enqueue_heed_fault(struct vu_enqueue *rx)
{
    if (vu_unlikely(vu_device_is_faulted(rx->device)))
        rx->scratch->rx_pieces.most = 0;
}

/* Whether this burst's own space does for one more frame; false only after it was given one. */
static vu_always_inline bool vu_enqueue_room(const struct vu_enqueue *rx)
{
    return rx->fetched < VU_RX_CHAINS / 2 && rx->scratch->rx_pieces.walked < VU_BURST_PIECES;
}

/* One more chain; false when there is none, or none that may be used. */
static vu_always_inline bool vu_enqueue_fetch(const struct vu_ring_ops *ops, struct vu_enqueue *rx)
{
    struct vu_chain *chain = &rx->scratch->rx[rx->fetched];
    int result;

    if (vu_unlikely(rx->error || rx->fetched == VU_RX_CHAINS ||
                    rx->scratch->rx_pieces.walked >= rx->scratch->rx_pieces.most))
        return false;
    result = ops->fetch(ops->general, rx->vring, rx->device->memory, (uint16_t)rx->fetched, VU_RX,
                        &rx->scratch->rx_pieces, chain);
    if (vu_unlikely(result)) {
        /* What does not fit is not walked again for the next frame. */
        if (result == VU_FETCH_FULL)
            rx->scratch->rx_pieces.most = 0;
        rx->error = result < 0 ? result : VU_OK;
        rx->empty = result == VU_FETCH_EMPTY;
        return false;
    }
    rx->held += chain->length;
    rx->fetched++;
    return true;
}

/* Makes chains ready for header and frame of `bytes` together; what they can hold (less when the guest gave
   less, or one chain does not do and the guest does not merge). */
static vu_always_inline uint64_t vu_enqueue_reserve(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                                    uint64_t bytes)
{
    rx->empty = false;
    while (rx->held < bytes && (rx->device->mergeable || rx->fetched == rx->used)) {
        if (!vu_enqueue_fetch(ops, rx))
            break;
    }
    if (rx->device->mergeable || rx->fetched == rx->used)
        return rx->held;
    return rx->scratch->rx[rx->used].length;
}

/* Begins with chains for `count` frames before the first of them is there, so that buffers are on their way
   into the cache when they are written.  What is not used then is given back.  Not of the general instance.
 */
static vu_always_inline void vu_enqueue_ahead(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                              uint32_t count)
{
    rx->fetched = rx->run = ops->fetch_run(rx->vring, rx->device->memory, count, VU_RX,
                                           &rx->scratch->rx_pieces, rx->scratch->rx, &rx->held);
    while (rx->fetched < count && rx->scratch->rx_pieces.walked < VU_BURST_PIECES / 4 &&
           vu_enqueue_fetch(ops, rx))
        vu_prefetch_chain(&rx->scratch->rx_pieces, &rx->scratch->rx[rx->fetched - 1], true);
    rx->error = VU_OK; /* met again by who needs the chain */
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

/* A whole header where it goes.  num_buffers not by way of the private one: reading that again right after a
   narrower store waits until all stores before it, which are to the guest's buffers and miss the cache, are
   done (70 % of a burst's time, seen). */
static vu_always_inline void vu_enqueue_header(uint8_t *to, const struct vu_net_hdr *header, uint16_t buffers)
{
    vu_le16 number;

    vu_write_le16(&number, buffers);
    memcpy(to, header, VU_NET_HDR_LEGACY_SIZE);
    memcpy(to + VU_NET_HDR_LEGACY_SIZE, &number, sizeof(number));
}

/* The bytes of a frame in one piece, which are `length`, behind where its modern header goes.  decided: as
   below, of a frame that has so many. */
static vu_always_inline void vu_enqueue_bytes(uint8_t *to, const uint8_t *decided, const uint8_t *frame,
                                              uint64_t length)
{
    const uint32_t head = decided ? VU_FILTER_HEAD : 0;

    vu_move(to + VU_NET_HDR_SIZE + head, frame + head, length - head);
    if (decided)
        memcpy(to + VU_NET_HDR_SIZE, decided, VU_FILTER_HEAD);
}

/* What nearly always is: a header that says nothing, a chain of the run, and a guest without filters.  False:
   the chain does not hold the frame. */
static vu_always_inline bool vu_enqueue_plain(struct vu_chain *chain, const struct iovec *piece,
                                              const uint8_t *decided, const uint8_t *frame, uint64_t length)
{
    const uint64_t front = 0;
    const uint32_t back = htole32(1 << 16); /* num_buffers is its upper half */
    uint8_t *to = piece->iov_base;

    if (vu_unlikely(piece->iov_len < VU_NET_HDR_SIZE + length))
        return false;
    vu_enqueue_bytes(to, decided, frame, length);
    memcpy(to, &front, sizeof(front));
    memcpy(to + sizeof(front), &back, sizeof(back));
    chain->written = (uint32_t)(VU_NET_HDR_SIZE + length);
    return true;
}

/* The first `count` chains of the run have been filled, with `bytes` of frames. */
static vu_always_inline void vu_enqueue_filled(struct vu_enqueue *rx, uint32_t count, uint64_t bytes)
{
    for (uint32_t k = 0; k < count; k++)
        rx->held -= rx->scratch->rx[k].length;
    rx->used = count;
    rx->tally.packets += count;
    rx->tally.bytes += bytes;
}

static vu_always_inline bool vu_enqueue_takes_plain(const struct vu_enqueue *rx)
{
    return rx->device->header_size == sizeof(struct vu_net_hdr) && !rx->device->filters;
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
    if (!rx->device->mergeable)
        buffers = 1;
    if (vu_likely(rx->device->header_size == sizeof(*header) && pieces->iov_len >= sizeof(*header)) &&
        !vu_turns(ops, rx->vring)) {
        vu_enqueue_header(pieces->iov_base, header, buffers);
    } else {
        vu_write_le16(&header->num_buffers, buffers);
        if (vu_turns(ops, rx->vring))
            vu_net_hdr_turn(header);
        vu_iov_scatter(vu_cursor_at(pieces, 0), header, rx->device->header_size);
    }
    if (vu_logs(ops, rx->device)) {
        for (uint32_t i = first; i < rx->used; i++)
            vu_log_mark_pieces(rx->device->log, rx->device->memory,
                               &rx->scratch->rx_pieces.piece[rx->scratch->rx[i].first], 0,
                               rx->scratch->rx[i].written);
    }
    vu_tally_frame(&rx->tally, header, length);
}

/* -1, or the enum vu_drop of a frame that the guest does not want. */
static vu_always_inline int vu_enqueue_filter(const struct vu_enqueue *rx, const uint8_t *decided,
                                              struct vu_cursor frame, uint32_t length)
{
    uint8_t head[VU_FILTER_HEAD];

    if (vu_likely(!rx->device->filters))
        return -1;
    if (decided)
        return vu_filter_check(&rx->device->filter, decided);
    memset(head, 0, sizeof(head));
    vu_iov_gather(head, frame, VU_MIN(length, sizeof(head)));
    return vu_filter_check(&rx->device->filter, head);
}

/* What nearly always is: a frame in one piece, and a chain of one piece that holds it.  False, with nothing
   done but perhaps a chain fetched, when it is not so. */
static vu_always_inline bool vu_enqueue_copy_whole(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                                   struct vu_net_hdr *header, const uint8_t *decided,
                                                   struct vu_cursor frame, uint32_t length)
{
    const uint32_t head = decided ? VU_FILTER_HEAD : 0;
    uint64_t total = sizeof(*header) + (uint64_t)length;
    const struct iovec *piece;
    struct vu_chain *chain;

    if (ops->general || vu_unlikely(!vu_enqueue_takes_plain(rx) ||
                                    frame.offset + length > frame.piece->iov_len || length < head))
        return false;
    rx->empty = false;
    if (rx->fetched == rx->used && vu_unlikely(!vu_enqueue_fetch(ops, rx)))
        return false;
    chain = &rx->scratch->rx[rx->used];
    piece = &rx->scratch->rx_pieces.piece[chain->first];
    /* A chain without bytes has no piece. */
    if (vu_unlikely(chain->length < total || piece->iov_len < total))
        return false;
    vu_enqueue_bytes(piece->iov_base, decided, (const uint8_t *)frame.piece->iov_base + frame.offset, length);
    vu_enqueue_header(piece->iov_base, header, 1);
    chain->written = (uint32_t)total;
    rx->held -= chain->length;
    rx->used++;
    vu_tally_frame(&rx->tally, header, length);
    return true;
}

/* Copies a frame into receive chains.  decided: its first VU_FILTER_HEAD bytes as they were when it was
   decided where the frame goes, which are not read a second time; or NULL.  -1, or the enum vu_drop (nothing
   is used then). */
static vu_always_inline int vu_enqueue_copy(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                            struct vu_net_hdr *header, const uint8_t *decided,
                                            struct vu_cursor frame, uint32_t length)
{
    uint32_t header_size = rx->device->header_size, head = 0;
    int drop;

    if (vu_likely(vu_enqueue_copy_whole(ops, rx, header, decided, frame, length)))
        return -1;
    drop = vu_enqueue_filter(rx, decided, frame, length);
    if (vu_unlikely(drop >= 0))
        return drop;
    if (vu_unlikely(vu_enqueue_reserve(ops, rx, (uint64_t)header_size + length) <
                        (uint64_t)header_size + length ||
                    !vu_enqueue_header_fits(rx)))
        return vu_enqueue_refusal(rx);
    if (decided) {
        head = VU_MIN(length, VU_FILTER_HEAD);
        vu_iov_scatter(vu_cursor_at(vu_enqueue_pieces(rx), header_size), decided, head);
    }
    if (vu_likely(length > head))
        vu_iov_copy(vu_cursor_at(vu_enqueue_pieces(rx), header_size + head),
                    vu_cursor_at(frame.piece, frame.offset + head), length - head);
    vu_enqueue_commit(ops, rx, header, length);
    return -1;
}

static vu_always_inline void vu_enqueue_cost(const struct vu_enqueue *rx, struct vu_burst *burst)
{
    burst->cost += rx->used * VU_COST_FRAME + rx->scratch->rx_pieces.walked * VU_COST_PIECE;
}

static vu_always_inline void vu_enqueue_end(const struct vu_ring_ops *ops, struct vu_enqueue *rx)
{
    vu_ring_publish(ops, rx->vring, rx->scratch->rx, rx->used, &rx->tally);
    vu_ring_finish(ops, rx->vring, rx->used, rx->error);
}

#endif
