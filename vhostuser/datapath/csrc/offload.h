/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an offload asks of a network card, done in software: for a frame whose receiver does not take what the
 * sender left undone (virtio 1.2, 5.1.6.2 and 5.1.6.4).
 */
#ifndef VU_OFFLOAD_H
#define VU_OFFLOAD_H

#include <sys/uio.h>

#include "net_hdr.h"

/* Ethernet with two tags, IPv6 with options, TCP with options: longer headers are cut up by nobody. */
#define VU_SEGMENT_HEADERS 256
/* What one frame may be cut into: 64 KiB at the smallest segment that a path may ask for (RFC 879). */
#define VU_SEGMENTS_MAX 128

/* A frame that is being cut up. */
struct vu_segments {
    const uint8_t *frame; /* private, and stays the caller's */
    uint32_t network;     /* where the IP header is in it */
    uint32_t transport;
    uint32_t headers; /* where the payload begins */
    uint32_t next;    /* of the payload, to be sent next */
    uint32_t length;
    uint32_t size; /* of a segment's payload */
    uint32_t index;
    bool ipv4;
    bool tcp;
};

/* Segments that the frame stands for; 1 for one that is not to be cut up.  By its header alone. */
uint32_t vu_offload_segments(const struct vu_net_hdr *header, uint32_t length);
/* Completes the checksum that the header asks for. */
void vu_offload_checksum(uint8_t *frame, uint32_t length, const struct vu_net_hdr *header);
/* Both of a frame with a gso_type that vu_net_hdr_check let pass.  False when it is not what it says. */
bool vu_segments_begin(struct vu_segments *segments, const uint8_t *frame, uint32_t length,
                       const struct vu_net_hdr *header);
/* The next one: its headers, checksums complete, into `headers`, and *payload of *length bytes behind them,
   in the frame.  The length of the headers; 0 when there is none left. */
uint32_t vu_segments_next(struct vu_segments *segments, uint8_t headers[VU_SEGMENT_HEADERS],
                          const uint8_t **payload, uint32_t *length);

/* A frame that is being finished, and the next of the frames that come of it. */
struct vu_finish {
    struct vu_segments segments;
    struct iovec piece[2]; /* the next frame, */
    uint32_t length;       /* and its bytes; 0 when there is none left */
    uint8_t headers[VU_SEGMENT_HEADERS];
};

/* Begins with a frame whose header vu_net_hdr_check let pass, and has the first one.  `frame` is private and
   written to, and stays where it is meanwhile.  False when it is not what it says. */
bool vu_finish_begin(struct vu_finish *finish, uint8_t *frame, uint32_t length,
                     const struct vu_net_hdr *header);
void vu_finish_next(struct vu_finish *finish);

#endif
