// SPDX-License-Identifier: MIT
#include "dmabridge/rdma_importer.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "dmabridge/error.hpp"
#include "dmabridge/topology.hpp"
#include "memory_region_state.hpp"
#include "pin_limit.hpp"
#include "rdma_device.hpp"
#include "rdma_outlook.hpp"
#include "registration_check.hpp"
#include "verbs.hpp"

namespace dmabridge {
namespace {

auto against(std::uint32_t code, std::string name, std::uint64_t value = 0) -> reason {
  return {.code = code, .blocks_p2p = true, .value = value, .name = std::move(name)};
}

void append(std::vector<reason>& to, const std::vector<reason>& from) {
  std::ranges::copy(from, std::back_inserter(to));
}

// A mapping by which somebody else vouches that the memory can be pinned.
struct pinnable_mapping {
  std::span<std::byte> bytes{};  // empty: there is none
  std::uint64_t offset = 0;      // of the first, in the buffer
};

// One registration on its way: what is asked for, what is known, and why it failed so far.
class attempt {
 public:
  attempt(const rdma_device& device, ibv_pd* domain, const control* module, const buffer& memory,
          const registration_request& wanted, pinnable_mapping pinnable)
      : device_(device),
        domain_(domain),
        module_(module),
        memory_(memory),
        wanted_(wanted),
        pinnable_(pinnable) {
    ours_ = ask_about(module, memory);
    combined_ = ours_ ? combine(ours_->info.policy, wanted.policy) : wanted.policy;
  }

  // Throws dmabridge::error of kind refused if no way works.
  void run(memory_region::state& all) {
    refuse_the_hopeless();
    // By which route another exporter's memory is reached nobody can say.
    if (!ours_) reasons_.push_back(against(DMABRIDGE_REASON_FOREIGN_BUFFER, memory_.exporter()));
    if (!by_dmabuf_mr(all)) by_pinned_mapping(all);
    all.length = wanted_.length;
    all.word.policy = combined_;
    if (!ours_) return;
    // Not before: the registration itself may have moved the buffer.
    all.watching.emplace(*module_, memory_);
  }

 private:
  [[noreturn]] void refuse() {
    throw error({.kind = error_kind::refused,
                 .attempted = describe(wanted_, device_),
                 .reasons = std::move(reasons_),
                 .policy = combined_});
  }

  void refuse_the_hopeless() {
    if (ours_ && ours_->info.revoked) {
      reasons_.push_back({.code = DMABRIDGE_REASON_REVOKED,
                          .blocks_p2p = true,
                          .device = ours_->region ? ours_->region->device : std::nullopt});
      refuse();
    }
    if (!combined_) {
      reasons_.push_back(
          against(DMABRIDGE_REASON_POLICY_CONFLICT, {},
                  std::uint64_t{static_cast<std::uint32_t>(ours_->info.policy)} << 32 |
                      static_cast<std::uint32_t>(wanted_.policy)));
      refuse();
    }
  }

  // False: it did not work, and reasons_ say why.
  auto by_dmabuf_mr(memory_region::state& all) -> bool {
    if (!device_.has_dmabuf_mr()) {
      append(reasons_, device_.why_no_dmabuf_mr());
      return false;
    }
    if (!ours_ && *combined_ != policy::prefer) return false;
    // An attachment brings no policy: what this one demands has to be so before it, and stay so.
    if (ours_ && *combined_ != policy::prefer &&
        !hold(all, *combined_ == policy::require ? placement::device : placement::system)) {
      return false;
    }
    const auto iova = wanted_.iova.value_or(wanted_.offset);
    int failure = 0;
    all.region.reset(verbs().reg_dmabuf_mr(domain_, wanted_.offset, wanted_.length, iova,
                                           memory_.descriptor(), wanted_.access, failure));
    if (all.region.get() == nullptr) {
      all.hold = {};
      add_refusal(failure);
      return false;
    }
    all.method = registration_method::dmabuf_mr;
    all.address = iova;
    all.word = word_on_attachment();
    return true;
  }

