/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The IOTLB of one device (vhost-user, "IOMMU support"): while VIRTIO_F_ACCESS_PLATFORM is acknowledged,
 * every address that the guest gives us, its rings' included, is an I/O address, and the front-end says where
 * it lies.  A ring that meets an address without translation is parked: its position is rewound, the address
 * is reported as a miss, and the worker goes on with the others.  What changes anything may only be called
 * while the workers are paused.
 */
#ifndef VU_IOTLB_H
#define VU_IOTLB_H

#include "device.h"

/* Most ranges that are kept.  One more evicts another, which costs a miss if it is needed again. */
#define VU_IOTLB_ENTRIES 2048

/* As in the messages: what we do with the memory. */
#define VU_ACCESS_READ 1
#define VU_ACCESS_WRITE 2

struct vu_miss {
    uint64_t iova;
    uint32_t access; /* VU_ACCESS_* */
    uint32_t serial; /* names it in vu_iotlb_refuse; rings that wait for the same page share one */
};

/* [iova, last] lies at user address uva and allows `access`; ranges that it overlaps are forgotten.  Wakes
   the rings that waited for it.  VU_ERR_ADDRESS when it is not wholly in one region, VU_ERR_SYSTEM without
   memory. */
int vu_iotlb_update(struct vu_device *device, uint64_t iova, uint64_t last, uint64_t uva, uint32_t access);
/* Nothing is known of [iova, last] any more, when this returns.  A ring that lies there stands still until it
   is translated anew, at its next work. */
void vu_iotlb_invalidate(struct vu_device *device, uint64_t iova, uint64_t last);
/* Moves out up to max misses that were not reported yet: at most one a ring, and one a page and access. */
uint32_t vu_iotlb_take_misses(struct vu_device *device, struct vu_miss *misses, uint32_t max);
/* The front-end has no translation: the rings that still wait for it are broken. */
void vu_iotlb_refuse(struct vu_device *device, uint32_t serial);
/* Whoever was asked is gone: what rings wait for is reported once more. */
void vu_iotlb_ask_again(struct vu_device *device);
/* What a ring waits for; 0 when it waits for nothing. */
int vu_iotlb_waits_for(const struct vu_pair *pair, int ring, struct vu_miss *miss);
/* Pages of rings that are mapped a second time now, in the whole process, since they lie apart. */
uint32_t vu_view_pages(void);
/* Ranges that are kept now. */
uint32_t vu_iotlb_count(const struct vu_device *device);

#endif
