// Measures the queue kernels against a controller model in the GPU's own memory, and prints JSON.
//
// Usage: load             measure
//        load --check [F] run the cases of cases.h whose name holds F; ends with 1 if one fails
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "fast_model.h"
#include "gcos/batch.h"
#include "gpu_backend.h"
#include "io.cu"

namespace gcos_load {

constexpr std::uint32_t kEntries = 1024;
// Shared memory that a controller takes so that no client's block gets onto its multiprocessor: a drive does
// not compete with its clients for one.
constexpr std::size_t kServerReserve = 170 * 1024;
constexpr std::uint64_t kBudgetNs = 20000000000ull;

void must(cudaError_t said, const char* what) {
  if (said == cudaSuccess) return;
  std::fprintf(stderr, "load: %s: %s\n", what, cudaGetErrorString(said));
  std::exit(2);
}

template <class T>
T* device(std::size_t count) {
  void* at = nullptr;
  must(cudaMalloc(&at, count * sizeof(T)), "cudaMalloc");
  must(cudaMemset(at, 0, count * sizeof(T)), "cudaMemset");
  return static_cast<T*>(at);
}

template <class T>
T* pinned(std::size_t count) {
  void* at = nullptr;
  must(cudaHostAlloc(&at, count * sizeof(T), cudaHostAllocMapped), "cudaHostAlloc");
  std::memset(at, 0, count * sizeof(T));
  return static_cast<T*>(at);
}

template <class T>
std::uint64_t address(T* at) {
  return reinterpret_cast<std::uintptr_t>(at);
}

__global__ void serve(FastQueue* queues, std::uint64_t budget_ns) {
  __shared__ ServerShared shared;
  FastServer(queues[blockIdx.x], shared).run(budget_ns);
}

// When each command was posted and seen to end, by the clock of its multiprocessor.
struct ClockProbe {
  std::uint64_t* posted_at;
  std::uint64_t* ended_at;
  __device__ void posted(std::uint32_t command) const { posted_at[command] = clock64(); }
  __device__ void ended(std::uint32_t command) const { ended_at[command] = clock64(); }
};

__global__ void __launch_bounds__(256, 1) io_probed(gcos::Batch batch, ClockProbe probe) {
  __shared__ gcos::BlockShared shared;
  gcos::run_batch(batch, blockIdx.x, gridDim.x, shared, probe);
}

__global__ void __launch_bounds__(256, 1) io_shared_probed(gcos::Batch batch, ClockProbe probe) {
  gcos::run_shared_batch(batch, blockIdx.x, gridDim.x, probe);
}

// Looks at one completion entry until it is new; false if it never is.
__device__ bool await_phase(const FastQueue& q, std::uint32_t index, std::uint32_t phase) {
  for (std::uint32_t look = 0; look < 100000000; ++look) {
    if (gcos::peek_completion(q.cq, index).phase() == phase) return true;
  }
  return false;
}

// A client that does nothing but turn the doorbells over entries written before: the ceiling of the model.
// It keeps all but one of the queue's chunks of `kChunk` entries in flight.
template <std::uint32_t kChunk>
__global__ void turn_doorbells(const FastQueue* queues) {
  const FastQueue& q = queues[blockIdx.x];
  std::uint64_t rung = kEntries - kChunk;
  if (rung > q.commands) rung = q.commands;
  gcos::ring_tail(q.sq_doorbell, static_cast<std::uint32_t>(rung % kEntries));
  for (std::uint64_t seen = 0; seen < q.commands; seen += kChunk) {
    const std::uint64_t last = seen + kChunk - 1;
    const std::uint32_t phase = (last / kEntries) % 2 == 0 ? 1 : 0;
    if (!await_phase(q, last % kEntries, phase)) return;
    gcos::ring_head(q.cq_doorbell, static_cast<std::uint32_t>((last + 1) % kEntries));
    if (rung < q.commands) rung += kChunk;
    gcos::ring_head(q.sq_doorbell, static_cast<std::uint32_t>(rung % kEntries));
  }
}

// One command at a time by one thread: from the doorbell, after its fence, to the completion.
__global__ void one_by_one(const FastQueue* queues, std::uint64_t* took) {
  const FastQueue& q = queues[0];
  for (std::uint64_t i = 0; i < q.commands; ++i) {
    const std::uint32_t slot = i % kEntries;
    const std::uint32_t phase = (i / kEntries) % 2 == 0 ? 1 : 0;
    const std::uint64_t start = clock64();
    gcos::ring_head(q.sq_doorbell, (slot + 1) % kEntries);
    if (!await_phase(q, slot, phase)) return;
    took[i] = clock64() - start;
    gcos::ring_head(q.cq_doorbell, (slot + 1) % kEntries);
    cuda::atomic_thread_fence(cuda::memory_order_acq_rel, cuda::thread_scope_system);
  }
}

__global__ void count_differences(const std::uint64_t* a, const std::uint64_t* b, std::size_t words,
                                  unsigned long long* different) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  unsigned long long mine = 0;
  for (std::size_t i = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x; i < words;
       i += stride) {
    mine += a[i] != b[i] ? 1 : 0;
  }
  if (mine != 0) gcos::fetch_add_relaxed<gcos::Scope::kDevice>(different, mine);
}

