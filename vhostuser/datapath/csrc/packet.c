/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "packet.h"

#include <errno.h>
#include <netpacket/packet.h>
#include <stddef.h>
#include <string.h>

#include "compiler.h"

#define LEVEL 263            /* SOL_PACKET */
#define AUXDATA 8            /* PACKET_AUXDATA */
#define VLAN_VALID (1u << 4) /* TP_STATUS_VLAN_VALID */
#define TPID_VALID (1u << 6) /* TP_STATUS_VLAN_TPID_VALID */
#define CONTROL_BYTES CMSG_SPACE(sizeof(struct vu_packet_auxdata))

static uint32_t tag_of(struct msghdr *header)
{
    const struct cmsghdr *said = CMSG_FIRSTHDR(header);
    struct vu_packet_auxdata found;

    /* A socket of another kind says nothing. */
    if (!said || said->cmsg_level != LEVEL || said->cmsg_type != AUXDATA ||
        said->cmsg_len < CMSG_LEN(sizeof(found)))
        return 0;
    memcpy(&found, CMSG_DATA(said), sizeof(found));
    if (!(found.status & VLAN_VALID))
        return 0;
    return (uint32_t)(found.status & TPID_VALID ? found.vlan_tpid : 0x8100) << 16 | found.vlan_tci;
}

uint32_t vu_packet_receive(int fd, struct vu_message *messages, uint32_t count)
{
    struct mmsghdr headers[VU_PACKET_BATCH];
    uint8_t control[VU_PACKET_BATCH][CONTROL_BYTES] __attribute__((aligned(__alignof__(struct cmsghdr))));
    int done;

    for (uint32_t i = 0; i < count; i++)
        headers[i].msg_hdr = (struct msghdr){.msg_iov = messages[i].list,
                                             .msg_iovlen = messages[i].pieces,
                                             .msg_control = control[i],
                                             .msg_controllen = CONTROL_BYTES};
    do
        done = recvmmsg(fd, headers, count, MSG_DONTWAIT, NULL);
    while (vu_unlikely(done < 0 && errno == EINTR));
    if (done <= 0) {
        messages[0].result = done ? -errno : -EAGAIN;
        return 1;
    }
    for (int i = 0; i < done; i++) {
        messages[i].result = (int32_t)headers[i].msg_len;
        messages[i].cut = headers[i].msg_hdr.msg_flags & MSG_TRUNC;
        messages[i].tag = tag_of(&headers[i].msg_hdr);
    }
    return (uint32_t)done;
}

uint32_t vu_packet_send(int fd, struct vu_message *messages, uint32_t count)
{
    struct mmsghdr headers[VU_PACKET_BATCH];
    int done;

    for (uint32_t i = 0; i < count; i++)
        headers[i].msg_hdr = (struct msghdr){.msg_iov = messages[i].list, .msg_iovlen = messages[i].pieces};
    do
        done = sendmmsg(fd, headers, count, MSG_DONTWAIT);
    while (vu_unlikely(done < 0 && errno == EINTR));
    if (done <= 0) {
        messages[0].result = done ? -errno : -EAGAIN;
        return 1;
    }
    for (int i = 0; i < done; i++)
        messages[i].result = (int32_t)headers[i].msg_len;
    return (uint32_t)done;
}

bool vu_packet_is_gone(int fd)
{
    struct sockaddr_ll bound;
    socklen_t length = sizeof(bound);

    return getsockname(fd, (struct sockaddr *)&bound, &length) == 0 &&
           length >= offsetof(struct sockaddr_ll, sll_addr) && bound.sll_family == AF_PACKET &&
           bound.sll_ifindex <= 0;
}
