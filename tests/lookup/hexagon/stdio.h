// Declarations of `runtime.c`.
#include <stddef.h>
int printf(const char* form, ...);
void exit(int code);
void* memcpy(void* to, const void* from, size_t count);
void* memset(void* at, int value, size_t count);
int strcmp(const char* a, const char* b);
int atoi(const char* text);
