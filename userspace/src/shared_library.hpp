// SPDX-License-Identifier: MIT
// A vendor's library that is looked for when the program runs, so that nothing has to be installed
// to build this one.
#pragma once

#include <string>
#include <vector>

namespace dmabridge {

// The calls of the dynamic loader, so that tests can take a vendor's part.
class loader_calls {
 public:
  virtual ~loader_calls() = default;

  // As dlopen(); returns nullptr if it fails, and sets `why` to what the loader says.
  virtual auto open(const char* name, int flags, std::string& why) -> void* = 0;
  virtual void close(void* library) = 0;
  // nullptr: the library has none of that name.
  virtual auto symbol(void* library, const char* name) -> void* = 0;
};

// The real ones, unless a test says otherwise.
auto loader() noexcept -> loader_calls&;

// While it lives, loader() is `calls`. Not to be used while other threads are in the library.
class loader_override {
 public:
  explicit loader_override(loader_calls& calls) noexcept;
  loader_override(const loader_override&) = delete;
  auto operator=(const loader_override&) -> loader_override& = delete;
  ~loader_override();

 private:
  loader_calls* previous_;
};

struct library_description {
  std::string what;                // "the CUDA driver library"
  std::vector<std::string> names;  // sonames, the best one first
  std::string remedy_missing;      // what to do if there is none
  std::string remedy_old;          // what to do if it lacks a function
};

// The library stays in the process when the object goes: libraries with threads of their own do not
// survive being unmapped.
class shared_library {
 public:
  // Takes the one of `names` that the process has already, as two copies of an API do not know each
  // other's memory; else the first one that can be loaded. Throws dmabridge::error, with code
  // ELIBACC if there is none, and ELIBBAD if there is one that cannot be loaded.
  explicit shared_library(library_description wanted);
  shared_library(const shared_library&) = delete;
  auto operator=(const shared_library&) -> shared_library& = delete;
  ~shared_library();

  auto name() const noexcept -> const std::string& { return name_; }

  // The type of the function is the caller's word. Throws dmabridge::error, with code ENOSYS, if
  // the library has none of that name.
  template <typename Function>
  void find(const char* name, Function*& function) const {
    function = reinterpret_cast<Function*>(required(name));
  }
  // nullptr then.
  template <typename Function>
  void find_if_there(const char* name, Function*& function) const {
    function = reinterpret_cast<Function*>(loader().symbol(handle_, name));
  }

 private:
  auto required(const char* name) const -> void*;

  library_description wanted_;
  std::string name_{};
  void* handle_ = nullptr;
};

}  // namespace dmabridge
