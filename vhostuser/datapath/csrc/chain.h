/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walking one descriptor chain: what both formats share, and the split table.  Bounds: a direct chain has at
 * most `size` descriptors, an indirect table at most max(size, 1024) entries (the spec says size; QEMU's
 * devices take 1024 whatever the size, and drivers have come to rely on it).
 */
#ifndef VU_CHAIN_H
#define VU_CHAIN_H

#include "translation.h"

#define VU_INDIRECT_MIN 1024

/* A descriptor as it was at the one moment that we read it. */
struct vu_desc_copy {
    uint64_t gpa;
    uint32_t length;
    uint16_t flags;
    uint16_t next; /* packed: the buffer's id */
};

static vu_always_inline struct vu_desc_copy vu_desc_read(const struct vu_desc *desc, bool turned)
{
    return (struct vu_desc_copy){
        .gpa = vu_turn64(vu_read_le64(&desc->gpa), turned),
        .length = vu_turn32(vu_read_le32(&desc->length), turned),
        .flags = vu_turn16(vu_read_le16(&desc->flags), turned),
        .next = vu_turn16(vu_read_le16(&desc->next), turned),
    };
}

/* Takes one descriptor into the chain.  `writable_seen` holds the order rule (virtio 1.2, 2.7.4.2). */
static vu_always_inline int vu_chain_add(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                                         int direction, const struct vu_desc_copy *desc, bool *writable_seen,
                                         struct vu_pieces *pieces, struct vu_chain *chain)
{
    bool writable = desc->flags & VU_DESC_WRITE;
    int result;

    pieces->walked++;
    if (vu_unlikely(!writable && (*writable_seen || direction == VU_RX)))
        return vu_trouble(vring, VU_ERR_DIRECTION, chain->head, desc->gpa, desc->length, desc->flags);
    *writable_seen |= writable;
    /* In a transmit chain allowed and useless to us: nothing is written there. */
    if (vu_unlikely(writable ? direction == VU_TX || direction == VU_COMMAND : direction == VU_ACK))
        return VU_OK;
    result = vu_translate(general, vring, memory, desc->gpa, desc->length,
                          writable ? VU_ACCESS_WRITE : VU_ACCESS_READ, pieces);
    if (vu_unlikely(result == VU_ERR_ADDRESS))
        return vu_trouble(vring, VU_ERR_ADDRESS, chain->head, desc->gpa, desc->length, desc->flags);
    chain->length += desc->length;
    return result;
}

int vu_chain_walk_indirect(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                           int direction, const struct vu_desc_copy *link, bool *writable_seen,
                           struct vu_pieces *pieces, struct vu_chain *chain);
/* The same for a table of big-endian words. */
int vu_chain_walk_indirect_turned(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                                  int direction, const struct vu_desc_copy *link, bool *writable_seen,
                                  struct vu_pieces *pieces, struct vu_chain *chain);

/* Walks the chain that starts at chain->head, which is already known to be below size. */
static vu_always_inline int vu_chain_walk(bool general, struct vu_vring *vring,
                                          const struct vu_memory *memory, int direction,
                                          struct vu_pieces *pieces, struct vu_chain *chain, bool turned)
{
    uint32_t start = pieces->used, left = vring->size, index = chain->head;
    bool writable_seen = false;
    int result;

    chain->first = start;
    chain->length = 0;
    chain->written = 0;
    for (;;) {
        struct vu_desc_copy desc = vu_desc_read(&vring->desc[index], turned);

        if (vu_unlikely(desc.flags & VU_DESC_INDIRECT)) {
            result = turned ? vu_chain_walk_indirect_turned(general, vring, memory, direction, &desc,
                                                            &writable_seen, pieces, chain)
                            : vu_chain_walk_indirect(general, vring, memory, direction, &desc, &writable_seen,
                                                     pieces, chain);
            break;
        }
        result = vu_chain_add(general, vring, memory, direction, &desc, &writable_seen, pieces, chain);
        if (vu_unlikely(result) || !(desc.flags & VU_DESC_NEXT))
            break;
        index = desc.next;
        if (vu_unlikely(index >= vring->size)) {
            result = vu_trouble(vring, VU_ERR_NEXT, chain->head, index, desc.length, desc.flags);
            break;
        }
        if (vu_unlikely(--left == 0)) {
            result = vu_trouble(vring, VU_ERR_CHAIN_LENGTH, chain->head, vring->size, 0, desc.flags);
            break;
        }
    }
    chain->count = pieces->used - start;
    if (vu_unlikely(result)) {
        pieces->used = start;
        if (result == VU_FETCH_FULL && start == 0)
            result = vu_trouble(vring, VU_ERR_PIECES, chain->head, VU_PIECES, 0, 0);
    }
    return result;
}

#endif
