/* Counts the bytes that are allocated, of blocks of some least size: for LD_PRELOAD, on glibc. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static atomic_long held, most;
static long least;

static void *counted(void *block) {
  long size = block ? (long)malloc_usable_size(block) : 0;
  if (size && size >= least) {
    long now = atomic_fetch_add(&held, size) + size, before = atomic_load(&most);
    while (now > before && !atomic_compare_exchange_weak(&most, &before, now)) {
    }
  }
  return block;
}

static void forget(void *block) {
  long size = block ? (long)malloc_usable_size(block) : 0;
  if (size >= least) atomic_fetch_sub(&held, size);
}

void *malloc(size_t size) { return counted(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size)); }
void *memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
void free(void *block) { forget(block), __libc_free(block); }

void *realloc(void *block, size_t size) {
  forget(block);
  void *made = __libc_realloc(block, size);
  return counted(made || !size ? made : block), made;
}

int posix_memalign(void **made, size_t alignment, size_t size) {
  void *block = memalign(alignment, size);
  if (!block) return ENOMEM;
  *made = block;
  return 0;
}

/* Begin anew: blocks of `size` bytes and more count, those that are held now do not. */
void count_from(long size) { least = size, held = 0, most = 0; }
long most_held(void) { return most; }
long held_now(void) { return held; }
