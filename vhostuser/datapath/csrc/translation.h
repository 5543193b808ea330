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
int vu_translate_pieces(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                        uint64_t address, uint64_t length, uint32_t access, struct vu_pieces *pieces);

/* The same, for what nearly always is: all of it in the region of last time. */
static vu_always_inline int vu_translate(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                                         uint64_t address, uint64_t length, uint32_t access,
                                         struct vu_pieces *pieces)
{
    const struct vu_region *region = &memory->regions[vring->region_hint];
    uint64_t offset = address - region->gpa;

    /* A length of 0 fails the second comparison, and so does what ends behind the region. */
    if (vu_unlikely((general && vring->iommu) || offset >= region->size ||
                    length - 1 >= region->size - offset || pieces->used == pieces->most))
        return vu_translate_pieces(general, vring, memory, address, length, access, pieces);
    pieces->piece[pieces->used++] = (struct iovec){region->host + offset, length};
    return VU_OK;
}

#endif
