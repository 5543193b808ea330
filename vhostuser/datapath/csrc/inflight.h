/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inflight region (vhost-user, "Inflight I/O tracking"): memory that the front-end keeps when we die, one
 * part a ring.  Whoever serves a ring says there what it has taken and not given back, and how far it is.
 */
#ifndef VU_INFLIGHT_H
#define VU_INFLIGHT_H

#include <stdint.h>

struct vu_inflight;

/* Maps `length` bytes of fd from `offset` (both multiples of the file's page size); the region is the `size`
   bytes from `delta` on, parts for `queues` rings of `queue_size` entries.  NULL with *failed_errno.  The
   caller owns the one reference; fd is not kept.  Nothing in it is read or written before a ring starts. */
struct vu_inflight *vu_inflight_map(int fd, uint64_t offset, uint64_t length, uint64_t delta, uint64_t size,
                                    uint32_t queues, uint32_t queue_size, int *failed_errno);
/* Unmaps: not on the loop. */
void vu_inflight_free(struct vu_inflight *inflight);

#endif
