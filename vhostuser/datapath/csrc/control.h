/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control ring (virtio 1.2, 5.1.6.5), in the place of a pair's RX ring.  C copies a command out, says so
 * with VU_EVENT_CONTROL and leaves the chain where it is; whoever was told looks at the bytes and answers.
 * Then the worker walks the chain again, writes the byte and completes it.  So nothing is fetched in between
 * (rule 2 of ring.h): a ring that is stopped meanwhile has the command still to come, and each command may
 * be executed twice.
 */
#ifndef VU_CONTROL_H
#define VU_CONTROL_H

#include <stdint.h>

#include "device.h"

/* The longest command that is copied: a MAC table of 2700 addresses.  Linux sends every address that it
   listens to in one command, which makes hundreds on a host of many containers. */
#define VU_CONTROL_BYTES 16384

/* RX of this pair is a control ring from now on, until vu_pair_set_port.  Returns vu_error. */
int vu_pair_set_control(struct vu_pair *pair);
/* The command that waits for an answer: its length, and its bytes copied to `bytes` (VU_CONTROL_BYTES of
   room) unless it is longer than that.  0: none waits, for its ring was stopped or never asked. */
uint32_t vu_control_command(const struct vu_pair *pair, uint8_t *bytes);
/* Its ack byte.  The worker writes it at its next turn and looks for the next command then.  Nothing happens
   when none waits. */
void vu_control_answer(struct vu_pair *pair, uint8_t ack);

#endif
