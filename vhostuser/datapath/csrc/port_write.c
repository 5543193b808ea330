/* SPDX-License-Identifier: Apache-2.0 */
#include "port_write.h"

#include <errno.h>
#include <unistd.h>

#include "burst.h"
#include "uring.h"

/* With fewer frames than this a ring costs more than it saves. */
#define LEAST_BATCH 4
#define STOP (-2)

static struct vu_cursor frame_at(const struct vu_pair *pair, uint32_t i)
{
    const struct vu_scratch *scratch = pair->worker->scratch;

    return vu_cursor_at(&scratch->tx_pieces.piece[scratch->tx[i].first], pair->device->header_size);
}

/* The pieces of a frame behind its header; 0 when there are too many. */
static uint32_t list_frame(const struct vu_pair *pair, uint32_t i)
{
    struct vu_outgoing *out = &pair->worker->scratch->out[i];
    uint32_t count = 1;

    out->list[0] = (struct iovec){&out->header, pair->port_header};
    if (vu_iov_slice(out->list, &count, VU_ARRAY_SIZE(out->list), frame_at(pair, i), out->length) <
        out->length)
        return 0;
    return count;
}

/* The pieces that go out; 0 when there are too many.  A short frame is copied behind its header: two pieces
   cost the kernel more to take than the copy costs us, up to a whole Ethernet frame.  Beside a program that
   does nothing but write, a tap took 0.90 of the frames of 64 B, so 0.99; of 1500 B 0.91 and 0.97
   (tests/bench/bench_port_floor.py). */
static uint32_t prepare(const struct vu_pair *pair, uint32_t i)
{
    struct vu_outgoing *out = &pair->worker->scratch->out[i];

    if (out->length > VU_SHORT_FRAME)
        return out->pieces = list_frame(pair, i);
    /* A header of 10 bytes ends before num_buffers, which is the receiver's to set: there the frame begins.
     */
    vu_iov_gather((uint8_t *)out + pair->port_header, frame_at(pair, i), out->length);
    out->list[0] = (struct iovec){out, pair->port_header + out->length};
    return out->pieces = 1;
}

static int32_t write_one(struct vu_pair *pair, uint32_t i)
{
    struct vu_scratch *scratch = pair->worker->scratch;
    struct vu_outgoing *out = &scratch->out[i];
    uint32_t count = prepare(pair, i);
    ssize_t written;

    if (vu_unlikely(!count)) {
        vu_iov_gather(scratch->linear, frame_at(pair, i), out->length);
        out->list[1] = (struct iovec){scratch->linear, out->length};
        count = 2;
        vu_count(&pair->vring[VU_TX].counters.linearised, 1);
    }
    do
        written = writev(pair->port_fd, out->list, (int)count);
    while (vu_unlikely(written < 0 && errno == EINTR));
    return written < 0 ? -errno : (int32_t)written;
}

/* The prepared frames of `from` .. `to` by one call; where it ended, that frame included. */
static uint32_t send_batch(struct vu_pair *pair, uint32_t from, uint32_t to)
{
    struct vu_scratch *scratch = pair->worker->scratch;
    uint32_t place[VU_BURST], count = 0, tried;

    for (uint32_t i = from; i < to; i++) {
        struct vu_outgoing *out = &scratch->out[i];

        if (out->drop >= 0)
            continue;
        scratch->messages[count] = (struct vu_message){.list = out->list, .pieces = out->pieces};
        place[count++] = i;
    }
    if (!count)
        return to;
    tried = vu_packet_send(pair->port_fd, scratch->messages, count);
    for (uint32_t i = 0; i < tried; i++)
        scratch->out[place[i]].result = scratch->messages[i].result;
    return tried == count ? to : place[tried];
}

