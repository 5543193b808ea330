/* SPDX-License-Identifier: Apache-2.0 */
/* Guest to guest: one burst into each ring that gets some of the frames of another. */
#include "forward.h"

#include "fill.h"
#include "offload.h"
#include "packed.h"
#include "split.h"

/* What a fill looks at of its receiver's descriptors and their pieces, used or not, for each frame and
   weight: empty ones by the thousand are the receiver's making, and the sender's time. */
#define WALK_OF_FRAME 64
/* And before this counts: what one frame may need, and a burst's own.  A chain of more pieces breaks its
 * ring.
 */
#define WALK_AT_ONCE (VU_BURST_PIECES + VU_RX_CHAINS)

/* Some frames of a burst on their way into one ring, whose lock is held. */
struct fill {
    struct vu_enqueue rx;
    struct vu_sending *sending;
    uint64_t chosen;  /* all of them */
    uint32_t walked;  /* descriptors, in bursts before this one */
    uint32_t longest; /* frame that the receiver's link takes */
    uint64_t bytes;
};

static bool may_walk_on(const struct fill *fill, uint32_t walked)
{
    const struct vu_forward *frames = fill->rx.scratch->forward;
    uint32_t most = 0;

    for (uint64_t rest = fill->chosen; rest; rest &= rest - 1)
        most += WALK_OF_FRAME * vu_forward_weight(&frames[__builtin_ctzll(rest)]);
    return walked < most;
}

static vu_always_inline void begin(struct fill *fill, struct vu_pair *to)
{
    vu_enqueue_begin(&fill->rx, to, fill->sending->worker->scratch);
    fill->rx.scratch->rx_pieces.most = WALK_AT_ONCE;
}

/* left: frames of the burst that were neither published nor dropped, once this is. */
static vu_always_inline void end(const struct vu_ring_ops *ops, struct fill *fill, uint64_t left)
{
    struct vu_enqueue *rx = &fill->rx;

    vu_ring_publish(ops, rx->vring, rx->scratch->rx, rx->used, &rx->tally);
    fill->sending->left = left;
    vu_ring_finish(ops, rx->vring, rx->used, rx->error);
}

/* Space for more frames, when this burst's own is used up: another one begins, unless nothing came of this
   one or the receiver has been looked at for long enough.  Then they have what chains are there. */
static vu_always_inline void make_room(const struct vu_ring_ops *ops, struct fill *fill, uint64_t left)
{
    struct vu_enqueue *rx = &fill->rx;

    if (vu_likely(vu_enqueue_room(rx)) || rx->error || !rx->used)
        return;
    if (!may_walk_on(fill, fill->walked + rx->scratch->rx_pieces.walked))
        return;
    fill->walked += rx->scratch->rx_pieces.walked;
    end(ops, fill, left);
    begin(fill, rx->vring->pair);
    vu_enqueue_heed_fault(rx);
}

/* For a receiver that does not take the offload: what the sender left undone is done here, on a copy.  -1, or
   why the rest of the frame is lost. */
static vu_noinline int enqueue_finished(const struct vu_ring_ops *ops, struct fill *fill,
                                        const struct vu_forward *forward, uint64_t left)
{
    struct vu_enqueue *rx = &fill->rx;
    uint8_t *linear = rx->scratch->linear;
    uint32_t head = VU_MIN(forward->length, VU_FILTER_HEAD);
    struct vu_finish finish;
    int drop = -1;

    /* Its work only for somebody who may have it. */
    if (vu_enqueue_reserve(ops, rx, 1) < 1)
        return vu_enqueue_refusal(rx);
    fill->bytes += forward->length; /* which are read twice */
    memcpy(linear, forward->head, head);
    if (forward->length > head)
        vu_iov_gather(linear + head, vu_cursor_at(forward->frame.piece, forward->frame.offset + head),
                      forward->length - head);
    if (!vu_finish_begin(&finish, linear, forward->length, &forward->header))
        return VU_DROP_RECEIVER_OFFLOAD;
    for (; finish.length && drop < 0; vu_finish_next(&finish)) {
        struct vu_net_hdr header = {0};

        make_room(ops, fill, left);
        drop = vu_enqueue_copy(ops, rx, &header, NULL, vu_cursor_at(finish.piece, 0), finish.length);
    }
    return drop;
}

/* left: the frames that are not done with, of which this is the first. */
static vu_always_inline int enqueue_frame(const struct vu_ring_ops *ops, struct fill *fill,
                                          const struct vu_forward *forward, uint64_t left)
{
    struct vu_enqueue *rx = &fill->rx;
    struct vu_net_hdr header = {0};
    int drop;

    if (vu_unlikely(forward->length > fill->longest) && vu_forward_longest(forward) > fill->longest)
        return VU_DROP_OVERSIZE;
    if (vu_likely(forward->simple) &&
        vu_likely(vu_enqueue_copy_whole(ops, rx, &header, forward->head, forward->frame, forward->length)))
        return -1;
    if (!forward->plain)
        header = forward->header;
    drop = vu_net_hdr_deliver(&header, rx->device->features);
    if (vu_unlikely(drop == VU_DROP_RECEIVER_OFFLOAD))
        return enqueue_finished(ops, fill, forward, left);
    if (vu_unlikely(drop >= 0))
        return drop;
    return vu_enqueue_copy(ops, rx, &header, forward->head, forward->frame, forward->length);
}

