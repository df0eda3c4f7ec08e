// Runs the cases of ../load over the kernels played by host threads, with a thread as each controller.
//
// Usage: main [FILTER] [THREADS...]: cases whose name holds FILTER, blocks of so many threads (32 and 64).
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "../load/cases.h"
#include "played/team.h"

extern "C" {
void gcos_io(gcos::Batch);
void gcos_io_shared(gcos::Batch);
}

namespace {

using gcos_test::Model;

// The image is the memory that the kernels see.
class Played : public gcos_test::Backend {
 public:
  bool open(std::size_t bytes, unsigned char** image, std::uint64_t* base) override {
    constexpr std::size_t kPage = 4096;
    memory_.reset(static_cast<unsigned char*>(std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage)));
    *image = memory_.get();
    *base = reinterpret_cast<std::uintptr_t>(memory_.get());
    return memory_ != nullptr;
  }

  bool launch(const char* kernel, std::uint32_t grid, std::uint32_t block, const gcos::Batch& batch,
              std::uint64_t models, std::uint32_t model_count) override {
    std::vector<std::thread> servers;
    for (std::uint32_t i = 0; i < model_count; ++i) {
      servers.emplace_back(
          [model = gcos::at<Model>(models) + i] { gcos_test::Server<1>(*model).run(); });
    }
    const bool shared = std::strcmp(kernel, "gcos_io_shared") == 0;
    const auto entry = shared ? gcos_io_shared : gcos_io;
    const bool ran = gcos::played::run(grid, block, [&] { entry(batch); });
    for (std::thread& server : servers) server.join();
    return ran;
  }

 private:
  struct Free {
    void operator()(unsigned char* memory) const { std::free(memory); }
  };
  std::unique_ptr<unsigned char, Free> memory_;
};

}  // namespace

int main(int count, char** arguments) {
  const std::string filter = count > 1 ? arguments[1] : "";
  std::vector<std::uint32_t> threads;
  for (int i = 2; i < count; ++i) threads.push_back(static_cast<std::uint32_t>(std::atoi(arguments[i])));
  if (threads.empty()) threads = {32, 64};
  Played backend;
  const gcos_test::Tally tally = gcos_test::run_cases(backend, threads, filter);
  std::printf("cases: %u passed; %u failed\n", tally.passed, tally.failed);
  return tally.failed == 0 && tally.passed != 0 ? 0 : 1;
}
