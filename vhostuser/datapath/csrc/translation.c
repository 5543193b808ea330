/* SPDX-License-Identifier: Apache-2.0 */
/* Translation of what does not lie in the region of last time, or not in one piece. */
#include "translation.h"

int vu_translate_pieces(bool general, struct vu_vring *vring, const struct vu_memory *memory,
                        uint64_t address, uint64_t length, uint32_t access, struct vu_pieces *pieces)
{
    if (vu_unlikely(length && address + (length - 1) < address))
        return VU_ERR_ADDRESS;
    while (length) {
        uint64_t here;
        int error;
        uint8_t *host = vu_address_at(general, vring, memory, address, access, &here, &error);

        if (vu_unlikely(!host))
            return error;
        if (vu_unlikely(pieces->used == pieces->most))
            return VU_FETCH_FULL;
        here = VU_MIN(length, here);
        pieces->piece[pieces->used++] = (struct iovec){host, here};
        length -= here;
        pieces->walked += length ? VU_WALK_PIECE : 0;
        address += here;
    }
    return VU_OK;
}
