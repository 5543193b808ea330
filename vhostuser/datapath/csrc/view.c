/* SPDX-License-Identifier: Apache-2.0 */
/* Mapping the pages of a ring part a second time. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "state.h"
#include "translation.h"
#include "view.h"

struct vu_view {
    uint8_t *map;
    uint64_t length; /* bytes of map */
    uint32_t pages;
    const uint8_t *page[]; /* where each lies in guest memory's own mapping */
};

static uint32_t all_pages;

uint32_t vu_view_pages(void)
{
    return __atomic_load_n(&all_pages, __ATOMIC_RELAXED);
}

static bool take(uint32_t *counter, uint32_t pages, uint32_t most)
{
    if (__atomic_add_fetch(counter, pages, __ATOMIC_RELAXED) <= most)
        return true;
    __atomic_sub_fetch(counter, pages, __ATOMIC_RELAXED);
    return false;
}

static struct vu_view *new_view(struct vu_device *device, uint32_t pages)
{
    struct vu_view *view = malloc(sizeof(*view) + pages * sizeof(view->page[0]));

    errno = ENOMEM;
    if (!view)
        return NULL;
    if (take(&device->view_pages, pages, VU_VIEW_PAGES_DEVICE)) {
        if (take(&all_pages, pages, VU_VIEW_PAGES_ALL)) {
            *view = (struct vu_view){.map = MAP_FAILED, .pages = pages};
            return view;
        }
        __atomic_sub_fetch(&device->view_pages, pages, __ATOMIC_RELAXED);
    }
    free(view);
    return NULL;
}

static void free_view(struct vu_device *device, struct vu_view *view)
{
    if (view->map != MAP_FAILED)
        munmap(view->map, view->length);
    __atomic_sub_fetch(&device->view_pages, view->pages, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&all_pages, view->pages, __ATOMIC_RELAXED);
    free(view);
}

void vu_views_close(struct vu_vring *vring)
{
    for (int part = 0; part < 3; part++) {
        if (vring->view[part])
            free_view(vring->pair->device, vring->view[part]);
        vring->view[part] = NULL;
    }
}

/* Where every page lies; false when one that the IOMMU knows is none of the host's. */
static bool find_pages(struct vu_vring *vring, struct vu_view *view, uint64_t iova, uint64_t last,
                       uint64_t page_size)
{
    for (uint32_t i = 0; i < view->pages; i++) {
        uint64_t start = (iova & -page_size) + i * page_size, from = VU_MAX(start, iova), left;
        const uint8_t *at = vu_iotlb_at(vring, from, VU_ACCESS_READ, &left);

        if (!at || left < VU_MIN(last, start + page_size - 1) - from + 1 ||
            ((uintptr_t)at ^ from) & (page_size - 1))
            return false;
        view->page[i] = at - (from - start);
    }
    return true;
}

static bool map_pages(struct vu_view *view, uint64_t page_size)
{
    view->map = mmap(NULL, view->length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (view->map == MAP_FAILED)
        return false;
    for (uint32_t i = 0; i < view->pages; i++) {
        /* Only that mapping tells the front-end of a page that comes late (postcopy). */
        (void)*(const volatile uint8_t *)view->page[i];
        /* With an old length of 0 a shared mapping is doubled, not moved. */
        if (mremap((void *)(uintptr_t)view->page[i], 0, page_size, MREMAP_MAYMOVE | MREMAP_FIXED,
                   view->map + i * page_size) == MAP_FAILED)
            return false;
    }
    return true;
}

int vu_view_open(struct vu_vring *vring, int part, void **host)
{
    uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE), iova = vring->uva[part];
    uint64_t last = iova + (vu_vring_part_length(vring, part) - 1);
    uint32_t pages = (uint32_t)((last & -page_size) / page_size - (iova & -page_size) / page_size + 1);
    struct vu_view *view = new_view(vring->pair->device, pages);

    if (!view)
        return VU_ERR_RING_SCATTERED;
    view->length = pages * page_size;
    /* The ring's from here on: a fault may unwind from the mapping. */
    vring->view[part] = view;
    errno = EINVAL;
    if (!find_pages(vring, view, iova, last, page_size) || !map_pages(view, page_size))
        return VU_ERR_RING_SCATTERED;
    *host = view->map + (iova & (page_size - 1));
    return VU_OK;
}

const void *vu_view_origin(const struct vu_pair *pair, const void *host, uint64_t *left)
{
    for (int ring = 0; ring < 2; ring++) {
        for (int part = 0; part < 3; part++) {
            const struct vu_view *view = pair->vring[ring].view[part];
            uint64_t at, page_size;

            if (!view || view->map == MAP_FAILED)
                continue;
            at = (uint64_t)((const uint8_t *)host - view->map);
            if (at >= view->length)
                continue;
            page_size = view->length / view->pages;
            *left = page_size - at % page_size;
            return view->page[at / page_size] + at % page_size;
        }
    }
    *left = UINT64_MAX;
    return host;
}
