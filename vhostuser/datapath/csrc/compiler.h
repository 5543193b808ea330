/* SPDX-License-Identifier: Apache-2.0 */
/* What the compiler is told: inlining, branch weights, layout.  Nothing here knows virtio. */
#ifndef VU_COMPILER_H
#define VU_COMPILER_H

#define VU_CACHE_LINE 64

#define vu_likely(condition) __builtin_expect(!!(condition), 1)
#define vu_unlikely(condition) __builtin_expect(!!(condition), 0)
#ifndef vu_always_inline /* under a sanitizer, a loop for each format and port takes minutes to compile */
#define vu_always_inline inline __attribute__((always_inline))
#endif
/* From here on the object is what it is: no later use of it is a second look at where it was copied from. */
#define vu_settle(object) __asm__ volatile("" : "+m"(object))
#define vu_noinline __attribute__((noinline))
#define vu_cache_aligned __attribute__((aligned(VU_CACHE_LINE)))
#define VU_ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define VU_MIN(a, b) ((a) < (b) ? (a) : (b))
#define VU_MAX(a, b) ((a) > (b) ? (a) : (b))

/* Into the cache, to be read; or to be written, so that no other cache has the line any more.  For the latter
   compilers emit the former unless they are told of a CPU of 2003 or later; older 64-bit ones take it for a
   no-op. */
#define vu_prefetch(address) __builtin_prefetch(address, 0)
#if defined(__x86_64__)
#define vu_prefetch_write(address) __asm__ volatile("prefetchw %0" : : "m"(*(const char *)(address)))
#else
#define vu_prefetch_write(address) __builtin_prefetch(address, 1)
#endif

/* Between two looks at what another thread is about to write. */
static vu_always_inline void vu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#if __SIZEOF_POINTER__ != 8
#error "64-bit hosts only: guest addresses and mappings share one address space"
#endif

#endif
