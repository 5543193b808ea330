/* SPDX-License-Identifier: Apache-2.0 */
/* From the addresses that a guest gives to pieces of our mapping: guest addresses by the memory table, or I/O
   addresses by the IOTLB.  Only general instances of loops know that there is one. */
#ifndef VU_TRANSLATION_H
#define VU_TRANSLATION_H

#include "iotlb.h"
#include "ring.h"

/* Rings wait for whole pages: who answers for one byte of it answers for the page. */
#define VU_IOTLB_PAGE 4096

/* Where `iova` lies, with *left bytes from there in one piece.  NULL: no translation allows it, and the ring
   is parked for one. */
uint8_t *vu_iotlb_at(struct vu_vring *vring, uint64_t iova, uint32_t access, uint64_t *left);

/* As vu_iotlb_at; NULL with VU_ERR_ADDRESS when no region holds the address. */
static vu_always_inline uint8_t *vu_address_at(bool general, struct vu_vring *vring,
                                               const struct vu_memory *memory, uint64_t address,
                                               uint32_t access, uint64_t *left, int *error)
{
    const struct vu_region *region;

    if (general && vring->iommu) {
        *error = VU_FETCH_MISS;
        return vu_iotlb_at(vring, address, access, left);
    }
    *error = VU_ERR_ADDRESS;
    region = vu_region_of(memory, address, &vring->region_hint);
    if (vu_unlikely(!region))
        return NULL;
    *left = region->size - (address - region->gpa);
    return region->host + (address - region->gpa);
}

/* Appends [address, address + length) to pieces, split where regions or translations meet.  VU_OK,
   VU_FETCH_FULL, VU_FETCH_MISS, VU_ERR_ADDRESS. */
static vu_always_inline int vu_translate(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                                         uint64_t address, uint64_t length, uint32_t access,
                                         struct vu_pieces *pieces)
{
    if (vu_unlikely(length && address + (length - 1) < address))
        return VU_ERR_ADDRESS;
    while (length) {
        uint64_t here;
        int error;
        uint8_t *host = vu_address_at(general, vring, memory, address, access, &here, &error);

        if (vu_unlikely(!host))
            return error;
        if (vu_unlikely(pieces->used == VU_PIECES))
            return VU_FETCH_FULL;
        here = VU_MIN(length, here);
        pieces->piece[pieces->used++] = (struct iovec){host, here};
        length -= here;
        address += here;
    }
    return VU_OK;
}

#endif
