/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The split format (virtio 1.2, 2.7): the hot functions, always inlined into a burst loop.  `turned`: the
 * ring's words are big-endian.  The fast instance knows at compile time that they are not.
 */
#ifndef VU_SPLIT_H
#define VU_SPLIT_H

#include "chain.h"
#include "marking.h"
#include "tracking.h"

static vu_always_inline vu_le16 *vu_split_used_event(struct vu_vring *vring)
{
    return &vring->avail->ring[vring->size];
}

static vu_always_inline vu_le16 *vu_split_avail_event(struct vu_vring *vring)
{
    return (vu_le16 *)(void *)&vring->used->ring[vring->size];
}

/* Reads avail->idx anew; VU_FETCH_EMPTY when it has not moved. */
static vu_always_inline int vu_split_look(struct vu_vring *vring, bool turned)
{
    /* Pairs with the driver's release of avail->idx after it filled descriptors and ring[]. */
    uint16_t idx = vu_turn16(vu_acquire_le16(&vring->avail->idx), turned);

    if (idx == vring->avail_seen)
        return VU_FETCH_EMPTY;
    /* It may not go back either: what is fetched already counts towards the ring's size. */
    if (vu_unlikely((uint16_t)(idx - vring->avail_seen) >
                    vring->size - (uint16_t)(vring->avail_seen - vring->position)))
        return vu_trouble(vring, VU_ERR_AVAIL_INDEX, idx, vring->position, vring->size, 0);
    vring->avail_seen = idx;
    return VU_OK;
}

static vu_always_inline int vu_split_fetch(bool general, struct vu_vring *vring,
                                           const struct vu_memory *memory, uint16_t k, int direction,
                                           struct vu_pieces *pieces, struct vu_chain *chain, bool turned)
{
    uint16_t slot = (uint16_t)(vring->position + k) & (uint16_t)(vring->size - 1);

    if (general && vu_unlikely(k < vring->resubmit_left))
        return vu_inflight_fetch_split(vring, memory, k, direction, pieces, chain);
    if ((uint16_t)(vring->position + k) == vring->avail_seen) {
        int result = vu_split_look(vring, turned);

        if (result)
            return result;
    }
    chain->head = vu_turn16(vu_read_le16(&vring->avail->ring[slot]), turned);
    if (vu_unlikely(chain->head >= vring->size))
        return vu_trouble(vring, VU_ERR_HEAD, chain->head, slot, vring->size, 0);
    return vu_chain_walk(general, vring, memory, direction, pieces, chain, turned);
}

static vu_always_inline uint32_t vu_split_fetch_run(struct vu_vring *vring, const struct vu_memory *memory,
                                                    uint32_t most, int direction, struct vu_pieces *pieces,
                                                    struct vu_chain *chains, uint64_t *held)
{
    const uint32_t mask = vring->size - 1, position = vring->position;
    const struct vu_desc *table = vring->desc;
    const vu_le16 *heads = vring->avail->ring;
    struct vu_run run = {.memory = memory};
    uint64_t bytes = 0;
    uint32_t k;

    if ((uint16_t)(vring->avail_seen - position) < most)
        (void)vu_split_look(vring, false); /* trouble is met again by fetch */
    most = VU_MIN(most, (uint16_t)(vring->avail_seen - position));
    vu_run_in(&run, &memory->regions[vring->region_hint]);
    for (k = 0; k < most; k++) {
        uint16_t head = vu_read_le16(&heads[(position + k) & mask]);
        struct vu_desc_copy desc;

        if (vu_unlikely(head > mask))
            break;
        desc = vu_desc_read(&table[head], false);
        if (vu_unlikely(!vu_chain_is_single(desc.flags, direction)) ||
            vu_unlikely(!vu_run_take(&run, vring, k, head, desc.gpa, desc.length, direction, pieces, chains)))
            break;
        bytes += desc.length;
    }
    pieces->used = pieces->walked = k;
    *held += bytes;
    return k;
}

static vu_always_inline void vu_split_publish(struct vu_vring *vring, const struct vu_chain *chains,
                                              uint16_t n, bool turned)
{
    struct vu_used_elem *ring = vring->used->ring;
    const uint32_t mask = vring->size - 1, position = vring->position;
    const uint32_t entries = vring->batches ? 1 : n;

    vring->position = (uint16_t)(position + n);
    /* One for all is where the first one's would be, and names the last (virtio 1.2, 2.7.9). */
    chains += n - entries;
    for (uint32_t k = 0; k < entries; k++) {
        struct vu_used_elem *elem = &ring[(position + k) & mask];

        vu_write_le32(&elem->id, vu_turn32(chains[k].head, turned));
        vu_write_le32(&elem->length, vu_turn32(chains[k].written, turned));
    }
    /* Pairs with the driver's acquire of used->idx: entries and buffers are visible first. */
    vu_release_le16(&vring->used->idx, vu_turn16(vring->position, turned));
}

