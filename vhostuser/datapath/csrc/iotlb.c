/* SPDX-License-Identifier: Apache-2.0 */
/* The IOTLB: an array sorted by I/O address, and the rings that wait for what is not in it. */
#include <stdlib.h>
#include <string.h>

#include "state.h"
#include "translation.h"
#include "view.h"

struct entry {
    uint64_t first;
    uint64_t last; /* inclusive: a range may end where the address space does */
    uint8_t *host;
    uint32_t access;
    uint32_t pad;
};

struct vu_iotlb {
    uint32_t count;
    uint32_t hand; /* goes round; what it meets is evicted next */
    struct entry entries[VU_IOTLB_ENTRIES];
};

/* The first entry that ends at or behind `iova`; count when none does. */
static uint32_t first_from(const struct vu_iotlb *iotlb, uint64_t iova)
{
    uint32_t low = 0, high = iotlb->count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (iotlb->entries[middle].last < iova)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const struct entry *entry_of(const struct vu_iotlb *iotlb, uint64_t iova, uint32_t *hint)
{
    uint32_t at = *hint;

    if (!iotlb || !iotlb->count)
        return NULL;
    if (at < iotlb->count &&
        iova - iotlb->entries[at].first <= iotlb->entries[at].last - iotlb->entries[at].first)
        return &iotlb->entries[at];
    at = first_from(iotlb, iova);
    if (at == iotlb->count || iotlb->entries[at].first > iova)
        return NULL;
    *hint = at;
    return &iotlb->entries[at];
}

static struct vu_vring *first_ring(const struct vu_device *device)
{
    return device->pairs ? device->pairs->vring : NULL;
}

static struct vu_vring *next_ring(struct vu_vring *vring)
{
    if (!(vring->index & 1))
        return vring + 1;
    return vring->pair->next ? vring->pair->next->vring : NULL;
}

static bool same_miss(const struct vu_miss *a, const struct vu_miss *b)
{
    return a->iova / VU_IOTLB_PAGE == b->iova / VU_IOTLB_PAGE && a->access == b->access;
}

/* Reports by one event for all that come before the control side looks; they stand in the rings, so that none
   is lost with the event. */
static void tell(struct vu_device *device, const struct vu_pair *pair)
{
    struct vu_event event = {.kind = VU_EVENT_IOTLB_MISS, .device = device->id};

    if (!__atomic_exchange_n(&device->misses_told, true, __ATOMIC_RELAXED))
        vu_event_put(pair, &event);
}

/* Writes nothing but its own ring's: others may be another worker's. */
static void park(struct vu_vring *vring, uint64_t iova, uint32_t access)
{
    vring->miss = (struct vu_miss){.iova = iova, .access = access};
    vring->miss_told = false;
    vring->parked = true;
    tell(vring->pair->device, vring->pair);
    /* Frames that arrive must not wake a ring that cannot take them. */
    vu_pair_watch_port(vring->pair);
}

uint8_t *vu_iotlb_at(struct vu_vring *vring, uint64_t iova, uint32_t access, uint64_t *left)
{
    const struct entry *entry = entry_of(vring->pair->device->iotlb, iova, &vring->iotlb_hint);

    /* One that allows less is asked for again: the front-end may have given no more than it was asked for. */
    if (vu_unlikely(!entry || access & ~entry->access)) {
        park(vring, iova, access);
        return NULL;
    }
    *left = entry->last - iova + 1;
    return entry->host + (iova - entry->first);
}

int vu_iotlb_piece(struct vu_vring *vring, uint64_t iova, uint64_t length, uint32_t access, void **host)
{
    bool whole = true;
    uint8_t *first = NULL;
    uint64_t left;

    for (uint64_t done = 0; done < length; done += VU_MIN(left, length - done)) {
        uint8_t *at = vu_iotlb_at(vring, iova + done, access, &left);

        if (!at)
            return VU_FETCH_MISS;
        if (done == 0)
            first = at;
        whole &= at == first + done;
    }
    *host = first;
    return whole ? VU_OK : VU_ERR_RING_SCATTERED;
}

static void forget(struct vu_iotlb *iotlb, uint64_t iova, uint64_t last)
{
    uint32_t from, to;

    if (!iotlb)
        return;
    from = to = first_from(iotlb, iova);
    while (to < iotlb->count && iotlb->entries[to].first <= last)
        to++;
    memmove(&iotlb->entries[from], &iotlb->entries[to], (iotlb->count - to) * sizeof(iotlb->entries[0]));
    iotlb->count -= to - from;
}

static void evict_one(struct vu_iotlb *iotlb)
{
    uint32_t at = iotlb->hand++ % iotlb->count;

    memmove(&iotlb->entries[at], &iotlb->entries[at + 1],
            (iotlb->count - at - 1) * sizeof(iotlb->entries[0]));
    iotlb->count--;
}

static void insert(struct vu_iotlb *iotlb, const struct entry *entry)
{
    uint32_t at;

    if (iotlb->count == VU_IOTLB_ENTRIES)
        evict_one(iotlb);
    at = first_from(iotlb, entry->first);
    memmove(&iotlb->entries[at + 1], &iotlb->entries[at], (iotlb->count - at) * sizeof(iotlb->entries[0]));
    iotlb->entries[at] = *entry;
    iotlb->count++;
}

/* Rings that lie in the range are translated anew before they are touched again. */
static void unmap_rings(struct vu_device *device, uint64_t iova, uint64_t last)
{
    for (struct vu_vring *vring = first_ring(device); vring; vring = next_ring(vring)) {
        for (int part = 0; part < 3; part++) {
            uint64_t start = vring->uva[part];

            if (start <= last && start + (vu_vring_part_length(vring, part) - 1) >= iova)
                vring->mapped = false;
        }
        if (!vring->mapped)
            vu_views_close(vring);
    }
}

static void unpark(struct vu_vring *vring)
{
    vring->parked = false;
    /* Both rings of the pair: one may have waited for room in the other. */
    vu_pair_wake(vring->pair, VU_READY_TX | VU_READY_RX);
    vu_pair_watch_port(vring->pair);
}

int vu_iotlb_update(struct vu_device *device, uint64_t iova, uint64_t last, uint64_t uva, uint32_t access)
{
    struct entry entry = {.first = iova, .last = last, .access = access};
    uint32_t hint = 0;
    const struct entry *old = entry_of(device->iotlb, iova, &hint);

    entry.host = vu_memory_user(device->memory, uva, last - iova + 1);
    if (!entry.host)
        return VU_ERR_ADDRESS;
    if (!device->iotlb && !(device->iotlb = calloc(1, sizeof(*device->iotlb))))
        return VU_ERR_SYSTEM;
    /* QEMU says where the used rings are once they run: nothing new to a ring that lies there. */
    if (!old || memcmp(old, &entry, sizeof(entry)) != 0) {
        unmap_rings(device, iova, last);
        forget(device->iotlb, iova, last);
        insert(device->iotlb, &entry);
    }
    for (struct vu_vring *vring = first_ring(device); vring; vring = next_ring(vring)) {
        if (vring->parked && vring->miss.iova - iova <= last - iova && !(vring->miss.access & ~access))
            unpark(vring);
    }
    return VU_OK;
}

void vu_iotlb_invalidate(struct vu_device *device, uint64_t iova, uint64_t last)
{
    forget(device->iotlb, iova, last);
    unmap_rings(device, iova, last);
}

void vu_iotlb_flush(struct vu_device *device)
{
    vu_iotlb_invalidate(device, 0, UINT64_MAX);
    for (struct vu_vring *vring = first_ring(device); vring; vring = next_ring(vring)) {
        if (vring->parked)
            unpark(vring);
    }
}

void vu_iotlb_free(struct vu_device *device)
{
    free(device->iotlb);
    device->iotlb = NULL;
}

/* A ring that waits for the same page, and for which it was asked already. */
static const struct vu_vring *asked_for(const struct vu_device *device, const struct vu_miss *miss)
{
    struct vu_vring *vring = first_ring(device);

    while (vring && !(vring->parked && vring->miss_told && same_miss(&vring->miss, miss)))
        vring = next_ring(vring);
    return vring;
}

uint32_t vu_iotlb_take_misses(struct vu_device *device, struct vu_miss *misses, uint32_t max)
{
    uint32_t count = 0;

    device->misses_told = false;
    for (struct vu_vring *vring = first_ring(device); vring; vring = next_ring(vring)) {
        const struct vu_vring *other;

        if (!vring->parked || vring->miss_told)
            continue;
        other = asked_for(device, &vring->miss);
        if (!other && count == max) {
            tell(device, vring->pair);
            break;
        }
        vring->miss.serial = other ? other->miss.serial : ++device->misses;
        vring->miss_told = true;
        if (!other)
            misses[count++] = vring->miss;
    }
    return count;
}

void vu_iotlb_refuse(struct vu_device *device, uint32_t serial)
{
    for (struct vu_vring *vring = first_ring(device); vring; vring = next_ring(vring)) {
        if (!vring->parked || !vring->miss_told || vring->miss.serial != serial)
            continue;
        vring->parked = false;
        vu_vring_break(vring, vu_trouble(vring, VU_ERR_IOTLB, vring->miss.access, vring->miss.iova, 0, 0));
        vu_pair_wake(vring->pair, VU_READY_TX | VU_READY_RX);
    }
}

void vu_iotlb_ask_again(struct vu_device *device)
{
    for (struct vu_vring *vring = first_ring(device); vring; vring = next_ring(vring)) {
        if (vring->parked) {
            vring->miss_told = false;
            tell(device, vring->pair);
        }
    }
}

int vu_iotlb_waits_for(const struct vu_pair *pair, int ring, struct vu_miss *miss)
{
    *miss = pair->vring[ring].miss;
    return pair->vring[ring].parked;
}

uint32_t vu_iotlb_count(const struct vu_device *device)
{
    return device->iotlb ? device->iotlb->count : 0;
}
