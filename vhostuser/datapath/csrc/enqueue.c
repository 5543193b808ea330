/* SPDX-License-Identifier: Apache-2.0 */
/* Port to guest: reading frames into receive chains, and the budgeted serving of a receive ring. */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "forward.h"
#include "packed.h"
#include "port_read.h"
#include "split.h"

/* Pieces handed to one read besides our header and tail; what does not fit lands in the tail. */
#define READ_PIECES 254
#define SOURCE_ETHERTYPE 0x88b5 /* IEEE 802 local experimental */

/* Starved: the guest has given no buffers.  Stuck: it gave some that cannot hold the frame, which stays so.
 */
enum port_state { PORT_MORE = 0, PORT_EMPTY = 1, PORT_STARVED = 2, PORT_STUCK = 3 };

/* One frame straight into the guest's buffers.  The length is not known before the read, so the chains
   that the expected frame needs come first and a private tail for the rest behind them. */
static vu_always_inline ssize_t read_frame(struct vu_enqueue *rx, struct vu_pair *pair,
                                           struct vu_net_hdr *header, size_t *in_place)
{
    struct iovec list[1 + READ_PIECES + 1];
    struct vu_message *message = rx->scratch->messages;
    uint32_t count = 1;
    ssize_t length;
    /* Chains behind the first, which a batch may have left, are this frame's only where it may be spread. */
    size_t room =
        (rx->device->mergeable ? rx->held : rx->scratch->rx[rx->used].length) - rx->device->header_size;

    list[0] = (struct iovec){header, pair->port_header};
    *in_place = vu_iov_slice(list, &count, 1 + READ_PIECES,
                             vu_cursor_at(vu_enqueue_pieces(rx), rx->device->header_size),
                             VU_MIN(room, VU_FRAME_MAX));
    list[count++] = (struct iovec){rx->scratch->tail, sizeof(rx->scratch->tail)};
    if (pair->port_kind == VU_PORT_PACKET) {
        *message = (struct vu_message){.list = list, .pieces = count};
        vu_packet_receive(pair->port_fd, message, 1);
        errno = -message->result;
        return message->result;
    }
    do
        length = readv(pair->port_fd, list, (int)count);
    while (vu_unlikely(length < 0 && errno == EINTR));
    return length;
}

/* A frame that was read has its first bytes in the guest's buffers.  The guest may have changed them: it can
   let in what it does not want. */
static vu_always_inline int filter_read(const struct vu_enqueue *rx, uint32_t length, size_t in_place)
{
    uint8_t head[VU_FILTER_HEAD] = {0};
    size_t wanted = VU_MIN(length, sizeof(head)), there = VU_MIN(wanted, in_place);

    if (vu_likely(!rx->device->filters))
        return -1;
    vu_iov_gather(head, vu_cursor_at(vu_enqueue_pieces(rx), rx->device->header_size), there);
    memcpy(head + there, rx->scratch->tail, wanted - there);
    return vu_filter_check(&rx->device->filter, head);
}

/* A frame that was read but is not delivered so has left its bytes in buffers that stay in the ring. */
static vu_always_inline void mark_read(const struct vu_ring_ops *ops, const struct vu_enqueue *rx,
                                       size_t in_place)
{
    if (vu_logs(ops, rx->device) && in_place)
        vu_log_mark_pieces(rx->device->log, rx->device->memory, vu_enqueue_pieces(rx),
                           rx->device->header_size, in_place);
}

/* With a frame that has to be worked on first; see vu_port_read_finish.  The guest may have changed what it
   had of it already: from here on it is the private copy that is looked at. */
static vu_noinline int finish_read(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                   struct vu_net_hdr *header, uint32_t length, size_t in_place, uint32_t tag,
                                   struct vu_burst *burst)
{
    uint8_t *frame = rx->scratch->linear + VU_TAG_SIZE;

    mark_read(ops, rx, in_place);
    if (length > VU_FRAME_MAX)
        return VU_DROP_OVERSIZE;
    vu_iov_gather(frame, vu_cursor_at(vu_enqueue_pieces(rx), rx->device->header_size), in_place);
    memcpy(frame + in_place, rx->scratch->tail, length - in_place);
    return vu_port_read_finish(ops, rx, header, frame, length, tag, burst);
}

/* room: bytes of the guest's that the frame was read into before the private tail. */
static vu_always_inline int deliver_read(const struct vu_ring_ops *ops, struct vu_enqueue *rx,
                                         struct vu_net_hdr *header, uint32_t length, size_t room,
                                         struct vu_burst *burst)
{
    const bool packets = rx->vring->pair->port_kind == VU_PORT_PACKET;
    const struct vu_message *message = rx->scratch->messages;
    uint64_t total = (uint64_t)length + rx->device->header_size;
    size_t in_place = VU_MIN(length, room);
    uint32_t tag = packets ? message->tag : 0;
    int drop = vu_net_hdr_deliver(header, rx->device->features);

