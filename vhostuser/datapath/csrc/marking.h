/* SPDX-License-Identifier: Apache-2.0 */
/* Marking pages in the dirty log: the inside of struct vu_log.  Only general instances of loops come here. */
#ifndef VU_MARKING_H
#define VU_MARKING_H

#include "compiler.h"
#include "dirty_log.h"
#include "ring.h"

struct vu_log {
    uint8_t *bits;
    uint64_t size; /* bytes */
    uint64_t outside;
    void *map;
    uint64_t map_length;
};

/* [gpa, gpa + length) was written. */
void vu_log_mark(struct vu_log *log, uint64_t gpa, uint64_t length);
/* The same by our own address, which lies in one region. */
void vu_log_mark_host(struct vu_log *log, const struct vu_memory *memory, const void *host, uint64_t length);
/* `length` bytes of these pieces from `skip` on. */
void vu_log_mark_pieces(struct vu_log *log, const struct vu_memory *memory, const struct iovec *piece,
                        uint64_t skip, uint64_t length);

int vu_log_owns(const struct vu_log *log, const void *host);

/* Operations of vu_ring_ops: the n chains just published; what arm or disarm wrote. */
void vu_log_mark_split_used(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n);
void vu_log_mark_packed_used(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n);
void vu_log_mark_split_wish(struct vu_vring *vring);
void vu_log_mark_packed_wish(struct vu_vring *vring);

#endif
