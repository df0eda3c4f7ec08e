// Arithmetic of CRC-32C (Castagnoli): polynomials over GF(2) modulo the generator, bits reflected,
// so that bit 31 of a word is the coefficient of x^0 and a little-endian load puts bytes in their
// order. All of it is constexpr; the tables are made by the compiler.
#pragma once

#include <cstdint>

#include "gcos/platform.h"

// What the compiler computes, and the kernels too; and what it computes for the kernels.
#if defined(GCOS_PLAYED)
#define GCOS_ANYWHERE
#define GCOS_TABLE inline constexpr
#else
#define GCOS_ANYWHERE __host__ __device__ __forceinline__
#define GCOS_TABLE static __device__ constexpr
#endif

namespace gcos {
namespace crc32c {

// The generator without its highest term.
constexpr std::uint32_t kGenerator = 0x82f63b78u;

// a * x.
GCOS_ANYWHERE constexpr std::uint32_t times_x(std::uint32_t a) {
  return (a >> 1) ^ (kGenerator & (0u - (a & 1u)));
}

// a * b.
GCOS_ANYWHERE constexpr std::uint32_t times(std::uint32_t a, std::uint32_t b) {
  std::uint32_t sum = 0;
  for (int bit = 0; bit < 32; ++bit) {
    sum ^= b & (0u - (a >> 31));
    a <<= 1;
    b = times_x(b);
  }
  return sum;
}

// x to the power of eight times `bytes`: what shifts a remainder past so many bytes.
constexpr std::uint32_t past(std::uint32_t bytes) {
  std::uint32_t power = 0x80000000u;
  std::uint32_t square = 0x00800000u;
  for (; bytes != 0; bytes >>= 1) {
    if ((bytes & 1u) != 0) power = times(power, square);
    square = times(square, square);
  }
  return power;
}

// The product of a constant with any word, by the word's bytes.
struct Product {
  std::uint32_t of[4][256];
};

constexpr Product product_with(std::uint32_t factor) {
  Product table{};
  // Bit 31 stands for x^0, so the factor itself is the product with the highest bit.
  std::uint32_t term = factor;
  for (int bit = 31; bit >= 0; --bit) {
    table.of[bit / 8][1 << (bit % 8)] = term;
    term = times_x(term);
  }
  for (int byte = 0; byte < 4; ++byte) {
    for (int value = 1; value < 256; ++value) {
      const int lowest = value & -value;
      table.of[byte][value] = table.of[byte][value ^ lowest] ^ table.of[byte][lowest];
    }
  }
  return table;
}

// The product, by four look-ups.
GCOS_ANYWHERE constexpr std::uint32_t look_up(const Product& table, std::uint32_t word) {
  return table.of[0][word & 0xffu] ^ table.of[1][(word >> 8) & 0xffu] ^
         table.of[2][(word >> 16) & 0xffu] ^ table.of[3][word >> 24];
}

// What shifts past `bytes` each of 31, 30, ... 0 times: for the lanes of a warp that hold
// neighbours.
struct Places {
  std::uint32_t of[32];
};

constexpr Places places_of(std::uint32_t bytes) {
  Places places{};
  for (std::uint32_t lane = 0; lane < 32; ++lane) places.of[lane] = past(bytes * (31u - lane));
  return places;
}

}  // namespace crc32c
}  // namespace gcos
