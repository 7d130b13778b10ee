// SPDX-License-Identifier: MIT
#include "dmabridge/exporter_rules.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <utility>

#include "fake_exporter.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;

auto all_unknown(const exporter_rules& rules) -> bool {
  return !rules.is_known() && rules.mappable == answer::unknown &&
         rules.pinnable == answer::unknown && rules.vmap == answer::unknown &&
         rules.movable == answer::unknown && rules.revocable == answer::unknown &&
         rules.p2p == answer::unknown && rules.redirects == answer::unknown &&
         rules.bindable == answer::unknown && rules.attach.empty() && rules.drives.empty() &&
         rules.memory == memory_kind::unknown;
}

auto random_name(std::mt19937& random) -> std::string {
  std::string name(1 + random() % 12, ' ');
  for (auto& letter : name) letter = static_cast<char>('_' + random() % ('z' - '_' + 1));
  return name;
}

TEST(exporter_rules, nobody_is_in_the_table_twice) {
  std::set<std::pair<std::string, std::string>> seen;
  for (const auto& rules : known_exporters()) {
    EXPECT_TRUE(seen.emplace(rules.exporter, rules.driver).second) << rules.exporter;
    EXPECT_TRUE(rules.is_known());
    EXPECT_NE(rules.what, exporter_rules{}.what) << rules.exporter;
  }
}

TEST(exporter_rules, every_row_is_found_by_its_names) {
  for (const auto& rules : known_exporters()) {
    const auto found = rules_of(rules.exporter, rules.driver);
    EXPECT_EQ(found.exporter, rules.exporter);
    EXPECT_EQ(found.driver, rules.driver);
    EXPECT_EQ(found.what, rules.what);
  }
}

TEST(exporter_rules, rows_make_sense) {
  for (const auto& rules : known_exporters()) {
    SCOPED_TRACE(std::string(rules.exporter) + " " + std::string(rules.driver));
    if (rules.pinnable == answer::yes) {
      EXPECT_EQ(rules.mappable, answer::yes);
    }
    if (rules.mappable == answer::no) {
      EXPECT_EQ(rules.pinnable, answer::no);
    }
    // A binding takes system memory that the kernel can map.
    if (rules.bindable == answer::yes && rules.exporter != "dmabridge") {
      EXPECT_EQ(rules.vmap, answer::yes);
      EXPECT_EQ(rules.memory, memory_kind::system);
    }
    if (rules.memory == memory_kind::system) {
      EXPECT_EQ(rules.p2p, answer::no);
    }
    if (rules.memory == memory_kind::device) {
      EXPECT_NE(rules.redirects, answer::yes);
    }
    // What explain says in words is known as answers, too.
    EXPECT_EQ(rules.attach.empty(), rules.p2p == answer::unknown);
    // What one driver does, the row for all of them must not deny.
    if (!rules.driver.empty()) {
      const auto any = rules_of(rules.exporter);
      EXPECT_TRUE(any.mappable == answer::unknown || any.mappable == rules.mappable);
      EXPECT_TRUE(any.pinnable == answer::unknown || any.pinnable == rules.pinnable);
      EXPECT_TRUE(any.memory == memory_kind::unknown || any.memory == rules.memory);
    }
  }
}

TEST(exporter_rules, unknown_stays_unknown) {
  EXPECT_TRUE(all_unknown(rules_of("")));
  EXPECT_TRUE(all_unknown(rules_of("", "vgem"))) << "a driver's name is not an exporter's";
  EXPECT_TRUE(all_unknown(rules_of("udmabuf ")));
  EXPECT_TRUE(all_unknown(rules_of("UDMABUF")));
  std::set<std::string> known;
  for (const auto& rules : known_exporters()) known.emplace(rules.exporter);
  std::mt19937 random(7);
  for (int i = 0; i < 10000; ++i) {
    const auto name = random_name(random);
    if (known.contains(name)) continue;
    EXPECT_TRUE(all_unknown(rules_of(name))) << name;
    EXPECT_TRUE(all_unknown(rules_of(name, "vgem"))) << name;
  }
}

TEST(exporter_rules, unknown_driver_has_what_is_common_to_all) {
  const auto rules = rules_of("drm", "nosuchdriver");
  EXPECT_TRUE(rules.is_known());
  EXPECT_EQ(rules.driver, "");
  EXPECT_EQ(rules.mappable, answer::unknown);
  EXPECT_EQ(rules_of("drm", "vgem").mappable, answer::yes);
}

TEST(exporter_rules, of_the_driver_whose_memory_is_meant) {
  for (const auto& [driver, exporter] : {std::pair{"amdgpu", "drm"},
                                         {"xe", "drm"},
                                         {"nouveau", "drm"},
                                         {"bochs-drm", "drm"},
                                         {"i915", "i915"},
                                         {"nvidia", "nv_dmabuf"},
                                         {"habanalabs", "habanalabs"},
                                         {"vfio-pci", "vfio_pci_core"},
                                         {"virtio_gpu", "virtio_gpu"}}) {
    EXPECT_EQ(rules_of_driver(driver).exporter, exporter) << driver;
  }
  EXPECT_EQ(rules_of_driver("amdgpu").driver, "amdgpu");
  for (const auto* driver : {"", "ast", "nvme", "drm", "system", "udmabuf"}) {
    EXPECT_TRUE(all_unknown(rules_of_driver(driver))) << driver;
  }
}

TEST(exporter_rules, of_a_buffer_by_its_fdinfo) {
  test::fake_module module;
  const test::fake_exporter exporter(module, "vfio_pci_core");
  const auto rules = rules_of(buffer::from_fd(fd(buffer_fd)));
  EXPECT_EQ(rules.exporter, "vfio_pci_core");
  EXPECT_EQ(rules.mappable, answer::no);
  EXPECT_EQ(rules.revocable, answer::yes);
  EXPECT_EQ(rules.memory, memory_kind::device);
}

TEST(exporter_rules, without_proc_nothing_is_known) {
  test::fake_module module;
  EXPECT_TRUE(all_unknown(rules_of(buffer::from_fd(fd(buffer_fd)))));
}

TEST(exporter_rules, words) {
  EXPECT_EQ(to_string(answer::unknown), "unknown");
  EXPECT_EQ(to_string(answer::no), "no");
  EXPECT_EQ(to_string(answer::yes), "yes");
  EXPECT_EQ(to_string(static_cast<answer>(9)), "unknown_answer_9");
  EXPECT_EQ(to_string(memory_kind::unknown), "unknown");
  EXPECT_EQ(to_string(memory_kind::system), "system");
  EXPECT_EQ(to_string(memory_kind::device), "device");
  EXPECT_EQ(to_string(memory_kind::either), "either");
  EXPECT_EQ(to_string(static_cast<memory_kind>(9)), "unknown_memory_kind_9");
}

}  // namespace
}  // namespace dmabridge