__global__ void fill(std::uint64_t* words, std::size_t count, std::uint64_t seed) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x; i < count;
       i += stride) {
    words[i] = (i + seed) * 0x9e3779b97f4a7c15ull;
  }
}

// What is measured.
struct Setting {
  std::string name;
  bool shared = false;          // gcos_io_shared on one pair
  std::uint32_t pairs = 1;
  std::uint32_t blocks = 1;     // shares; with pairs of their own, as many as pairs
  std::uint32_t threads = 32;
  std::uint32_t latency_ns = 0;
  std::uint32_t data_bytes = 0;
  std::uint64_t commands = 1 << 20;  // of each pair
  bool lists = true;            // commands longer than a page have PRP lists
};

struct Result {
  double per_second = 0;
  double p50_us = 0;
  double p99_us = 0;
  bool counts_agree = false;
  bool data_agree = true;
  bool statuses_good = false;
};

// Memory for all measurements, of the largest size any needs.
class Bench {
 public:
  static constexpr std::uint32_t kMostPairs = 64;
  static constexpr std::size_t kDataBytes = 1ull << 30;
  static constexpr std::uint64_t kMostCommands = 1ull << 24;

  Bench() {
    int khz = 0;
    must(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0), "clock rate");
    cycles_per_us_ = khz / 1000.0;
    sq_ = device<std::uint32_t>(16ull * kEntries * kMostPairs);
    cq_ = device<std::uint64_t>(2ull * kEntries * kMostPairs);
    bells_ = device<std::uint32_t>(64ull * kMostPairs);
    lists_ = device<unsigned char>(4096ull * kEntries * kMostPairs);
    tickets_ = device<unsigned char>(32768ull * kMostPairs);
    queues_ = device<FastQueue>(kMostPairs);
    records_ = device<gcos::QueuePair>(kMostPairs);
    shares_ = device<gcos::Share>(1024);
    commands_ = device<gcos::Command>(kMostCommands);
    medium_ = device<std::uint64_t>(kDataBytes / 8);
    data_ = device<std::uint64_t>(kDataBytes / 8);
    posted_at_ = device<std::uint64_t>(kMostCommands);
    ended_at_ = device<std::uint64_t>(kMostCommands);
    differences_ = device<unsigned long long>(1);
    // Status words of a real batch are in host memory; in the GPU's own for comparison.
    in_device_ = std::getenv("GCOS_LOAD_DEVICE_STATUSES") != nullptr;
    statuses_ = pinned<std::uint32_t>(kMostCommands);
    if (in_device_) device_statuses_ = device<std::uint32_t>(kMostCommands);
    words_ = pinned<std::uint32_t>(64);
    must(cudaStreamCreateWithFlags(&serving_, cudaStreamNonBlocking), "stream");
    must(cudaStreamCreateWithFlags(&driving_, cudaStreamNonBlocking), "stream");
    must(cudaEventCreate(&start_), "event");
    must(cudaEventCreate(&end_), "event");
    must(cudaFuncSetAttribute(serve, cudaFuncAttributeMaxDynamicSharedMemorySize, kServerReserve),
         "shared memory");
    fill<<<1024, 256>>>(medium_, kDataBytes / 8, 1);
    must(cudaDeviceSynchronize(), "fill");
  }

  // The model alone: commands a second of all pairs, by the client that only turns doorbells.
  template <std::uint32_t kChunk>
  double ceiling(Setting s) {
    prepare(s);
    prepare_entries(s);
    begin_serving(s);
    must(cudaEventRecord(start_, driving_), "event");
    turn_doorbells<kChunk><<<s.pairs, 1, 0, driving_>>>(queues_);
    const double seconds = end_driving();
    finish_serving(s);
    return static_cast<double>(s.commands * s.pairs) / seconds;
  }

  // The model's own round trip in us, the middle of many.
  double round_trip(Setting s) {
    s.commands = 4096;
    prepare(s);
    prepare_entries(s);
    begin_serving(s);
    must(cudaEventRecord(start_, driving_), "event");
    one_by_one<<<1, 1, 0, driving_>>>(queues_, posted_at_);
    end_driving();
    finish_serving(s);
    std::vector<std::uint64_t> took(s.commands);
    must(cudaMemcpy(took.data(), posted_at_, 8 * took.size(), cudaMemcpyDeviceToHost), "copy");
    std::sort(took.begin(), took.end());
    return static_cast<double>(took[took.size() / 2]) / cycles_per_us_;
  }

  // The kernel that is shipped; with `probed`, the same code that also takes times.
  Result drive(const Setting& s, bool probed) {
    const gcos::Batch batch = prepare(s);
    const ClockProbe probe{posted_at_, ended_at_};
    begin_serving(s);
    must(cudaEventRecord(start_, driving_), "event");
    if (probed && s.shared) io_shared_probed<<<s.blocks, s.threads, 0, driving_>>>(batch, probe);
    if (probed && !s.shared) io_probed<<<s.blocks, s.threads, 0, driving_>>>(batch, probe);
    if (!probed && s.shared) gcos_io_shared<<<s.blocks, s.threads, 0, driving_>>>(batch);
    if (!probed && !s.shared) gcos_io<<<s.blocks, s.threads, 0, driving_>>>(batch);
    const double seconds = end_driving();
    Result result;
    result.counts_agree = finish_serving(s) && words_[kDone] == s.blocks;
    const std::uint64_t all = s.commands * s.pairs;
    if (in_device_) {
      must(cudaMemcpy(statuses_, device_statuses_, 4 * all, cudaMemcpyDeviceToHost), "copy");
      must(cudaMemset(device_statuses_, 0, 4 * all), "clear");
    }
    result.per_second = static_cast<double>(all) / seconds;
    result.statuses_good =
        std::all_of(statuses_, statuses_ + all, [](std::uint32_t w) { return w == gcos::kOutcomeDone; });
    if (s.data_bytes != 0) result.data_agree = compare(s);
    if (probed) take_latencies(all, result);
    return result;
  }

 private:
  enum Word { kResident, kDone, kAbort = 32 };

  void take_latencies(std::uint64_t all, Result& result) {
    std::vector<std::uint64_t> from(all);
    std::vector<std::uint64_t> to(all);
    must(cudaMemcpy(from.data(), posted_at_, 8 * all, cudaMemcpyDeviceToHost), "copy");
    must(cudaMemcpy(to.data(), ended_at_, 8 * all, cudaMemcpyDeviceToHost), "copy");
    for (std::uint64_t i = 0; i < all; ++i) to[i] -= from[i];
    std::sort(to.begin(), to.end());
    result.p50_us = static_cast<double>(to[all / 2]) / cycles_per_us_;
    result.p99_us = static_cast<double>(to[all / 100 * 99]) / cycles_per_us_;
  }

  // Bytes of data that belong to one pair; commands go round in them.
  static std::size_t region(const Setting& s) { return kDataBytes / s.pairs / s.data_bytes * s.data_bytes; }

  std::uint64_t data_of(const Setting& s, std::uint32_t pair, std::uint64_t index) const {
    if (s.data_bytes == 0) return address(data_);
    return pair * region(s) + index * s.data_bytes % region(s) + address(data_);
  }

  gcos::Batch prepare(const Setting& s) {
    must(cudaMemset(cq_, 0, 16ull * kEntries * kMostPairs), "clear");
    must(cudaMemset(bells_, 0, 256ull * kMostPairs), "clear");
    must(cudaMemset(tickets_, 0, 32768ull * kMostPairs), "clear");
    if (s.data_bytes != 0) must(cudaMemset(data_, 0xee, kDataBytes), "clear");
    std::fill(words_, words_ + 64, 0u);
    const std::uint64_t all = s.commands * s.pairs;
    std::fill(statuses_, statuses_ + all, 0u);
    std::vector<gcos::QueuePair> records;
    std::vector<FastQueue> queues;
    std::vector<gcos::Command> commands;
    const std::uint32_t bytes = s.data_bytes != 0 ? s.data_bytes : 512;
    for (std::uint32_t i = 0; i < s.pairs; ++i) {
      gcos::QueuePair r{};
      r.sq = address(sq_) + 64ull * kEntries * i;
      r.cq = address(cq_) + 16ull * kEntries * i;
      r.sq_doorbell = address(bells_) + 256ull * i;
      r.cq_doorbell = r.sq_doorbell + 128;
      r.lists = address(lists_) + 4096ull * kEntries * i;
      r.lists_iova = r.lists;
      r.tickets = address(tickets_) + 32768ull * i;
      r.entries = kEntries;
      r.list_pages = 1;
      r.nsid = 1;
      r.lba_shift = 9;
      r.max_transfer = 2u << 20;
      r.phase = 1;
      records.push_back(r);
      FastQueue q{};
      q.sq = r.sq;
      q.cq = r.cq;
      q.sq_doorbell = r.sq_doorbell;
      q.cq_doorbell = r.cq_doorbell;
      q.medium = address(medium_);
      q.commands = s.commands;
      q.entries = kEntries;
      q.data_bytes = s.data_bytes;
      q.latency_ns = s.latency_ns;
      q.resident = address(words_ + kResident);
      queues.push_back(q);
      for (std::uint64_t k = 0; k < s.commands; ++k) {
        const std::uint64_t at = data_of(s, i, k);
        commands.push_back(
            gcos::Command{(at - address(data_)) / 512, at, s.lists ? bytes : 4096, 0, 2, 0});
      }
    }
    std::vector<gcos::Share> shares;
    const auto each = static_cast<std::uint32_t>(all / s.blocks);
    for (std::uint32_t i = 0; i < s.blocks; ++i) {
      shares.push_back(gcos::Share{address(records_ + i % s.pairs), i * each, each});
    }
    const auto put = [](auto* to, const auto& from) {
      must(cudaMemcpy(to, from.data(), from.size() * sizeof(from[0]), cudaMemcpyHostToDevice), "copy");
    };
    put(records_, records);
    put(queues_, queues);
    put(commands_, commands);
    put(shares_, shares);
    gcos::Batch batch{};
    batch.shares = address(shares_);
    batch.commands = address(commands_);
    batch.statuses = address(in_device_ ? device_statuses_ : statuses_);
    batch.abort = address(words_ + kAbort);
    batch.done = address(words_ + kDone);
    batch.budget_ns = kBudgetNs;
    batch.share_count = s.blocks;
    batch.command_count = static_cast<std::uint32_t>(all);
    return batch;
  }

  // Entries of every slot, for the clients that only ring.
  void prepare_entries(const Setting& s) {
    std::vector<std::uint32_t> entries(16ull * kEntries * s.pairs);
    for (std::uint32_t i = 0; i < s.pairs * kEntries; ++i) {
      const std::uint64_t at = data_of(s, i / kEntries, i % kEntries);
      const std::uint64_t lba = (at - address(data_)) / 512;
      std::uint32_t* e = entries.data() + 16ull * i;
      e[0] = 2 | (i % kEntries) << 16;
      e[1] = 1;
      e[6] = static_cast<std::uint32_t>(at);
      e[7] = static_cast<std::uint32_t>(at >> 32);
      e[10] = static_cast<std::uint32_t>(lba);
      e[11] = static_cast<std::uint32_t>(lba >> 32);
    }
    must(cudaMemcpy(sq_, entries.data(), entries.size() * 4, cudaMemcpyHostToDevice), "copy");
  }

  // Starts the controllers and waits until every one of them runs.
  void begin_serving(const Setting& s) {
    must(cudaDeviceSynchronize(), "prepare");
    serve<<<s.pairs, 32, kServerReserve, serving_>>>(queues_, kBudgetNs);
    must(cudaGetLastError(), "serve");
    while (__atomic_load_n(words_ + kResident, __ATOMIC_ACQUIRE) != s.pairs) {
      if (cudaStreamQuery(serving_) != cudaErrorNotReady) break;
    }
  }

  double end_driving() {
    must(cudaGetLastError(), "launch");
    must(cudaEventRecord(end_, driving_), "event");
    must(cudaEventSynchronize(end_), "client");
    float ms = 0;
    must(cudaEventElapsedTime(&ms, start_, end_), "event");
    return ms / 1000.0;
  }

  // Whether every controller fetched and completed what it was given.
  bool finish_serving(const Setting& s) {
    must(cudaStreamSynchronize(serving_), "serve");
    std::vector<FastQueue> queues(s.pairs);
    must(cudaMemcpy(queues.data(), queues_, sizeof(FastQueue) * s.pairs, cudaMemcpyDeviceToHost), "copy");
    const auto by_time = [](const FastQueue& a, const FastQueue& b) { return a.took_ns < b.took_ns; };
    const auto ends = std::minmax_element(queues.begin(), queues.end(), by_time);
    std::fprintf(stderr, "load:   pairs took %.3f to %.3f ms\n", ends.first->took_ns / 1e6,
                 ends.second->took_ns / 1e6);
    return std::all_of(queues.begin(), queues.end(), [&](const FastQueue& q) {
      return q.fetched == s.commands && q.posted == s.commands && q.strange == 0;
    });
  }

  // Whether what was read is what is on the medium, all of it.
  bool compare(const Setting& s) {
    must(cudaMemset(differences_, 0, 8), "clear");
    for (std::uint32_t i = 0; i < s.pairs; ++i) {
      const std::size_t bytes = std::min<std::size_t>(region(s), s.commands * s.data_bytes);
      const std::size_t from = i * region(s) / 8;
      count_differences<<<256, 256>>>(medium_ + from, data_ + from, bytes / 8, differences_);
    }
    unsigned long long different = 1;
    must(cudaMemcpy(&different, differences_, 8, cudaMemcpyDeviceToHost), "copy");
    return different == 0;
  }

  double cycles_per_us_ = 1;
  std::uint32_t* sq_;
  std::uint64_t* cq_;
  std::uint32_t* bells_;
  unsigned char* lists_;
  unsigned char* tickets_;
  FastQueue* queues_;
  gcos::QueuePair* records_;
  gcos::Share* shares_;
  gcos::Command* commands_;
  std::uint64_t* medium_;
  std::uint64_t* data_;
  std::uint64_t* posted_at_;
  std::uint64_t* ended_at_;
  unsigned long long* differences_;
  std::uint32_t* statuses_;
  std::uint32_t* device_statuses_ = nullptr;
  bool in_device_ = false;
  std::uint32_t* words_;
  cudaStream_t serving_;
  cudaStream_t driving_;
  cudaEvent_t start_;
  cudaEvent_t end_;
};

