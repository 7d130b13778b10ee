// SPDX-License-Identifier: MIT
#include "shared_library.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "dmabridge/error.hpp"

namespace dmabridge {
namespace {

class native_loader final : public loader_calls {
 public:
  auto open(const char* name, int flags, std::string& why) -> void* override {
    auto* const library = ::dlopen(name, flags);
    if (library == nullptr) {
      // There is none after RTLD_NOLOAD, where the file exists.
      const auto* words = ::dlerror();
      why = words != nullptr ? words : fmt::format("{}: not loaded", name);
    }
    return library;
  }
  void close(void* library) override { ::dlclose(library); }
  auto symbol(void* library, const char* name) -> void* override { return ::dlsym(library, name); }
};

auto native() noexcept -> loader_calls& {
  static native_loader calls;
  return calls;
}

loader_calls* overriding = nullptr;

constexpr int how = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE;

// Whether there is no file of that name, by the loader's words. In a locale in which it has others,
// the library counts as one that cannot be loaded: its words are told in any case.
auto is_absent(const std::string& name, std::string_view words) -> bool {
  return words.starts_with(name + ": ") && words.ends_with("No such file or directory");
}

// `words` are the loader's, for each name.
auto not_loaded(const library_description& wanted, const std::vector<std::string>& words) -> error {
  bool none = true;
  for (std::size_t i = 0; i < words.size(); ++i) {
    none = none && is_absent(wanted.names[i], words[i]);
  }
  return error({.kind = error_kind::system,
                .attempted = fmt::format("load {}", wanted.what),
                .code = none ? ELIBACC : ELIBBAD,
                .detail = fmt::format("{}", fmt::join(words, "; ")),
                .remedies = {none ? wanted.remedy_missing
                                  : "repair or replace that library; ldd shows what it lacks"}});
}

}  // namespace

auto loader() noexcept -> loader_calls& {
  return overriding != nullptr ? *overriding : native();
}

loader_override::loader_override(loader_calls& calls) noexcept
    : previous_(std::exchange(overriding, &calls)) {}

loader_override::~loader_override() {
  overriding = previous_;
}

shared_library::shared_library(library_description wanted) : wanted_(std::move(wanted)) {
  std::vector<std::string> refused;
  for (const auto extra : {RTLD_NOLOAD, 0}) {
    for (const auto& name : wanted_.names) {
      std::string why;
      handle_ = loader().open(name.c_str(), how | extra, why);
      if (handle_ != nullptr) {
        name_ = name;
        return;
      }
      if (extra == 0) refused.push_back(std::move(why));
    }
  }
  throw not_loaded(wanted_, refused);
}

shared_library::~shared_library() {
  loader().close(handle_);
}

auto shared_library::required(const char* name) const -> void* {
  auto* const found = loader().symbol(handle_, name);
  if (found == nullptr) {
    throw error({.kind = error_kind::system,
                 .attempted = fmt::format("use {}", wanted_.what),
                 .code = ENOSYS,
                 .detail = fmt::format("{} has no {}", name_, name),
                 .remedies = {wanted_.remedy_old}});
  }
  return found;
}

}  // namespace dmabridge
