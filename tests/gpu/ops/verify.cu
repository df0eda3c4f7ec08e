// Checksums and copies of random sizes at random places, against the CPU. Every byte of the memory
// that a copy might have touched is compared, so that one too many is found as well as one too few.
//
// Usage: verify [ROUNDS [SEED]]. Ends with 0 when all agree.
#include "checksum.cu"
#include "copy.cu"
#include "paged.cu"
#include "support.h"

using namespace gcos;
using namespace gcos::test;

namespace {

std::uint64_t failures = 0;

void expect(bool good, const char* what, std::uint64_t round) {
  if (good) return;
  if (failures++ < 20) std::fprintf(stderr, "round %llu: %s\n", (unsigned long long)round, what);
}

void end_of_kernel(const char* what) {
  check(cudaGetLastError(), what);
  check(cudaDeviceSynchronize(), what);
}

std::uint32_t any_length(Random& random, std::uint32_t most) {
  switch (random.below(4)) {
    case 0:
      return static_cast<std::uint32_t>(random.between(1, 40));
    case 1:
      return static_cast<std::uint32_t>(random.between(1, most / 16)) * 16;
    case 2:
      return static_cast<std::uint32_t>(random.between(1, 1 + most / 4096)) * 4096;
    default:
      return static_cast<std::uint32_t>(random.between(1, most));
  }
}

// Grains of random runs; the last run ends with the last byte of the memory.
void verify_checksums(std::uint64_t round, Random& random) {
  const std::uint32_t grain_count = static_cast<std::uint32_t>(random.between(1, 12));
  const bool aligned = random.below(2) == 0;
  std::vector<GrainRun> runs;
  std::vector<Grain> grains;
  std::uint64_t bytes = 0;
  for (std::uint32_t g = 0; g < grain_count; ++g) {
    Grain grain{static_cast<std::uint32_t>(runs.size()), 0, 0, 0};
    const std::uint64_t count =
        random.below(3) == 0 ? random.between(1, 400) : random.between(1, 4);
    const std::uint32_t most = count > 4 ? 64 : 40000;
    for (std::uint64_t r = 0; r < count; ++r) {
      std::uint32_t length = any_length(random, most);
      if (aligned) length = (length + 15) / 16 * 16;
      bytes += aligned ? random.below(4) * 16 : random.below(40);
      runs.push_back(GrainRun{bytes, grain.bytes, length});
      bytes += length;
      grain.bytes += length;
      ++grain.run_count;
    }
    grain.seed = crc32c_of_zeros(grain.bytes);
    grains.push_back(grain);
  }
  std::vector<std::uint8_t> data(bytes);
  random.fill(data);
  if (random.below(8) == 0) data.assign(bytes, 0);
  Device device(bytes);
  device.put(data.data(), bytes);
  std::vector<std::uint32_t> expected;
  for (const Grain& grain : grains) {
    std::vector<std::uint8_t> joined;
    for (std::uint32_t r = 0; r < grain.run_count; ++r) {
      GrainRun& run = runs[grain.first_run + r];
      joined.insert(joined.end(), data.begin() + run.address,
                    data.begin() + run.address + run.bytes);
      run.address += device.address();
    }
    expected.push_back(crc32c_of(joined.data(), joined.size()));
  }
  Pinned<GrainRun> pinned_runs(runs);
  Pinned<Grain> pinned_grains(grains);
  Pinned<std::uint32_t> sums(grain_count);
  const std::uint32_t blocks = static_cast<std::uint32_t>(random.between(1, grain_count));
  ChecksumBatch batch{pinned_runs.address(), pinned_grains.address(), sums.address(), grain_count,
                      0};
  gcos_checksum<<<blocks, kChecksumThreads>>>(batch);
  end_of_kernel("gcos_checksum");
  for (std::uint32_t g = 0; g < grain_count; ++g) {
    expect(sums[g] == expected[g], "gcos_checksum: another sum than the CPU's", round);
  }
}

void verify_copies(std::uint64_t round, Random& random) {
  const std::size_t count = random.between(1, 60);
  std::vector<CopyRun> runs;
  std::uint64_t from = 0, to = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t length = any_length(random, 30000);
    from += random.below(2) == 0 ? random.below(20) : random.below(4) * 16;
    to += random.below(2) == 0 ? random.below(20) : random.below(4) * 16;
    runs.push_back(CopyRun{from, to, length});
    from += length;
    to += length;
  }
  std::vector<std::uint8_t> source(from), target(to, 0xee), found(to);
  random.fill(source);
  Device from_memory(from), to_memory(to);
  from_memory.put(source.data(), from);
  to_memory.put(target.data(), to);
  for (CopyRun& run : runs) {
    for (std::uint64_t i = 0; i < run.bytes; ++i) target[run.target + i] = source[run.source + i];
    run.source += from_memory.address();
    run.target += to_memory.address();
  }
  Pinned<CopyRun> pinned(runs);
  const std::uint32_t blocks = static_cast<std::uint32_t>(random.between(1, 4));
  gcos_copy<<<blocks, 128>>>(CopyBatch{pinned.address(), static_cast<std::uint32_t>(count), 0});
  end_of_kernel("gcos_copy");
  to_memory.get(found.data(), to);
  expect(found == target, "gcos_copy: other bytes than the CPU's", round);
}