// Prints one object of an array.
class Line {
 public:
  explicit Line(const std::string& name) { std::printf("%s\n    {\"name\": \"%s\"", more_ ? "," : "", name.c_str()); }
  ~Line() {
    std::printf("}");
    std::fflush(stdout);
    more_ = true;
  }
  Line& put(const char* key, double value) {
    std::printf(", \"%s\": %.6g", key, value);
    return *this;
  }
  static void restart() { more_ = false; }

 private:
  static bool more_;
};
bool Line::more_ = false;

// Measures one setting, and says whether counts, statuses and data agreed.
bool measure(Bench& bench, const Setting& s) {
  std::fprintf(stderr, "load: %s\n", s.name.c_str());
  const double ceiling = bench.ceiling<kEntries / 4>(s);
  const double full_queue = bench.ceiling<32>(s);
  Setting alone = s;
  alone.pairs = 1;
  const double round_trip = bench.round_trip(alone);
  std::vector<Result> runs;
  for (int i = 0; i < 3; ++i) runs.push_back(bench.drive(s, false));
  std::sort(runs.begin(), runs.end(),
            [](const Result& a, const Result& b) { return a.per_second < b.per_second; });
  const Result probed = bench.drive(s, true);
  bool good = true;
  for (const Result& r : runs) good = good && r.counts_agree && r.data_agree && r.statuses_good;
  good = good && probed.counts_agree && probed.data_agree && probed.statuses_good;
  const double rate = runs[1].per_second;
  Line(s.name)
      .put("pairs", s.pairs)
      .put("blocks", s.blocks)
      .put("threads", s.threads)
      .put("latency_us", s.latency_ns / 1000.0)
      .put("data_bytes", s.data_bytes)
      .put("million_per_second", rate / 1e6)
      .put("slowest", runs[0].per_second / 1e6)
      .put("fastest", runs[2].per_second / 1e6)
      .put("model_million_per_second", ceiling / 1e6)
      .put("model_with_full_queue", full_queue / 1e6)
      .put("of_model", rate / ceiling)
      .put("model_round_trip_us", round_trip)
      .put("p50_us", probed.p50_us)
      .put("p99_us", probed.p99_us)
      .put("p50_of_round_trip", probed.p50_us / round_trip)
      .put("probed_million_per_second", probed.per_second / 1e6)
      .put("agrees", good ? 1 : 0);
  std::fflush(stdout);
  return good;
}