  void add_refusal(int failure) {
    reasons_.push_back(against(DMABRIDGE_REASON_DMABUF_MR_REFUSED, device_.name,
                               static_cast<std::uint64_t>(failure)));
    if (!ours_) return;
    // The exporter remembers whom it refused last, and why: attach itself gives an errno only.
    const auto info = module_->query(memory_.descriptor());
    if (info.last_refused && is_this_device(info.last_refused->device)) {
      append(reasons_, info.last_refused->verdict.reasons);
    }
  }

  // What no PCI function does, nobody can tell whose it is.
  auto is_this_device(const std::optional<pci_address>& who) const -> bool {
    return device_.function && who == device_.function;
  }

  // Whatever this device was told when it attached: the last of its attachments is this one, or one
  // that was told the same.
  auto word_on_attachment() const -> verdict {
    verdict word{.state = verdict_state::predicted, .route = route::unproved, .reasons = reasons_};
    if (!ours_) return word;
    for (const auto& user : module_->query(memory_.descriptor()).users) {
      const auto is_dynamic = user.kind == user_kind::dynamic_attachment;
      if (is_dynamic && is_this_device(user.device)) word = user.verdict;
    }
    return word;
  }

  // Throws if it does not work either.
  void by_pinned_mapping(memory_region::state& all) {
    all.word = ours_ ? hold_for_pins(all) : word_on_foreign_pins();
    pin(all);
    all.method = registration_method::pinned_mapping;
  }

  // In the RAM behind a stolen region, else in system memory.
  auto hold_for_pins(memory_region::state& all) -> verdict {
    const auto kind = ours_->region ? ours_->region->kind : region_kind::bar;
    const auto is_required = *combined_ == policy::require;
    if (kind == region_kind::stolen && *combined_ != policy::forbid) {
      // What speaks against a way to the device's memory does not count where that is RAM.
      if (hold(all, placement::device)) return {.route = route::stolen};
    } else if (kind == region_kind::system) {
      reasons_.push_back(against(DMABRIDGE_REASON_SYSTEM_REGION, {}));
    }
    if (*combined_ == policy::forbid) {
      reasons_.push_back(against(DMABRIDGE_REASON_POLICY_FORBID, {}));
    }
    if (is_required || !hold(all, placement::system)) refuse();
    return {.route = route::system, .reasons = reasons_};
  }

  auto word_on_foreign_pins() -> verdict {
    // For RDMA the kernel pins no P2P memory through mappings (drivers/infiniband/core/umem.c), so
    // that what was forbidden does not happen, and what was required cannot.
    if (*combined_ == policy::require) refuse();
    return {.state = verdict_state::predicted, .route = route::system, .reasons = reasons_};
  }

  // False: the kernel said no, and reasons_ say why.
  auto hold(memory_region::state& all, placement where) -> bool {
    try {
      all.hold = module_->hold(memory_.descriptor(), where);
      return true;
    } catch (const error& failure) {
      if (failure.kind() != error_kind::refused) throw;
      append(reasons_, failure.reasons());
      return false;
    }
  }

  // Of the first byte, in a mapping that lives as long as the MR.
  auto start_of_mapping(memory_region::state& all) -> std::byte* {
    if (!pinnable_.bytes.empty()) {
      return pinnable_.bytes.data() + (wanted_.offset - pinnable_.offset);
    }
    const auto writes = (wanted_.access & IBV_ACCESS_LOCAL_WRITE) != 0;
    try {
      all.map.emplace(memory_.map(writes ? cpu_access::read_write : cpu_access::read));
    } catch (const error& failure) {
      refuse_pins(failure.code());
    }
    return all.map->bytes().data() + wanted_.offset;
  }

  void pin(memory_region::state& all) {
    auto* const start = start_of_mapping(all);
    all.address = device_.ignores_iova ? reinterpret_cast<std::uintptr_t>(start)
                                       : wanted_.iova.value_or(wanted_.offset);
    int failure = 0;
    all.region.reset(
        verbs().reg_mr(domain_, start, wanted_.length, all.address, wanted_.access, failure));
    if (all.region.get() == nullptr) refuse_pins(failure);
  }

