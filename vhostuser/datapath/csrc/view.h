/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Views: ring parts whose pages lie apart in guest memory, as one piece.
 * Behind an IOMMU a driver's rings are in one piece for the device only: Linux takes whatever pages it gets
 * (seen with 6.12: a ring of 256 entries).  So that bursts need not care, those pages are mapped a second
 * time, one behind the other.
 */
#ifndef VU_VIEW_H
#define VU_VIEW_H

#include "ring.h"

/* A mapping a page, of which the kernel gives a process 65530 (vm.max_map_count): most pages in views, of one
   device and of all.  A ring of 1024 entries has 7, in the worst case. */
#define VU_VIEW_PAGES_DEVICE 2048
#define VU_VIEW_PAGES_ALL 32768

/* Part 0, 1 or 2 of a ring, every page of which has a translation.  VU_OK, or VU_ERR_RING_SCATTERED with
   errno: the pages are parts of huge ones (EINVAL), or too many (ENOMEM).  Under the guard, and of a worker's
   turn: a page that comes late is waited for here. */
int vu_view_open(struct vu_vring *vring, int part, void **host);
void vu_views_close(struct vu_vring *vring);

/* Where a byte lies in guest memory's own mapping, and how many behind it do as well; the byte itself when
   it is in no view of the pair.  Async-signal-safe. */
const void *vu_view_origin(const struct vu_pair *pair, const void *host, uint64_t *left);

#endif
