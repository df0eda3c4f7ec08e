// The cases of cases.h on a GPU: controllers and kernels are blocks of one launch, told apart by their index, so
// that they run at the same time whatever tool looks on.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "cases.h"
#include "gcos/batch.h"

namespace gcos_load {

__global__ void __launch_bounds__(256) checked(gcos::Batch batch, gcos_test::Model* models,
                                               std::uint32_t model_count, std::uint32_t blocks,
                                               bool shared_pairs) {
  __shared__ gcos::BlockShared shared;
  if (blockIdx.x < model_count) {
    if (threadIdx.x < 32) gcos_test::Server<32>(models[blockIdx.x]).run();
    return;
  }
  const std::uint32_t block = blockIdx.x - model_count;
  if (shared_pairs) {
    gcos::run_shared_batch(batch, block, blocks, gcos::NoProbe{});
  } else {
    gcos::run_batch(batch, block, blocks, shared, gcos::NoProbe{});
  }
}

class GpuBackend : public gcos_test::Backend {
 public:
  ~GpuBackend() override { cudaFree(device_); }

  bool open(std::size_t bytes, unsigned char** image, std::uint64_t* base) override {
    if (bytes > host_.size()) {
      cudaFree(device_);
      device_ = nullptr;
      if (cudaMalloc(&device_, bytes) != cudaSuccess) return false;
      host_.resize(bytes);
    }
    used_ = bytes;
    *image = host_.data();
    *base = reinterpret_cast<std::uintptr_t>(device_);
    return true;
  }

  bool launch(const char* kernel, std::uint32_t grid, std::uint32_t block, const gcos::Batch& batch,
              std::uint64_t models, std::uint32_t model_count) override {
    cudaMemcpy(device_, host_.data(), used_, cudaMemcpyHostToDevice);
    checked<<<grid + model_count, block>>>(batch, reinterpret_cast<gcos_test::Model*>(models), model_count,
                                           grid,
                                           std::strcmp(kernel, "gcos_io_shared") == 0);
    const cudaError_t said = cudaDeviceSynchronize();
    if (said != cudaSuccess) std::fprintf(stderr, "load: %s\n", cudaGetErrorString(said));
    cudaMemcpy(host_.data(), device_, used_, cudaMemcpyDeviceToHost);
    return said == cudaSuccess;
  }

 private:
  std::vector<unsigned char> host_;
  void* device_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace gcos_load
