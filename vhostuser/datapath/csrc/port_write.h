/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of guests into a port's fd: one system call for a frame, or for a burst where the kernel has
 * io_uring, or it is a packet socket. */
#ifndef VU_PORT_WRITE_H
#define VU_PORT_WRITE_H

#include "state.h"

/* Writes the burst's frames `from` .. `to`, whose headers are in scratch->out and whose chains are in
   scratch->tx, in order.  *done moves behind each that is over, written or dropped; fewer than all when the
   port is full or the device has faulted.  Written ones are counted in *tally, drops in the ring's counters.
 */
void vu_port_write(struct vu_pair *pair, uint32_t *done, uint32_t to, struct vu_tally *tally);

#endif
