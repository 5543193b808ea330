/* SPDX-License-Identifier: Apache-2.0 */
/* Chains of several descriptors, and indirect tables (virtio 1.2, 2.7.5.3): one level, any place in guest
   memory. */
#include <string.h>

#include "chain.h"

static vu_always_inline struct vu_desc_copy read_desc(const struct vu_vring *vring, const void *at,
                                                      bool turned)
{
    const struct vu_packed_desc *packed = at;

    if (!vring->is_packed)
        return vu_desc_read(at, turned);
    return (struct vu_desc_copy){
        .gpa = vu_read_le64(&packed->gpa),
        .length = vu_read_le32(&packed->length),
        .flags = vu_read_le16(&packed->flags),
    };
}

/* Copies one table entry out; the table may cross from one region, or one translation, into the next. */
static vu_always_inline int read_entry(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                                       uint64_t address, bool turned, struct vu_desc_copy *entry)
{
    uint64_t left;
    int error;
    const uint8_t *host = vu_address_at(general, vring, memory, address, VU_ACCESS_READ, &left, &error);
    struct vu_desc bounce; /* as long, and aligned, as a packed one */
    uint8_t *to = (uint8_t *)&bounce;

    if (vu_unlikely(!host))
        return error;
    if (vu_likely(left >= sizeof(bounce) && (uintptr_t)host % _Alignof(struct vu_desc) == 0)) {
        *entry = read_desc(vring, host, turned);
        return VU_OK;
    }
    /* Misaligned or across a border: bytes, each still read once. */
    for (size_t i = 0; i < sizeof(bounce); i++) {
        host = vu_address_at(general, vring, memory, address + i, VU_ACCESS_READ, &left, &error);
        if (!host)
            return error;
        to[i] = *(volatile const uint8_t *)host;
    }
    *entry = read_desc(vring, &bounce, turned);
    return VU_OK;
}

static vu_always_inline int walk(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                                 int direction, const struct vu_desc_copy *link, bool *writable_seen,
                                 struct vu_pieces *pieces, struct vu_chain *chain, bool turned)
{
    uint32_t entries = link->length / (uint32_t)sizeof(struct vu_desc), index = 0;
    uint32_t most = vring->size > VU_INDIRECT_MIN ? vring->size : VU_INDIRECT_MIN;

    if (!vring->indirect)
        return vu_trouble(vring, VU_ERR_INDIRECT_FEATURE, chain->head, link->gpa, link->length, link->flags);
    if (link->flags & VU_DESC_NEXT)
        return vu_trouble(vring, VU_ERR_INDIRECT_NEXT, chain->head, link->gpa, link->length, link->flags);
    if (link->length == 0 || link->length % sizeof(struct vu_desc) || entries > most)
        return vu_trouble(vring, VU_ERR_INDIRECT_LENGTH, chain->head, link->gpa, link->length, link->flags);
    for (uint32_t left = entries; left; left--) {
        struct vu_desc_copy entry;
        uint64_t gpa = link->gpa + (uint64_t)index * sizeof(struct vu_desc);
        int result = read_entry(general, vring, memory, gpa, turned, &entry);

        if (result == VU_FETCH_MISS)
            return result;
        if (result)
            return vu_trouble(vring, result, chain->head, gpa, sizeof(struct vu_desc), link->flags);
        if (vring->is_packed) {
            /* Its entries lie in order, and of their flags only WRITE means something (virtio 1.2, 2.8.7). */
            /* DPDK's virtio (22.11) has it on the header that it sends: a transmit chain is read whole. */
            entry.flags &= direction == VU_TX ? 0 : VU_DESC_WRITE;
            entry.next = (uint16_t)(index + 1);
            entry.flags |= left > 1 ? VU_DESC_NEXT : 0;
        }
        if (entry.flags & VU_DESC_INDIRECT)
            return vu_trouble(vring, VU_ERR_INDIRECT_NESTED, chain->head, gpa, index, entry.flags);
        result = vu_chain_add(general, vring, memory, direction, &entry, writable_seen, pieces, chain);
        if (result || !(entry.flags & VU_DESC_NEXT))
            return result;
        index = entry.next;
        if (index >= entries)
            return vu_trouble(vring, VU_ERR_NEXT, chain->head, index, entries, entry.flags);
    }
    return vu_trouble(vring, VU_ERR_CHAIN_LENGTH, chain->head, entries, 0, 0);
}

int vu_chain_walk_indirect(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                           int direction, const struct vu_desc_copy *link, bool *writable_seen,
                           struct vu_pieces *pieces, struct vu_chain *chain)
{
    return walk(general, vring, memory, direction, link, writable_seen, pieces, chain, false);
}

int vu_chain_walk_indirect_turned(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                                  int direction, const struct vu_desc_copy *link, bool *writable_seen,
                                  struct vu_pieces *pieces, struct vu_chain *chain)
{
    return walk(general, vring, memory, direction, link, writable_seen, pieces, chain, true);
}

int vu_chain_refuse(struct vu_vring *vring, uint32_t start, int result, struct vu_pieces *pieces,
                    const struct vu_chain *chain)
{
    pieces->used = start;
    if (result == VU_FETCH_FULL && start == 0)
        return vu_trouble(vring, VU_ERR_PIECES, chain->head, pieces->most, 0, 0);
    return result;
}

static vu_always_inline int walk_on(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                                    int direction, struct vu_desc_copy desc, struct vu_pieces *pieces,
                                    struct vu_chain *chain, bool turned)
{
    uint32_t start = pieces->used, left = vring->size, index = chain->head;
    bool writable_seen = false;
    int result;

    chain->first = start;
    chain->length = 0;
    chain->written = 0;
    for (;;) {
        if (vu_unlikely(desc.flags & VU_DESC_INDIRECT)) {
            result = walk(general, vring, memory, direction, &desc, &writable_seen, pieces, chain, turned);
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
        desc = vu_desc_read(&vring->desc[index], turned);
    }
    chain->count = pieces->used - start;
    return vu_unlikely(result) ? vu_chain_refuse(vring, start, result, pieces, chain) : VU_OK;
}

int vu_chain_walk_on(bool general, struct vu_vring *vring, const struct vu_memory *memory, int direction,
                     struct vu_desc_copy desc, struct vu_pieces *pieces, struct vu_chain *chain, bool turned)
{
    if (turned)
        return walk_on(true, vring, memory, direction, desc, pieces, chain, true);
    return walk_on(general, vring, memory, direction, desc, pieces, chain, false);
}
