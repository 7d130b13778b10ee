// SPDX-License-Identifier: MIT
// The calls of amdgpu, i915 and xe are looked at as they reach the kernel: none of those GPUs is
// behind these tests.
#include "dmabridge/drm_memory.hpp"

#include <drm/amdgpu_drm.h>
#include <drm/drm_mode.h>
#include <drm/i915_drm.h>
#include <drm/xe_drm.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "error_of.hpp"
#include "fake_exporter.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;
using test::error_of;
using testing::_;
using testing::AllOf;
using testing::HasSubstr;
using testing::Return;
using testing::StrEq;

constexpr int node_fd = 170;
constexpr std::uint32_t handle = 17;
constexpr std::uint64_t MiB = 1 << 20;

static_assert(std::is_nothrow_move_constructible_v<drm_handle> &&
              std::is_nothrow_move_assignable_v<drm_handle> &&
              !std::is_copy_constructible_v<drm_handle>);

// A DRM node whose driver is called as the test likes.
class drm_memory_test : public testing::Test {
 protected:
  drm_memory_test() {
    ON_CALL(module_.calls, open(StrEq("/dev/dri/card0"), _, _)).WillByDefault(Return(node_fd));
    answer<drm_version>(DRM_IOCTL_VERSION, [this](drm_version& raw) {
      std::memcpy(raw.name, driver_.data(), std::min<std::size_t>(driver_.size(), raw.name_len));
      raw.name_len = driver_.size();
      return 0;
    });
    answer<drm_prime_handle>(DRM_IOCTL_PRIME_HANDLE_TO_FD, [this](drm_prime_handle& raw) {
      exported_ = raw;
      raw.fd = buffer_fd;
      return 0;
    });
    answer<drm_prime_handle>(DRM_IOCTL_PRIME_FD_TO_HANDLE, [](drm_prime_handle& raw) {
      raw.handle = handle;
      return 0;
    });
    answer<drm_gem_close>(DRM_IOCTL_GEM_CLOSE, [this](drm_gem_close& raw) {
      closed_.push_back(raw.handle);
      return 0;
    });
    answer<drm_mode_create_dumb>(DRM_IOCTL_MODE_CREATE_DUMB, [this](drm_mode_create_dumb& raw) {
      dumb_ = raw;
      raw.handle = handle;
      return 0;
    });
  }

  template <typename Argument>
  void answer(unsigned long request, std::function<int(Argument&)> action) {
    ON_CALL(module_.calls, ioctl(node_fd, request, _))
        .WillByDefault([action = std::move(action)](int, unsigned long, void* argument) {
          return action(*static_cast<Argument*>(argument));
        });
  }
  void refuse(unsigned long request, int code) {
    ON_CALL(module_.calls, ioctl(node_fd, request, _)).WillByDefault(Return(-code));
  }
  auto device(const char* driver = "vgem") -> drm_device {
    driver_ = driver;
    return drm_device::open("/dev/dri/card0");
  }
  static auto memory() -> buffer { return buffer::from_fd(fd(buffer_fd)); }

  test::fake_module module_;
  test::fake_exporter exporter_{module_, "drm"};
  std::string driver_;
  drm_prime_handle exported_{};
  drm_mode_create_dumb dumb_{};
  std::vector<std::uint32_t> closed_;
};

// --- the node ----------------------------------------------------------------------------------

TEST_F(drm_memory_test, knows_its_driver) {
  EXPECT_EQ(device("bochs-drm").driver(), "bochs-drm");
  const std::string longest(63, 'x');
  EXPECT_EQ(device((longest + "yz").c_str()).driver(), longest) << "and nothing behind the name";
}

TEST_F(drm_memory_test, callers_fd_is_duplicated) {
  EXPECT_CALL(module_.calls, duplicate(9)).WillOnce(Return(node_fd));
  EXPECT_CALL(module_.calls, close(node_fd)).Times(1);
  EXPECT_CALL(module_.calls, close(9)).Times(0);
  drm_device::duplicate(9);
}

