/* SPDX-License-Identifier: Apache-2.0 */
/* Where a ring goes on: what the front-end says, what an inflight region says, and what the ring shows. */
#include "packed.h"
#include "state.h"
#include "tracking.h"

/* Every ring that we leave has base == used->idx.  Where they differ the front-end lost the position
   (virtio-user sends 0 after our restart, Cloud Hypervisor the driver's avail->idx), and used->idx is what
   the driver goes by.  A back-end that left chains in flight was so many further. */
static int look_at_split(struct vu_vring *vring, struct vu_event *event)
{
    uint16_t used_idx = vu_turn16(vu_acquire_le16(&vring->used->idx), vring->turned);
    uint16_t avail_idx = vu_turn16(vu_acquire_le16(&vring->avail->idx), vring->turned);
    int error;

    if ((uint16_t)(avail_idx - used_idx) > vring->size)
        return vu_trouble(vring, VU_ERR_AVAIL_INDEX, avail_idx, used_idx, vring->size, vring->base);
    if (vring->tracked && (error = vu_inflight_recover_split(vring, used_idx, avail_idx)))
        return error;
    vring->position = used_idx;
    vring->avail_seen = (uint16_t)(used_idx + vring->resubmit_left);
    event->value[0] = used_idx;
    event->value[1] = vring->base == vring->avail_seen ? used_idx : vring->base;
    event->value[2] = used_idx;
    event->value[3] = avail_idx;
    return VU_OK;
}

static bool is_in_lap(uint16_t flags, bool wrap, uint16_t bit)
{
    return !!(flags & bit) == wrap;
}

/*
 * Whether a packed ring cannot be at `slot` of lap `wrap`, because whoever served it last was further on.
 * From there around the ring a slot is available in the lap to come, and so are all before it; or it is as
 * the lap before left it: used, or the rest of a used chain.  The rest of a chain ends with the first
 * descriptor without NEXT; of chains completed in order (IN_ORDER) only the last may have been written, so
 * there it says nothing.
 */
static bool is_stale(const struct vu_vring *vring, uint16_t slot, bool wrap)
{
    bool in_order = vring->pair->device->features & VU_F_IN_ORDER, chain_ended = false, gap_wrap = wrap;
    uint32_t gaps = 0;
    uint16_t gap = slot;

    for (uint32_t i = 0; i < vring->size; i++) {
        uint16_t flags = vu_acquire_le16(&vring->packed[slot].flags);
        bool avail = is_in_lap(flags, wrap, VU_PACKED_AVAIL), used = is_in_lap(flags, wrap, VU_PACKED_USED);
        bool rest = !avail && used;

        if (avail && used)
            return true;
        /* A chain's first descriptor becomes available last, so one may be missing while the driver adds it.
           If the second was missing it is there by now, unless nobody adds any: pairs with the driver's
           release. */
        if (avail && gaps > 1 &&
            !is_in_lap(vu_acquire_le16(&vring->packed[gap].flags), gap_wrap, VU_PACKED_AVAIL))
            return true;
        if (!avail && ++gaps == 2) {
            gap = slot;
            gap_wrap = wrap;
        }
        if (rest && chain_ended && !in_order)
            return true;
        chain_ended = rest && (!(flags & VU_DESC_NEXT) || flags & VU_DESC_INDIRECT);
        if (++slot == vring->size) {
            slot = 0;
            wrap = !wrap;
        }
    }
    return false;
}

/* Whether both sides can be at this slot of a packed ring. */
static bool packed_can_be_at(const struct vu_vring *vring, uint32_t half)
{
    uint16_t slot = half & 0x7fff;

    return slot < vring->size && !is_stale(vring, slot, half & 0x8000);
}

/* A packed ring has no index in memory.  The inflight region has one, and no other word is as fresh: QEMU,
   which does not use it, gives after our death the base of the last clean stop.  The base's bits 0-14 are
   the next available slot, 15 its lap's bit, 16-30 the next used slot, 31 its lap's bit.  Where the used half
   is 0 it was not filled in (virtio-user, DPDK) and equals the other; a genuine 0 there means the same, since
   rings are drained before they are handed over.  Chains between used and available were taken by another
   back-end and not finished: they are served again.  The ring has the last word on both. */
static int look_at_packed(struct vu_vring *vring, struct vu_event *event)
{
    uint32_t given = vring->base >> 16 ? vring->base >> 16 : vring->base & 0xffff, half = given;
    bool known = false;
    int error;

    if (vring->tracked && (error = vu_inflight_recover_packed(vring, &half, &known)))
        return error;
    if (known && !packed_can_be_at(vring, half)) {
        known = false; /* of an earlier ring: the driver has made this one since */
        half = given;
    }
    if (!known && !packed_can_be_at(vring, half))
        return vu_trouble(vring, VU_ERR_BASE, half & 0x7fff, half >> 15, vring->size, vring->base);
    vring->position = vring->next = half & 0x7fff;
    vring->wrap = vring->next_wrap = half >> 15;
    if (vring->tracked && !known)
        vu_inflight_renew_packed(vring);
    event->value[0] = event->value[2] = half;
    event->value[1] = given;
    event->error = 1;
    return VU_OK;
}

bool vu_vring_first_look(struct vu_vring *vring)
{
    struct vu_event event = {
        .kind = VU_EVENT_RING_STARTED, .device = vring->pair->device->id, .ring = vring->index};
    int error = vring->is_packed ? look_at_packed(vring, &event) : look_at_split(vring, &event);

    if (error) {
        vu_vring_break(vring, error);
        return false;
    }
    if (event.value[1] != event.value[2])
        vu_count(&vring->counters.bases_corrected, 1);
    event.value[3] |= (uint64_t)vring->resubmit_left << 32;
    vring->looked_at = true;
    vring->state = VU_VRING_RUNNING;
    vu_event_put(vring->pair, &event);
    return true;
}

uint32_t vu_vring_position(const struct vu_vring *vring)
{
    uint16_t slot = vring->position;
    bool wrap = vring->wrap;
    uint32_t used;

    if (!vring->looked_at)
        return vring->base;
    if (!vring->is_packed)
        return (uint16_t)(vring->position + vring->resubmit_left);
    used = slot | (uint32_t)wrap << 15;
    for (uint32_t k = 0; k < vring->resubmit_left; k++)
        vu_packed_advance(vring, &slot, &wrap, vring->resubmit[vring->resubmit_next + k].slots);
    return slot | (uint32_t)wrap << 15 | used << 16;
}
