/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A switch: frames go from one member's rings into another's, in one copy.  It learns addresses as a bridge
 * does (IEEE 802.1Q, 8.7), and has no ports but its members.
 *
 * A member's receive rings are filled in the turns of any worker that serves a member.  So what device.h
 * wants of the workers of a device's pairs holds, for a member, of the workers of all pairs of all members:
 * each change of a member pauses them all.  And a page of a receiver that is slow to come is waited for by
 * every worker that sends there.
 */
#ifndef VU_SWITCH_H
#define VU_SWITCH_H

#include <stdint.h>

#include "device.h"

struct vu_switch;
struct vu_member;

/* age: seconds after which an address that sends nothing is forgotten.  seed: a random number.  NULL when out
   of memory. */
struct vu_switch *vu_switch_new(uint32_t age, uint64_t seed);
/* All members must have left. */
void vu_switch_free(struct vu_switch *lan);
/* Addresses that are known now, among them some that have grown old; any thread. */
uint32_t vu_switch_addresses(const struct vu_switch *lan);
/* The device is a member until it leaves: its pairs of VU_PORT_SWITCH send to the others.  NULL when there
   are too many (errno ENOSPC), or no memory. */
struct vu_member *vu_switch_join(struct vu_switch *lan, struct vu_device *device);
void vu_switch_leave(struct vu_member *member);
/* Addresses behind it are unknown from now on; any thread. */
void vu_member_forget(struct vu_member *member);
/* Longest packet that it takes, or that those are cut up into that it takes whole, without Ethernet header;
   0: any.  Any thread. */
void vu_member_set_mtu(struct vu_member *member, uint32_t mtu);
/* A frame as if its guest had sent it, without offloads.  Nothing when the device has no pair. */
void vu_member_inject(struct vu_member *member, const uint8_t *frame, uint32_t length);

#endif