TEST_F(drm_memory_test, nodes_that_cannot_be_had) {
  const auto refusal = [&](int code) {
    ON_CALL(module_.calls, open(StrEq("/dev/dri/card0"), _, _)).WillByDefault(Return(-code));
    const auto failure = error_of([&] { device(); });
    EXPECT_EQ(failure.code(), code);
    return std::string(failure.what());
  };
  EXPECT_THAT(refusal(ENOENT), HasSubstr("ls /dev/dri"));
  for (const auto code : {EACCES, EPERM}) {
    EXPECT_THAT(refusal(code), AllOf(HasSubstr("render for /dev/dri/renderD*"),
                                     HasSubstr("video for /dev/dri/card*")));
  }
  EXPECT_THAT(refusal(EMFILE), HasSubstr("EMFILE"));
}

TEST_F(drm_memory_test, what_is_no_node) {
  refuse(DRM_IOCTL_VERSION, ENOTTY);
  EXPECT_CALL(module_.calls, close(node_fd)).Times(1);
  const auto failure = error_of([&] { device(); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("no DRM node"));
  ON_CALL(module_.calls, duplicate).WillByDefault(Return(-EBADF));
  EXPECT_THAT(error_of([] { drm_device::duplicate(9); }).what(), HasSubstr("no such fd"));
}

// --- export --------------------------------------------------------------------------------------

TEST_F(drm_memory_test, exported_handle_stays_the_callers) {
  const auto exported = export_drm(device(), handle);
  EXPECT_EQ(exported_.handle, handle);
  EXPECT_EQ(exported_.flags, static_cast<std::uint32_t>(DRM_CLOEXEC | DRM_RDWR));
  EXPECT_EQ(exported.size(), MiB);
  EXPECT_EQ(exported.owner().name(), "drm (vgem)");
  EXPECT_TRUE(closed_.empty());
}

TEST_F(drm_memory_test, part_of_a_handle) {
  const auto exported = export_drm(device(), handle, 4096, 8192);
  EXPECT_EQ(exported.offset(), 4096U);
  EXPECT_EQ(exported.size(), 8192U);
  EXPECT_EQ(error_of([&] { export_drm(device(), handle, MiB, 1); }).kind(), error_kind::usage);
}

TEST_F(drm_memory_test, interrupted_calls_are_begun_again) {
  const auto file = device();
  EXPECT_CALL(module_.calls, ioctl(_, _, _)).Times(testing::AnyNumber());
  EXPECT_CALL(module_.calls, ioctl(node_fd, DRM_IOCTL_PRIME_HANDLE_TO_FD, _))
      .WillOnce(Return(-EINTR))
      .WillOnce(Return(-EAGAIN))
      .WillOnce([](int, unsigned long, void* argument) {
        static_cast<drm_prime_handle*>(argument)->fd = buffer_fd;
        return 0;
      });
  EXPECT_EQ(export_drm(file, handle).memory().descriptor(), buffer_fd);
}

TEST_F(drm_memory_test, refused_exports) {
  const auto refusal = [&](int code) {
    refuse(DRM_IOCTL_PRIME_HANDLE_TO_FD, code);
    return std::string(error_of([&] { export_drm(device(), handle); }).what());
  };
  EXPECT_THAT(refusal(ENOENT), HasSubstr("handles count for one open file"));
  EXPECT_THAT(refusal(ENOSYS), HasSubstr("exports nothing"));
  EXPECT_THAT(refusal(EOPNOTSUPP), HasSubstr("exports nothing"));
  EXPECT_THAT(refusal(EPERM), AllOf(HasSubstr("userptr"), HasSubstr("vm_id")));
  EXPECT_THAT(refusal(EMFILE), HasSubstr("EMFILE"));
}

// --- import --------------------------------------------------------------------------------------

TEST_F(drm_memory_test, imported_handle_is_closed_once) {
  const auto file = device();
  {
    auto one = import_drm(file, memory());
    EXPECT_EQ(one.value(), handle);
    const auto two = std::move(one);
    EXPECT_EQ(two.value(), handle);
    EXPECT_TRUE(closed_.empty());
  }
  EXPECT_EQ(closed_, std::vector{handle});
}

TEST_F(drm_memory_test, second_import_shares_the_handle_until_both_are_gone) {
  const auto file = device();
  std::optional<drm_handle> one = import_drm(file, memory());
  std::optional<drm_handle> two = import_drm(file, memory());
  EXPECT_EQ(one->value(), two->value());
  one.reset();
  EXPECT_TRUE(closed_.empty()) << "that would close the other one";
  two.reset();
  EXPECT_EQ(closed_, std::vector{handle});
  import_drm(file, memory());
  EXPECT_EQ(closed_.size(), 2U) << "counting begins anew";
}

TEST_F(drm_memory_test, handle_keeps_the_file_open) {
  std::optional<drm_device> file = device();
  std::optional<drm_handle> one = import_drm(*file, memory());
  EXPECT_CALL(module_.calls, close(_)).Times(testing::AnyNumber());
  EXPECT_CALL(module_.calls, close(node_fd)).Times(0);
  file.reset();
  testing::Mock::VerifyAndClearExpectations(&module_.calls);
  EXPECT_CALL(module_.calls, close(node_fd)).Times(1);
  one.reset();
  EXPECT_EQ(closed_, std::vector{handle});
}

TEST_F(drm_memory_test, refused_imports) {
  const auto refusal = [&](int code) {
    refuse(DRM_IOCTL_PRIME_FD_TO_HANDLE, code);
    return error_of([&] { import_drm(device("virtio_gpu"), memory()); });
  };
  for (const auto code : {ENODEV, ENOSYS}) {
    EXPECT_EQ(refusal(code).kind(), error_kind::refused);
    EXPECT_THAT(refusal(code).what(), AllOf(HasSubstr("virtio_gpu takes no dma-bufs of others"),
                                            HasSubstr("the other way round")));
  }
  EXPECT_EQ(refusal(EOPNOTSUPP).kind(), error_kind::refused);
  EXPECT_THAT(refusal(EOPNOTSUPP).what(), HasSubstr("dmabridge explain"));
  EXPECT_THAT(refusal(ENOMEM).what(), HasSubstr("ENOMEM"));
  EXPECT_TRUE(closed_.empty());
}

// --- dumb buffers --------------------------------------------------------------------------------

TEST_F(drm_memory_test, dumb_buffer_is_large_enough_and_kept_by_its_export_alone) {
  const auto file = device();
  for (const auto size : {std::uint64_t{1}, std::uint64_t{4096}, std::uint64_t{4097}, MiB}) {
    closed_.clear();
    const auto exported = allocate_dumb(file, size);
    EXPECT_GE(std::uint64_t{dumb_.width} * dumb_.height * dumb_.bpp / 8, size);
    EXPECT_EQ(exported.size(), size);
    EXPECT_EQ(exported_.handle, handle);
    EXPECT_EQ(closed_, std::vector{handle});
  }
}

TEST_F(drm_memory_test, dumb_buffer_that_cannot_be_exported_does_not_stay) {
  refuse(DRM_IOCTL_PRIME_HANDLE_TO_FD, EMFILE);
  EXPECT_EQ(error_of([&] { allocate_dumb(device(), MiB); }).code(), EMFILE);
  EXPECT_EQ(closed_, std::vector{handle});
}

TEST_F(drm_memory_test, refused_dumb_buffers) {
  const auto refusal = [&](int code) {
    refuse(DRM_IOCTL_MODE_CREATE_DUMB, code);
    return std::string(error_of([&] { allocate_dumb(device("xe"), MiB); }).what());
  };
  EXPECT_THAT(refusal(EACCES), AllOf(HasSubstr("this is a render node"),
                                     HasSubstr("/dev/dri/card*"), HasSubstr("allocate_drm()")));
  EXPECT_THAT(refusal(ENOSYS), HasSubstr("has no dumb buffers"));
  EXPECT_THAT(refusal(ENOMEM), HasSubstr("not so much memory"));
  EXPECT_THAT(refusal(EIO), HasSubstr("EIO"));
}

TEST_F(drm_memory_test, dumb_sizes_that_are_none) {
  const auto file = device();
  EXPECT_CALL(module_.calls, ioctl).Times(0);
  for (const auto size : {std::uint64_t{0}, 4096 * MiB, 4096 * MiB - 1, ~std::uint64_t{0}}) {
    const auto failure = error_of([&] { allocate_dumb(file, size); });
    EXPECT_EQ(failure.kind(), error_kind::usage);
    EXPECT_THAT(failure.what(), HasSubstr("4 GiB"));
  }
}

// --- by placement, at the boundary of the kernel -------------------------------------------------

TEST_F(drm_memory_test, amdgpu_by_domain) {
  for (const auto& [where, domain] :
       {std::pair<drm_placement, std::uint64_t>{drm_placement::device, AMDGPU_GEM_DOMAIN_VRAM},
        {drm_placement::system, AMDGPU_GEM_DOMAIN_GTT}}) {
    answer<drm_amdgpu_gem_create>(
        DRM_IOCTL_AMDGPU_GEM_CREATE, [domain = domain](drm_amdgpu_gem_create& raw) {
          EXPECT_EQ(raw.in.bo_size, 8192U);
          EXPECT_EQ(raw.in.domains, domain);
          EXPECT_EQ(raw.in.domain_flags, std::uint64_t{AMDGPU_GEM_CREATE_CPU_ACCESS_REQUIRED});
          raw.out.handle = handle;
          return 0;
        });
    EXPECT_EQ(allocate_drm(device("amdgpu"), 5000, where).size(), 5000U);
  }
  EXPECT_EQ(closed_, (std::vector{handle, handle})) << "the exports keep the memory";
}

TEST_F(drm_memory_test, i915_by_memory_regions) {
  using region = drm_i915_gem_memory_class_instance;
  std::vector<std::uint16_t> classes;
  std::uint32_t flags = 0;
  answer<drm_i915_gem_create_ext>(DRM_IOCTL_I915_GEM_CREATE_EXT, [&](drm_i915_gem_create_ext& raw) {
    const auto& places =
        *reinterpret_cast<const drm_i915_gem_create_ext_memory_regions*>(raw.extensions);
    EXPECT_EQ(places.base.name, std::uint32_t{I915_GEM_CREATE_EXT_MEMORY_REGIONS});
    EXPECT_EQ(places.base.next_extension, 0U);
    const auto* regions = reinterpret_cast<const region*>(places.regions);
    classes.clear();
    for (std::uint32_t i = 0; i < places.num_regions; ++i)
      classes.push_back(regions[i].memory_class);
    flags = raw.flags;
    raw.handle = handle;
    return 0;
  });
  allocate_drm(device("i915"), MiB, drm_placement::device);
  EXPECT_EQ(classes,
            (std::vector<std::uint16_t>{I915_MEMORY_CLASS_DEVICE, I915_MEMORY_CLASS_SYSTEM}));
  EXPECT_EQ(flags, std::uint32_t{I915_GEM_CREATE_EXT_FLAG_NEEDS_CPU_ACCESS});
  allocate_drm(device("i915"), MiB, drm_placement::system);
  EXPECT_EQ(classes, std::vector<std::uint16_t>{I915_MEMORY_CLASS_SYSTEM});
  EXPECT_EQ(flags, 0U);
}

// An xe whose VRAM is region 2 and has pages of 64 KiB.
class xe_memory_test : public drm_memory_test {
 protected:
  xe_memory_test() {
    answer<drm_xe_device_query>(DRM_IOCTL_XE_DEVICE_QUERY, [this](drm_xe_device_query& raw) {
      EXPECT_EQ(raw.query, std::uint32_t{DRM_XE_DEVICE_QUERY_MEM_REGIONS});
      const auto length = sizeof(drm_xe_query_mem_regions) + regions_.size() * sizeof(regions_[0]);
      if (raw.size == 0) {
        raw.size = static_cast<std::uint32_t>(length);
        return 0;
      }
      EXPECT_EQ(raw.size, length);
      auto& said = *reinterpret_cast<drm_xe_query_mem_regions*>(raw.data);
      said.num_mem_regions = static_cast<std::uint32_t>(regions_.size());
      std::memcpy(said.mem_regions, regions_.data(), regions_.size() * sizeof(regions_[0]));
      return 0;
    });
    answer<drm_xe_gem_create>(DRM_IOCTL_XE_GEM_CREATE, [this](drm_xe_gem_create& raw) {
      asked_ = raw;
      raw.handle = handle;
      return 0;
    });
    add(DRM_XE_MEM_REGION_CLASS_SYSMEM, 0, 4096);
    add(DRM_XE_MEM_REGION_CLASS_VRAM, 2, 65536);
  }
  void add(std::uint16_t kind, std::uint16_t instance, std::uint32_t page) {
    drm_xe_mem_region region{};
    region.mem_class = kind;
    region.instance = instance;
    region.min_page_size = page;
    regions_.push_back(region);
  }

  std::vector<drm_xe_mem_region> regions_;
  drm_xe_gem_create asked_{};
};

TEST_F(xe_memory_test, by_region_in_its_own_pages) {
  allocate_drm(device("xe"), 5000, drm_placement::device);
  EXPECT_EQ(asked_.placement, 1U << 2);
  EXPECT_EQ(asked_.size, 65536U);
  EXPECT_EQ(asked_.flags, std::uint32_t{DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM});
  EXPECT_EQ(asked_.cpu_caching, DRM_XE_GEM_CPU_CACHING_WC);
  EXPECT_EQ(asked_.vm_id, 0U) << "else it could not be exported";
  allocate_drm(device("xe"), 5000, drm_placement::system);
  EXPECT_EQ(asked_.placement, 1U << 0);
  EXPECT_EQ(asked_.size, 8192U);
  EXPECT_EQ(asked_.flags, 0U);
  EXPECT_EQ(asked_.cpu_caching, DRM_XE_GEM_CPU_CACHING_WB);
}

TEST_F(xe_memory_test, integrated_gpu_has_no_vram) {
  regions_.pop_back();
  EXPECT_THAT(error_of([&] { allocate_drm(device("xe"), 1, drm_placement::device); }).what(),
              AllOf(HasSubstr("no memory of its own"), HasSubstr("drm_placement::system")));
}

TEST_F(xe_memory_test, failing_query) {
  refuse(DRM_IOCTL_XE_DEVICE_QUERY, EIO);
  EXPECT_EQ(error_of([&] { allocate_drm(device("xe"), 1, drm_placement::system); }).code(), EIO);
}

TEST_F(drm_memory_test, refused_placements) {
  const auto refusal = [&](int code, drm_placement where) {
    refuse(DRM_IOCTL_AMDGPU_GEM_CREATE, code);
    return std::string(error_of([&] { allocate_drm(device("amdgpu"), MiB, where); }).what());
  };
  EXPECT_THAT(refusal(EINVAL, drm_placement::device), HasSubstr("no memory of its own"));
  EXPECT_THAT(refusal(EINVAL, drm_placement::system), Not(HasSubstr("no memory of its own")));
  for (const auto code : {ENOMEM, ENOSPC})
    EXPECT_THAT(refusal(code, drm_placement::device), HasSubstr("Resizable BAR"));
  EXPECT_TRUE(closed_.empty());
}

TEST_F(drm_memory_test, placement_by_other_drivers) {
  const auto failure = error_of([&] { allocate_drm(device(), MiB, drm_placement::device); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), AllOf(HasSubstr("vgem"), HasSubstr("allocate_dumb()")));
  EXPECT_EQ(error_of([&] { allocate_drm(device("xe"), 0, drm_placement::device); }).kind(),
            error_kind::usage);
}

}  // namespace
}  // namespace dmabridge
