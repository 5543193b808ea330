/* SPDX-License-Identifier: Apache-2.0 */
/* Checksums (RFC 1071) and segmentation of TCP and UDP. */
#include "offload.h"

#include <string.h>

#include "ethernet.h"

#define TCP_FIN 0x01
#define TCP_PSH 0x08
#define TCP_CWR 0x80

static uint32_t get32(const uint8_t *at)
{
    return vu_get16(at) << 16 | vu_get16(at + 2);
}

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value);
}

/* Adds 16-bit words, the first byte being the high one; an odd byte at the end counts as a high one. */
static uint64_t add(uint64_t sum, const uint8_t *bytes, size_t length)
{
    uint64_t words = 0;

    for (; length >= 4; bytes += 4, length -= 4) {
        uint32_t word;

        memcpy(&word, bytes, sizeof(word));
        words += be32toh(word);
    }
    if (length >= 2) {
        words += vu_get16(bytes);
        bytes += 2;
        length -= 2;
    }
    if (length)
        words += (uint64_t)bytes[0] << 8;
    return sum + (words & 0xffffffff) + (words >> 32);
}

static uint32_t fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~(uint32_t)sum & 0xffff;
}

uint32_t vu_offload_segments(const struct vu_net_hdr *header, uint32_t length)
{
    uint32_t size = vu_read_le16(&header->gso_size);

    return header->gso_type == VU_GSO_NONE || !size ? 1 : (length + size - 1) / size;
}

void vu_offload_checksum(uint8_t *frame, uint32_t length, const struct vu_net_hdr *header)
{
    uint32_t start = vu_read_le16(&header->csum_start), offset = vu_read_le16(&header->csum_offset);
    /* What stands in the field is the sum over the pseudo header, and is added with the rest. */
    uint32_t sum = fold(add(0, frame + start, length - start));

    /* 0 says that there is none (RFC 768); the same number for TCP. */
    put16(frame + start + offset, sum ? sum : 0xffff);
}

static bool find_network(struct vu_segments *segments)
{
    const uint8_t *frame = segments->frame;
    uint32_t type, at = vu_ethernet_packet(frame, segments->length, &type);

    segments->network = at;
    segments->ipv4 = type == VU_ETH_IPV4;
    if (segments->ipv4)
        return at + 20 <= segments->transport && at + 4 * (frame[at] & 15u) == segments->transport;
    return type == VU_ETH_IPV6 && at + 40 <= segments->transport;
}

bool vu_segments_begin(struct vu_segments *segments, const uint8_t *frame, uint32_t length,
                       const struct vu_net_hdr *header)
{
    uint8_t type = header->gso_type & (uint8_t)~VU_GSO_ECN;
    uint32_t transport_size = 8;

    *segments = (struct vu_segments){.frame = frame,
                                     .transport = vu_read_le16(&header->csum_start),
                                     .length = length,
                                     .size = vu_read_le16(&header->gso_size),
                                     .tcp = type != VU_GSO_UDP_L4};
    if (type == VU_GSO_UDP || !find_network(segments))
        return false;
    if ((type == VU_GSO_TCPV4 && !segments->ipv4) || (type == VU_GSO_TCPV6 && segments->ipv4))
        return false;
    if (vu_read_le16(&header->csum_offset) != (segments->tcp ? 16 : 6))
        return false;
    if (segments->tcp) {
        if (segments->transport + 20 > length)
            return false;
        transport_size = 4u * (frame[segments->transport + 12] >> 4);
        if (transport_size < 20)
            return false;
    }
    segments->headers = segments->next = segments->transport + transport_size;
    if (segments->headers > VU_SEGMENT_HEADERS || segments->headers >= length)
        return false;
    return (length - segments->headers + segments->size - 1) / segments->size <= VU_SEGMENTS_MAX;
}

static void rewrite_network(const struct vu_segments *segments, uint8_t *headers, uint32_t payload)
{
    uint8_t *ip = headers + segments->network;
    uint32_t behind = segments->headers + payload - segments->network;

    if (!segments->ipv4) {
        put16(ip + 4, behind - 40);
        return;
    }
    put16(ip + 2, behind);
    put16(ip + 4, vu_get16(ip + 4) + segments->index);
    put16(ip + 10, 0);
    put16(ip + 10, fold(add(0, ip, segments->transport - segments->network)));
}

static void rewrite_transport(const struct vu_segments *segments, uint8_t *headers, const uint8_t *payload,
                              uint32_t length)
{
    uint8_t *ip = headers + segments->network, *to = headers + segments->transport;
    uint32_t transport_size = segments->headers - segments->transport, sum;
    uint8_t *field = to + (segments->tcp ? 16 : 6);
    bool last = segments->next + length == segments->length;
    uint64_t total;

    if (segments->tcp) {
        put32(to + 4, get32(to + 4) + segments->index * segments->size);
        if (!last)
            to[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
        if (segments->index)
            to[13] &= (uint8_t)~TCP_CWR;
    } else {
        put16(to + 4, transport_size + length);
    }
    put16(field, 0);
    total = add(transport_size + length + (segments->tcp ? VU_PROTOCOL_TCP : VU_PROTOCOL_UDP),
                segments->ipv4 ? ip + 12 : ip + 8, segments->ipv4 ? 8 : 32);
    total = add(total, to, transport_size);
    sum = fold(add(total, payload, length));
    put16(field, sum ? sum : 0xffff);
}

uint32_t vu_segments_next(struct vu_segments *segments, uint8_t headers[VU_SEGMENT_HEADERS],
                          const uint8_t **payload, uint32_t *length)
{
    if (segments->next == segments->length)
        return 0;
    *payload = segments->frame + segments->next;
    *length = VU_MIN(segments->size, segments->length - segments->next);
    memcpy(headers, segments->frame, segments->headers);
    rewrite_network(segments, headers, *length);
    rewrite_transport(segments, headers, *payload, *length);
    segments->next += *length;
    segments->index++;
    return segments->headers;
}

void vu_finish_next(struct vu_finish *finish)
{
    const uint8_t *payload;
    uint32_t length, size;

    finish->length = 0;
    if (!finish->segments.frame)
        return;
    size = vu_segments_next(&finish->segments, finish->headers, &payload, &length);
    if (!size)
        return;
    finish->piece[0] = (struct iovec){finish->headers, size};
    finish->piece[1] = (struct iovec){(void *)(uintptr_t)payload, length};
    finish->length = size + length;
}

bool vu_finish_begin(struct vu_finish *finish, uint8_t *frame, uint32_t length,
                     const struct vu_net_hdr *header)
{
    if (header->gso_type == VU_GSO_NONE) {
        vu_offload_checksum(frame, length, header);
        finish->segments.frame = NULL;
        finish->piece[0] = (struct iovec){frame, length};
        finish->length = length;
        return true;
    }
    if (!vu_segments_begin(&finish->segments, frame, length, header))
        return false;
    vu_finish_next(finish);
    return true;
}
