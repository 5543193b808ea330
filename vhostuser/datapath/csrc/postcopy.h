/* SPDX-License-Identifier: Apache-2.0 */
/* Postcopy: memory whose pages come one by one, when somebody touches them, from whoever reads the
   userfaultfd.  A touch waits until its page is there, in a system call as well as in a load. */
#ifndef VU_POSTCOPY_H
#define VU_POSTCOPY_H

#include "memory.h"

/* A userfaultfd that has had its handshake.  Returns -errno; EPERM when it would not report the faults of the
   kernel's own accesses, which reading and writing a port are. */
int vu_uffd_open(void);
/* Where the region that holds gpa begins in our address space: what the faults in it are counted from. */
uint64_t vu_memory_base(const struct vu_memory *memory, uint64_t gpa);
/* For a table that was mapped late (struct vu_region_setup): from now on a touch of a page that its file does
   not have is a fault that uffd reports, and any other one is as usual.  Returns -errno, ENOSYS when the
   kernel cannot copy pages into such a file; nothing may be touched then. */
int vu_memory_register(const struct vu_memory *memory, int uffd);
/* Pages that never came are zero from now on; who waits for one goes on. */
void vu_memory_unregister(const struct vu_memory *memory, int uffd);
/* No touch reaches the file any more: each is a SIGBUS, as if the file had been cut short, also of those who
   wait for a page now.  For a front-end that has gone: unregister would have the burst go on with zeros, and
   put those into memory that may still be some guest's.  Closing uffd is no way out either, since the
   front-end has another descriptor of it. */
void vu_memory_cut(const struct vu_memory *memory, int uffd);

#endif
