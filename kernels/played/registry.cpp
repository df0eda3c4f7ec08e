// The kernels that can be started by name, and the start of them.
//
// A new kernel gets a declaration and a line in kKernels.
#include <cstring>

#include "gcos/abi.h"
#include "gcos/platform.h"
#include "played/launch.h"
#include "played/team.h"

extern "C" {
void gcos_io(gcos::Batch);
void gcos_io_shared(gcos::Batch);
void gcos_checksum(gcos::ChecksumBatch);
void gcos_copy(gcos::CopyBatch);
void gcos_paged_copy(gcos::PagedBatch);
void gcos_round_trip(gcos::RoundTrip);
}

namespace {

struct Kernel {
  const char* name;
  std::uint64_t params_len;
  void (*call)(const void* params);
};

// Copies the record, as a launch on a GPU does, and calls the kernel with it.
template <class Record, void (*Function)(Record)>
void call(const void* params) {
  Record record;
  std::memcpy(&record, params, sizeof record);
  Function(record);
}

template <class Record, void (*Function)(Record)>
constexpr Kernel kernel(const char* name) {
  return Kernel{name, sizeof(Record), &call<Record, Function>};
}

constexpr Kernel kKernels[] = {
    kernel<gcos::Batch, gcos_io>("gcos_io"),
    kernel<gcos::Batch, gcos_io_shared>("gcos_io_shared"),
    kernel<gcos::ChecksumBatch, gcos_checksum>("gcos_checksum"),
    kernel<gcos::CopyBatch, gcos_copy>("gcos_copy"),
    kernel<gcos::PagedBatch, gcos_paged_copy>("gcos_paged_copy"),
    kernel<gcos::RoundTrip, gcos_round_trip>("gcos_round_trip"),
};

}  // namespace

std::int32_t gcos_played_launch(const char* name, std::uint32_t grid, std::uint32_t block,
                                const void* params, std::uint64_t params_len) {
  for (const Kernel& kernel : kKernels) {
    if (std::strcmp(kernel.name, name) != 0) continue;
    if (kernel.params_len != params_len) return -2;
    if (grid == 0 || block == 0 || block % gcos::kWarpThreads != 0) return -3;
    if (block > gcos::kMaxBlockThreads) return -3;
    return gcos::played::run(grid, block, [&] { kernel.call(params); }) ? 0 : -4;
  }
  return -1;
}

std::uint64_t gcos_layout_hash() { return gcos::kLayoutHash; }
