/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of a port's fd into receive chains.  The length is not known before the read, so a frame is given
 * the chains that one of the expected size needs and a private tail behind them.
 *
 * Several frames by one call (io_uring; recvmmsg of a packet socket) get a chain each.  While frames are
 * short they are read with their headers in one piece, into private memory, and copied: that costs less than
 * what three pieces cost the kernel (tests/bench/bench_tap_cpu.py).  Longer ones are read where they belong.
 * What then is not as expected (a frame that is longer than its chain, one that is dropped, a read that found
 * nothing while the next one did) leaves a chain in between that is not used.  All frames behind it are
 * copied out first, and copied in again where they belong.
 */
#ifndef VU_PORT_READ_H
#define VU_PORT_READ_H

#include "fill.h"
#include "offload.h"
#include "uring.h"

/* Large frames come in runs: believe the largest at once and forget it slowly. */
static vu_always_inline void vu_port_expect(struct vu_pair *pair, uint32_t length)
{
    if (length >= pair->expected)
        pair->expected = length;
    else
        pair->expected -= (pair->expected - length) / 8;
    if (pair->expected < VU_FRAME_PLAIN)
        pair->expected = VU_FRAME_PLAIN;
}

static vu_always_inline bool vu_port_reads_short(const struct vu_pair *pair)
{
    return pair->expected <= VU_SHORT_FRAME;
}

/* Where a frame of a batch is to be read to; false when its chain is none for that. */
static vu_always_inline bool vu_port_read_into(const struct vu_enqueue *rx, const struct vu_pair *pair,
                                               const struct vu_chain *chain, struct vu_incoming *in)
{
    const struct iovec *piece = &rx->scratch->rx_pieces.piece[chain->first];

    /* In one piece: what a guest that takes no big frames gives, and one that merges buffers. */
    if (rx->device->header_size != sizeof(in->header) || piece->iov_len < sizeof(in->header) + pair->expected)
        return false;
    in->header = (struct vu_net_hdr){0};
    in->bytes = (uint8_t *)piece->iov_base + sizeof(in->header);
    in->room = (uint32_t)VU_MIN(piece->iov_len - sizeof(in->header), VU_FRAME_MAX);
    in->list[0] = (struct iovec){&in->header, pair->port_header};
    in->list[1] = (struct iovec){in->bytes, in->room};
    /* Together no more than the tail holds, for all of it may have to go there. */
    in->list[2] = (struct iovec){in->tail, sizeof(in->tail) - in->room};
    return true;
}

/* Chains for a batch, each for one frame of the expected size: how many, all fetched, none used. */
static vu_always_inline uint32_t vu_port_read_prepare(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                                      struct vu_pair *pair)
{
    uint64_t total = rx->device->header_size + (uint64_t)pair->expected;
    uint32_t count = 0;

    while (count < pair->read_batch) {
        struct vu_incoming *in = &rx->scratch->in[count];
        const struct vu_chain *chain;

        if (rx->used + count == rx->fetched && !vu_enqueue_fetch(ops, rx))
            break;
        chain = &rx->scratch->rx[rx->used + count];
        /* A chain without bytes has no piece. */
        if (chain->length < total)
            break;
        if (vu_port_reads_short(pair))
            in->list[0] = (struct iovec){in->tail, sizeof(in->tail)};
        else if (!vu_port_read_into(rx, pair, chain, in))
            break;
        count++;
    }
    return count;
}

/* Copies a frame out of the chain that it was read into, to the front of its tail. */
static vu_always_inline void vu_port_read_save(struct vu_incoming *in, uint32_t header_size)
{
    uint32_t length = (uint32_t)in->result - header_size;
    uint32_t there = VU_MIN(length, in->room);

    memmove(in->tail + there, in->tail, length - there);
    memcpy(in->tail, in->bytes, there);
    in->bytes = in->tail;
}

/* Those from `i` on. */
static vu_noinline void vu_port_read_save_all(struct vu_incoming *in, uint32_t i, uint32_t count,
                                              uint32_t header_size)
{
    for (; i < count; i++) {
        if (in[i].result >= (int32_t)header_size)
            vu_port_read_save(&in[i], header_size);
    }
}

