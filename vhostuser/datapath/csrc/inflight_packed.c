/* SPDX-License-Identifier: Apache-2.0 */
/* A packed ring's part of the inflight region: reading what another life left there, and keeping it up. */
#include <stddef.h>
#include <string.h>

#include "packed.h"
#include "tracking.h"

_Static_assert(sizeof(struct vu_packed_state) == 32 && offsetof(struct vu_packed_part, desc) == 32 &&
                   offsetof(struct vu_packed_part, place) == 16 && sizeof(struct vu_packed_place) == 8,
               "packed layout");

static struct vu_packed_place load_place(const struct vu_packed_part *part)
{
    uint64_t word = vu_shared_load((const uint64_t *)(const void *)&part->place);
    struct vu_packed_place place;

    memcpy(&place, &word, sizeof(place));
    return place;
}

static void store_place(struct vu_packed_part *part, struct vu_packed_place place)
{
    uint64_t word;

    memcpy(&word, &place, sizeof(word));
    vu_shared_store((uint64_t *)(void *)&part->place, word);
}

static struct vu_packed_place place_of(uint16_t slot, bool wrap)
{
    return (struct vu_packed_place){
        .used_idx = slot, .old_used_idx = slot, .used_wrap = wrap, .old_used_wrap = wrap};
}

void vu_inflight_renew_packed(struct vu_vring *vring)
{
    struct vu_packed_part *part = vring->tracked;

    vu_shared_store(&part->version, 0);
    memset(part->desc, 0, vring->tracked_entries * sizeof(part->desc[0]));
    for (uint16_t i = 0; i < vring->tracked_entries; i++)
        vu_shared_store(&part->desc[i].next, (uint16_t)(i + 1));
    vu_shared_store(&part->features, 0);
    vu_shared_store(&part->desc_num, vring->tracked_entries);
    vu_shared_store(&part->free_head, 0);
    vu_shared_store(&part->old_free_head, 0);
    store_place(part, place_of(vring->position, vring->wrap));
    vu_shared_store(&part->version, VU_INFLIGHT_VERSION);
    vring->resubmit_left = 0;
}

/* The update that its life may have died in is carried out or taken back: the ring tells which. */
static int settle(struct vu_vring *vring, struct vu_packed_part *part, struct vu_packed_place *place)
{
    uint16_t free_head = vu_shared_load(&part->free_head);

    *place = load_place(part);
    if (place->used_idx >= vring->size || place->old_used_idx >= vring->size)
        return vu_inflight_bad(vring, VU_MAX(place->used_idx, place->old_used_idx), vring->size - 1,
                               &part->place);
    if (place->used_wrap > 1 || place->old_used_wrap > 1)
        return vu_inflight_bad(vring, VU_MAX(place->used_wrap, place->old_used_wrap), 1,
                               &part->place.used_wrap);
    if (place->used_idx == place->old_used_idx && place->used_wrap == place->old_used_wrap) {
        free_head = vu_shared_load(&part->old_free_head);
    } else if (vu_packed_is_available(vu_acquire_le16(&vring->packed[place->old_used_idx].flags),
                                      place->old_used_wrap)) {
        *place = place_of(place->old_used_idx, place->old_used_wrap);
        free_head = vu_shared_load(&part->old_free_head);
    } else {
        *place = place_of(place->used_idx, place->used_wrap);
    }
    if (free_head > vring->tracked_entries)
        return vu_inflight_bad(vring, free_head, vring->tracked_entries, &part->free_head);
    vu_shared_store(&part->free_head, free_head);
    vu_shared_store(&part->old_free_head, free_head);
    store_place(part, *place);
    return VU_OK;
}

/* What is in the free list is not in flight.  One past the last entry ends it. */
static int clear_free(struct vu_vring *vring, struct vu_packed_part *part)
{
    uint32_t left = vring->tracked_entries;
    uint16_t index = vu_shared_load(&part->free_head);

    while (index < vring->tracked_entries) {
        const uint16_t *link = &part->desc[index].next;

        if (!left--)
            return vu_inflight_bad(vring, index, vring->tracked_entries, link);
        if (vu_shared_load(&part->desc[index].inflight))
            vu_shared_store(&part->desc[index].inflight, 0);
        index = vu_shared_load(link);
        if (index > vring->tracked_entries)
            return vu_inflight_bad(vring, index, vring->tracked_entries, link);
    }
    return VU_OK;
}

/* A marked state's chain: how long it is, and where its list ends. */
static int check_marked(struct vu_vring *vring, struct vu_packed_part *part, uint16_t entry,
                        struct vu_resubmit *chain)
{
    *chain = (struct vu_resubmit){.counter = vu_shared_load(&part->desc[entry].counter),
                                  .entry = entry,
                                  .last = entry,
                                  .slots = vu_shared_load(&part->desc[entry].num)};
    if (chain->slots == 0 || chain->slots > vring->size)
        return vu_inflight_bad(vring, chain->slots, vring->size, &part->desc[entry].num);
    for (uint16_t i = 1; i < chain->slots; i++) {
        const uint16_t *link = &part->desc[chain->last].next;

        chain->last = vu_shared_load(link);
        if (chain->last >= vring->tracked_entries)
            return vu_inflight_bad(vring, chain->last, vring->tracked_entries - 1u, link);
    }
    return VU_OK;
}

