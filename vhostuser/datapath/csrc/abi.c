/* SPDX-License-Identifier: Apache-2.0 */
/* Our structs against the kernel's: nothing but static asserts. */
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stddef.h>

#include "net_hdr.h"
#include "ring.h"

_Static_assert(sizeof(struct vu_desc) == sizeof(struct vring_desc), "descriptor size");
_Static_assert(offsetof(struct vu_desc, gpa) == offsetof(struct vring_desc, addr), "desc.addr");
_Static_assert(offsetof(struct vu_desc, length) == offsetof(struct vring_desc, len), "desc.len");
_Static_assert(offsetof(struct vu_desc, flags) == offsetof(struct vring_desc, flags), "desc.flags");
_Static_assert(offsetof(struct vu_desc, next) == offsetof(struct vring_desc, next), "desc.next");
_Static_assert(offsetof(struct vu_avail, idx) == offsetof(struct vring_avail, idx), "avail.idx");
_Static_assert(offsetof(struct vu_avail, ring) == offsetof(struct vring_avail, ring), "avail.ring");
_Static_assert(sizeof(struct vu_packed_desc) == sizeof(struct vring_packed_desc), "packed descriptor size");
_Static_assert(offsetof(struct vu_packed_desc, id) == offsetof(struct vring_packed_desc, id), "packed id");
_Static_assert(offsetof(struct vu_packed_desc, flags) == offsetof(struct vring_packed_desc, flags),
               "packed flags");
_Static_assert(sizeof(struct vring_packed_desc_event) == sizeof(vu_le32), "packed event area");
_Static_assert(VU_PACKED_AVAIL == 1 << VRING_PACKED_DESC_F_AVAIL &&
                   VU_PACKED_USED == 1 << VRING_PACKED_DESC_F_USED,
               "packed flag bits");
_Static_assert(sizeof(struct vu_used_elem) == sizeof(struct vring_used_elem), "used element size");
_Static_assert(offsetof(struct vu_used, idx) == offsetof(struct vring_used, idx), "used.idx");
_Static_assert(offsetof(struct vu_used, ring) == offsetof(struct vring_used, ring), "used.ring");
_Static_assert(sizeof(struct vu_net_hdr) == sizeof(struct virtio_net_hdr_mrg_rxbuf), "net header size");
_Static_assert(offsetof(struct vu_net_hdr, csum_offset) == offsetof(struct virtio_net_hdr, csum_offset),
               "csum_offset");
_Static_assert(offsetof(struct vu_net_hdr, num_buffers) ==
                   offsetof(struct virtio_net_hdr_mrg_rxbuf, num_buffers),
               "num_buffers");
_Static_assert(VU_DESC_NEXT == VRING_DESC_F_NEXT && VU_DESC_WRITE == VRING_DESC_F_WRITE &&
                   VU_DESC_INDIRECT == VRING_DESC_F_INDIRECT,
               "descriptor flags");
_Static_assert(VU_F_CSUM == 1ULL << VIRTIO_NET_F_CSUM && VU_F_MRG_RXBUF == 1ULL << VIRTIO_NET_F_MRG_RXBUF &&
                   VU_F_EVENT_IDX == 1ULL << VIRTIO_RING_F_EVENT_IDX,
               "feature bits");