/* The frames before the first that is something else than nearly all are; the others. */
static vu_always_inline uint64_t fill_plain(struct fill *fill, uint64_t chosen)
{
    struct vu_enqueue *rx = &fill->rx;
    struct vu_scratch *scratch = rx->scratch;
    const uint32_t run = rx->run;
    const uint64_t longest = fill->longest;
    uint64_t bytes = 0;
    uint32_t k = 0;

    if (vu_unlikely(!vu_enqueue_takes_plain(rx)))
        return chosen;
    for (; k < run && chosen; k++, chosen &= chosen - 1) {
        const struct vu_forward *forward = &scratch->forward[__builtin_ctzll(chosen)];
        const uint64_t length = forward->length;

        if (vu_unlikely(!forward->simple || length > longest ||
                        !vu_enqueue_plain(&scratch->rx[k], &scratch->rx_pieces.piece[k], forward->head,
                                          forward->bytes, length)))
            break;
        bytes += length;
    }
    vu_enqueue_filled(rx, k, bytes);
    fill->bytes = bytes;
    return chosen;
}

/* A chain of more descriptors than a table has is fetched before it can be known, and would be again by every
   sender: no driver makes one. */
static vu_always_inline void judge(struct fill *fill)
{
    uint32_t found = fill->rx.scratch->rx_pieces.descriptors;

    if (vu_unlikely(found > WALK_AT_ONCE + 2 * VU_INDIRECT_MIN))
        fill->rx.error =
            vu_trouble(fill->rx.vring, VU_ERR_CHAIN_LENGTH, fill->rx.vring->position, found, 0, 0);
}

/* The frames of `chosen` into one ring, whose lock is held. */
static vu_always_inline void fill_ring(const struct vu_ring_ops *ops, struct vu_sending *sending,
                                       struct vu_pair *to, uint64_t chosen)
{
    struct vu_scratch *scratch = sending->worker->scratch;
    uint32_t mtu = __atomic_load_n(&to->device->member->mtu, __ATOMIC_RELAXED);
    struct fill fill = {.sending = sending, .chosen = chosen};
    uint32_t count = (uint32_t)__builtin_popcountll(chosen);
    bool runs = vu_ring_runs(&to->vring[VU_RX]);

    fill.longest = mtu ? mtu + VU_ETH_HEADER + 4 : VU_FRAME_MAX;
    begin(&fill, to);
    if (!ops->general && runs) {
        vu_enqueue_ahead(ops, &fill.rx, count);
        chosen = fill_plain(&fill, chosen);
    }
    for (; chosen; chosen &= chosen - 1) {
        const struct vu_forward *forward = &scratch->forward[__builtin_ctzll(chosen)];
        int drop = VU_DROP_NO_BUFFERS;

        if (vu_likely(runs)) {
            make_room(ops, &fill, chosen);
            drop = enqueue_frame(ops, &fill, forward, chosen);
        }
        if (vu_unlikely(drop >= 0)) {
            vu_count(&fill.rx.vring->counters.drops[drop], 1);
            sending->left &= ~(chosen & -chosen);
        } else {
            fill.bytes += forward->length;
        }
    }
    sending->burst->cost += count * VU_COST_FRAME +
                            (fill.walked + scratch->rx_pieces.walked) * VU_COST_PIECE +
                            vu_cost_bytes(fill.bytes);
    if (vu_likely(runs)) {
        judge(&fill);
        end(ops, &fill, 0);
    }
}

static vu_noinline void fill_by_format(struct vu_sending *sending, struct vu_pair *to, uint64_t chosen)
{
    bool is_packed = to->vring[VU_RX].is_packed;

    if (vu_unlikely(vu_pair_general(to)))
        is_packed ? fill_ring(&vu_packed_general_ops, sending, to, chosen)
                  : fill_ring(&vu_split_general_ops, sending, to, chosen);
    else
        is_packed ? fill_ring(&vu_packed_ops, sending, to, chosen)
                  : fill_ring(&vu_split_ops, sending, to, chosen);
}

static void count_lost(const struct vu_sending *sending, struct vu_pair *to)
{
    vu_count(&to->vring[VU_RX].counters.drops[VU_DROP_NO_BUFFERS],
             (uint64_t)__builtin_popcountll(sending->left));
}

/* The same under the lock and a guard of its own: a receiver whose memory is gone takes nothing from the
   others, which have theirs already, and the sender goes on.  A frame of its own: it is what a fault unwinds
   to. */
