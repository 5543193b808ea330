/* SPDX-License-Identifier: Apache-2.0 */
/* Chains of the packed format that are more than one descriptor. */
#include "packed.h"

static vu_always_inline int walk_on(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                                    int direction, struct vu_desc_copy desc, struct vu_pieces *pieces,
                                    struct vu_chain *chain)
{
    uint32_t start = pieces->used;
    uint16_t slot = vring->next;
    bool wrap = vring->next_wrap, writable_seen = false;
    int result;

    chain->first = start;
    chain->length = 0;
    chain->written = 0;
    chain->head = slot; /* for the log: the id comes with the last descriptor */
    chain->slots = 0;
    for (;;) {
        chain->slots++;
        vu_packed_advance(vring, &slot, &wrap, 1);
        if (vu_unlikely(desc.flags & VU_DESC_INDIRECT)) {
            result = vu_chain_walk_indirect(general, vring, memory, direction, &desc, &writable_seen, pieces,
                                            chain);
            chain->head = desc.next;
            break;
        }
        result = vu_chain_add(general, vring, memory, direction, &desc, &writable_seen, pieces, chain);
        if (vu_likely(!(desc.flags & VU_DESC_NEXT)))
            chain->head = desc.next;
        if (vu_unlikely(result) || !(desc.flags & VU_DESC_NEXT))
            break;
        /* All chains of a burst together have no more slots than the ring: a lap's bit can be forged. */
        if (vu_unlikely(vring->fetched_slots + chain->slots >= vring->size)) {
            result = vu_trouble(vring, VU_ERR_CHAIN_LENGTH, vring->next, vring->size, 0, desc.flags);
            break;
        }
        desc = vu_packed_read(&vring->packed[slot]);
    }
    chain->count = pieces->used - start;
    if (vu_unlikely(result)) {
        chain->head = vring->next;
        return vu_chain_refuse(vring, start, result, pieces, chain);
    }
    vring->next = slot;
    vring->next_wrap = wrap;
    vring->fetched_slots += chain->slots;
    return VU_OK;
}

int vu_packed_walk_on(bool general, struct vu_vring *vring, const struct vu_memory *memory, int direction,
                      struct vu_desc_copy desc, struct vu_pieces *pieces, struct vu_chain *chain)
{
    if (general)
        return walk_on(true, vring, memory, direction, desc, pieces, chain);
    return walk_on(false, vring, memory, direction, desc, pieces, chain);
}