template <class Kernel>
void describe(const char* name, Kernel* kernel) {
  cudaFuncAttributes a{};
  must(cudaFuncGetAttributes(&a, kernel), "attributes");
  Line line(name);
  line.put("registers", a.numRegs).put("local_bytes", static_cast<double>(a.localSizeBytes));
  line.put("shared_bytes", static_cast<double>(a.sharedSizeBytes)).put("most_threads", a.maxThreadsPerBlock);
  for (const int threads : {32, 64, 128, 256}) {
    int blocks = 0;
    must(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, 0), "occupancy");
    line.put(("blocks_of_" + std::to_string(threads)).c_str(), blocks);
  }
}

int measure_all(const std::string& filter) {
  cudaDeviceProp properties{};
  must(cudaGetDeviceProperties(&properties, 0), "device");
  std::printf("{\"device\": \"%s\", \"entries\": %u,\n  \"kernels\": [", properties.name, kEntries);
  describe("gcos_io", gcos_io);
  describe("gcos_io_shared", gcos_io_shared);
  Line::restart();
  std::printf("],\n  \"runs\": [");
  Bench bench;
  const std::vector<Setting> settings = {
      {"owned_32", false, 1, 1, 32, 0, 0, 1 << 21},
      {"owned_64", false, 1, 1, 64, 0, 0, 1 << 22},
      {"owned_128", false, 1, 1, 128, 0, 0, 1 << 23},
      {"owned_256", false, 1, 1, 256, 0, 0, 1 << 23},
      {"owned_32_at_20us", false, 1, 1, 32, 20000, 0, 1 << 21},
      {"owned_256_at_20us", false, 1, 1, 256, 20000, 0, 1 << 21},
      {"shared_8x32", true, 1, 8, 32, 0, 0, 1 << 22},
      {"shared_1x256", true, 1, 1, 256, 0, 0, 1 << 22},
      {"shared_8x32_at_20us", true, 1, 8, 32, 20000, 0, 1 << 21},
      {"shared_1x256_at_20us", true, 1, 1, 256, 20000, 0, 1 << 21},
      {"shared_64x32_at_20us", true, 1, 64, 32, 20000, 0, 1 << 21},
      {"owned_64_pairs_4KiB", false, 64, 64, 32, 0, 4096, 1 << 16},
      {"owned_64_pairs_16KiB", false, 64, 64, 32, 0, 16384, 1 << 15},
      {"owned_64_pairs_64KiB", false, 64, 64, 32, 0, 65536, 1 << 13},
      {"owned_64_pairs_16KiB_without_lists", false, 64, 64, 32, 0, 16384, 1 << 15, false},
      {"shared_64_pairs_4KiB", true, 64, 64, 32, 0, 4096, 1 << 16},
  };
  bool good = true;
  for (const Setting& s : settings) {
    if (s.name.find(filter) != std::string::npos) good = measure(bench, s) && good;
  }
  std::printf("],\n  \"agrees\": %s}\n", good ? "true" : "false");
  return good ? 0 : 1;
}

}  // namespace gcos_load

int main(int count, char** arguments) {
  // A kernel that is loaded at its first launch would wait for the controllers, which wait for it.
  setenv("CUDA_MODULE_LOADING", "EAGER", 1);
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const bool check = count > 1 && std::string(arguments[1]) == "--check";
  const std::string filter = count > (check ? 2 : 1) ? arguments[check ? 2 : 1] : "";
  if (!check) return gcos_load::measure_all(filter);
  gcos_load::GpuBackend backend;
  const gcos_test::Tally tally = gcos_test::run_cases(backend, {32, 64, 256}, filter);
  std::printf("cases: %u passed; %u failed\n", tally.passed, tally.failed);
  return tally.failed == 0 && tally.passed != 0 ? 0 : 1;
}
