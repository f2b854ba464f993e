// As much of a C library as `cases.c` needs, for a Hexagon program that an emulator runs without an operating system's
// library: printf of %s and %d, arguments from the stack, division.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

static long call(long number, long a, long b, long c) {
  register long r6 __asm__("r6") = number;
  register long r0 __asm__("r0") = a;
  register long r1 __asm__("r1") = b;
  register long r2 __asm__("r2") = c;
  __asm__ volatile("trap0(#1)" : "+r"(r0) : "r"(r6), "r"(r1), "r"(r2) : "memory");
  return r0;
}

void exit(int code) {
  call(93, code, 0, 0);
  for (;;) {}
}

void* memset(void* at, int value, size_t count) {
  for (size_t i = 0; i < count; i++) ((volatile uint8_t*)at)[i] = (uint8_t)value;
  return at;
}

void* memcpy(void* to, const void* from, size_t count) {
  for (size_t i = 0; i < count; i++) ((volatile uint8_t*)to)[i] = ((const uint8_t*)from)[i];
  return to;
}

int strcmp(const char* a, const char* b) {
  while (*a && *a == *b) a++, b++;
  return *a - *b;
}

int atoi(const char* text) {
  int value = 0;
  for (; *text >= '0' && *text <= '9'; text++) value = value * 10 + (*text - '0');
  return value;
}

uint32_t __hexagon_udivsi3(uint32_t a, uint32_t b) {
  uint32_t whole = 0, rest = 0;
  for (int i = 31; i >= 0; i--) {
    rest = rest << 1 | (a >> i & 1);
    if (rest >= b) rest -= b, whole |= 1u << i;
  }
  return whole;
}
uint32_t __hexagon_umodsi3(uint32_t a, uint32_t b) { return a - __hexagon_udivsi3(a, b) * b; }
int32_t __hexagon_divsi3(int32_t a, int32_t b) {
  uint32_t whole = __hexagon_udivsi3((uint32_t)(a < 0 ? -a : a), (uint32_t)(b < 0 ? -b : b));
  return (a < 0) != (b < 0) ? -(int32_t)whole : (int32_t)whole;
}
int32_t __hexagon_modsi3(int32_t a, int32_t b) { return a - __hexagon_divsi3(a, b) * b; }
uint64_t __hexagon_udivdi3(uint64_t a, uint64_t b) {
  uint64_t whole = 0, rest = 0;
  for (int i = 63; i >= 0; i--) {
    rest = rest << 1 | (a >> i & 1);
    if (rest >= b) rest -= b, whole |= 1ull << i;
  }
  return whole;
}
int64_t __hexagon_divdi3(int64_t a, int64_t b) {
  uint64_t whole = __hexagon_udivdi3((uint64_t)(a < 0 ? -a : a), (uint64_t)(b < 0 ? -b : b));
  return (a < 0) != (b < 0) ? -(int64_t)whole : (int64_t)whole;
}
int64_t __hexagon_moddi3(int64_t a, int64_t b) { return a - __hexagon_divdi3(a, b) * b; }
uint64_t __hexagon_umoddi3(uint64_t a, uint64_t b) { return a - __hexagon_udivdi3(a, b) * b; }

float __hexagon_divsf3(float a, float b) {  // positive b; within an ulp or two, which both kernels are given alike
  union { float f; uint32_t i; } guess = {b};
  guess.i = 0x7ef311c7u - guess.i;
  float inverse = guess.f;
  for (int i = 0; i < 5; i++) inverse = inverse * (2.0f - b * inverse);
  return a * inverse;
}

float rintf(float value) { return value < 0 ? (float)(int)(value - 0.5f) : (float)(int)(value + 0.5f); }

static void put(const char* text, int count) { call(64, 1, (long)text, count); }

int printf(const char* form, ...) {
  va_list given;
  va_start(given, form);
  for (; *form; form++) {
    if (*form != '%') {
      put(form, 1);
      continue;
    }
    form++;
    if (*form == 's') {
      const char* text = va_arg(given, const char*);
      int count = 0;
      while (text[count]) count++;
      put(text, count);
    } else {
      char digits[12];
      int at = 12, value = va_arg(given, int), negative = value < 0;
      uint32_t rest = (uint32_t)(negative ? -value : value);
      do digits[--at] = (char)('0' + rest % 10), rest /= 10;
      while (rest);
      if (negative) digits[--at] = '-';
      put(digits + at, 12 - at);
    }
  }
  va_end(given);
  return 0;
}

int main(int argc, char** argv);

__attribute__((used)) static void start(const long* stack) {
  call(93, main((int)stack[0], (char**)(stack + 1)), 0, 0);
}

__attribute__((naked)) void _start(void) { __asm__("{ r0 = r29\n r29 = and(r29, #-8) }\n call start\n"); }