    if (packets && vu_unlikely(message->cut))
        drop = VU_DROP_OVERSIZE;
    if (vu_unlikely(drop == VU_DROP_RECEIVER_OFFLOAD || (tag && drop < 0)))
        return finish_read(ops, rx, header, length, in_place, tag, burst);
    if (vu_likely(drop < 0))
        drop = filter_read(rx, length, in_place);
    if (vu_likely(drop < 0) && vu_unlikely(length > in_place)) {
        if (vu_enqueue_reserve(ops, rx, total) < total)
            drop = vu_enqueue_refusal(rx);
        else
            vu_iov_scatter(vu_cursor_at(vu_enqueue_pieces(rx), rx->device->header_size + in_place),
                           rx->scratch->tail, length - in_place);
    }
    if (vu_likely(drop < 0))
        vu_enqueue_commit(ops, rx, header, length);
    else
        mark_read(ops, rx, in_place);
    return drop;
}

/* Whether a read failed for one frame or one moment only, and others may wait behind. */
static bool reads_on(struct vu_pair *pair, int error)
{
    if (error == EINVAL)
        return true;
    if (error != ENETDOWN || pair->port_kind != VU_PORT_PACKET)
        return false;
    if (vu_packet_is_gone(pair->port_fd)) {
        vu_pair_port_gone(pair, ENODEV);
        return false;
    }
    vu_pair_port_down(pair);
    return true;
}

static int read_failed(struct vu_pair *pair, int error)
{
    if (error == EFAULT)
        vu_device_fault(pair, VU_ERR_MEMORY_FAULT, 0);
    else if (error == EBADFD)
        vu_pair_port_gone(pair, error);
    return PORT_EMPTY;
}

static vu_always_inline int burst_from_fd(const struct vu_ring_ops *ops, struct vu_pair *pair,
                                          struct vu_burst *burst)
{
    const bool batches = !ops->general && (pair->worker->uring || pair->port_kind == VU_PORT_PACKET);
    struct vu_enqueue rx;
    int state = PORT_MORE;

    vu_enqueue_begin(&rx, pair, pair->worker->scratch);
    for (uint32_t i = 0; i < VU_BURST && vu_enqueue_room(&rx) && !vu_burst_spent(burst); i++) {
        struct vu_net_hdr header = {0};
        size_t in_place = 0;
        ssize_t length;
        int drop;

        if (batches && pair->read_batch > 1 && !pair->port_slow) {
            uint32_t count = vu_port_read_prepare(ops, &rx, pair);

            if (count > 1) {
                int error = vu_port_read_batch(ops, &rx, pair, count, burst);

                i += count - 1;
                if (vu_likely(!error) || error == VU_URING_NOT_DONE || error == -EINTR ||
                    reads_on(pair, -error))
                    continue;
                pair->port_slow |= error == -EOPNOTSUPP;
                if (vu_unlikely(error == -EOPNOTSUPP))
                    continue;
                state = read_failed(pair, -error);
                break;
            }
        }
        vu_enqueue_reserve(ops, &rx, rx.device->header_size + pair->expected);
        if (vu_unlikely(rx.fetched == rx.used || vu_ring_parked(ops, rx.vring))) {
            state = PORT_STARVED;
            break;
        }
        if (vu_unlikely(!vu_enqueue_header_fits(&rx))) {
            /* Even the header does not fit: the frame is read away, the buffer stays in the ring. */
            length = read(pair->port_fd, rx.scratch->tail, sizeof(rx.scratch->tail));
            drop = VU_DROP_BUFFER_TOO_SMALL;
        } else {
            length = read_frame(&rx, pair, &header, &in_place);
            drop = -1;
        }
        burst->cost += VU_COST_SYSCALL;
        if (vu_unlikely(length < 0 && reads_on(pair, errno))) {
            /* A tap took this one frame off its queue and cannot describe it to us. */
            if (errno == EINVAL)
                vu_count(&rx.vring->counters.drops[VU_DROP_PORT_REFUSED], 1);
            continue;
        }
        if (vu_unlikely(length <= 0)) {
            state = length < 0 ? read_failed(pair, errno) : PORT_EMPTY;
            break;
        }
        burst->packets++;
        if (vu_unlikely(length < pair->port_header)) {
            vu_count(&rx.vring->counters.drops[VU_DROP_RUNT], 1); /* no tap does it, another socket may */
            continue;
        }
        length -= pair->port_header;
        burst->bytes += (uint64_t)length;
        vu_port_expect(pair, (uint32_t)length);
        if (vu_likely(drop < 0))
            drop = deliver_read(ops, &rx, &header, (uint32_t)length, in_place, burst);
        pair->read_batch = VU_MIN(2 * pair->read_batch, VU_READ_BATCH);
        if (vu_unlikely(drop >= 0))
            vu_count(&rx.vring->counters.drops[drop], 1);
    }
    vu_enqueue_cost(&rx, burst);
    vu_enqueue_end(ops, &rx);
    return state;
}

