// SPDX-License-Identifier: MIT
#include "drm_card.hpp"

#include <filesystem>
#include <optional>
#include <stdexcept>
#include <utility>

#include "fixture.hpp"

namespace dmabridge::test {

drm_device card_of(const std::string& driver, const std::string& module) {
  const Output loaded = shell("modprobe " + module);
  if (loaded.status != 0) throw std::runtime_error(loaded.text);
  std::optional<drm_device> found;
  eventually([&] {
    if (!std::filesystem::exists("/dev/dri")) return false;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/dri")) {
      if (!entry.path().filename().string().starts_with("card")) continue;
      auto card = drm_device::open(entry.path());
      if (card.driver() == driver) found = std::move(card);
    }
    return found.has_value();
  });
  if (!found) throw std::runtime_error("no DRM node of " + driver);
  return *found;
}

}  // namespace dmabridge::test
