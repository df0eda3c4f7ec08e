// What the programs beside this file share: errors, memory, random numbers, what the CPU makes of
// bytes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "gcos/abi.h"
#include "gcos/crc32c.h"

namespace gcos::test {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

// CRC-32C of bytes, one by one.
inline std::uint32_t crc32c_of(const std::uint8_t* bytes, std::size_t count) {
  static const crc32c::Product table = crc32c::product_with(crc32c::past(1));
  std::uint32_t crc = ~0u;
  for (std::size_t i = 0; i < count; ++i) {
    crc = (crc >> 8) ^ table.of[0][(crc ^ bytes[i]) & 0xffu];
  }
  return ~crc;
}

// CRC-32C of as many zeros: the seed that makes a kernel's sum the checksum.
inline std::uint32_t crc32c_of_zeros(std::uint32_t bytes) {
  return ~crc32c::times(~0u, crc32c::past(bytes));
}

// Memory of the GPU.
class Device {
 public:
  explicit Device(std::size_t bytes) : bytes_(bytes) {
    check(cudaMalloc(&base_, bytes), "cudaMalloc");
  }
  ~Device() { cudaFree(base_); }
  Device(const Device&) = delete;
  std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(base_); }
  std::size_t bytes() const { return bytes_; }
  void put(const void* from, std::size_t bytes) {
    check(cudaMemcpy(base_, from, bytes, cudaMemcpyHostToDevice), "copy to the GPU");
  }
  void get(void* to, std::size_t bytes) const {
    check(cudaMemcpy(to, base_, bytes, cudaMemcpyDeviceToHost), "copy from the GPU");
  }

 private:
  void* base_ = nullptr;
  std::size_t bytes_;
};

// Host memory that the GPU reaches, as descriptors lie in.
template <class T>
class Pinned {
 public:
  explicit Pinned(std::size_t count) : count_(count) {
    void* base = nullptr;
    check(cudaHostAlloc(&base, count * sizeof(T), cudaHostAllocPortable), "cudaHostAlloc");
    at_ = static_cast<T*>(base);
    for (std::size_t i = 0; i < count; ++i) at_[i] = T{};
  }
  explicit Pinned(const std::vector<T>& from) : Pinned(from.size()) {
    for (std::size_t i = 0; i < count_; ++i) at_[i] = from[i];
  }
  ~Pinned() { cudaFreeHost(at_); }
  Pinned(const Pinned&) = delete;
  T& operator[](std::size_t i) { return at_[i]; }
  std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(at_); }
  std::size_t count() const { return count_; }

 private:
  T* at_ = nullptr;
  std::size_t count_;
};

// Random numbers; the seed is part of a failure's message.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t below(std::uint64_t end) { return engine_() % end; }
  std::uint64_t between(std::uint64_t first, std::uint64_t last) {
    return first + below(last - first + 1);
  }
  void fill(std::vector<std::uint8_t>& bytes) {
    for (auto& byte : bytes) byte = static_cast<std::uint8_t>(engine_());
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace gcos::test
