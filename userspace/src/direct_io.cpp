// SPDX-License-Identifier: MIT
#include "direct_io.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>

#include "dmabridge/error.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

// What every storage that has direct I/O takes, where nobody tells more exactly (kernels
// before 6.1, some file systems).
constexpr std::uint32_t cautious_align = 4096;

auto access_of(direction way) -> int {
  switch (way) {
    case direction::read:
      return O_RDONLY;
    case direction::write:
      return O_WRONLY;
    case direction::both:
      break;
  }
  return O_RDWR;
}

// Empty: not with these flags.
auto reopen(int target, const std::string& name, int flags) -> fd {
  const auto path = fmt::format("/proc/self/fd/{}", target);
  const auto result = sys().open(path.c_str(), flags | O_CLOEXEC, 0);
  if (result < 0 && result != -EINVAL) {
    throw error({.kind = error_kind::system,
                 .attempted = fmt::format("open {} once more ({})", name, path),
                 .code = -result});
  }
  return fd(result < 0 ? -1 : result);
}

void ask_for_alignment(direct_file& file, const std::string& name) {
  struct statx told{};
  const auto result = sys().statx(file.descriptor.get(), STATX_DIOALIGN, told);
  if (result < 0) {
    throw error({.kind = error_kind::system,
                 .attempted = fmt::format("ask how direct I/O of {} has to be aligned", name),
                 .code = -result});
  }
  if ((told.stx_mask & STATX_DIOALIGN) == 0) {
    file.direct = true;
    file.offset_align = file.memory_align = cautious_align;
  } else if (told.stx_dio_offset_align != 0) {
    file.direct = true;
    file.offset_align = told.stx_dio_offset_align;
    file.memory_align = told.stx_dio_mem_align;
  }
}

}  // namespace

auto open_direct(int target, const std::string& name, direction way) -> direct_file {
  direct_file file{.descriptor = reopen(target, name, access_of(way) | O_DIRECT)};
  if (file.descriptor) ask_for_alignment(file, name);
  // A file that is open for direct I/O and does not support it refuses every read (statx(2)).
  if (!file.direct) file.descriptor = reopen(target, name, access_of(way));
  if (!file.descriptor) {
    throw error({.kind = error_kind::system,
                 .attempted = fmt::format("open {} once more", name),
                 .code = EINVAL});
  }
  return file;
}

}  // namespace dmabridge