static int collect_packed(struct vu_vring *vring, struct vu_packed_part *part)
{
    uint32_t count = 0, slots = 0, next = 0;
    int result;

    for (uint16_t i = 0; i < vring->tracked_entries; i++)
        count += vu_shared_load(&part->desc[i].inflight) ? 1 : 0;
    if (!count)
        return VU_OK;
    if ((result = vu_inflight_make_room(vring, count)))
        return result;
    for (uint16_t i = 0; i < vring->tracked_entries && next < count; i++) {
        if (!vu_shared_load(&part->desc[i].inflight))
            continue;
        if ((result = check_marked(vring, part, i, &vring->resubmit[next])))
            return result;
        slots += vring->resubmit[next++].slots;
        if (slots > vring->size)
            return vu_inflight_bad(vring, slots, vring->size, &part->desc[i].num);
    }
    vu_inflight_put_in_order(vring, next);
    return VU_OK;
}

int vu_inflight_recover_packed(struct vu_vring *vring, uint32_t *half, bool *known)
{
    struct vu_packed_part *part = vring->tracked;
    struct vu_packed_place place;
    int result = vu_inflight_check_head(vring, &part->version, &part->desc_num);

    *known = result == VU_OK;
    if (result)
        return result < 0 ? result : VU_OK;
    if ((result = settle(vring, part, &place)) || (result = clear_free(vring, part)))
        return result;
    *half = place.used_idx | (uint32_t)place.used_wrap << 15;
    return collect_packed(vring, part);
}

/* Of the copies: out of order, the ring's own descriptors may have been overwritten.  They are checked as
   those are, and the links once more: they can change. */
int vu_inflight_fetch_packed(struct vu_vring *vring, const struct vu_memory *memory, uint16_t k,
                             int direction, struct vu_pieces *pieces, struct vu_chain *chain)
{
    const struct vu_resubmit *again = &vring->resubmit[vring->resubmit_next + k];
    struct vu_packed_part *part = vring->tracked;
    uint16_t index = again->entry;
    bool writable_seen = false;
    int result = VU_OK;

    *chain = (struct vu_chain){.first = pieces->used, .slots = again->slots, .head = index};
    for (uint16_t i = 0; i < again->slots && !result; i++) {
        const struct vu_packed_state *state;
        struct vu_desc_copy desc;

        if (index >= vring->tracked_entries)
            return vu_inflight_bad(vring, index, vring->tracked_entries - 1u, &part->desc[again->entry].next);
        state = &part->desc[index];
        desc = (struct vu_desc_copy){
            .gpa = vu_shared_load(&state->gpa),
            .length = vu_shared_load(&state->length),
            .flags = vu_shared_load(&state->flags),
            .next = vu_shared_load(&state->id),
        };
        if (desc.flags & VU_DESC_INDIRECT) {
            result =
                vu_chain_walk_indirect(true, vring, memory, direction, &desc, &writable_seen, pieces, chain);
            chain->head = desc.next;
            break;
        }
        result = vu_chain_add(true, vring, memory, direction, &desc, &writable_seen, pieces, chain);
        chain->head = desc.next;
        index = vu_shared_load(&state->next);
    }
    if (result) {
        pieces->used = chain->first;
        return result == VU_FETCH_FULL && chain->first == 0
                   ? vu_trouble(vring, VU_ERR_PIECES, again->entry, VU_PIECES, 0, 0)
                   : result;
    }
    chain->count = pieces->used - chain->first;
    vu_packed_advance(vring, &vring->next, &vring->next_wrap, again->slots);
    vring->fetched_slots += again->slots;
    return VU_OK;
}

void vu_inflight_before_packed(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n)
{
    struct vu_packed_part *part = vring->tracked;
    struct vu_packed_place place = place_of(vring->position, vring->wrap);
    uint32_t again = VU_MIN((uint32_t)n, vring->resubmit_left);
    uint16_t slot = vring->position;
    bool wrap = vring->wrap;

    for (uint32_t k = 0; k < again; k++) {
        const struct vu_resubmit *chain = &vring->resubmit[vring->resubmit_next + k];

        vu_shared_store(&part->desc[chain->last].next, vu_shared_load(&part->free_head));
        vu_shared_store(&part->free_head, chain->entry);
    }
    for (uint16_t k = 0; k < n; k++)
        vu_packed_advance(vring, &slot, &wrap, chains[k].slots);
    place.used_idx = slot;
    place.used_wrap = wrap;
    store_place(part, place);
}

void vu_inflight_after_packed(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n)
{
    struct vu_packed_part *part = vring->tracked;
    uint32_t first = vring->resubmit_next, served = vu_inflight_served_again(vring, n);

    (void)chains;
    for (uint32_t k = 0; k < served; k++)
        vu_shared_store(&part->desc[vring->resubmit[first + k].entry].inflight, 0);
    if (served)
        vu_shared_store(&part->old_free_head, vu_shared_load(&part->free_head));
    store_place(part, place_of(vring->position, vring->wrap));
}
