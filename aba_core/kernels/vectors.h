/* What the files in C share: how wide vectors are, and a scratch that each thread keeps. */
#ifndef VECTORS_H
#define VECTORS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR 64
#define REGISTERS 32
#elif defined(__AVX__)
#define VECTOR 32
#define REGISTERS 16
#elif defined(__aarch64__)
#define VECTOR 16
#define REGISTERS 32
#else
#define VECTOR 16
#define REGISTERS 16
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* A value that stays in a register. With 16 of them, compilers load it from memory again at each use,
 * which takes longer than the products that it is for. */
#if defined(__AVX__) && !defined(__AVX512F__)
#define HELD(value) ({ __typeof__(value) held = (value); __asm__("" : "+x"(held)); held; })
#else
#define HELD(value) (value)
#endif

static _Thread_local void *scratch_memory;
static _Thread_local size_t scratch_bytes;

/* The thread's memory, kept for its next call. */
static inline char *scratch(size_t bytes)
{
    if (bytes > scratch_bytes) {
        free(scratch_memory);
        scratch_bytes = 0;
        if (posix_memalign(&scratch_memory, 64, bytes)) {
            scratch_memory = NULL;
            return NULL;
        }
        scratch_bytes = bytes;
    }
    return scratch_memory;
}

static inline size_t rounded(size_t count, size_t unit) { return (count + unit - 1) / unit * unit; }

#endif
