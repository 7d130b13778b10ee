// SPDX-License-Identifier: MIT
// A test double of the dynamic loader: its libraries are made up by the test. No vendor's code is
// behind them, and no GPU: what passes here is only that an API is called rightly, and that its
// answers are understood.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "shared_library.hpp"

namespace dmabridge::test {

class fake_loader : public loader_calls {
 public:
  using symbols = std::map<std::string, void*>;

  auto open(const char* name, int flags, std::string& why) -> void* override {
    EXPECT_TRUE((flags & RTLD_NODELETE) != 0) << name << " would be unmapped";
    const auto found = libraries.find(name);
    const auto there = found != libraries.end();
    if (!there || ((flags & RTLD_NOLOAD) != 0 && !loaded.contains(name))) {
      why = std::string(name) + ": cannot open shared object file: No such file or directory";
      return nullptr;
    }
    if (const auto told = broken.find(name); told != broken.end()) {
      why = told->second;
      return nullptr;
    }
    loaded.insert(name);
    opened.emplace_back(name);
    return &found->second;
  }
  void close(void*) override { ++closed; }
  auto symbol(void* library, const char* name) -> void* override {
    const auto& known = *static_cast<symbols*>(library);
    const auto found = known.find(name);
    return found != known.end() ? found->second : nullptr;
  }

  std::map<std::string, symbols> libraries;
  std::map<std::string, std::string> broken;  // those that cannot be loaded, and why
  std::set<std::string> loaded;               // in this process
  std::vector<std::string> opened;            // by the library, in order
  std::size_t closed = 0;
};

template <typename Function>
auto symbol_of(Function* function) -> void* {
  return reinterpret_cast<void*>(function);
}

// What a made-up API does in common: it writes down the calls, and fails where it is told to.
class fake_calls {
 public:
  // What the call is to return, if it is not to succeed; else 0.
  auto enter(const char* call) -> int {
    log.emplace_back(call);
    const auto told = fail.find(call);
    return told != fail.end() ? told->second : 0;
  }
  auto count(const std::string& call) const -> std::size_t {
    std::size_t calls = 0;
    for (const auto& made : log) calls += made == call ? 1 : 0;
    return calls;
  }

  std::vector<std::string> log;
  std::map<std::string, int> fail;
};

}  // namespace dmabridge::test
