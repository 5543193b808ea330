/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of a port's fd into receive chains.  The length is not known before the read, so a frame is given
 * the chains that one of the expected size needs and a private tail behind them.
 *
 * Several frames by one call of io_uring get a chain each.  While frames are short they are read with their
 * headers in one piece, into private memory, and copied: that costs less than what three pieces cost the
 * kernel (tests/bench/bench_tap_cpu.py).  Longer ones are read where they belong.  What then is not as
 * expected (a frame that is longer than its chain, one that is dropped, a read that found nothing while the
 * next one did) leaves a chain in between that is not used.  All frames behind it are copied out first, and
 * copied in again where they belong.
 */
#ifndef VU_PORT_READ_H
#define VU_PORT_READ_H

#include "fill.h"
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
static vu_always_inline bool vu_port_read_into(const struct vu_enqueue *rx, const struct vu_chain *chain,
                                               struct vu_incoming *in, uint32_t expected)
{
    const struct iovec *piece = &rx->scratch->rx_pieces.piece[chain->first];

    /* In one piece: what a guest that takes no big frames gives, and one that merges buffers. */
    if (rx->device->header_size != sizeof(in->header) || piece->iov_len < sizeof(in->header) + expected)
        return false;
    in->header = (struct vu_net_hdr){0};
    in->bytes = (uint8_t *)piece->iov_base + sizeof(in->header);
    in->room = (uint32_t)VU_MIN(piece->iov_len - sizeof(in->header), VU_FRAME_MAX);
    in->list[0] = (struct iovec){&in->header, sizeof(in->header)};
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
        else if (!vu_port_read_into(rx, chain, in, pair->expected))
            break;
        count++;
    }
    return count;
}

/* Copies a frame out of the chain that it was read into, to the front of its tail. */
static vu_always_inline void vu_port_read_save(struct vu_incoming *in)
{
    uint32_t length = (uint32_t)in->result - (uint32_t)sizeof(in->header);
    uint32_t there = VU_MIN(length, in->room);

    memmove(in->tail + there, in->tail, length - there);
    memcpy(in->tail, in->bytes, there);
    in->bytes = in->tail;
}

/* Delivers a frame of a batch; -1, or the enum vu_drop.  *straight: the next chain is the one that it lies
 * in. */
static vu_always_inline int vu_port_read_deliver(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                                 struct vu_incoming *in, uint32_t length, bool straight)
{
    struct iovec whole = {in->bytes, length};
    int drop = vu_net_hdr_deliver(&in->header, rx->device->features);

    if (vu_unlikely(drop >= 0))
        return drop;
    if (vu_unlikely(!straight))
        return vu_enqueue_copy(ops, rx, &in->header, NULL, vu_cursor_at(&whole, 0), length);
    drop = vu_enqueue_filter(rx, NULL, vu_cursor_at(&whole, 0), length);
    if (vu_likely(drop < 0))
        vu_enqueue_commit(ops, rx, &in->header, length);
    return drop;
}

/* Reads `count` frames, which were prepared.  0: all came; -errno of the first that did not: -EAGAIN when the
   port has no more. */
static vu_always_inline int vu_port_read_batch(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                               struct vu_pair *pair, uint32_t count, struct vu_burst *burst)
{
    struct vu_incoming *in = rx->scratch->in;
    bool straight = !vu_port_reads_short(pair);
    uint32_t came = 0;
    int error = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (straight)
            vu_uring_readv(pair->worker->uring, pair->port_fd, in[i].list, VU_ARRAY_SIZE(in[i].list),
                           &in[i].result);
        else
            vu_uring_read(pair->worker->uring, pair->port_fd, in[i].list, &in[i].result);
    }
    vu_uring_run(pair->worker->uring);
    if (!straight) {
        for (uint32_t i = 0; i < count; i++) {
            memcpy(&in[i].header, in[i].tail, sizeof(in[i].header));
            in[i].bytes = in[i].tail + sizeof(in[i].header);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length;
        int drop;

        if (vu_unlikely(in[i].result <= 0)) {
            if (!error)
                error = in[i].result ? in[i].result : -EAGAIN;
            /* A tap took this one frame off its queue and cannot describe it to us. */
            if (in[i].result == -EINVAL)
                vu_count(&rx->vring->counters.drops[VU_DROP_PORT_REFUSED], 1);
            length = 0;
            drop = VU_DROP_RUNT;
        } else {
            came++;
            burst->packets++;
            length = (uint32_t)in[i].result - (uint32_t)sizeof(in[i].header);
            drop = in[i].result < (int32_t)sizeof(in[i].header) ? VU_DROP_RUNT : -1;
            if (vu_unlikely(drop >= 0))
                vu_count(&rx->vring->counters.drops[drop], 1);
        }
        if (vu_likely(drop < 0)) {
            burst->bytes += length;
            vu_port_expect(pair, length);
        }
        if (vu_unlikely(straight && (drop >= 0 || length > in[i].room))) {
            straight = false;
            for (uint32_t j = i; j < count; j++) {
                if (in[j].result >= (int32_t)sizeof(in[j].header))
                    vu_port_read_save(&in[j]);
            }
        }
        if (vu_unlikely(drop >= 0))
            continue;
        drop = vu_port_read_deliver(ops, rx, &in[i], length, straight);
        if (vu_unlikely(drop >= 0)) {
            vu_count(&rx->vring->counters.drops[drop], 1);
            if (straight) {
                straight = false;
                for (uint32_t j = i + 1; j < count; j++) {
                    if (in[j].result >= (int32_t)sizeof(in[j].header))
                        vu_port_read_save(&in[j]);
                }
            }
        }
    }
    burst->cost += (came + 1) * VU_COST_SYSCALL;
    /* Next time as many as came this time, and one that finds nothing: then it is one call. */
    pair->read_batch = VU_MIN(error ? burst->packets + 1 : 2 * pair->read_batch, VU_READ_BATCH);
    return error;
}

#endif
