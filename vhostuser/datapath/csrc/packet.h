/* SPDX-License-Identifier: Apache-2.0 */
/* What a packet socket says beside a frame that is read from it (packet(7), PACKET_AUXDATA). */
#ifndef VU_PACKET_H
#define VU_PACKET_H

#include <netpacket/packet.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Of linux/if_packet.h, which older systems have without some of it. */
struct vu_packet_auxdata {
    uint32_t status;
    uint32_t length;
    uint32_t captured;
    uint16_t link;
    uint16_t network;
    uint16_t vlan_tci;
    uint16_t vlan_tpid;
};

#define VU_PACKET_LEVEL 263      /* SOL_PACKET */
#define VU_PACKET_AUXDATA 8      /* PACKET_AUXDATA */
#define VU_PACKET_VLAN (1u << 4) /* TP_STATUS_VLAN_VALID */
#define VU_PACKET_TPID (1u << 6) /* TP_STATUS_VLAN_TPID_VALID */

/* One frame to be received, and what comes with it. */
struct vu_message {
    struct msghdr header;
    uint8_t control[CMSG_SPACE(sizeof(struct vu_packet_auxdata))]
        __attribute__((aligned(__alignof__(struct cmsghdr))));
};

/* Makes it ready to be received into `list`, which stays where it is. */
static inline void vu_message_begin(struct vu_message *message, struct iovec *list, size_t count)
{
    message->header = (struct msghdr){.msg_iov = list,
                                      .msg_iovlen = count,
                                      .msg_control = message->control,
                                      .msg_controllen = sizeof(message->control)};
}

/* The tag that the kernel took out of the frame, as it was in it, in host byte order; 0: none.  A socket that
   is no packet socket has none. */
static inline uint32_t vu_message_tag(struct vu_message *message)
{
    const struct cmsghdr *said = CMSG_FIRSTHDR(&message->header);
    struct vu_packet_auxdata found;

    if (!said || said->cmsg_level != VU_PACKET_LEVEL || said->cmsg_type != VU_PACKET_AUXDATA ||
        said->cmsg_len < CMSG_LEN(sizeof(found)))
        return 0;
    memcpy(&found, CMSG_DATA(said), sizeof(found));
    if (!(found.status & VU_PACKET_VLAN))
        return 0;
    return (uint32_t)(found.status & VU_PACKET_TPID ? found.vlan_tpid : 0x8100) << 16 | found.vlan_tci;
}

/* Of a socket that says ENETDOWN: whether its interface has gone for ever, and not only down. */
static inline bool vu_packet_is_gone(int fd)
{
    struct sockaddr_ll bound;
    socklen_t length = sizeof(bound);

    return getsockname(fd, (struct sockaddr *)&bound, &length) == 0 && length >= sizeof(bound) - 8 &&
           bound.sll_family == AF_PACKET && bound.sll_ifindex <= 0;
}

/* Whether there was no room for all of it. */
static inline bool vu_message_is_cut(const struct vu_message *message)
{
    return message->header.msg_flags & MSG_TRUNC;
}

#endif
