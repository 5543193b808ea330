/* SPDX-License-Identifier: Apache-2.0 */
/* A split ring's part of the inflight region: reading what another life left there, and keeping it up. */
#include <stddef.h>
#include <string.h>

#include "chain.h"
#include "tracking.h"

_Static_assert(sizeof(struct vu_split_state) == 16 && offsetof(struct vu_split_part, desc) == 16,
               "split layout");

/* The marks of the last batch, which was published before its life could take them off. */
static int clear_last_batch(struct vu_vring *vring, struct vu_split_part *part, uint16_t batch)
{
    const uint16_t *link = &part->last_batch_head;

    for (uint16_t index; batch; batch--, link = &part->desc[index].next) {
        index = vu_shared_load(link);
        if (index >= vring->tracked_entries)
            return vu_inflight_bad(vring, index, vring->tracked_entries - 1u, link);
        vu_shared_store(&part->desc[index].inflight, 0);
    }
    return VU_OK;
}

int vu_inflight_recover_split(struct vu_vring *vring, uint16_t used_idx, uint16_t avail_idx)
{
    struct vu_split_part *part = vring->tracked;
    uint16_t batch, waiting = (uint16_t)(avail_idx - used_idx);
    uint32_t count = 0;
    int result = vu_inflight_check_head(vring, &part->version, &part->desc_num);

    if (result < 0)
        return result;
    if (result == VU_FETCH_EMPTY) {
        memset(part->desc, 0, vring->tracked_entries * sizeof(part->desc[0]));
        vu_shared_store(&part->features, 0);
        vu_shared_store(&part->desc_num, vring->tracked_entries);
        vu_shared_store(&part->last_batch_head, 0);
        vu_shared_store(&part->used_idx, used_idx);
        vu_shared_store(&part->version, VU_INFLIGHT_VERSION);
        return VU_OK;
    }
    batch = (uint16_t)(used_idx - vu_shared_load(&part->used_idx));
    if (batch <= vring->tracked_entries && (result = clear_last_batch(vring, part, batch)))
        return result;
    vu_shared_store(&part->used_idx, used_idx);
    for (uint16_t i = 0; i < vring->tracked_entries; i++)
        count += vu_shared_load(&part->desc[i].inflight) ? 1 : 0;
    if (!count)
        return VU_OK;
    /* So many were never one batch: the driver has made the ring anew, and the marks mean nothing in it. */
    if (batch > vring->tracked_entries)
        return vu_inflight_bad(vring, batch, vring->tracked_entries, &part->used_idx);
    if (count > waiting)
        return vu_inflight_bad(vring, count, waiting, part->desc);
    if ((result = vu_inflight_make_room(vring, count)))
        return result;
    for (uint16_t i = 0, next = 0; i < vring->tracked_entries && next < count; i++) {
        if (!vu_shared_load(&part->desc[i].inflight))
            continue;
        if (i >= vring->size)
            return vu_inflight_bad(vring, i, vring->size - 1, &part->desc[i]);
        vring->resubmit[next++] =
            (struct vu_resubmit){.counter = vu_shared_load(&part->desc[i].counter), .entry = i};
    }
    vu_inflight_put_in_order(vring, count);
    return VU_OK;
}

int vu_inflight_fetch_split(struct vu_vring *vring, const struct vu_memory *memory, uint16_t k, int direction,
                            struct vu_pieces *pieces, struct vu_chain *chain)
{
    chain->head = vring->resubmit[vring->resubmit_next + k].entry;
    return vu_chain_walk(true, vring, memory, direction, pieces, chain, vring->turned);
}

void vu_inflight_before_split(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n)
{
    struct vu_split_part *part = vring->tracked;

    /* The list is for taking off the marks of this batch after a kill: with none, it needs none. */
    if (!vring->resubmit_left)
        return;
    for (uint16_t k = 0; k < n; k++) {
        vu_shared_store(&part->desc[chains[k].head].next, vu_shared_load(&part->last_batch_head));
        vu_shared_store(&part->last_batch_head, chains[k].head);
    }
}

void vu_inflight_after_split(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n)
{
    struct vu_split_part *part = vring->tracked;
    uint32_t served = vu_inflight_served_again(vring, n);

    for (uint32_t k = 0; k < served; k++)
        vu_shared_store(&part->desc[chains[k].head].inflight, 0);
    vu_shared_store(&part->used_idx, vring->position);
}
