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
    pieces->descriptors++;
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

/* Gives the pieces of a chain back that is not taken; the result for the caller. */
int vu_chain_refuse(struct vu_vring *vring, uint32_t start, int result, struct vu_pieces *pieces,
                    const struct vu_chain *chain);

int vu_chain_walk_indirect(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                           int direction, const struct vu_desc_copy *link, bool *writable_seen,
                           struct vu_pieces *pieces, struct vu_chain *chain);
/* The same for a table of big-endian words. */
int vu_chain_walk_indirect_turned(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                                  int direction, const struct vu_desc_copy *link, bool *writable_seen,
                                  struct vu_pieces *pieces, struct vu_chain *chain);

/* Whether a chain is one descriptor of the right direction and no more, as nearly all are that modern drivers
   make for packets. */
static vu_always_inline bool vu_chain_is_single(uint16_t flags, int direction)
{
    return (flags & (VU_DESC_NEXT | VU_DESC_WRITE | VU_DESC_INDIRECT)) ==
               (direction == VU_RX ? VU_DESC_WRITE : 0) &&
           (direction == VU_RX || direction == VU_TX);
}

/* Takes such a chain, whose head is set already. */
static vu_always_inline int vu_chain_take_single(bool general, struct vu_vring *vring,
                                                 const struct vu_memory *memory, int direction,
                                                 const struct vu_desc_copy *desc, struct vu_pieces *pieces,
                                                 struct vu_chain *chain)
{
    uint32_t start = pieces->used;
    bool writable_seen = false;
    int result;

    chain->first = start;
    chain->length = 0;
    chain->written = 0;
    result = vu_chain_add(general, vring, memory, direction, desc, &writable_seen, pieces, chain);
    chain->count = pieces->used - start;
    return vu_unlikely(result) ? vu_chain_refuse(vring, start, result, pieces, chain) : VU_OK;
}

/* A run of chains of one descriptor each (fetch_run): what each of them needs is at hand. */
struct vu_run {
    const struct vu_memory *memory;
    uint64_t gpa, size; /* of the region of last time */
    uint8_t *host;
};

static vu_always_inline void vu_run_in(struct vu_run *run, const struct vu_region *region)
{
    run->gpa = region->gpa;
    run->size = region->size;
    run->host = region->host;
}

/* Takes chain number k; false when its descriptor is not in one region. */
static vu_always_inline bool vu_run_take(struct vu_run *run, struct vu_vring *vring, uint32_t k,
                                         uint16_t head, uint64_t gpa, uint32_t length, int direction,
                                         struct vu_pieces *pieces, struct vu_chain *chains)
{
    uint64_t offset = gpa - run->gpa;
    uint8_t *bytes;

    if (vu_unlikely(offset >= run->size)) {
        const struct vu_region *region = vu_region_of(run->memory, gpa, &vring->region_hint);

        if (!region)
            return false;
        vu_run_in(run, region);
        offset = gpa - run->gpa;
    }
    /* A length of 0 is none that ends in it either. */
    if (vu_unlikely((uint64_t)length - 1 >= run->size - offset))
        return false;
    bytes = run->host + offset;
    pieces->piece[k] = (struct iovec){bytes, length};
    chains[k] = (struct vu_chain){.head = head, .slots = 1, .first = k, .count = 1, .length = length};
    if (direction == VU_RX) {
        vu_prefetch_write(bytes);
        vu_prefetch_write(bytes + VU_CACHE_LINE);
    } else {
        vu_prefetch(bytes);
        vu_prefetch(bytes + VU_CACHE_LINE);
    }
    return true;
}

/* Walks the chain at chain->head, which is below size and whose first descriptor was read. */
int vu_chain_walk_on(bool general, struct vu_vring *vring, const struct vu_memory *memory, int direction,
                     struct vu_desc_copy desc, struct vu_pieces *pieces, struct vu_chain *chain, bool turned);

/* Walks the chain that starts at chain->head, which is already known to be below size. */
static vu_always_inline int vu_chain_walk(bool general, struct vu_vring *vring,
                                          const struct vu_memory *memory, int direction,
                                          struct vu_pieces *pieces, struct vu_chain *chain, bool turned)
{
    struct vu_desc_copy desc = vu_desc_read(&vring->desc[chain->head], turned);

    if (vu_likely(vu_chain_is_single(desc.flags, direction)))
        return vu_chain_take_single(general, vring, memory, direction, &desc, pieces, chain);
    return vu_chain_walk_on(general, vring, memory, direction, desc, pieces, chain, turned);
}

#endif
