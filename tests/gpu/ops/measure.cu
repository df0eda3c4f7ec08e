// What the checksum and copy kernels reach on this GPU, beside the GPU's own copy of the same bytes
// in the same run. Memory in turns, far beyond the caches; medians of several repetitions. Prints
// JSON.
//
// Usage: measure
#include <algorithm>
#include <functional>
#include <string>

#include "checksum.cu"
#include "copy.cu"
#include "paged.cu"
#include "support.h"
#include "variants.h"

using namespace gcos;
using namespace gcos::test;

namespace {

constexpr std::size_t kMib = std::size_t{1} << 20;
int multiprocessors = 0;
bool first_line = true;

void line(const std::string& text) {
  std::printf("%s  %s", first_line ? "" : ",\n", text.c_str());
  first_line = false;
}

template <class... Args>
std::string text(const char* format, Args... args) {
  char buffer[512];
  std::snprintf(buffer, sizeof buffer, format, args...);
  return buffer;
}

// Milliseconds of one call: the median of nine measurements of `calls` calls each.
double milliseconds(int calls, const std::function<void(int)>& call) {
  cudaEvent_t start, end;
  check(cudaEventCreate(&start), "event");
  check(cudaEventCreate(&end), "event");
  int turn = 0;
  for (int i = 0; i < 2; ++i) call(turn++);
  std::vector<double> taken;
  for (int repetition = 0; repetition < 9; ++repetition) {
    check(cudaEventRecord(start), "record");
    for (int i = 0; i < calls; ++i) call(turn++);
    check(cudaEventRecord(end), "record");
    check(cudaEventSynchronize(end), "synchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, end), "elapsed");
    taken.push_back(ms / calls);
  }
  check(cudaGetLastError(), "launch");
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  std::sort(taken.begin(), taken.end());
  return taken[taken.size() / 2];
}

template <class Kernel>
int resident(Kernel kernel, int threads) {
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, 0), "occupancy");
  return blocks;
}

template <class Kernel>
void attributes(const char* name, Kernel kernel, int threads) {
  cudaFuncAttributes a{};
  check(cudaFuncGetAttributes(&a, kernel), "attributes");
  const int blocks = resident(kernel, threads);
  line(
      text("{\"kernel\": \"%s\", \"threads\": %d, \"registers\": %d, \"local_bytes\": %zu, "
           "\"shared_bytes\": %zu, \"blocks_per_multiprocessor\": %d, \"occupancy\": %.2f}",
           name, threads, a.numRegs, a.localSizeBytes, a.sharedSizeBytes, blocks,
           blocks * threads / 2048.0));
}

// Grains in `memory`, each of runs of `run_bytes` that are dealt out at random over the memory.
struct Grains {
  std::vector<GrainRun> runs;
  std::vector<Grain> grains;
};

