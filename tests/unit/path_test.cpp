// SPDX-License-Identifier: MIT
#include "dmabridge/path.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <random>
#include <set>

#include "made_machine.hpp"

namespace dmabridge {
namespace {

using test::at;
using test::made_machine;
using test::usual_machine;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

auto codes(const pci_path& path) -> std::set<std::uint32_t> {
  std::set<std::uint32_t> result;
  for (const auto& why : path.reasons) result.insert(why.code);
  return result;
}

auto path_of(const made_machine& machine, const char* provider, const char* client) -> pci_path {
  return find_path(machine.made, at(provider), at(client));
}

constexpr auto memory = "03:00.0";
constexpr auto beside = "04:00.0";
constexpr auto far = "05:00.0";

TEST(path, to_itself_is_on_the_bus) {
  const auto path = path_of(usual_machine(), memory, memory);
  EXPECT_EQ(path.answer, path_answer::bus);
  EXPECT_EQ(path.distance, 0);
  EXPECT_EQ(path.distance_class, proximity::self);
  EXPECT_THAT(path.bridges, IsEmpty());
}

TEST(path, below_one_switch_goes_across) {
  const auto path = path_of(usual_machine(), memory, beside);
  EXPECT_EQ(path.answer, path_answer::bus);
  EXPECT_EQ(path.distance, 4);
  EXPECT_EQ(path.distance_class, proximity::pix);
  EXPECT_THAT(path.bridges, ElementsAre(at("02:00.0"), at("01:00.0"), at("02:01.0")));
  EXPECT_THAT(path.reasons, IsEmpty());
  EXPECT_THAT(path.missing, IsEmpty());
}

TEST(path, functions_of_one_device_are_two_apart) {
  const auto path = path_of(usual_machine(), "06:00.0", "06:00.1");
  EXPECT_EQ(path.answer, path_answer::bus);
  EXPECT_EQ(path.distance, 2);
  EXPECT_EQ(path.distance_class, proximity::pix);
  EXPECT_THAT(path.bridges, ElementsAre(at("00:03.0")));
}

TEST(path, nested_switches_are_several_bridges) {
  auto machine = usual_machine();
  machine.bridge("02:02.0", pci_port::downstream, "01:00.0")
      .bridge("07:00.0", pci_port::upstream, "02:02.0")
      .bridge("08:00.0", pci_port::downstream, "07:00.0")
      .device("09:00.0", "08:00.0");
  const auto path = path_of(machine, memory, "09:00.0");
  EXPECT_EQ(path.answer, path_answer::bus);
  EXPECT_EQ(path.distance, 6);
  EXPECT_EQ(path.distance_class, proximity::pxb);
}

TEST(path, through_an_unlisted_host_bridge_is_refused_with_its_id) {
  const auto path = path_of(usual_machine(), memory, far);
  EXPECT_EQ(path.answer, path_answer::no);
  EXPECT_EQ(path.distance, 6);
  EXPECT_EQ(path.distance_class, proximity::phb);
  ASSERT_EQ(path.reasons.size(), 1U);
  const auto& why = path.reasons.front();
  EXPECT_EQ(why.code, DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED);
  EXPECT_EQ(why.device, at("00:00.0"));
  EXPECT_EQ(why.value, 0x8086'29c0U);
  EXPECT_TRUE(why.blocks_p2p);
}

TEST(path, zen_and_newer_forward_whatever_the_bridge) {
  for (const auto& [family, answer] :
       {std::pair{0x17U, path_answer::host_bridge}, std::pair{0x1aU, path_answer::host_bridge},
        std::pair{0x15U, path_answer::no}}) {
    auto machine = usual_machine();
    machine.made.machine.cpu_vendor = "AuthenticAMD";
    machine.made.machine.cpu_family = family;
    EXPECT_EQ(path_of(machine, memory, far).answer, answer) << family;
  }
  auto machine = usual_machine();
  machine.made.machine.cpu_vendor = "HygonGenuine";
  machine.made.machine.cpu_family = 0x18;
  EXPECT_EQ(path_of(machine, memory, far).answer, path_answer::no);
}

// Two host bridges in one domain, each with a root port and a device.
auto two_host_bridges(std::uint16_t first, std::uint16_t second) -> made_machine {
  made_machine machine;
  machine.host_bridge("00:00.0", 0x8086, first)
      .bridge("00:01.0", pci_port::root)
      .device("01:00.0", "00:01.0")
      .bridge("00:02.0", pci_port::root)
      .device("02:00.0", "00:02.0")
      .host_bridge("40:00.0", 0x8086, second)
      .bridge("40:01.0", pci_port::root)
      .device("41:00.0", "40:01.0");
  return machine;
}

TEST(path, listed_host_bridges_forward_to_each_other) {
  const auto path = path_of(two_host_bridges(0x09a2, 0x2020), "01:00.0", "41:00.0");
  EXPECT_EQ(path.answer, path_answer::host_bridge);
  EXPECT_EQ(path.distance, 4);
  EXPECT_THAT(path.missing, IsEmpty());
}

TEST(path, one_unlisted_host_bridge_of_two_refuses_and_is_the_one_named) {
  const auto path = path_of(two_host_bridges(0x09a2, 0x29c0), "01:00.0", "41:00.0");
  EXPECT_EQ(path.answer, path_answer::no);
  ASSERT_EQ(path.reasons.size(), 1U);
  EXPECT_EQ(path.reasons.front().device, at("40:00.0"));
}

TEST(path, some_host_bridges_forward_below_themselves_only) {
  const auto machine = two_host_bridges(0x3c00, 0x3c00);
  EXPECT_EQ(path_of(machine, "01:00.0", "02:00.0").answer, path_answer::host_bridge);
  const auto across = path_of(machine, "01:00.0", "41:00.0");
  EXPECT_EQ(across.answer, path_answer::no);
  EXPECT_EQ(across.reasons.size(), 2U);
}

TEST(path, domains_are_not_asked_about) {
  made_machine machine;
  machine.host_bridge("0000:00:00.0", 0x8086, 0x09a2)
      .device("0000:00:05.0")
      .host_bridge("0001:00:00.0", 0x8086, 0x09a2)
      .device("0001:00:05.0");
  const auto path = path_of(machine, "0000:00:05.0", "0001:00:05.0");
  EXPECT_EQ(path.answer, path_answer::host_bridge);
  EXPECT_EQ(path.distance, 2);
  EXPECT_NE(path.distance_class, proximity::phb);
}

TEST(path, root_port_stands_for_its_host_bridge_if_nothing_is_at_slot_0) {
  made_machine machine;
  machine.bridge("00:02.0", pci_port::root).device("01:00.0", "00:02.0").device("00:1f.0");
  machine["00:02.0"].vendor = 0x8086;
  machine["00:02.0"].device = 0x2032;
  EXPECT_EQ(path_of(machine, "01:00.0", "00:1f.0").answer, path_answer::host_bridge);
  machine.made.machine.kernel = "5.18.0";  // took none but 00.0
  EXPECT_EQ(path_of(machine, "01:00.0", "00:1f.0").answer, path_answer::no);

  machine.made.machine.kernel = "7.2.0";
  machine["00:02.0"].port = pci_port::unknown;
  const auto open = path_of(machine, "01:00.0", "00:1f.0");
  EXPECT_EQ(open.answer, path_answer::unknown);
  ASSERT_EQ(open.missing.size(), 1U);
  EXPECT_THAT(open.missing.front().what, HasSubstr("port type of 0000:00:02.0"));
}

TEST(path, host_bridge_that_nothing_stands_for_is_no_path) {
  made_machine machine;
  machine.device("00:04.0").device("00:05.0");
  const auto path = path_of(machine, "00:04.0", "00:05.0");
  EXPECT_EQ(path.answer, path_answer::no);
  EXPECT_EQ(codes(path), std::set<std::uint32_t>{DMABRIDGE_REASON_NO_PATH});
}

TEST(path, what_is_true_of_both_sides_is_said_once) {
  made_machine machine;
  machine.device("00:04.0").device("40:04.0");
  const auto refused = path_of(machine, "00:04.0", "40:04.0");
  EXPECT_EQ(refused.answer, path_answer::no);
  EXPECT_THAT(refused.reasons, SizeIs(1));

  auto alike = two_host_bridges(0x0cfe, 0x0cfe);  // on the list since 7.2
  alike.made.machine.kernel = "6.12.0";
  EXPECT_THAT(path_of(alike, "01:00.0", "41:00.0").missing, SizeIs(1));

  auto nameless = two_host_bridges(0x09a2, 0x2020);
  nameless.made.machine.kernel.clear();
  nameless.made.machine.cpu_vendor.clear();
  nameless.made.machine.cpu_family.reset();
  const auto open = path_of(nameless, "01:00.0", "41:00.0");
  EXPECT_EQ(open.answer, path_answer::unknown);
  EXPECT_THAT(open.missing, SizeIs(1));
  EXPECT_THAT(open.reasons, SizeIs(1));

  auto cut_off = usual_machine();
  cut_off["00:01.0"].parent = at("09:00.0");
  EXPECT_THAT(path_of(cut_off, memory, beside).missing, SizeIs(1));
}

TEST(path, lists_differ_by_release) {
  struct row {
    const char* kernel;
    std::uint16_t device;
    path_answer answer;
  };
  for (const auto& [kernel, device, answer] : std::initializer_list<row>{
           {"7.2.12+deb13-amd64", 0x0b25, path_answer::host_bridge},
           {"7.1.0", 0x0b25, path_answer::unknown},  // stable releases took it over
           {"5.18", 0x09a2, path_answer::host_bridge},
           {"5.17.1", 0x09a2, path_answer::unknown},
           {"5.4.0", 0x3c00, path_answer::host_bridge},
           {"5.6.0-rc1", 0x2030, path_answer::host_bridge},
           {"7.2.0", 0x29c0, path_answer::no},
           {"4.19.0", 0x29c0, path_answer::no},
           {"99.9", 0x29c0, path_answer::no},
           {"99.9", 0x09a2, path_answer::host_bridge},
           {"", 0x29c0, path_answer::no},
           {"", 0x09a2, path_answer::unknown},
           {"unreadable", 0x09a2, path_answer::unknown}}) {
    auto machine = two_host_bridges(device, device);
    machine.made.machine.kernel = kernel;
    EXPECT_EQ(path_of(machine, "01:00.0", "02:00.0").answer, answer)
        << kernel << " and " << std::hex << device;
  }
}

TEST(path, list_of_another_release_is_said) {
  auto machine = two_host_bridges(0x29c0, 0x29c0);
  machine.made.machine.kernel = "99.9";
  const auto path = path_of(machine, "01:00.0", "02:00.0");
  ASSERT_EQ(path.missing.size(), 1U);
  EXPECT_THAT(path.missing.front().what, HasSubstr("Linux 99.9"));
  EXPECT_THAT(path.missing.front().why, HasSubstr("7.3"));
  // A path that asks no list says nothing of the kind.
  EXPECT_THAT(path_of(machine, "01:00.0", "01:00.0").missing, IsEmpty());
}

TEST(path, amd_was_a_list_of_bridges_before_it_was_a_cpu) {
  auto machine = two_host_bridges(0x1450, 0x1450);
  machine["00:00.0"].vendor = 0x1022;
  machine.made.machine.cpu_vendor = "AuthenticAMD";
  machine.made.machine.cpu_family = 0x17;
  machine.made.machine.kernel = "5.8.1";
  EXPECT_EQ(path_of(machine, "01:00.0", "02:00.0").answer, path_answer::host_bridge);
  machine["00:00.0"].device = 0x1480;
  EXPECT_EQ(path_of(machine, "01:00.0", "02:00.0").answer, path_answer::no);
  machine.made.machine.kernel = "5.9.0";
  EXPECT_EQ(path_of(machine, "01:00.0", "02:00.0").answer, path_answer::host_bridge);
}

TEST(path, acs_of_any_bridge_on_it_sends_it_to_the_host_bridge) {
  for (const auto* const bridge : {"02:00.0", "02:01.0", "01:00.0"}) {
    auto machine = usual_machine();
    machine[bridge].acs->control = test::acs_redirects;
    const auto path = path_of(machine, memory, beside);
    EXPECT_EQ(path.answer, path_answer::no) << bridge;
    EXPECT_EQ(path.distance, 4);
    EXPECT_THAT(path.redirecting, ElementsAre(at(bridge)));
    EXPECT_EQ(codes(path), (std::set<std::uint32_t>{DMABRIDGE_REASON_ACS_REDIRECT,
                                                    DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED}));

    machine.made.machine.cpu_vendor = "AuthenticAMD";
    machine.made.machine.cpu_family = 0x19;
    const auto allowed = path_of(machine, memory, beside);
    EXPECT_EQ(allowed.answer, path_answer::host_bridge);
    EXPECT_THAT(allowed.redirecting, ElementsAre(at(bridge)));
    EXPECT_THAT(allowed.reasons, IsEmpty());
    machine.made.machine.kernel = "5.3";  // took a redirect for a refusal
    EXPECT_EQ(path_of(machine, memory, beside).answer, path_answer::no);
  }
}

TEST(path, acs_above_the_common_bridge_is_not_on_it) {
  auto machine = usual_machine();
  machine["00:01.0"].acs->control = test::acs_redirects;
  EXPECT_EQ(path_of(machine, memory, beside).answer, path_answer::bus);
}

TEST(path, acs_of_a_device_itself_counts) {
  auto machine = usual_machine();
  machine["06:00.1"].acs = pci_acs{.present = true, .capabilities = 0x5f, .control = 0x08};
  EXPECT_THAT(path_of(machine, "06:00.0", "06:00.1").redirecting, ElementsAre(at("06:00.1")));
  EXPECT_THAT(path_of(machine, "06:00.1", "06:00.0").redirecting, ElementsAre(at("06:00.1")));
}

TEST(path, acs_bits_that_do_not_redirect_do_not_matter) {
  auto machine = usual_machine();
  machine["02:00.0"].acs->control = 0x01 | 0x02 | 0x10 | 0x40;
  EXPECT_EQ(path_of(machine, memory, beside).answer, path_answer::bus);
}

TEST(path, all_redirecting_bridges_are_named_for_one_command) {
  auto machine = usual_machine();
  machine["02:00.0"].acs->control = test::acs_redirects;
  machine["02:01.0"].acs->control = test::acs_redirects;
  const auto path = path_of(machine, beside, memory);
  const auto all = remedies(path.reasons);
  EXPECT_EQ(std::ranges::count_if(
                all, [](const auto& text) { return text.find("disable_acs_redir") != text.npos; }),
            1);
  EXPECT_THAT(all.front(), HasSubstr("pci=disable_acs_redir=0000:02:00.0;0000:02:01.0 "));
}

TEST(path, unreadable_acs_is_unknown_unless_it_is_p2p_either_way) {
  auto machine = usual_machine();
  machine["02:01.0"].acs.reset();
  const auto path = path_of(machine, memory, beside);
  EXPECT_EQ(path.answer, path_answer::unknown);
  EXPECT_EQ(codes(path), std::set<std::uint32_t>{DMABRIDGE_REASON_PATH_UNKNOWN});
  ASSERT_EQ(path.missing.size(), 1U);
  EXPECT_EQ(path.missing.front().what, "ACS of 0000:02:01.0");
  EXPECT_EQ(path.distance, 4);

  machine.made.machine.cpu_vendor = "AuthenticAMD";
  machine.made.machine.cpu_family = 0x17;
  const auto either = path_of(machine, memory, beside);
  EXPECT_EQ(either.answer, path_answer::host_bridge);
  EXPECT_EQ(either.missing.size(), 1U);

  // Another that redirects for certain settles it.
  machine.made.machine.cpu_vendor = "GenuineIntel";
  machine["02:00.0"].acs->control = test::acs_redirects;
  EXPECT_EQ(path_of(machine, memory, beside).answer, path_answer::no);
}

TEST(path, unread_acs_of_a_plain_device_is_none) {
  auto machine = usual_machine();
  machine[beside].acs.reset();
  EXPECT_EQ(path_of(machine, memory, beside).answer, path_answer::bus);
  machine["06:00.0"].acs.reset();  // one of two functions
  EXPECT_EQ(path_of(machine, "06:00.0", "06:00.1").answer, path_answer::unknown);
}

TEST(path, unknown_cpu_is_unknown_where_it_decides) {
  auto machine = usual_machine();
  machine.made.machine.cpu_vendor.clear();
  machine.made.machine.cpu_family.reset();
  const auto path = path_of(machine, memory, far);
  EXPECT_EQ(path.answer, path_answer::unknown);
  ASSERT_FALSE(path.missing.empty());
  EXPECT_THAT(path.missing.front().what, HasSubstr("CPU"));
  EXPECT_EQ(path_of(machine, memory, beside).answer, path_answer::bus);
  machine["00:00.0"].device = 0x09a2;
  EXPECT_EQ(path_of(machine, memory, far).answer, path_answer::host_bridge);
  machine.made.machine.architecture = "aarch64";
  machine["00:00.0"].device = 0x29c0;
  EXPECT_EQ(path_of(machine, memory, far).answer, path_answer::no);
}

TEST(path, function_that_is_not_there_is_unknown) {
  const auto path = path_of(usual_machine(), memory, "09:00.0");
  EXPECT_EQ(path.answer, path_answer::unknown);
  EXPECT_THAT(path.missing.front().what, HasSubstr("0000:09:00.0"));
  EXPECT_EQ(path.distance_class, proximity::unknown);
}

TEST(path, tree_with_a_hole_or_a_circle_is_unknown) {
  auto machine = usual_machine();
  std::erase_if(machine.made.functions,
                [](const auto& function) { return function.address == at("02:01.0"); });
  EXPECT_EQ(path_of(machine, memory, beside).answer, path_answer::unknown);

  auto circle = usual_machine();
  circle["00:01.0"].parent = at("02:00.0");
  EXPECT_EQ(path_of(circle, memory, far).answer, path_answer::unknown);
}

TEST(path, virtual_functions_are_where_their_physical_one_is) {
  auto machine = usual_machine();
  machine.device("07:00.2", "02:01.0");  // a bus of its own, below no bridge of that bus
  machine["07:00.2"].physical = at(beside);
  EXPECT_EQ(path_of(machine, memory, "07:00.2").answer, path_answer::bus);
  EXPECT_EQ(path_of(machine, memory, "07:00.2").distance, 4);

  made_machine integrated;
  integrated.host_bridge("6a:00.0", 0x8086, 0x09a2)
      .device("6a:01.0")
      .device("6b:00.0")
      .device("6a:02.0");
  integrated["6b:00.0"].physical = at("6a:01.0");
  const auto path = path_of(integrated, "6a:02.0", "6b:00.0");
  EXPECT_EQ(path.answer, path_answer::host_bridge);
  EXPECT_EQ(path.distance_class, proximity::phb);
}

TEST(path, several_host_bridges_are_near_or_far_by_numa_node) {
  auto machine = two_host_bridges(0x09a2, 0x09a2);
  EXPECT_EQ(path_of(machine, "01:00.0", "41:00.0").distance_class, proximity::node);
  machine["41:00.0"].numa_node = 1;
  EXPECT_EQ(path_of(machine, "01:00.0", "41:00.0").distance_class, proximity::sys);
  machine["41:00.0"].numa_node.reset();
  EXPECT_EQ(path_of(machine, "01:00.0", "41:00.0").distance_class, proximity::unknown);
  for (auto& function : machine.made.functions) function.numa_node.reset();
  EXPECT_EQ(path_of(machine, "01:00.0", "41:00.0").distance_class, proximity::node);
}

// --- against the kernel's algorithm, as it stands in Linux 7.2 ----------------------------

struct kernels_word {
  path_answer answer;
  int distance;
};

class kernels_way {
 public:
  explicit kernels_way(const topology& machine) : machine_(machine) {}

  auto ask(const pci_address& provider, const pci_address& client) const -> kernels_word {
    int up = 0;
    bool redirected = false;
    int down = 0;
    for (const auto* a = machine_.find(provider); a != nullptr; a = above(*a), ++up) {
      redirected |= redirects(*a);
      down = 0;
      for (const auto* b = machine_.find(client); b != nullptr; b = above(*b), ++down) {
        if (a != b) continue;
        for (const auto* c = machine_.find(client); c != a; c = above(*c))
          redirected |= redirects(*c);
        if (!redirected) return {path_answer::bus, up + down};
        return {forwards(provider, client) ? path_answer::host_bridge : path_answer::no, up + down};
      }
    }
    return {forwards(provider, client) ? path_answer::host_bridge : path_answer::no, up + down};
  }

 private:
  auto above(const pci_function& function) const -> const pci_function* {
    return function.parent ? machine_.find(*function.parent) : nullptr;
  }
  static auto redirects(const pci_function& function) -> bool {
    return function.acs->present && (function.acs->control & 0x2c) != 0;
  }
  auto root_of(const pci_address& address) const -> pci_address {
    const auto* function = machine_.find(address);
    while (above(*function) != nullptr) function = above(*function);
    return {.domain = function->address.domain, .bus = function->address.bus};
  }
  auto listed(const pci_address& root, bool same) const -> bool {
    const auto first = std::ranges::find_if(machine_.functions, [&](const auto& function) {
      return function.address.domain == root.domain && function.address.bus == root.bus;
    });
    if ((first->address.device != 0 || first->address.function != 0) &&
        first->port != pci_port::root)
      return false;
    switch (first->device) {
      case 0x3c00:
      case 0x3c01:
      case 0x2f00:
      case 0x2f01:
        return same;
      case 0x2030:
      case 0x2031:
      case 0x2020:
      case 0x09a2:
      case 0x0b25:
        return true;
      default:
        return false;
    }
  }
  auto forwards(const pci_address& a, const pci_address& b) const -> bool {
    if (machine_.machine.cpu_vendor == "AuthenticAMD" && *machine_.machine.cpu_family >= 0x17)
      return true;
    const auto one = root_of(a), other = root_of(b);
    if (one == other) return listed(one, true);
    return listed(one, false) && listed(other, false);
  }

  const topology& machine_;
};

TEST(path, is_the_kernels_on_random_machines) {
  std::mt19937 random(20261121);
  std::map<path_answer, int> seen;
  for (int round = 0; round < 500; ++round) {
    test::random_machine machine(random);
    machine.made.machine.kernel = "7.2.12";
    const kernels_way kernel(machine.made);
    for (const auto& provider : machine.devices) {
      for (const auto& client : machine.devices) {
        const auto expected = kernel.ask(provider, client);
        const auto path = find_path(machine.made, provider, client);
        ASSERT_EQ(path.answer, expected.answer)
            << round << ": " << to_string(provider) << " " << to_string(client);
        ASSERT_EQ(path.distance, expected.distance);
        ASSERT_EQ(path.reasons.empty(), path.answer != path_answer::no);
        ASSERT_THAT(path.missing, IsEmpty());
        ++seen[path.answer];
      }
    }
  }
  EXPECT_GT(seen[path_answer::bus], 300);
  EXPECT_GT(seen[path_answer::host_bridge], 300);
  EXPECT_GT(seen[path_answer::no], 300);
}

}  // namespace
}  // namespace dmabridge
