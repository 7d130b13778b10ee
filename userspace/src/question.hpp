// SPDX-License-Identifier: MIT
// DMABRIDGE_IOCTL_NEGOTIATE: an importer as the kernel knows it, and what it says.
#pragma once

#include <dmabridge/uapi.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dmabridge/control.hpp"
#include "dmabridge/fd.hpp"
#include "dmabridge/plan.hpp"

namespace dmabridge {

// An importer as the kernel knows them.
struct subject {
  std::uint32_t kind = DMABRIDGE_NEGOTIATE_FILE;
  std::uint32_t flags = DMABRIDGE_NEGOTIATE_READ;
  fd target{};
  std::uint64_t device = 0;
};

// Either what was asked for, or why not.
template <typename Wanted>
struct attempt {
  std::optional<Wanted> result{};
  unread_fact obstacle{};
};

auto obstacle_of(const std::string& name, std::string why, std::string remedy) -> unread_fact;

auto open_subject(const std::string& name, const std::string& path) -> attempt<subject>;
auto subject_of(const importer_facts& importer) -> attempt<subject>;
// The path of a disk's node.
auto node_of(const std::string& disk) -> std::string;

enum class memory_of { region, another_exporter };

// `question` has the memory and the policy; `who` is put into it. Throws dmabridge::error if it is
// one that makes no sense to any importer, or to this module.
auto ask(const control& module, const std::string& name, const subject& who,
         dmabridge_negotiate question, memory_of whose) -> attempt<verdict>;

// Puts the state into a plan of which the kernel was heard on some importers, and what kept the
// others from it: `obstacles`, one for each of those, in order.
void mark_confirmed(plan& joint, const std::vector<bool>& heard,
                    std::vector<unread_fact> obstacles);

}  // namespace dmabridge
