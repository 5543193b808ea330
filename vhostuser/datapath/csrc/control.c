/* SPDX-License-Identifier: Apache-2.0 */
/* The control ring: one command at a time out to the loop, one byte in. */
#include <stdlib.h>
#include <string.h>

#include "burst.h"
#include "packed.h"
#include "split.h"

#define HEADER_BYTES 2 /* class and command */

int vu_pair_set_control(struct vu_pair *pair)
{
    if (!pair->control) {
        pair->control = malloc(sizeof(*pair->control));
        if (!pair->control)
            return VU_ERR_SYSTEM;
    }
    pair->control->state = VU_CONTROL_IDLE;
    return vu_pair_set_port(pair, VU_PORT_CONTROL, -1, 0, 0);
}

uint32_t vu_control_command(const struct vu_pair *pair, uint8_t *bytes)
{
    const struct vu_control *control = pair->control;

    if (!control || control->state != VU_CONTROL_ASKED || pair->vring[VU_RX].state != VU_VRING_RUNNING)
        return 0;
    if (control->length <= VU_CONTROL_BYTES)
        memcpy(bytes, control->bytes, control->length);
    return control->length;
}

void vu_control_answer(struct vu_pair *pair, uint8_t ack)
{
    if (!pair->control || pair->control->state != VU_CONTROL_ASKED)
        return;
    pair->control->ack = ack;
    pair->control->state = VU_CONTROL_ANSWERED;
    vu_pair_wake(pair, VU_READY_RX);
}

/* One side of the chain at the ring's position, VU_COMMAND or VU_ACK. */
static vu_always_inline int look(const struct vu_ring_ops *ops, struct vu_vring *vring, int side,
                                 struct vu_pieces *pieces, struct vu_chain *chain)
{
    vu_pieces_begin(pieces, VU_PIECES);
    return ops->fetch(ops->general, vring, vring->pair->device->memory, 0, side, pieces, chain);
}

/* Walked anew, and so checked anew: the guest may have changed it since it was asked about. */
static vu_always_inline void complete(const struct vu_ring_ops *ops, struct vu_vring *vring)
{
    struct vu_scratch *scratch = vring->pair->worker->scratch;
    const struct vu_device *device = vring->pair->device;
    struct vu_chain *chain = &scratch->rx[0];
    const struct vu_tally none = {0};
    int error = look(ops, vring, VU_ACK, &scratch->rx_pieces, chain);

    if (vu_unlikely(!error && !chain->length))
        error = vu_trouble(vring, VU_ERR_CONTROL, chain->head, vring->pair->control->length, 0, 0);
    if (vu_unlikely(error == VU_FETCH_MISS)) {
        vring->pair->control->state =
            VU_CONTROL_ANSWERED; /* the answer is kept until there is a translation */
        return;
    }
    if (vu_unlikely(error)) {
        if (error < 0)
            vu_vring_break(vring, error);
        return;
    }
    *(volatile uint8_t *)scratch->rx_pieces.piece[chain->first].iov_base = vring->pair->control->ack;
    chain->written = 1;
    if (vu_logs(ops, device))
        vu_log_mark_pieces(device->log, device->memory, &scratch->rx_pieces.piece[chain->first], 0, 1);
    vu_ring_publish(ops, vring, chain, 1, &none);
    vu_ring_finish(ops, vring, 1, VU_OK);
}

/* Copies out the command at the ring's position.  VU_OK, VU_FETCH_EMPTY, VU_FETCH_MISS or enum vu_error. */
static vu_always_inline int take(const struct vu_ring_ops *ops, struct vu_vring *vring)
{
    struct vu_scratch *scratch = vring->pair->worker->scratch;
    struct vu_control *control = vring->pair->control;
    struct vu_chain *command = &scratch->tx[0], *ack = &scratch->rx[0];
    int result;

    if ((result = look(ops, vring, VU_ACK, &scratch->rx_pieces, ack)) ||
        (result = look(ops, vring, VU_COMMAND, &scratch->tx_pieces, command)))
        return result;
    /* Without a byte to answer in nobody can be told, and what has no class and command is none: the driver
       has lost its way in this ring.  QEMU breaks the device for both. */
    if (command->length < HEADER_BYTES || !ack->length)
        return vu_trouble(vring, VU_ERR_CONTROL, command->head, command->length, ack->length, 0);
    control->length = (uint32_t)VU_MIN(command->length, UINT32_MAX);
    if (control->length <= VU_CONTROL_BYTES)
        vu_iov_gather(control->bytes, vu_cursor_at(&scratch->tx_pieces.piece[command->first], 0),
                      control->length);
    return VU_OK;
}

/* Kicks are never turned off: commands are rare, and one in flight at a time is what drivers send. */
static vu_always_inline void serve(const struct vu_ring_ops *ops, struct vu_pair *pair)
{
    struct vu_vring *vring = &pair->vring[VU_RX];
    struct vu_event event = {.kind = VU_EVENT_CONTROL, .device = pair->device->id, .ring = vring->index};
    int result;

    if (pair->control->state == VU_CONTROL_ANSWERED) {
        pair->control->state = VU_CONTROL_IDLE;
        complete(ops, vring);
        if (vring->state != VU_VRING_RUNNING || vu_ring_parked(ops, vring))
            return;
    }
    result = take(ops, vring);
    if (result == VU_FETCH_EMPTY) {
        vu_ring_arm(ops, vring);
        /* Through the run queue and not in a loop: who adds and takes back gets no more than others. */
        if (ops->grown(vring))
            pair->ready |= VU_READY_RX;
    } else if (result == VU_FETCH_MISS) {
        return; /* met again when there is a translation */
    } else if (result) {
        vu_vring_break(vring, result);
    } else {
        pair->control->state = VU_CONTROL_ASKED;
        vu_event_put(pair, &event);
    }
}

uint32_t vu_serve_control(struct vu_pair *pair)
{
    bool is_packed = pair->vring[VU_RX].is_packed;

    pair->ready &= ~(uint32_t)VU_READY_RX;
    if (pair->control->state == VU_CONTROL_ASKED)
        return 0; /* the answer wakes us */
    if (vu_unlikely(vu_pair_general(pair)))
        serve(is_packed ? &vu_packed_general_ops : &vu_split_general_ops, pair);
    else
        serve(is_packed ? &vu_packed_ops : &vu_split_ops, pair);
    return VU_COST_SYSCALL;
}