/* The tag goes back to where the kernel had it from.  The frame begins VU_TAG_SIZE bytes earlier then. */
static inline uint8_t *vu_port_put_tag(uint8_t *frame, struct vu_net_hdr *header, uint32_t tag)
{
    uint8_t *begins = frame - VU_TAG_SIZE;
    uint32_t network = htobe32(tag);

    memmove(begins, frame, 12);
    memcpy(begins + 12, &network, sizeof(network));
    if (header->flags & VU_HDR_F_NEEDS_CSUM)
        vu_write_le16(&header->csum_start, (uint16_t)(vu_read_le16(&header->csum_start) + VU_TAG_SIZE));
    if (header->gso_type != VU_GSO_NONE)
        vu_write_le16(&header->hdr_len, (uint16_t)(vu_read_le16(&header->hdr_len) + VU_TAG_SIZE));
    return begins;
}

/* Space for one more segment: when this burst's own is used up, another begins, unless nothing came of this
   one or the turn has cost what it may.  Then they have what chains are there. */
static vu_always_inline void vu_port_read_room(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                               struct vu_burst *burst)
{
    if (vu_likely(vu_enqueue_room(rx)) || rx->error || !rx->used || burst->cost >= VU_TURN_COST)
        return;
    vu_enqueue_cost(rx, burst);
    vu_enqueue_end(ops, rx);
    vu_enqueue_begin(rx, rx->vring->pair, rx->scratch);
    vu_enqueue_heed_fault(rx);
}

/* Delivers a frame with which something is to be done first: it is in private memory, with VU_TAG_SIZE bytes
   to spare in front of it.  tag: as struct vu_message has it.  A packet socket cannot be told what offloads
   are wanted, and has segments of 64 KiB for any guest; a tap has had them for an earlier one. */
static vu_noinline int vu_port_read_finish(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                           struct vu_net_hdr *header, uint8_t *frame, uint32_t length,
                                           uint32_t tag, struct vu_burst *burst)
{
    struct iovec whole;
    struct vu_finish finish;
    int drop;

    if (tag) {
        frame = vu_port_put_tag(frame, header, tag);
        length += VU_TAG_SIZE;
    }
    if (length > VU_FRAME_MAX)
        return VU_DROP_OVERSIZE;
    drop = vu_net_hdr_deliver(header, rx->device->features);
    if (drop < 0) {
        whole = (struct iovec){frame, length};
        return vu_enqueue_copy(ops, rx, header, NULL, vu_cursor_at(&whole, 0), length);
    }
    if (drop != VU_DROP_RECEIVER_OFFLOAD)
        return drop;
    drop = vu_net_hdr_check(header, length, ~0ull);
    if (drop >= 0)
        return drop;
    if (!vu_finish_begin(&finish, frame, length, header))
        return VU_DROP_RECEIVER_OFFLOAD;
    burst->cost += vu_cost_bytes(length);
    for (; finish.length && drop < 0; vu_finish_next(&finish)) {
        struct vu_net_hdr plain = {0};

        vu_port_read_room(ops, rx, burst);
        drop = vu_enqueue_copy(ops, rx, &plain, NULL, vu_cursor_at(finish.piece, 0), finish.length);
    }
    return drop;
}

/* Delivers a frame of a batch as it is; -1, or the enum vu_drop.  straight: the next chain is the one that it
   lies in. */
static vu_always_inline int vu_port_read_deliver(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                                 struct vu_incoming *in, uint32_t length, bool straight)
{
    struct iovec whole = {in->bytes, length};
    int drop;

    if (vu_unlikely(!straight))
        return vu_enqueue_copy(ops, rx, &in->header, NULL, vu_cursor_at(&whole, 0), length);
    drop = vu_enqueue_filter(rx, NULL, vu_cursor_at(&whole, 0), length);
    if (vu_likely(drop < 0))
        vu_enqueue_commit(ops, rx, &in->header, length);
    return drop;
}

