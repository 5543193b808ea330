/* SPDX-License-Identifier: Apache-2.0 */
/* Why a ring is broken, and why a frame was dropped.  The names become log words and counter labels. */
#ifndef VU_ERROR_H
#define VU_ERROR_H

/* A broken ring stays broken until the front-end resets it.  All of it is the guest's doing, except
   VU_ERR_SYSTEM (the kernel refused us) and the ring address errors (the front-end's). */
enum vu_error {
    VU_OK = 0,
    VU_ERR_AVAIL_INDEX = -1,      /* avail->idx is further ahead than the ring is long */
    VU_ERR_HEAD = -2,             /* avail->ring[] names a descriptor outside the table */
    VU_ERR_NEXT = -3,             /* desc.next points outside its table */
    VU_ERR_CHAIN_LENGTH = -4,     /* more descriptors than a chain may have: a loop */
    VU_ERR_ADDRESS = -5,          /* a buffer is not wholly inside the memory table */
    VU_ERR_INDIRECT_LENGTH = -6,  /* an indirect table of 0 bytes, or not a multiple of 16, or too long */
    VU_ERR_INDIRECT_NESTED = -7,  /* an indirect descriptor inside an indirect table */
    VU_ERR_INDIRECT_NEXT = -8,    /* INDIRECT and NEXT on one descriptor */
    VU_ERR_INDIRECT_FEATURE = -9, /* INDIRECT without VIRTIO_F_INDIRECT_DESC */
    VU_ERR_DIRECTION = -10,       /* readable after writable, or a receive chain with a readable part */
    VU_ERR_PIECES = -11,          /* the chain falls into more pieces than a burst can hold */
    VU_ERR_RING_ADDRESS = -12,    /* a part of the ring is not wholly inside one region */
    VU_ERR_RING_ALIGNMENT = -13,  /* a part of the ring is not aligned in our mapping */
    VU_ERR_MEMORY_FAULT = -14,    /* guest memory went away under us (truncated file) */
    VU_ERR_SYSTEM = -15,          /* epoll or allocation failed; the event carries errno */
    VU_ERR_NOTIFY = -16,          /* a kick, call or err fd blocks: the front-end made it so */
    VU_ERR_BASE = -17,            /* a packed ring cannot be where SET_VRING_BASE says */
    VU_ERR_LOG_FAULT = -18,       /* the dirty log went away under us (truncated file) */
    VU_ERR_CONTROL = -19,         /* no command, or no byte for its ack, in a chain of a control ring */
    VU_ERR_IOTLB = -20,           /* the front-end's IOMMU does not allow what the guest asks of us */
    VU_ERR_RING_SCATTERED = -21,  /* under an IOMMU, a part of the ring is not in one piece for us */
    VU_ERR_INFLIGHT = -22,        /* a ring's part of the inflight region holds what cannot be */
    VU_ERR_INFLIGHT_SIZE = -23,   /* the inflight region has no room for the ring */
    VU_ERR_INFLIGHT_FAULT = -24   /* the inflight region went away under us (truncated file) */
};

/* Every frame that is not delivered is counted under exactly one of these. */
enum vu_drop {
    VU_DROP_NO_BUFFERS = 0,       /* the receiver has no room */
    VU_DROP_BUFFER_TOO_SMALL = 1, /* one chain cannot hold the frame and MRG_RXBUF is off */
    VU_DROP_HEADER_TRUNCATED = 2, /* the chain is shorter than the virtio-net header */
    VU_DROP_RUNT = 3,             /* under 14 bytes of Ethernet */
    VU_DROP_OVERSIZE = 4,         /* over 65535 + Ethernet and VLAN headers */
    VU_DROP_CSUM_RANGE = 5,       /* csum_start + csum_offset outside the frame */
    VU_DROP_GSO_TYPE = 6,         /* unknown gso_type, or ECN on something that is not TCP */
    VU_DROP_GSO_SIZE = 7,         /* gso_size 0, or no checksum to complete */
    VU_DROP_NOT_NEGOTIATED = 8,   /* the sender uses an offload that it did not acknowledge */
    VU_DROP_RECEIVER_OFFLOAD = 9, /* the receiver did not acknowledge the offload that the frame needs */
    VU_DROP_PORT_REFUSED = 10,    /* the port's device said EINVAL */
    VU_DROP_PORT_DOWN = 11,       /* the port's device is down, detached or gone */
    VU_DROP_PORT_ERROR = 12,      /* any other error of the port's device */
    VU_DROP_RING_DISABLED = 13,   /* sent on a ring that is started but not enabled */
    VU_DROP_FILTERED = 14,        /* the receiver's MAC or VLAN filter does not want it */
    VU_DROP_SOURCE_ADDRESS = 15,  /* sent into a switch from a group's address, or from none */
    VU_DROP_NOT_FORWARDED = 16    /* a switch passes it on to nobody: to where it came from, or to the link */
};

#define VU_DROP_COUNT 17

#endif