// A paged cache of random shape, dense or with gaps, and the object that belongs to it.
void verify_paged(std::uint64_t round, Random& random) {
  PagedBatch b{};
  b.layer_count = static_cast<std::uint32_t>(random.between(1, 5));
  b.plane_count = static_cast<std::uint32_t>(random.between(1, 2));
  b.part_count = static_cast<std::uint32_t>(random.below(2) == 0 ? 1 : random.between(2, 4));
  const std::uint32_t unit = 1u << random.below(5);
  b.part_bytes =
      unit * static_cast<std::uint32_t>(random.between(1, random.below(2) == 0 ? 9 : 200));
  b.tokens = static_cast<std::uint32_t>(random.between(1, 100));
  b.block_tokens = static_cast<std::uint32_t>(random.below(2) == 0 ? 16 : random.between(1, 20));
  b.block_count = static_cast<std::uint32_t>(random.between(1, 40));
  b.first_slot = static_cast<std::uint32_t>(random.below(b.block_tokens));
  b.tile_tokens = static_cast<std::uint32_t>(random.between(1, 128));
  const bool slots = random.below(2) == 0;
  const bool scatter = random.below(2) == 0;
  b.flags = (slots ? kPagedSlots : 0) | (scatter ? kPagedScatter : 0);
  const auto gap = [&] { return random.below(2) == 0 ? 0 : unit * random.below(3); };
  // Either the tokens of a part stand together, or the parts of a token.
  const bool parts_inside = random.below(2) == 0;
  if (parts_inside) {
    b.page_part_stride = b.part_bytes + gap();
    b.page_token_stride = b.part_count * b.page_part_stride + gap();
    b.page_block_stride = b.block_tokens * b.page_token_stride + gap();
  } else {
    b.page_token_stride = b.part_bytes + gap();
    b.page_part_stride = b.block_tokens * b.page_token_stride + gap();
    b.page_block_stride = b.part_count * b.page_part_stride + gap();
  }
  if (random.below(2) == 0) {
    b.page_plane_stride = b.block_count * b.page_block_stride + gap();
  } else {
    b.page_plane_stride = b.page_block_stride;
    b.page_block_stride *= b.plane_count;
  }
  b.object_part_stride = b.part_bytes + gap();
  b.object_token_stride = b.part_count * b.object_part_stride + gap();
  if (random.below(2) == 0) {
    b.object_plane_stride = b.tokens * b.object_token_stride + gap();
    b.object_layer_stride = b.plane_count * b.object_plane_stride + gap();
  } else {
    b.object_layer_stride = b.tokens * b.object_token_stride + gap();
    b.object_plane_stride = b.layer_count * b.object_layer_stride + gap();
  }
  const std::uint64_t layer_bytes = (b.plane_count - 1) * b.page_plane_stride +
                                    (b.part_count - 1) * b.page_part_stride +
                                    (b.block_count - 1) * b.page_block_stride +
                                    (b.block_tokens - 1) * b.page_token_stride + b.part_bytes;
  const std::uint64_t object_bytes = (b.layer_count - 1) * b.object_layer_stride +
                                     (b.plane_count - 1) * b.object_plane_stride +
                                     (b.part_count - 1) * b.object_part_stride +
                                     (b.tokens - 1) * b.object_token_stride + b.part_bytes;
  const std::uint64_t layer_step = (layer_bytes + 255) / 256 * 256;
  b.width = unit;

  // Every token has a slot of its own where there are enough; a few do not exist.
  const std::uint64_t all_slots = std::uint64_t{b.block_count} * b.block_tokens;
  std::vector<std::uint64_t> slot_of(b.tokens);
  std::vector<std::uint64_t> slot_table;
  std::vector<std::uint32_t> block_table;
  const bool wild = random.below(4) == 0;
  const std::uint64_t none = ~std::uint64_t{0};
  if (slots) {
    b.tokens = static_cast<std::uint32_t>(b.tokens < all_slots ? b.tokens : all_slots);
    std::vector<std::uint64_t> order(all_slots);
    for (std::uint64_t i = 0; i < all_slots; ++i) order[i] = i;
    for (std::uint64_t i = 0; i < b.tokens; ++i) {
      std::swap(order[i], order[i + random.below(all_slots - i)]);
      slot_of[i] = order[i];
      slot_table.push_back(order[i]);
      if (wild && random.below(5) == 0) {
        slot_of[i] = none;
        slot_table[i] = random.below(2) == 0 ? none - random.below(3) : all_slots + random.below(9);
      }
    }
  } else {
    const std::uint64_t most = all_slots - b.first_slot;
    b.tokens = static_cast<std::uint32_t>(b.tokens < most ? b.tokens : most);
    std::vector<std::uint32_t> order(b.block_count);
    for (std::uint32_t i = 0; i < b.block_count; ++i) order[i] = i;
    for (std::uint32_t i = 0; i < b.block_count; ++i) {
      std::swap(order[i], order[i + random.below(b.block_count - i)]);
      block_table.push_back(order[i]);
      if (wild && random.below(5) == 0) {
        block_table[i] =
            b.block_count + static_cast<std::uint32_t>(random.below(2) == 0 ? 0 : 1u << 30);
      }
    }
    for (std::uint32_t t = 0; t < b.tokens; ++t) {
      const std::uint32_t place = b.first_slot + t;
      const std::uint64_t block = block_table[place / b.block_tokens];
      slot_of[t] = block < b.block_count ? block * b.block_tokens + place % b.block_tokens : none;
    }
  }

  std::vector<std::uint8_t> pages(layer_step * (b.layer_count - 1) + layer_bytes);
  std::vector<std::uint8_t> object(object_bytes);
  random.fill(pages);
  random.fill(object);
  Device page_memory(pages.size()), object_memory(object.size());
  page_memory.put(pages.data(), pages.size());
  object_memory.put(object.data(), object.size());
  std::uint32_t refused = 0;
  for (std::uint32_t l = 0; l < b.layer_count; ++l) {
    for (std::uint32_t p = 0; p < b.plane_count; ++p) {
      for (std::uint32_t q = 0; q < b.part_count; ++q) {
        for (std::uint32_t t = 0; t < b.tokens; ++t) {
          if (slot_of[t] == none) {
            ++refused;
            continue;
          }
          const std::uint64_t in_object = l * b.object_layer_stride + p * b.object_plane_stride +
                                          q * b.object_part_stride + t * b.object_token_stride;
          const std::uint64_t in_pages = l * layer_step + p * b.page_plane_stride +
                                         q * b.page_part_stride +
                                         slot_of[t] / b.block_tokens * b.page_block_stride +
                                         slot_of[t] % b.block_tokens * b.page_token_stride;
          for (std::uint32_t i = 0; i < b.part_bytes; ++i) {
            if (scatter) {
              pages[in_pages + i] = object[in_object + i];
            } else {
              object[in_object + i] = pages[in_pages + i];
            }
          }
        }
      }
    }
  }
  Pinned<std::uint64_t> layers(b.layer_count), slot_memory(slot_table.size() + 1);
  Pinned<std::uint32_t> block_memory(block_table.size() + 1), counters(1);
  for (std::uint32_t l = 0; l < b.layer_count; ++l) {
    layers[l] = page_memory.address() + l * layer_step;
  }
  for (std::size_t i = 0; i < slot_table.size(); ++i) slot_memory[i] = slot_table[i];
  for (std::size_t i = 0; i < block_table.size(); ++i) block_memory[i] = block_table[i];
  b.layers = layers.address();
  b.table = slots ? slot_memory.address() : block_memory.address();
  b.object = object_memory.address();
  b.refused = counters.address();
  const std::uint32_t blocks = static_cast<std::uint32_t>(random.between(1, 8));
  gcos_paged_copy<<<blocks, 128>>>(b);
  end_of_kernel("gcos_paged_copy");
  std::vector<std::uint8_t> found_pages(pages.size()), found_object(object.size());
  page_memory.get(found_pages.data(), pages.size());
  object_memory.get(found_object.data(), object.size());
  expect((counters[0] != 0) == (refused != 0), "gcos_paged_copy: wrong about tokens left out",
         round);
  expect(found_pages == pages, "gcos_paged_copy: other pages than the CPU's", round);
  expect(found_object == object, "gcos_paged_copy: another object than the CPU's", round);
}

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t rounds = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 300;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    Random random(seed * 1000003 + round);
    verify_checksums(round, random);
    verify_copies(round, random);
    verify_paged(round, random);
  }
  std::printf("{\"rounds\": %llu, \"seed\": %llu, \"failures\": %llu}\n",
              (unsigned long long)rounds, (unsigned long long)seed, (unsigned long long)failures);
  return failures == 0 ? 0 : 1;
}