static vu_noinline void deliver(struct vu_sending *sending, struct vu_pair *to, uint64_t chosen)
{
    struct vu_guard guard;

    guard.worker = sending->worker;
    sending->left = chosen;
    if (vu_unlikely(VU_GUARD_ENTER(&guard, sending->from))) {
        vu_guard_current = &sending->worker->guard;
        vu_device_unwound(&guard);
        /* The receiver's loss, unless it was the sender that had not got them any more. */
        if (guard.culprit == to)
            count_lost(sending, to);
        vu_ticket_unlock(guard.held);
        return;
    }
    guard.receiver = to;
    vu_ticket_lock(&to->filling);
    guard.held = &to->filling;
    if (vu_likely(!vu_device_is_faulted(to->device)))
        fill_by_format(sending, to, chosen);
    else
        count_lost(sending, to);
    guard.held = NULL;
    vu_ticket_unlock(&to->filling);
    vu_guard_current = &sending->worker->guard;
}

/* The ring of a member that has several: the one of the pair that the flow's other direction comes from, so
   that a guest's queues stay apart (virtio 1.2, 5.1.6.5.5). */
static const struct vu_pair *receiver_of(const struct vu_member *member, const struct vu_forward *forward)
{
    uint32_t flow = vu_forward_flow(forward);
    struct vu_pair *pair = NULL;
    uint8_t n = __atomic_load_n(&member->sender[flow & 255], __ATOMIC_RELAXED);

    if (n < VU_MEMBER_PAIRS)
        pair = member->pair[n];
    return pair ? pair : member->pair[member->receiver[flow % member->receivers]];
}

static void deliver_to_member(struct vu_sending *sending, const struct vu_member *member, uint64_t chosen)
{
    const struct vu_pair *by_frame[VU_BURST];

    /* Nobody's loss: a device without a guest is a port without a link. */
    if (!member->receivers)
        return;
    if (vu_likely(member->receivers == 1)) {
        deliver(sending, member->pair[member->receiver[0]], chosen);
        return;
    }
    for (uint64_t rest = chosen; rest; rest &= rest - 1) {
        int i = __builtin_ctzll(rest);

        by_frame[i] = receiver_of(member, &sending->worker->scratch->forward[i]);
    }
    while (chosen) {
        const struct vu_pair *to = by_frame[__builtin_ctzll(chosen)];
        uint64_t same = 0;

        for (uint64_t rest = chosen; rest; rest &= rest - 1) {
            int i = __builtin_ctzll(rest);

            same |= (uint64_t)(by_frame[i] == to) << i;
        }
        deliver(sending, member->pair[to->n], same);
        chosen &= ~same;
    }
}

/* To all who have not had those among what was for them alone. */
static void flood(struct vu_sending *sending)
{
    const struct vu_member *sender = sending->from->device->member;
    const struct vu_switch *lan = sender->lan;
    uint64_t served[VU_FDB_MEMBERS / 64 + 1] = {0};

    served[sender->number / 64] |= (uint64_t)1 << sender->number % 64;
    for (uint32_t i = 0; i < sending->targets; i++)
        served[sending->target[i] / 64] |= (uint64_t)1 << sending->target[i] % 64;
    for (uint32_t number = 1; number <= lan->members; number++) {
        if (vu_device_is_faulted(sending->from->device))
            break;
        if (lan->member[number] && !(served[number / 64] >> number % 64 & 1))
            deliver_to_member(sending, lan->member[number], sending->flooded);
    }
}

uint32_t vu_forward(struct vu_pair *from, struct vu_worker *worker, uint32_t count, struct vu_burst *burst)
{
    const struct vu_switch *lan = from->device->member->lan;
    struct vu_sending sending;
    uint32_t done;

    sending.from = from;
    sending.worker = worker;
    sending.burst = burst;
    sending.flooded = sending.targets = 0;
    done = vu_route(&sending, count);
    for (uint32_t i = 0; i < sending.targets && !vu_device_is_faulted(from->device); i++)
        deliver_to_member(&sending, lan->member[sending.target[i]], sending.chosen[i] | sending.flooded);
    if (sending.flooded)
        flood(&sending);
    return vu_device_is_faulted(from->device) ? 0 : done;
}

uint32_t vu_switch_serve_rx(struct vu_pair *pair)
{
    struct vu_guard *guard = &pair->worker->guard;
    struct vu_vring *vring = &pair->vring[VU_RX];

    vu_ticket_lock(&pair->filling);
    guard->held = &pair->filling;
    /* Nobody needs to be told of new buffers: who has frames looks for them. */
    if (vu_ring_runs(vring)) {
        if (vu_pair_general(pair))
            vu_ring_disarm(vring->is_packed ? &vu_packed_general_ops : &vu_split_general_ops, vring);
        else
            vu_ring_disarm(vring->is_packed ? &vu_packed_ops : &vu_split_ops, vring);
    }
    guard->held = NULL;
    vu_ticket_unlock(&pair->filling);
    pair->ready &= ~(uint32_t)VU_READY_RX;
    return VU_COST_FRAME;
}
