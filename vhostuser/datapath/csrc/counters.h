/* SPDX-License-Identifier: Apache-2.0 */
/* What one vring has done.  Written by the worker that owns the ring, read by anybody (stale by a burst). */
#ifndef VU_COUNTERS_H
#define VU_COUNTERS_H

#include <stdint.h>

#include "error.h"

struct vu_counters {
    uint64_t packets;          /* frames taken from (TX) or put into (RX) the guest and delivered */
    uint64_t bytes;            /* their Ethernet bytes, headers of virtio not counted */
    uint64_t chains;           /* descriptor chains returned to the guest */
    uint64_t bursts;           /* publications of the used index */
    uint64_t kicks;            /* kick events seen (several writes may be one event) */
    uint64_t calls;            /* call fd written */
    uint64_t calls_suppressed; /* call not wanted by the driver */
    uint64_t offloads;         /* frames with a partial checksum or a segmentation request */
    uint64_t linearised;       /* long frames in more pieces than one system call takes */
    uint64_t bases_corrected;  /* starts at another position than the front-end gave */
    uint64_t drops[VU_DROP_COUNT];
};

#endif