Grains cut(std::uint64_t base, std::size_t bytes, std::uint32_t grain_bytes,
           std::uint32_t run_bytes, std::uint32_t skew, Random& random) {
  const std::size_t places = (bytes - 64) / run_bytes;
  std::vector<std::uint32_t> order(places);
  for (std::size_t i = 0; i < places; ++i) order[i] = static_cast<std::uint32_t>(i);
  if (run_bytes < grain_bytes) {
    for (std::size_t i = places - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  }
  Grains cut;
  std::size_t next = 0;
  while (next + grain_bytes / run_bytes <= places) {
    Grain grain{static_cast<std::uint32_t>(cut.runs.size()), grain_bytes / run_bytes, grain_bytes,
                crc32c_of_zeros(grain_bytes)};
    for (std::uint32_t r = 0; r < grain.run_count; ++r, ++next) {
      cut.runs.push_back(
          GrainRun{base + std::uint64_t{order[next]} * run_bytes + skew, r * run_bytes, run_bytes});
    }
    cut.grains.push_back(grain);
  }
  return cut;
}

void measure_checksums(Device& memory, const std::vector<std::uint8_t>& data, double copy_gbs) {
  struct Case {
    const char* name;
    std::uint32_t grain, run, skew;
  };
  const Case cases[] = {
      {"64 KiB grains, one run", 65536, 65536, 0},
      {"64 KiB grains, one run, skewed 4", 65536, 65536, 4},
      {"64 KiB grains, one run, skewed 3", 65536, 65536, 3},
      {"64 KiB grains, runs of 32 KiB", 65536, 32768, 0},
      {"64 KiB grains, runs of 4 KiB", 65536, 4096, 0},
      {"64 KiB grains, runs of 2 KiB", 65536, 2048, 0},
      {"64 KiB grains, runs of 4 KiB, skewed 3", 65536, 4096, 3},
      {"4 KiB grains", 4096, 4096, 0},
      {"1 MiB grains", 1 << 20, 1 << 20, 0},
  };
  Random random(5);
  for (const Case& c : cases) {
    const Grains g = cut(memory.address(), memory.bytes(), c.grain, c.run, c.skew, random);
    Pinned<GrainRun> runs(g.runs);
    Pinned<Grain> grains(g.grains);
    Pinned<std::uint32_t> sums(g.grains.size());
    ChecksumBatch batch{runs.address(), grains.address(), sums.address(),
                        static_cast<std::uint32_t>(g.grains.size()), 0};
    using Kernel = void (*)(ChecksumBatch);
    struct Way {
      const char* name;
      Kernel kernel;
    };
    std::vector<Way> ways = {{"tables of 8 bits", gcos_checksum}};
    if (c.run == c.grain && c.skew == 0) {
      ways.push_back({"tables of 11 bits", checksum_by<WideRows>});
      ways.push_back({"tables of 4 bits, a copy for each bank", checksum_by<NibbleRows>});
      ways.push_back({"bit slices", checksum_sliced});
    }
    for (const Way& way : ways) {
      const int most = multiprocessors * resident(way.kernel, kChecksumThreads);
      const int grid = std::min<int>(most, g.grains.size());
      const double ms =
          milliseconds(3, [&](int) { way.kernel<<<grid, kChecksumThreads>>>(batch); });
      // A sample of the sums, so that no figure is of a wrong result.
      bool good = true;
      for (std::size_t i = 0; i < g.grains.size(); i += 1 + g.grains.size() / 8) {
        std::vector<std::uint8_t> joined;
        for (std::uint32_t r = 0; r < g.grains[i].run_count; ++r) {
          const GrainRun& run = g.runs[g.grains[i].first_run + r];
          for (std::uint64_t b = 0; b < run.bytes; ++b) {
            joined.push_back(data[(run.address - memory.address() + b) % data.size()]);
          }
        }
        good = good && sums[i] == crc32c_of(joined.data(), joined.size());
      }
      const double gbs = double(c.grain) * g.grains.size() / ms / 1e6;
      line(
          text("{\"checksum\": \"%s\", \"way\": \"%s\", \"mib\": %zu, \"gb_s\": %.1f, "
               "\"of_copy\": %.3f, \"right\": %s}",
               c.name, way.name, g.grains.size() * c.grain / kMib, gbs, gbs / copy_gbs,
               good ? "true" : "false"));
      if (!good) std::exit(1);
    }
  }
  // Few grains: the time of a launch to its end, in a row with others.
  for (const std::uint32_t count : {1u, 16u, 512u}) {
    const Grains g = cut(memory.address(), memory.bytes(), 65536, 65536, 0, random);
    Pinned<GrainRun> runs(g.runs);
    Pinned<Grain> grains(g.grains);
    Pinned<std::uint32_t> sums(count);
    using Kernel = void (*)(ChecksumBatch);
    struct Way {
      const char* name;
      Kernel kernel;
      std::uint32_t per_block;
    };
    const Way ways[] = {{"tables of 8 bits", gcos_checksum, 1}, {"bit slices", checksum_sliced, 8}};
    for (const Way& way : ways) {
      const double ms = milliseconds(50, [&](int turn) {
        const std::uint32_t first = turn % 16 * count % (g.grains.size() - count);
        ChecksumBatch batch{runs.address(), grains.address() + first * sizeof(Grain),
                            sums.address(), count, 0};
        way.kernel<<<(count + way.per_block - 1) / way.per_block, kChecksumThreads>>>(batch);
      });
      line(text(
          "{\"checksum\": \"%u grains of 64 KiB\", \"way\": \"%s\", \"us\": %.2f, \"gb_s\": %.1f}",
          count, way.name, ms * 1e3, count * 65536.0 / ms / 1e6));
    }
  }
}

double measure_copy_engine(Device& memory, std::size_t bytes) {
  const std::uint64_t half = memory.bytes() / 2;
  const std::uint64_t turns = half / bytes;
  const double ms = milliseconds(turns > 4 ? 8 : 2, [&](int turn) {
    const std::uint64_t at = turn % turns * bytes;
    check(cudaMemcpyAsync(reinterpret_cast<void*>(memory.address() + half + at),
                          reinterpret_cast<void*>(memory.address() + at), bytes,
                          cudaMemcpyDeviceToDevice),
          "copy");
  });
  line(text(
      "{\"copy\": \"cudaMemcpy device to device\", \"mib\": %zu, \"us\": %.1f, \"gb_s\": %.1f}",
      bytes / kMib, ms * 1e3, bytes / ms / 1e6));
  return bytes / ms / 1e6;
}

void measure_copies(Device& memory, std::size_t bytes, double copy_gbs) {
  const std::uint64_t half = memory.bytes() / 2;
  for (const std::uint32_t piece : {2048u, 16384u}) {
    for (const std::uint32_t skew : {0u, 4u, 1u}) {
      std::vector<CopyRun> list;
      for (std::uint64_t at = 0; at + piece + 16 <= bytes; at += piece) {
        list.push_back(CopyRun{memory.address() + at + skew, memory.address() + half + at, piece});
      }
      Pinned<CopyRun> runs(list);
      CopyBatch batch{runs.address(), static_cast<std::uint32_t>(list.size()), 0};
      const int most = multiprocessors * resident(gcos_copy, 256);
      const int grid = std::min<int>(most, (list.size() + 7) / 8);
      const double ms = milliseconds(3, [&](int) { gcos_copy<<<grid, 256>>>(batch); });
      const double gbs = double(piece) * list.size() / ms / 1e6;
      line(
          text("{\"copy\": \"gcos_copy, runs of %u bytes, %u apart\", \"mib\": %zu, \"us\": %.1f, "
               "\"gb_s\": %.1f, \"of_copy\": %.3f}",
               piece, skew, bytes / kMib, ms * 1e3, gbs, gbs / copy_gbs));
    }
  }
}

// Objects of `tokens` tokens, 32 layers, 8 heads of 256 bytes, blocks of 16 tokens anywhere in the
// cache.
void measure_paged(Device& cache, Device& objects, std::uint32_t tokens, double copy_gbs) {
  constexpr std::uint32_t kLayers = 32, kToken = 2048, kBlock = 16;
  const std::uint64_t layer_bytes = cache.bytes() / kLayers;
  const std::uint32_t blocks = static_cast<std::uint32_t>(layer_bytes / (2 * kBlock * kToken));
  const std::uint64_t object_bytes = std::uint64_t{kLayers} * 2 * tokens * kToken;
  const std::uint32_t turns = static_cast<std::uint32_t>(objects.bytes() / object_bytes);
  std::vector<std::uint64_t> layers(kLayers);
  for (std::uint32_t l = 0; l < kLayers; ++l) layers[l] = cache.address() + l * layer_bytes;
  std::vector<std::uint32_t> order(blocks);
  for (std::uint32_t i = 0; i < blocks; ++i) order[i] = i;
  Random random(9);
  for (std::uint32_t i = blocks - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  const std::uint32_t per_object = tokens / kBlock;
  Pinned<std::uint32_t> table(blocks), counters(1);
  Pinned<std::uint64_t> slots(std::size_t{per_object} * kBlock * (blocks / per_object));
  for (std::uint32_t i = 0; i < blocks; ++i) table[i] = order[i];
  for (std::size_t i = 0; i < slots.count(); ++i)
    slots[i] = std::uint64_t{order[i / kBlock]} * kBlock + i % kBlock;
  Device device_layers(kLayers * 8);
  device_layers.put(layers.data(), kLayers * 8);
  Device device_slots(slots.count() * 8), device_table(blocks * 4);
  device_slots.put(&slots[0], slots.count() * 8);
  device_table.put(&table[0], blocks * 4);
  enum Form { kPlanesFirst, kBlocksFirst, kHeadsFirst };
  struct Case {
    const char* name;
    Form form;
    bool slots, on_device;
    std::uint32_t width;
  };
  const Case cases[] = {
      {"[2, blocks, 16, token]", kPlanesFirst, false, false, 16},
      {"[2, blocks, 16, token], table on the GPU", kPlanesFirst, false, true, 16},
      {"[2, blocks, 16, token], slots", kPlanesFirst, true, false, 16},
      {"[2, blocks, 16, token], slots on the GPU", kPlanesFirst, true, true, 16},
      {"[blocks, 2, 16, token]", kBlocksFirst, false, false, 16},
      {"[blocks, 2, 8 heads, 16, head]", kHeadsFirst, false, false, 16},
      {"[2, blocks, 16, token], by 2 bytes", kPlanesFirst, false, false, 2},
  };
  for (const Case& c : cases) {
    if (tokens != 256 && tokens != 4096 && c.form != kPlanesFirst) continue;
    for (const bool scatter : {false, true}) {
      PagedBatch b{};
      b.layers = device_layers.address();
      b.refused = counters.address();
      b.layer_count = kLayers;
      b.plane_count = 2;
      b.part_count = c.form == kHeadsFirst ? 8 : 1;
      b.part_bytes = kToken / b.part_count;
      b.tokens = tokens;
      b.block_tokens = kBlock;
      b.block_count = blocks;
      b.width = c.width;
      b.flags = (scatter ? kPagedScatter : 0) | (c.slots ? kPagedSlots : 0);
      b.object_part_stride = b.part_bytes;
      b.object_token_stride = kToken;
      b.object_layer_stride = std::uint64_t{tokens} * kToken;
      b.object_plane_stride = kLayers * b.object_layer_stride;
      b.page_token_stride = b.part_bytes;
      b.page_part_stride = std::uint64_t{kBlock} * b.part_bytes;
      b.page_block_stride = std::uint64_t{kBlock} * kToken;
      b.page_plane_stride = blocks * b.page_block_stride;
      if (c.form != kPlanesFirst) {
        b.page_plane_stride = b.page_block_stride;
        b.page_block_stride *= 2;
      }
      const int most = multiprocessors * resident(gcos_paged_copy, 256);
      const std::uint64_t share = object_bytes / most;
      const std::uint64_t tile =
          std::min<std::uint64_t>(std::max<std::uint64_t>(share, 4096), 32768);
      b.tile_tokens = static_cast<std::uint32_t>(std::min<std::uint64_t>(
          std::max<std::uint64_t>(tile / b.part_bytes, 1), std::min<std::uint32_t>(256, tokens)));
      const std::uint64_t tiles = std::uint64_t{kLayers} * 2 * b.part_count *
                                  ((tokens + b.tile_tokens - 1) / b.tile_tokens);
      const int grid = static_cast<int>(std::min<std::uint64_t>(tiles, most));
      const double ms = milliseconds(turns > 4 ? 8 : 2, [&](int turn) {
        const std::uint32_t which = turn % turns;
        const std::uint64_t entry = std::uint64_t{which} * per_object % (blocks - per_object + 1);
        b.object = objects.address() + which * object_bytes;
        if (c.slots) {
          b.table = (c.on_device ? device_slots.address() : slots.address()) + entry * kBlock * 8;
        } else {
          b.table = (c.on_device ? device_table.address() : table.address()) + entry * 4;
        }
        gcos_paged_copy<<<grid, 256>>>(b);
      });
      check(cudaDeviceSynchronize(), "gcos_paged_copy");
      const double gbs = object_bytes / ms / 1e6;
      line(
          text("{\"paged\": \"%s\", \"way\": \"%s\", \"mib\": %zu, \"us\": %.1f, \"gb_s\": %.1f, "
               "\"of_copy\": %.3f, \"refused\": %u}",
               c.name, scatter ? "scatter" : "gather", std::size_t(object_bytes / kMib), ms * 1e3,
               gbs, gbs / copy_gbs, counters[0]));
    }
  }
}

}  // namespace

int main() {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "properties");
  multiprocessors = properties.multiProcessorCount;
  std::printf("[\n");
  line(text("{\"gpu\": \"%s\", \"multiprocessors\": %d}", properties.name, multiprocessors));
  attributes("gcos_checksum", gcos_checksum, kChecksumThreads);
  attributes("checksum_by<WideRows>", checksum_by<WideRows>, kChecksumThreads);
  attributes("checksum_by<NibbleRows>", checksum_by<NibbleRows>, kChecksumThreads);
  attributes("checksum_sliced", checksum_sliced, kChecksumThreads);
  attributes("gcos_copy", gcos_copy, 256);
  attributes("gcos_paged_copy", gcos_paged_copy, 256);
  Device cache(4096 * kMib), objects(2048 * kMib);
  std::vector<std::uint8_t> data(64 * kMib);
  Random random(1);
  random.fill(data);
  for (Device* memory : {&cache, &objects}) {
    for (std::size_t at = 0; at < memory->bytes(); at += data.size()) {
      check(cudaMemcpy(reinterpret_cast<void*>(memory->address() + at), data.data(), data.size(),
                       cudaMemcpyHostToDevice),
            "fill");
    }
  }
  const double large = measure_copy_engine(cache, 512 * kMib);
  const double small = measure_copy_engine(cache, 32 * kMib);
  const double least = measure_copy_engine(cache, 2 * kMib);
  Device half_gib(512 * kMib);
  for (std::size_t at = 0; at < half_gib.bytes(); at += data.size()) {
    check(cudaMemcpy(reinterpret_cast<void*>(half_gib.address() + at), data.data(), data.size(),
                     cudaMemcpyHostToDevice),
          "fill");
  }
  measure_checksums(half_gib, data, large);
  measure_copies(cache, 512 * kMib, large);
  measure_paged(cache, objects, 4096, large);
  measure_paged(cache, objects, 256, small);
  measure_paged(cache, objects, 16, least);
  std::printf("\n]\n");
  return 0;
}