/* Writes what it can of `from` .. `to` by one call; where that ends.  Nothing when it ends at `from`. */
static uint32_t write_batch(struct vu_pair *pair, uint32_t from, uint32_t to)
{
    const bool packets = pair->port_kind == VU_PORT_PACKET;
    struct vu_worker *worker = pair->worker;
    uint32_t end = from;

    if (to - from < LEAST_BATCH || (!packets && (!worker->uring || pair->port_slow)))
        return from;
    for (; end < to; end++) {
        struct vu_outgoing *out = &worker->scratch->out[end];

        if (out->drop < 0 && vu_unlikely(!prepare(pair, end)))
            break;
    }
    if (packets)
        return send_batch(pair, from, end);
    /* Only now, when guest memory cannot end the burst any more: what is in the ring is carried out. */
    for (uint32_t i = from; i < end; i++) {
        struct vu_outgoing *out = &worker->scratch->out[i];

        if (out->drop >= 0)
            continue;
        if (out->pieces == 1)
            vu_uring_write(worker->uring, pair->port_fd, out->list, &out->result);
        else
            vu_uring_writev(worker->uring, pair->port_fd, out->list, out->pieces, &out->result);
    }
    vu_uring_run(worker->uring);
    return end;
}

static bool any_written(const struct vu_scratch *scratch, uint32_t from, uint32_t to)
{
    for (; from < to; from++) {
        if (scratch->out[from].drop < 0 && scratch->out[from].result >= 0)
            return true;
    }
    return false;
}

/* What the ring did not do is done without it.  A port that was full for one frame and not for the next has
   that frame behind the others, or not at all: it cannot stay in the ring, where they would follow it again.
 */
static void mend(struct vu_pair *pair, uint32_t i, uint32_t end)
{
    struct vu_outgoing *out = &pair->worker->scratch->out[i];

    if (out->result == -EOPNOTSUPP)
        pair->port_slow = true;
    if (out->result == VU_URING_NOT_DONE || out->result == -EOPNOTSUPP || out->result == -EINTR)
        out->result = write_one(pair, i);
    if (out->result == -EAGAIN && any_written(pair->worker->scratch, i + 1, end)) {
        out->result = write_one(pair, i);
        if (out->result == -EAGAIN)
            out->result = -ENOBUFS;
    }
}

/* What a failed write means: the enum vu_drop of this frame, or STOP to give the chain back. */
static int write_failed(struct vu_pair *pair, int error)
{
    switch (error) {
    case EAGAIN:
        pair->port_blocked = true;
        vu_pair_watch_port(pair);
        return STOP;
    case EFAULT:
        /* A system call reports by errno what a load would by SIGBUS: the pages are gone. */
        vu_device_fault(pair, VU_ERR_MEMORY_FAULT, 0);
        return STOP;
    case EBADFD:
    case ENXIO: /* the interface of a packet socket */
        vu_pair_port_gone(pair, error);
        return VU_DROP_PORT_DOWN;
    case EIO: /* a tap that is administratively down */
    case ENETDOWN:
        return VU_DROP_PORT_DOWN;
    case EINVAL:
        return VU_DROP_PORT_REFUSED;
    case EMSGSIZE: /* above the MTU of a packet socket's interface */
        return VU_DROP_OVERSIZE;
    case ENOBUFS: /* its queue is full, and does not tell when it no longer is */
        return VU_DROP_NO_BUFFERS;
    default:
        return VU_DROP_PORT_ERROR;
    }
}

void vu_port_write(struct vu_pair *pair, uint32_t *done, uint32_t to, struct vu_tally *tally)
{
    struct vu_vring *vring = &pair->vring[VU_TX];

    while (*done < to) {
        uint32_t end = pair->port_gone ? *done : write_batch(pair, *done, to);
        bool batched = end != *done;

        if (!batched)
            end = *done + 1;
        for (; *done < end; ++*done) {
            struct vu_outgoing *out = &pair->worker->scratch->out[*done];
            int drop = out->drop;

            if (drop < 0 && vu_unlikely(pair->port_gone) && !batched)
                drop = VU_DROP_PORT_DOWN;
            if (drop < 0) {
                if (!batched)
                    out->result = write_one(pair, *done);
                else if (vu_unlikely(out->result < 0))
                    mend(pair, *done, end);
                if (vu_unlikely(out->result < 0))
                    drop = write_failed(pair, -out->result);
                if (vu_unlikely(drop == STOP))
                    return;
            }
            if (vu_likely(drop < 0))
                vu_tally_frame(tally, &out->header, out->length);
            else
                vu_count(&vring->counters.drops[drop], 1);
        }
    }
}