static vu_always_inline bool vu_split_wants_call(struct vu_vring *vring, bool turned)
{
    uint16_t now = vring->position, before = vring->signalled;
    bool valid = vring->signalled_valid;

    /* used->idx first, then the driver's wish: pairs with the driver's fence between writing used_event
       (or flags) and looking at used->idx again (virtio 1.2, 2.7.7.2). */
    vu_full_fence();
    if (!vring->event_idx)
        return !(vu_turn16(vu_read_le16(&vring->avail->flags), turned) & VU_AVAIL_NO_INTERRUPT);
    vring->signalled = now;
    vring->signalled_valid = true;
    if (vu_unlikely(!valid))
        return true;
    return (uint16_t)(now - vu_turn16(vu_read_le16(vu_split_used_event(vring)), turned) - 1) <
           (uint16_t)(now - before);
}

static vu_always_inline void vu_split_arm(struct vu_vring *vring, bool turned)
{
    vring->kick_armed = true;
    if (vring->event_idx)
        vu_write_le16(vu_split_avail_event(vring), vu_turn16(vring->avail_seen, turned));
    else
        vu_write_le16(&vring->used->flags, 0);
    /* Wish first, then the caller's last look at avail->idx: pairs with the driver's fence between
       avail->idx and its reading of avail_event or flags.  Without it a kick is lost for ever. */
    vu_full_fence();
}

static vu_always_inline bool vu_split_grown(struct vu_vring *vring, bool turned)
{
    return vu_turn16(vu_acquire_le16(&vring->avail->idx), turned) != vring->avail_seen;
}

static vu_always_inline bool vu_split_disarm(struct vu_vring *vring, bool turned)
{
    /* With event index the stale avail_event is behind us and suppresses by itself. */
    bool writes = vring->kick_armed && !vring->event_idx;

    vring->kick_armed = false;
    if (writes)
        vu_write_le16(&vring->used->flags, vu_turn16(VU_USED_NO_NOTIFY, turned));
    return writes;
}

/* The operations for rings of which `turned_of_vring` says whether they are turned. */
#define VU_SPLIT_OPERATIONS(name, turned_of_vring)                                                      \
    static vu_always_inline int name##_fetch(bool general, struct vu_vring *vring,                      \
                                             const struct vu_memory *memory, uint16_t k, int direction, \
                                             struct vu_pieces *pieces, struct vu_chain *chain)          \
    {                                                                                                   \
        return vu_split_fetch(general, vring, memory, k, direction, pieces, chain, turned_of_vring);    \
    }                                                                                                   \
    static vu_always_inline void name##_publish(struct vu_vring *vring, const struct vu_chain *chains,  \
                                                uint16_t n)                                             \
    {                                                                                                   \
        vu_split_publish(vring, chains, n, turned_of_vring);                                            \
    }                                                                                                   \
    static vu_always_inline bool name##_wants_call(struct vu_vring *vring)                              \
    {                                                                                                   \
        return vu_split_wants_call(vring, turned_of_vring);                                             \
    }                                                                                                   \
    static vu_always_inline void name##_arm(struct vu_vring *vring)                                     \
    {                                                                                                   \
        vu_split_arm(vring, turned_of_vring);                                                           \
    }                                                                                                   \
    static vu_always_inline bool name##_grown(struct vu_vring *vring)                                   \
    {                                                                                                   \
        return vu_split_grown(vring, turned_of_vring);                                                  \
    }                                                                                                   \
    static vu_always_inline bool name##_disarm(struct vu_vring *vring)                                  \
    {                                                                                                   \
        return vu_split_disarm(vring, turned_of_vring);                                                 \
    }

VU_SPLIT_OPERATIONS(vu_split_fast, false)
VU_SPLIT_OPERATIONS(vu_split_general, vring->turned)

#define VU_SPLIT_OPS(name)                                                                                \
    .fetch = name##_fetch, .publish = name##_publish, .wants_call = name##_wants_call, .arm = name##_arm, \
    .grown = name##_grown, .disarm = name##_disarm

static const struct vu_ring_ops vu_split_ops = {VU_SPLIT_OPS(vu_split_fast), .fetch_run = vu_split_fetch_run};
static const struct vu_ring_ops vu_split_general_ops = {VU_SPLIT_OPS(vu_split_general),
                                                        .general = true,
                                                        .mark_used = vu_log_mark_split_used,
                                                        .mark_wish = vu_log_mark_split_wish,
                                                        .before_publish = vu_inflight_before_split,
                                                        .after_publish = vu_inflight_after_split};

#endif