/* Frames of our own: broadcast, a local ethertype, and a little-endian sequence number to check order by. */
static vu_always_inline int burst_from_source(const struct vu_ring_ops *ops, struct vu_pair *pair,
                                              struct vu_burst *burst)
{
    static const uint8_t head[VU_ETH_HEADER] = {0xff,
                                                0xff,
                                                0xff,
                                                0xff,
                                                0xff,
                                                0xff,
                                                0x02,
                                                0,
                                                0,
                                                0,
                                                0,
                                                1,
                                                SOURCE_ETHERTYPE >> 8,
                                                SOURCE_ETHERTYPE & 0xff};
    uint8_t *frame = pair->worker->scratch->linear;
    struct iovec piece = {frame, pair->frame_size};
    struct vu_enqueue rx;
    int state = PORT_MORE;

    memset(frame, 0, pair->frame_size);
    memcpy(frame, head, sizeof(head));
    vu_enqueue_begin(&rx, pair, pair->worker->scratch);
    for (uint32_t i = 0; i < VU_BURST && vu_enqueue_room(&rx); i++) {
        struct vu_net_hdr header = {0};
        uint64_t sequence = htole64(pair->sequence);
        int drop;

        memcpy(frame + sizeof(head), &sequence, sizeof(sequence));
        drop = vu_enqueue_copy(ops, &rx, &header, NULL, vu_cursor_at(&piece, 0), pair->frame_size);
        if (drop >= 0) {
            /* Nothing is lost, since nothing was there; but a buffer that is too small stays for ever, and
               so does a filter. */
            if (drop != VU_DROP_NO_BUFFERS)
                vu_count(&rx.vring->counters.drops[drop], 1);
            state = drop == VU_DROP_FILTERED ? PORT_EMPTY : rx.empty ? PORT_STARVED : PORT_STUCK;
            break;
        }
        pair->sequence++;
        burst->packets++;
        burst->bytes += pair->frame_size;
    }
    vu_enqueue_cost(&rx, burst);
    vu_enqueue_end(ops, &rx);
    return state;
}

static vu_always_inline uint32_t serve_rx(const struct vu_ring_ops *ops, struct vu_pair *pair)
{
    struct vu_vring *vring = &pair->vring[VU_RX];
    const bool spins = vu_pair_spins(pair);
    struct vu_burst burst = {0};

    vu_ring_disarm(ops, vring);
    while (!vu_burst_spent(&burst)) {
        int state;

        if (vu_port_has_fd(pair))
            state = pair->port_reads && !pair->port_gone ? burst_from_fd(ops, pair, &burst) : PORT_EMPTY;
        else
            state = pair->port_kind == VU_PORT_SOURCE ? burst_from_source(ops, pair, &burst) : PORT_EMPTY;
        if (vring->state != VU_VRING_RUNNING || vu_device_is_faulted(pair->device) || state == PORT_EMPTY ||
            vu_ring_parked(ops, vring)) {
            pair->ready &= ~(uint32_t)VU_READY_RX;
            break;
        }
        if (state == PORT_STARVED || state == PORT_STUCK) {
            if (!spins)
                vu_ring_arm(ops, vring);
            /* Buffers that came since we found none: the driver showed them before it could see that we
               want a kick. */
            if (!spins && state == PORT_STARVED && ops->grown(vring)) {
                vu_ring_disarm(ops, vring);
                continue;
            }
            pair->starved = true;
            pair->ready &= ~(uint32_t)VU_READY_RX;
            vu_pair_watch_port(pair);
            break;
        }
    }
    burst.cost += vu_cost_bytes(burst.bytes);
    return burst.cost;
}

uint32_t vu_serve_rx(struct vu_pair *pair)
{
    struct vu_vring *vring = &pair->vring[VU_RX];

    if (vu_unlikely(pair->port_kind == VU_PORT_SWITCH))
        return vu_switch_serve_rx(pair);
    if (!vu_ring_runs(vring) || pair->starved) {
        pair->ready &= ~(uint32_t)VU_READY_RX;
        return 0;
    }
    if (vu_unlikely(pair->port_kind == VU_PORT_CONTROL))
        return vu_serve_control(pair);
    if (vu_unlikely(vu_pair_general(pair)))
        return vring->is_packed ? serve_rx(&vu_packed_general_ops, pair)
                                : serve_rx(&vu_split_general_ops, pair);
    return vring->is_packed ? serve_rx(&vu_packed_ops, pair) : serve_rx(&vu_split_ops, pair);
}
