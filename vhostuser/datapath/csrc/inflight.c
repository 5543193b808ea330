/* SPDX-License-Identifier: Apache-2.0 */
/* The inflight region: its mapping, each ring's part, and what both formats have of the rest. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tracking.h"

struct vu_inflight *vu_inflight_map(int fd, uint64_t offset, uint64_t length, uint64_t delta, uint64_t size,
                                    uint32_t queues, uint32_t queue_size, int *failed_errno)
{
    struct vu_inflight *inflight = calloc(1, sizeof(*inflight));

    *failed_errno = ENOMEM;
    if (!inflight)
        return NULL;
    inflight->map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    if (inflight->map == MAP_FAILED) {
        *failed_errno = errno;
        free(inflight);
        return NULL;
    }
    inflight->map_length = length;
    inflight->region = (uint8_t *)inflight->map + delta;
    inflight->size = size;
    inflight->queues = queues;
    inflight->queue_size = queue_size;
    return inflight;
}

void vu_inflight_free(struct vu_inflight *inflight)
{
    if (!inflight)
        return;
    munmap(inflight->map, inflight->map_length);
    free(inflight);
}

int vu_inflight_owns(const struct vu_inflight *inflight, const void *host)
{
    return inflight && (uintptr_t)host - (uintptr_t)inflight->map < inflight->map_length;
}

int vu_inflight_attach(struct vu_vring *vring, const struct vu_inflight *inflight)
{
    uint64_t part;

    if (!inflight || vring->index >= inflight->queues)
        return VU_OK;
    part = vring->is_packed
               ? sizeof(struct vu_packed_part) + inflight->queue_size * sizeof(struct vu_packed_state)
               : sizeof(struct vu_split_part) + inflight->queue_size * sizeof(struct vu_split_state);
    part = (part + VU_INFLIGHT_ALIGNMENT - 1) & ~(uint64_t)(VU_INFLIGHT_ALIGNMENT - 1);
    if (part * (vring->index + 1) > inflight->size || vring->size > inflight->queue_size)
        return vu_trouble(vring, VU_ERR_INFLIGHT_SIZE, inflight->size, part * (vring->index + 1),
                          inflight->queue_size, vring->size);
    vring->tracked = inflight->region + part * vring->index;
    vring->tracked_entries = (uint16_t)inflight->queue_size;
    return VU_OK;
}

void vu_inflight_detach(struct vu_vring *vring)
{
    free(vring->resubmit);
    vring->resubmit = NULL;
    vring->resubmit_next = vring->resubmit_left = 0;
    vring->tracked = NULL;
}

int vu_inflight_bad(struct vu_vring *vring, uint64_t value, uint64_t most, const void *where)
{
    return vu_trouble(vring, VU_ERR_INFLIGHT, value, most,
                      (uint64_t)((const uint8_t *)where - (const uint8_t *)vring->tracked), 0);
}

int vu_inflight_check_head(struct vu_vring *vring, const uint16_t *version, const uint16_t *desc_num)
{
    uint16_t found = vu_shared_load(version), entries = vu_shared_load(desc_num);

    if (found == 0)
        return VU_FETCH_EMPTY;
    if (found != VU_INFLIGHT_VERSION)
        return vu_inflight_bad(vring, found, VU_INFLIGHT_VERSION, version);
    if (entries != vring->tracked_entries)
        return vu_inflight_bad(vring, entries, vring->tracked_entries, desc_num);
    return VU_OK;
}

static int by_counter(const void *left, const void *right)
{
    const struct vu_resubmit *a = left, *b = right;

    return (a->counter > b->counter) - (a->counter < b->counter);
}

int vu_inflight_make_room(struct vu_vring *vring, uint32_t count)
{
    free(vring->resubmit);
    vring->resubmit_next = vring->resubmit_left = 0;
    vring->resubmit = calloc(count, sizeof(*vring->resubmit));
    return vring->resubmit ? VU_OK : vu_trouble(vring, VU_ERR_SYSTEM, ENOMEM, 0, 0, 0);
}

void vu_inflight_put_in_order(struct vu_vring *vring, uint32_t count)
{
    qsort(vring->resubmit, count, sizeof(*vring->resubmit), by_counter);
    vring->resubmit_left = count;
}

uint32_t vu_inflight_served_again(struct vu_vring *vring, uint16_t n)
{
    uint32_t served = VU_MIN((uint32_t)n, vring->resubmit_left);

    vring->resubmit_left -= served;
    vring->resubmit_next += served;
    return served;
}
