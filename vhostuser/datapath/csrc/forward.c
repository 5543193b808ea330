/* SPDX-License-Identifier: Apache-2.0 */
/* Guest to guest: one burst into each ring that gets some of the frames of another. */
#include "forward.h"

#include "fill.h"
#include "offload.h"
#include "packed.h"
#include "split.h"

/* Space for more frames, when this burst's own is used up: another one begins. */
static vu_always_inline void make_room(const struct vu_ring_ops *ops, struct vu_enqueue *rx)
{
    struct vu_pair *to = rx->vring->pair;
    struct vu_scratch *scratch = rx->scratch;

    if (vu_likely(vu_enqueue_room(rx)) || rx->error)
        return;
    vu_enqueue_end(ops, rx);
    vu_enqueue_begin(rx, to, scratch);
}

/* For a receiver that does not take the offload: what the sender left undone is done here, on a copy.  -1, or
   why the rest of the frame is lost. */
static vu_noinline int enqueue_finished(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                        const struct vu_forward *forward)
{
    uint8_t *linear = rx->scratch->linear, headers[VU_SEGMENT_HEADERS];
    struct iovec piece[2] = {{linear, forward->length}};
    uint32_t head = VU_MIN(forward->length, VU_FILTER_HEAD);
    struct vu_net_hdr header = {0};
    struct vu_segments segments;
    int drop = -1;

    memcpy(linear, forward->head, head);
    if (forward->length > head)
        vu_iov_gather(linear + head, vu_cursor_at(forward->frame.piece, forward->frame.offset + head),
                      forward->length - head);
    if (forward->header.gso_type == VU_GSO_NONE) {
        vu_offload_checksum(linear, forward->length, &forward->header);
        return vu_enqueue_copy(ops, rx, &header, NULL, vu_cursor_at(piece, 0), forward->length);
    }
    if (!vu_segments_begin(&segments, linear, forward->length, &forward->header))
        return VU_DROP_RECEIVER_OFFLOAD;
    while (drop < 0) {
        const uint8_t *payload;
        uint32_t length, size = vu_segments_next(&segments, headers, &payload, &length);

        if (!size)
            break;
        make_room(ops, rx);
        piece[0] = (struct iovec){headers, size};
        piece[1] = (struct iovec){(void *)(uintptr_t)payload, length};
        header = (struct vu_net_hdr){0};
        drop = vu_enqueue_copy(ops, rx, &header, NULL, vu_cursor_at(piece, 0), size + length);
    }
    return drop;
}

static vu_always_inline int enqueue_frame(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                          const struct vu_forward *forward, uint32_t longest)
{
    struct vu_net_hdr header = {0};
    int drop;

    if (vu_unlikely(forward->length > longest && forward->header.gso_type == VU_GSO_NONE))
        return VU_DROP_OVERSIZE;
    if (vu_likely(forward->plain && forward->whole) &&
        vu_likely(vu_enqueue_copy_whole(ops, rx, &header, forward->head, forward->frame, forward->length)))
        return -1;
    header = forward->header;
    drop = vu_net_hdr_deliver(&header, rx->device->features);
    if (vu_unlikely(drop == VU_DROP_RECEIVER_OFFLOAD))
        return enqueue_finished(ops, rx, forward);
    if (vu_unlikely(drop >= 0))
        return drop;
    return vu_enqueue_copy(ops, rx, &header, forward->head, forward->frame, forward->length);
}

/* The frames of `chosen` into one ring, whose lock is held. */
static vu_always_inline void fill(const struct vu_ring_ops *ops, struct vu_sending *sending,
                                  struct vu_pair *to, uint64_t chosen)
{
    struct vu_scratch *scratch = sending->worker->scratch;
    uint32_t mtu = __atomic_load_n(&to->device->member->mtu, __ATOMIC_RELAXED);
    uint32_t longest = mtu ? mtu + VU_ETH_HEADER + 4 : VU_FRAME_MAX;
    uint64_t bytes = 0;
    struct vu_enqueue rx;
    uint32_t count = (uint32_t)__builtin_popcountll(chosen);
    bool runs = vu_ring_runs(&to->vring[VU_RX]);

    vu_enqueue_begin(&rx, to, scratch);
    if (!ops->general && runs)
        vu_enqueue_ahead(ops, &rx, count);
    for (; chosen; chosen &= chosen - 1) {
        const struct vu_forward *forward = &scratch->forward[__builtin_ctzll(chosen)];
        int drop = VU_DROP_NO_BUFFERS;

        if (vu_likely(runs)) {
            make_room(ops, &rx);
            drop = enqueue_frame(ops, &rx, forward, longest);
        }
        if (vu_unlikely(drop >= 0))
            vu_count(&rx.vring->counters.drops[drop], 1);
        else
            bytes += forward->length;
    }
    sending->burst->cost +=
        count * VU_COST_FRAME + rx.scratch->rx_pieces.walked * VU_COST_PIECE + vu_cost_bytes(bytes);
    if (vu_likely(runs))
        vu_enqueue_end(ops, &rx);
}

static vu_noinline void fill_by_format(struct vu_sending *sending, struct vu_pair *to, uint64_t chosen)
{
    bool is_packed = to->vring[VU_RX].is_packed;

    if (vu_unlikely(vu_pair_general(to)))
        is_packed ? fill(&vu_packed_general_ops, sending, to, chosen)
                  : fill(&vu_split_general_ops, sending, to, chosen);
    else
        is_packed ? fill(&vu_packed_ops, sending, to, chosen) : fill(&vu_split_ops, sending, to, chosen);
}

static void count_lost(struct vu_pair *to, uint64_t chosen)
{
    vu_count(&to->vring[VU_RX].counters.drops[VU_DROP_NO_BUFFERS], (uint64_t)__builtin_popcountll(chosen));
}

/* The same under the lock and a guard of its own: a receiver whose memory is gone takes nothing from the
   others, which have theirs already, and the sender goes on.  A frame of its own: it is what a fault unwinds
   to. */
static vu_noinline void deliver(struct vu_sending *sending, struct vu_pair *to, uint64_t chosen)
{
    struct vu_guard guard;

    guard.worker = sending->worker;
    if (vu_unlikely(VU_GUARD_ENTER(&guard, sending->from))) {
        vu_guard_current = &sending->worker->guard;
        vu_device_unwound(&guard);
        count_lost(to, chosen);
        pthread_mutex_unlock(guard.held);
        return;
    }
    guard.receiver = to;
    pthread_mutex_lock(&to->filling);
    guard.held = &to->filling;
    if (vu_likely(!vu_device_is_faulted(to->device)))
        fill_by_format(sending, to, chosen);
    else
        count_lost(to, chosen);
    guard.held = NULL;
    pthread_mutex_unlock(&to->filling);
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

    pthread_mutex_lock(&pair->filling);
    guard->held = &pair->filling;
    /* Nobody needs to be told of new buffers: who has frames looks for them. */
    if (vu_ring_runs(vring)) {
        if (vu_pair_general(pair))
            vu_ring_disarm(vring->is_packed ? &vu_packed_general_ops : &vu_split_general_ops, vring);
        else
            vu_ring_disarm(vring->is_packed ? &vu_packed_ops : &vu_split_ops, vring);
    }
    guard->held = NULL;
    pthread_mutex_unlock(&pair->filling);
    pair->ready &= ~(uint32_t)VU_READY_RX;
    return VU_COST_FRAME;
}