/* By one call; in_pieces: where they belong. */
static vu_always_inline void vu_port_read_all(struct vu_pair *pair, struct vu_scratch *scratch,
                                              uint32_t count, bool in_pieces)
{
    struct vu_uring *uring = pair->worker->uring;
    struct vu_incoming *in = scratch->in;
    uint32_t pieces = in_pieces ? VU_ARRAY_SIZE(in->list) : 1, tried;

    if (pair->port_kind == VU_PORT_PACKET) {
        for (uint32_t i = 0; i < count; i++)
            scratch->messages[i] = (struct vu_message){.list = in[i].list, .pieces = pieces};
        tried = vu_packet_receive(pair->port_fd, scratch->messages, count);
        for (uint32_t i = 0; i < count; i++)
            in[i].result = i < tried ? scratch->messages[i].result : VU_URING_NOT_DONE;
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (in_pieces)
            vu_uring_readv(uring, pair->port_fd, in[i].list, pieces, &in[i].result);
        else
            vu_uring_read(uring, pair->port_fd, in[i].list, &in[i].result);
    }
    vu_uring_run(uring);
}

/* Reads `count` frames, which were prepared.  0: all came; -errno of the first that did not: -EAGAIN when the
   port has no more. */
static vu_always_inline int vu_port_read_batch(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                               struct vu_pair *pair, uint32_t count, struct vu_burst *burst)
{
    struct vu_incoming *in = rx->scratch->in;
    const uint32_t header_size = pair->port_header;
    const bool packets = pair->port_kind == VU_PORT_PACKET;
    bool straight = !vu_port_reads_short(pair);
    uint32_t came = 0;
    int error = 0;

    vu_port_read_all(pair, rx->scratch, count, straight);
    if (!straight) {
        for (uint32_t i = 0; i < count; i++) {
            in[i].header = (struct vu_net_hdr){0};
            memcpy(&in[i].header, in[i].tail, header_size);
            in[i].bytes = in[i].tail + header_size;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = 0, tag = 0;
        bool works = false, is_frame = false;
        int drop = -1;

        if (vu_unlikely(in[i].result <= 0)) {
            if (!error)
                error = in[i].result ? in[i].result : -EAGAIN;
            /* A tap took this one frame off its queue and cannot describe it to us. */
            if (in[i].result == -EINVAL)
                drop = VU_DROP_PORT_REFUSED;
        } else {
            came++;
            burst->packets++;
            length = (uint32_t)in[i].result - header_size;
            is_frame = in[i].result >= (int32_t)header_size;
            if (vu_unlikely(!is_frame))
                drop = VU_DROP_RUNT;
        }
        if (vu_likely(is_frame)) {
            burst->bytes += length;
            vu_port_expect(pair, length);
            if (packets) {
                tag = rx->scratch->messages[i].tag;
                if (vu_unlikely(rx->scratch->messages[i].cut))
                    drop = VU_DROP_OVERSIZE;
            }
            if (vu_likely(drop < 0))
                drop = vu_net_hdr_deliver(&in[i].header, rx->device->features);
            works = drop == VU_DROP_RECEIVER_OFFLOAD || (tag && drop < 0);
        }
        if (vu_unlikely(straight && (!is_frame || works || drop >= 0 || length > in[i].room))) {
            straight = false;
            vu_port_read_save_all(in, i, count, header_size);
        }
        if (vu_unlikely(works))
            drop = vu_port_read_finish(ops, rx, &in[i].header, in[i].bytes, length, tag, burst);
        else if (vu_likely(is_frame && drop < 0))
            drop = vu_port_read_deliver(ops, rx, &in[i], length, straight);
        if (vu_unlikely(drop >= 0)) {
            vu_count(&rx->vring->counters.drops[drop], 1);
            if (straight) {
                straight = false;
                vu_port_read_save_all(in, i + 1, count, header_size);
            }
        }
    }
    burst->cost += (came + 1) * VU_COST_SYSCALL;
    /* Next time as many as came this time, and one that finds nothing: then it is one call. */
    pair->read_batch = VU_MIN(error ? burst->packets + 1 : 2 * pair->read_batch, VU_READ_BATCH);
    return error;
}

#endif