  [[noreturn]] void refuse_pins(int failure) {
    // EPERM: the limit is 0 (can_do_mlock() in mm/mlock.c).
    const auto limit = failure == ENOMEM || failure == EPERM ? pin_limit() : std::nullopt;
    reasons_.push_back(limit ? against(DMABRIDGE_REASON_PIN_LIMIT, device_.name, *limit)
                             : against(DMABRIDGE_REASON_NOT_PINNABLE, memory_.exporter(),
                                       static_cast<std::uint64_t>(failure)));
    refuse();
  }

  const rdma_device& device_;
  ibv_pd* domain_;
  const control* module_;
  const buffer& memory_;
  const registration_request& wanted_;
  const pinnable_mapping pinnable_;
  std::optional<known_buffer> ours_{};
  std::optional<policy> combined_{};
  std::vector<reason> reasons_{};
};

// The same request, of the dma-buf in which the memory lies. Throws dmabridge::error of kind usage.
auto in_whole_buffer(const exported_memory& memory, const registration_request& wanted,
                     const rdma_device& device) -> registration_request {
  check(wanted, memory.size(), device);
  auto in_buffer = wanted;
  in_buffer.offset += memory.offset();
  // The iova is given by the byte of its page, and has to suit the dma-buf.
  check(in_buffer, memory.memory().size(), device);
  return in_buffer;
}

}  // namespace

struct rdma_importer::state {
  ibv_pd* domain;
  const control* module;
  rdma_device device;
  pid_t owner = ::getpid();

  // The request has been checked.
  auto enroll(const buffer& memory, const registration_request& wanted,
              const pinnable_mapping& pinnable) const -> memory_region;
};

auto rdma_importer::state::enroll(const buffer& memory, const registration_request& wanted,
                                  const pinnable_mapping& pinnable) const -> memory_region {
  if (owner != ::getpid()) {
    throw error(
        {.kind = error_kind::usage,
         .attempted = describe(wanted, device),
         .detail = "the device was opened before this process was forked, and is its parent's",
         .remedies = {"open the device again in the child"}});
  }
  auto all = std::make_unique<memory_region::state>();
  attempt(device, domain, module, memory, wanted, pinnable).run(*all);
  return memory_region(std::move(all));
}

rdma_importer::rdma_importer(ibv_pd* domain, const control* module)
    : state_(new state{.domain = domain, .module = module, .device = identify(domain)}) {}
rdma_importer::rdma_importer(rdma_importer&&) noexcept = default;
auto rdma_importer::operator=(rdma_importer&&) noexcept -> rdma_importer& = default;
rdma_importer::~rdma_importer() = default;

auto rdma_importer::device_name() const noexcept -> const std::string& {
  return state_->device.name;
}
auto rdma_importer::has_dmabuf_mr() const noexcept -> bool {
  return state_->device.has_dmabuf_mr();
}
auto rdma_importer::by_cpu() const noexcept -> bool {
  return state_->device.by_cpu;
}

auto rdma_importer::outlook(const buffer& memory, const registration_request& wanted) const
    -> registration_outlook {
  check(wanted, memory.size(), state_->device);
  return look_ahead(read_topology(), state_->device, state_->module, memory, wanted, false);
}

auto rdma_importer::outlook(const exported_memory& memory, const registration_request& wanted) const
    -> registration_outlook {
  return look_ahead(read_topology(), state_->device, state_->module, memory.memory(),
                    in_whole_buffer(memory, wanted, state_->device),
                    !memory.owner().pinnable().empty());
}

auto rdma_importer::register_memory(const buffer& memory, const registration_request& wanted) const
    -> memory_region {
  check(wanted, memory.size(), state_->device);
  return state_->enroll(memory, wanted, {});
}

auto rdma_importer::register_memory(const exported_memory& memory,
                                    const registration_request& wanted) const -> memory_region {
  return state_->enroll(memory.memory(), in_whole_buffer(memory, wanted, state_->device),
                        {memory.owner().pinnable(), memory.offset()});
}

}  // namespace dmabridge
