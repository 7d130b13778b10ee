// SPDX-License-Identifier: MIT
//
// What the kernel answers to wrong arguments: every error its own clean errno, never more than
// that.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "support/fixture.hpp"
#include "support/system_buffers.hpp"

namespace dmabridge::test {
namespace {

// The request for the same structure in another size.
unsigned long with_size(unsigned long request, std::size_t size) {
  return _IOC(_IOC_DIR(request), _IOC_TYPE(request), _IOC_NR(request), size);
}

class Abi : public GuestTest {
 protected:
  Fd node_{open(region_node(first_region()).c_str(), O_RDWR | O_CLOEXEC)};

  Fd raw(int flags = O_RDONLY | O_DIRECT) { return open_file(drive("SAMESW").path(), flags); }
};

// --- every structure: sizes ---------------------------------------------------------------------

struct Shape {
  const char* name;
  unsigned long request;
  std::size_t shortest;  // how much of it has to be there for the call to make sense
};

class Sizes : public Abi, public testing::WithParamInterface<Shape> {
 protected:
  // A call that succeeds, in a structure of this size whose known part is right. Room for longer
  // ones; 0xee behind the end.
  int call_with_size(std::size_t size, bool dirty_tail) {
    const std::size_t known = _IOC_SIZE(GetParam().request);
    std::vector<unsigned char> bytes(4 * known + 64, 0xee);
    std::memset(bytes.data(), 0, size);
    fill(bytes.data());
    if (size < known) std::memset(bytes.data() + size, 0xee, known - size);
    if (dirty_tail) bytes.at(size - 1) = 1;
    const int error = call(target(), with_size(GetParam().request, size), bytes.data());
    for (std::size_t i = size; i < bytes.size(); i++) {
      EXPECT_EQ(bytes[i], 0xee) << "the kernel wrote behind the end, at " << i;
      if (bytes[i] != 0xee) break;
    }
    if (error == 0) release(bytes.data(), size);
    return error;
  }

  void SetUp() override {
    buffer_ = allocate(64 * KiB);
    if (GetParam().request == DMABRIDGE_IOCTL_BINDING ||
        GetParam().request == DMABRIDGE_IOCTL_BIND ||
        GetParam().request == DMABRIDGE_IOCTL_NEGOTIATE)
      target_ = raw();
    if (GetParam().request == DMABRIDGE_IOCTL_BINDING)
      binding_ = bind(buffer_.get(), target_.get());
  }

  void TearDown() override {
    binding_.fd.reset();
    buffer_.reset();
    target_.reset();
    Abi::TearDown();
  }

 private:
  int target() const {
    switch (GetParam().request) {
      case DMABRIDGE_IOCTL_ALLOC:
        return node_.get();
      case DMABRIDGE_IOCTL_BINDING:
        return binding_.fd.get();
      default:
        return control();
    }
  }

  void fill(void* bytes) const {
    switch (GetParam().request) {
      case DMABRIDGE_IOCTL_QUERY:
        static_cast<dmabridge_query*>(bytes)->fd = buffer_.get();
        break;
      case DMABRIDGE_IOCTL_HOLD:
        static_cast<dmabridge_hold*>(bytes)->fd = buffer_.get();
        static_cast<dmabridge_hold*>(bytes)->placement = DMABRIDGE_PLACEMENT_DEVICE;
        break;
      case DMABRIDGE_IOCTL_MOVE:
        static_cast<dmabridge_move*>(bytes)->fd = buffer_.get();
        static_cast<dmabridge_move*>(bytes)->placement = DMABRIDGE_PLACEMENT_DEVICE;
        break;
      case DMABRIDGE_IOCTL_WATCH:
        static_cast<dmabridge_watch*>(bytes)->fd = buffer_.get();
        static_cast<dmabridge_watch*>(bytes)->eventfd = -1;
        break;
      case DMABRIDGE_IOCTL_BIND: {
        auto* argument = static_cast<dmabridge_bind*>(bytes);
        argument->fd = buffer_.get();
        argument->target_fd = target_.get();
        argument->policy = DMABRIDGE_POLICY_PREFER;
        argument->flags = DMABRIDGE_BIND_READ;
        break;
      }
      case DMABRIDGE_IOCTL_NEGOTIATE: {
        auto* argument = static_cast<dmabridge_negotiate*>(bytes);
        argument->fd = buffer_.get();
        argument->policy = DMABRIDGE_POLICY_PREFER;
        argument->kind = DMABRIDGE_NEGOTIATE_FILE;
        argument->flags = DMABRIDGE_NEGOTIATE_READ;
        argument->target_fd = target_.get();
        break;
      }
      case DMABRIDGE_IOCTL_ALLOC:
        static_cast<dmabridge_alloc*>(bytes)->size = 4096;
        static_cast<dmabridge_alloc*>(bytes)->policy = DMABRIDGE_POLICY_PREFER;
        break;
      default:
        break;
    }
  }

  // Closes the fd that a call gave.
  void release(const void* bytes, std::size_t size) const {
    std::size_t at = 0;
    switch (GetParam().request) {
      case DMABRIDGE_IOCTL_HOLD:
        at = offsetof(dmabridge_hold, hold_fd);
        break;
      case DMABRIDGE_IOCTL_WATCH:
        at = offsetof(dmabridge_watch, watch_fd);
        break;
      case DMABRIDGE_IOCTL_BIND:
        at = offsetof(dmabridge_bind, binding_fd);
        break;
      case DMABRIDGE_IOCTL_ALLOC:
        at = offsetof(dmabridge_alloc, fd);
        break;
      default:
        return;
    }
    ASSERT_LE(at + sizeof(int), size) << "an fd was made that nobody was told of";
    int fd = -1;
    std::memcpy(&fd, static_cast<const char*>(bytes) + at, sizeof(fd));
    EXPECT_GE(fd, 0);
    EXPECT_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    close(fd);
  }

  Fd buffer_, target_;
  Binding binding_{};
};

TEST_P(Sizes, SameIsTaken) {
  EXPECT_EQ(call_with_size(_IOC_SIZE(GetParam().request), false), 0);
}

TEST_P(Sizes, ShorterIsTakenAsZeroExtended) {
  EXPECT_EQ(call_with_size(GetParam().shortest, false), 0);
}

TEST_P(Sizes, ShorterThanAnyMeaningIsRefused) {
  // Nothing but the first byte: enough for a small id or fd, not for what follows it.
  const int error = call_with_size(1, false);
  if (GetParam().shortest <= 1) {
    EXPECT_EQ(error, 0);
  } else {
    EXPECT_LT(error, 0);
  }
}

TEST_P(Sizes, LongerIsTakenIfItsUnknownPartIsZero) {
  EXPECT_EQ(call_with_size(_IOC_SIZE(GetParam().request) + 64, false), 0);
}

TEST_P(Sizes, LongerIsRefusedIfItsUnknownPartIsNot) {
  EXPECT_EQ(call_with_size(_IOC_SIZE(GetParam().request) + 64, true), -E2BIG);
  EXPECT_EQ(call_with_size(_IOC_SIZE(GetParam().request) + 1, true), -E2BIG);
}

INSTANTIATE_TEST_SUITE_P(Abi, Sizes,
                         testing::Values(Shape{"Info", DMABRIDGE_IOCTL_INFO, 1},
                                         Shape{"Region", DMABRIDGE_IOCTL_REGION, 1},
                                         Shape{"Query", DMABRIDGE_IOCTL_QUERY, 1},
                                         Shape{"Hold", DMABRIDGE_IOCTL_HOLD, 16},
                                         Shape{"Move", DMABRIDGE_IOCTL_MOVE, 8},
                                         Shape{"Watch", DMABRIDGE_IOCTL_WATCH, 16},
                                         Shape{"Bind", DMABRIDGE_IOCTL_BIND, 24},
                                         Shape{"Negotiate", DMABRIDGE_IOCTL_NEGOTIATE, 36},
                                         Shape{"Alloc", DMABRIDGE_IOCTL_ALLOC, 20},
                                         Shape{"Binding", DMABRIDGE_IOCTL_BINDING, 1}),
                         [](const auto& test) { return std::string(test.param.name); });

// --- every file: unknown requests
// -----------------------------------------------------------------

TEST_F(Abi, UnknownRequestIsNotty) {
  const Fd buffer = allocate(4096), target = raw();
  const Binding binding = bind(buffer.get(), target.get());
  ASSERT_EQ(binding.error, 0) << describe(binding.verdict);
  std::array<char, 4096> bytes{};
  for (int fd : {control(), node_.get(), binding.fd.get()}) {
    EXPECT_EQ(call(fd, _IOWR(DMABRIDGE_IOC, 0x3f, int), bytes.data()), -ENOTTY);
    EXPECT_EQ(call(fd, _IOWR(0x42, 0x00, int), bytes.data()), -ENOTTY);
  }
  // Requests that are known elsewhere.
  EXPECT_EQ(call(control(), DMABRIDGE_IOCTL_ALLOC, bytes.data()), -ENOTTY);
  EXPECT_EQ(call(node_.get(), DMABRIDGE_IOCTL_QUERY, bytes.data()), -ENOTTY);
  EXPECT_EQ(call(binding.fd.get(), DMABRIDGE_IOCTL_INFO, bytes.data()), -ENOTTY);
  EXPECT_EQ(call(control(), DMABRIDGE_IOCTL_BINDING, bytes.data()), -ENOTTY);
}

TEST_F(Abi, BadPointerIsFault) {
  for (unsigned long request : {DMABRIDGE_IOCTL_INFO, DMABRIDGE_IOCTL_REGION, DMABRIDGE_IOCTL_QUERY,
                                DMABRIDGE_IOCTL_HOLD, DMABRIDGE_IOCTL_MOVE, DMABRIDGE_IOCTL_BIND,
                                DMABRIDGE_IOCTL_WATCH, DMABRIDGE_IOCTL_NEGOTIATE}) {
    EXPECT_EQ(call(control(), request, reinterpret_cast<void*>(8)), -EFAULT);
  }
  EXPECT_EQ(call(node_.get(), DMABRIDGE_IOCTL_ALLOC, reinterpret_cast<void*>(8)), -EFAULT);
}

// A result that cannot be written must not leave an fd behind.
TEST_F(Abi, ReadOnlyResultLeavesNoFd) {
  const Mapping page = Mapping::anonymous(4096);
  const Fd probe(dup(0));
  dmabridge_alloc alloc{};
  alloc.size = 4096;
  alloc.policy = DMABRIDGE_POLICY_PREFER;
  std::memcpy(page.data(), &alloc, sizeof(alloc));
  ASSERT_EQ(mprotect(page.data(), 4096, PROT_READ), 0);
  EXPECT_EQ(call(node_.get(), DMABRIDGE_IOCTL_ALLOC, page.data()), -EFAULT);
  const Fd next(dup(0));
  EXPECT_EQ(next.get(), probe.get() + 1) << "an fd number is lost";
}

// --- flags, reserved fields, values
// ---------------------------------------------------------------

TEST_F(Abi, Info) {
  dmabridge_info info{};
  EXPECT_EQ(call(control(), DMABRIDGE_IOCTL_INFO, &info), 0);
  EXPECT_EQ(info.abi_version, DMABRIDGE_ABI_VERSION);
  EXPECT_EQ(info.nr_regions, regions().size());
  EXPECT_EQ(info.importers, 1u << DMABRIDGE_IMPORTER_BLOCK);
}

TEST_F(Abi, RegionFlagsAndEnd) {
  dmabridge_region_info info{};
  info.flags = 1;
  EXPECT_EQ(call(control(), DMABRIDGE_IOCTL_REGION, &info), -EINVAL);
  info = {};
  info.id = std::numeric_limits<std::uint32_t>::max();
  EXPECT_EQ(call(control(), DMABRIDGE_IOCTL_REGION, &info), -ENOENT);
}

TEST_F(Abi, AllocValues) {
  const auto allocate_with = [&](auto change) {
    dmabridge_alloc alloc{};
    alloc.size = 4096;
    alloc.policy = DMABRIDGE_POLICY_PREFER;
    change(alloc);
    const int error = call(node_.get(), DMABRIDGE_IOCTL_ALLOC, &alloc);
    if (error == 0) close(alloc.fd);
    return error;
  };
  EXPECT_EQ(allocate_with([](auto&) {}), 0);
  EXPECT_EQ(allocate_with([](auto& alloc) { alloc.size = 0; }), -EINVAL);
  EXPECT_EQ(allocate_with([](auto& alloc) { alloc.flags = 1; }), -EINVAL);
  EXPECT_EQ(allocate_with([](auto& alloc) { alloc.flags = 1U << 31; }), -EINVAL);
  EXPECT_EQ(allocate_with([](auto& alloc) { alloc.__reserved = 1; }), -EINVAL);
  EXPECT_EQ(allocate_with([](auto& alloc) { alloc.policy = 0; }), -EINVAL);
  EXPECT_EQ(allocate_with([](auto& alloc) { alloc.policy = 4; }), -EINVAL);
  EXPECT_EQ(allocate_with([](auto& alloc) { alloc.size = first_region().size + 1; }), -ENOSPC);
  EXPECT_EQ(
      allocate_with([](auto& alloc) { alloc.size = std::numeric_limits<std::uint64_t>::max(); }),
      -ENOSPC);
  EXPECT_EQ(allocate_with(
                [](auto& alloc) { alloc.size = std::numeric_limits<std::uint64_t>::max() - 4095; }),
            -ENOSPC);
}

TEST_F(Abi, QueryValues) {
  const Fd buffer = allocate(64 * KiB);
  const auto query_with = [&](auto change) {
    dmabridge_query query{};
    query.fd = buffer.get();
    change(query);
    return call(control(), DMABRIDGE_IOCTL_QUERY, &query);
  };
  EXPECT_EQ(query_with([](auto&) {}), 0);
  EXPECT_EQ(query_with([](auto& query) { query.flags = 1; }), -EINVAL);
  EXPECT_EQ(query_with([](auto& query) { query.max_users = 1; }), -EINVAL)
      << "room without a place";
  EXPECT_EQ(query_with([](auto& query) { query.chunks = 8; }), -EINVAL) << "a place without room";
  EXPECT_EQ(query_with([](auto& query) { query.chunks = 8, query.max_chunks = 1; }), -EFAULT);
  dmabridge_user user;
  EXPECT_EQ(query_with([&](auto& query) {
              query.users = reinterpret_cast<std::uintptr_t>(&user);
              query.max_users = 1;
              query.user_size = 4;
            }),
            -EINVAL)
      << "a structure too short to hold what every version has";
  // A caller may ask for as many as it likes: what there is counts, not what was asked.
  std::vector<dmabridge_chunk> chunks(65536);
  EXPECT_EQ(query_with([&](auto& query) {
              query.chunks = reinterpret_cast<std::uintptr_t>(chunks.data());
              query.max_chunks = std::numeric_limits<std::uint32_t>::max();
            }),
            0);
}

TEST_F(Abi, UsersOfOtherSizes) {
  const Fd buffer = allocate(4096);
  const Hold held = hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(held.error, 0);
  std::vector<unsigned char> room(2 * sizeof(dmabridge_user), 0xee);
  dmabridge_query query{};
  query.fd = buffer.get();
  query.users = reinterpret_cast<std::uintptr_t>(room.data());
  query.max_users = 1;
  query.user_size = sizeof(dmabridge_user) + 16;  // of a newer caller
  EXPECT_EQ(call(control(), DMABRIDGE_IOCTL_QUERY, &query), 0);
  EXPECT_EQ(query.nr_users, 1u);
  for (std::size_t i = 0; i < 16; i++)
    EXPECT_EQ(room[sizeof(dmabridge_user) + i], 0) << "what the kernel does not know is cleared";
  EXPECT_EQ(room[sizeof(dmabridge_user) + 16], 0xee);
}

TEST_F(Abi, MoveAndHoldValues) {
  const Fd buffer = allocate(4096);
  for (std::uint32_t placement : {0u, 3u, 0xffffffffu}) {
    EXPECT_EQ(move(buffer.get(), placement), -EINVAL);
    EXPECT_EQ(hold(buffer.get(), placement).error, -EINVAL);
  }
  dmabridge_move moved{};
  moved.fd = buffer.get();
  moved.placement = DMABRIDGE_PLACEMENT_DEVICE;
  moved.flags = 1;
  EXPECT_EQ(call(control(), DMABRIDGE_IOCTL_MOVE, &moved), -EINVAL);
  moved.flags = 0;
  moved.__reserved = 1;
  EXPECT_EQ(call(control(), DMABRIDGE_IOCTL_MOVE, &moved), -EINVAL);
  dmabridge_hold held{};
  held.fd = buffer.get();
  held.placement = DMABRIDGE_PLACEMENT_DEVICE;
  held.flags = 2;
  EXPECT_EQ(call(control(), DMABRIDGE_IOCTL_HOLD, &held), -EINVAL);
}

TEST_F(Abi, BindValues) {
  const Fd buffer = allocate(4096), target = raw();
  const auto bind_with = [&](auto change) {
    dmabridge_bind argument{};
    argument.fd = buffer.get();
    argument.target_fd = target.get();
    argument.policy = DMABRIDGE_POLICY_PREFER;
    argument.flags = DMABRIDGE_BIND_READ;
    change(argument);
    const int error = call(control(), DMABRIDGE_IOCTL_BIND, &argument);
    if (error == 0) close(argument.binding_fd);
    return error;
  };
  EXPECT_EQ(bind_with([](auto&) {}), 0);
  EXPECT_EQ(bind_with([](auto& argument) { argument.flags = 0; }), -EINVAL);
  EXPECT_EQ(bind_with([](auto& argument) { argument.flags = 4 | DMABRIDGE_BIND_READ; }), -EINVAL);
  EXPECT_EQ(bind_with([](auto& argument) { argument.policy = 0; }), -EINVAL);
  EXPECT_EQ(bind_with([](auto& argument) { argument.policy = 77; }), -EINVAL);
  EXPECT_LT(bind_with([](auto& argument) { argument.importer = 77; }), 0);
  EXPECT_EQ(bind_with([](auto& argument) { argument.target_fd = -1; }), -EBADF);
  EXPECT_EQ(bind_with([](auto& argument) { argument.target_fd = 9999; }), -EBADF);
}

TEST_F(Abi, NegotiateValuesOfABuffer) {
  const Fd buffer = allocate(4096), target = raw();
  const auto ask_with = [&](auto change) {
    dmabridge_negotiate argument{};
    argument.fd = buffer.get();
    argument.policy = DMABRIDGE_POLICY_PREFER;
    argument.kind = DMABRIDGE_NEGOTIATE_FILE;
    argument.flags = DMABRIDGE_NEGOTIATE_READ;
    argument.target_fd = target.get();
    change(argument);
    return call(control(), DMABRIDGE_IOCTL_NEGOTIATE, &argument);
  };
  EXPECT_EQ(ask_with([](auto&) {}), 0);
  EXPECT_EQ(ask_with([](auto& argument) { argument.kind = 0; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.kind = 3; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.policy = 0; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.policy = 4; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.flags = 0; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.flags |= DMABRIDGE_NEGOTIATE_PEER2PEER; }),
            -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.flags |= 1U << 31; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.device = 1; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.target_fd = -1; }), -EBADF);
  EXPECT_EQ(ask_with([](auto& argument) { argument.target_fd = 9999; }), -EBADF);
  // What is for buffers that there are not.
  EXPECT_EQ(ask_with([](auto& argument) { argument.region_id = first_region().id; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.size = 4096; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.buffer_policy = DMABRIDGE_POLICY_PREFER; }),
            -EINVAL);
}

TEST_F(Abi, NegotiateValuesOfAFunction) {
  const auto ask_with = [&](auto change) {
    dmabridge_negotiate argument{};
    argument.fd = -1;
    argument.region_id = first_region().id;
    argument.size = 4096;
    argument.buffer_policy = DMABRIDGE_POLICY_PREFER;
    argument.policy = DMABRIDGE_POLICY_PREFER;
    argument.kind = DMABRIDGE_NEGOTIATE_PCI;
    argument.target_fd = -1;
    argument.device = first_region().device;
    change(argument);
    return call(control(), DMABRIDGE_IOCTL_NEGOTIATE, &argument);
  };
  EXPECT_EQ(ask_with([](auto&) {}), 0);
  EXPECT_EQ(ask_with([](auto& argument) { argument.flags = DMABRIDGE_NEGOTIATE_STATIC; }), 0);
  EXPECT_EQ(ask_with([](auto& argument) {
              argument.flags = DMABRIDGE_NEGOTIATE_PEER2PEER | DMABRIDGE_NEGOTIATE_REVOCABLE;
            }),
            0);
  EXPECT_EQ(ask_with([](auto& argument) {
              argument.flags = DMABRIDGE_NEGOTIATE_STATIC | DMABRIDGE_NEGOTIATE_PEER2PEER;
            }),
            -EINVAL)
      << "a static importer cannot ask for that";
  EXPECT_EQ(ask_with([](auto& argument) { argument.flags = DMABRIDGE_NEGOTIATE_READ; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.flags = 1U << 5; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.target_fd = 0; }), -EINVAL);
  for (const std::uint64_t device : {0xfff8ULL, 0x1234ULL << 16, 1ULL << 48, ~0ULL})
    EXPECT_EQ(ask_with([&](auto& argument) { argument.device = device; }), -ENODEV) << device;
  // What is for a buffer that there is not.
  EXPECT_EQ(ask_with([](auto& argument) { argument.size = 0; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.buffer_policy = 0; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.buffer_policy = 4; }), -EINVAL);
  EXPECT_EQ(ask_with([](auto& argument) { argument.region_id = 9999; }), -ENOENT);
  EXPECT_EQ(ask_with([](auto& argument) { argument.size = first_region().size; }), 0);
  EXPECT_EQ(ask_with([](auto& argument) { argument.size = first_region().size + 1; }), -ENOSPC);
  EXPECT_EQ(ask_with([](auto& argument) { argument.size = ~0ULL; }), -ENOSPC);
}

// --- wrong files --------------------------------------------------------------------------------

class WrongBuffer : public Abi, public testing::WithParamInterface<unsigned long> {
 protected:
  int call_with(int fd) {
    std::array<unsigned char, 4096> bytes{};
    // In every structure the buffer's fd comes first.
    std::memcpy(bytes.data(), &fd, sizeof(fd));
    if (GetParam() == DMABRIDGE_IOCTL_HOLD || GetParam() == DMABRIDGE_IOCTL_MOVE)
      bytes[4] = DMABRIDGE_PLACEMENT_DEVICE;
    const Fd target = raw();
    if (GetParam() == DMABRIDGE_IOCTL_WATCH)
      reinterpret_cast<dmabridge_watch*>(bytes.data())->eventfd = -1;
    if (GetParam() == DMABRIDGE_IOCTL_BIND) {
      auto* argument = reinterpret_cast<dmabridge_bind*>(bytes.data());
      argument->target_fd = target.get();
      argument->policy = DMABRIDGE_POLICY_REQUIRE;
      argument->flags = DMABRIDGE_BIND_READ;
    }
    if (GetParam() == DMABRIDGE_IOCTL_NEGOTIATE) {
      auto* argument = reinterpret_cast<dmabridge_negotiate*>(bytes.data());
      argument->target_fd = target.get();
      argument->kind = DMABRIDGE_NEGOTIATE_FILE;
      argument->policy = DMABRIDGE_POLICY_REQUIRE;
      argument->flags = DMABRIDGE_NEGOTIATE_READ;
    }
    return call(control(), GetParam(), bytes.data());
  }
};

TEST_P(WrongBuffer, BadFd) {
  // Which is a region for the one that can ask about these; here it has none of the rest.
  EXPECT_EQ(call_with(-1), GetParam() == DMABRIDGE_IOCTL_NEGOTIATE ? -EINVAL : -EBADF);
  EXPECT_EQ(call_with(-2), -EBADF);
  EXPECT_EQ(call_with(9999), -EBADF);
}

TEST_P(WrongBuffer, FileThatIsNoDmaBuf) {
  const Fd file = open_file("/etc/passwd", O_RDONLY);
  EXPECT_EQ(call_with(file.get()), -EINVAL);
  EXPECT_EQ(call_with(control()), -EINVAL);
  EXPECT_EQ(call_with(node_.get()), -EINVAL);
}

TEST_P(WrongBuffer, DmaBufOfAnotherExporter) {
  const Fd foreign = allocate_from_heap(4096);
  // Block I/O takes such a one, but not by policy require.
  const bool of_binding =
      GetParam() == DMABRIDGE_IOCTL_BIND || GetParam() == DMABRIDGE_IOCTL_NEGOTIATE;
  EXPECT_EQ(call_with(foreign.get()), of_binding ? -EOPNOTSUPP : -EMEDIUMTYPE);
}

INSTANTIATE_TEST_SUITE_P(Abi, WrongBuffer,
                         testing::Values(DMABRIDGE_IOCTL_QUERY, DMABRIDGE_IOCTL_HOLD,
                                         DMABRIDGE_IOCTL_MOVE, DMABRIDGE_IOCTL_WATCH,
                                         DMABRIDGE_IOCTL_BIND, DMABRIDGE_IOCTL_NEGOTIATE),
                         [](const auto& test) {
                           switch (test.param) {
                             case DMABRIDGE_IOCTL_QUERY:
                               return "Query";
                             case DMABRIDGE_IOCTL_HOLD:
                               return "Hold";
                             case DMABRIDGE_IOCTL_MOVE:
                               return "Move";
                             case DMABRIDGE_IOCTL_WATCH:
                               return "Watch";
                             case DMABRIDGE_IOCTL_NEGOTIATE:
                               return "Negotiate";
                             default:
                               return "Bind";
                           }
                         });

// --- commands on a ring
// -----------------------------------------------------------------------------

struct RingKind {
  const char* name;
  unsigned flags;
};

class Commands : public Abi, public testing::WithParamInterface<RingKind> {
 protected:
  void SetUp() override {
    buffer_ = allocate(1 * MiB);
    target_ = raw();
    binding_ = bind(buffer_.get(), target_.get());
    ASSERT_EQ(binding_.error, 0) << describe(binding_.verdict);
  }
  void TearDown() override {
    binding_.fd.reset();
    buffer_.reset();
    target_.reset();
    Abi::TearDown();
  }
  int send(Ring& ring, std::uint64_t buffer_offset, std::uint32_t length,
           std::uint64_t file_offset = 0) {
    return ring.transfer(binding_.fd.get(), DMABRIDGE_URING_READ, buffer_offset, length,
                         file_offset);
  }

  Fd buffer_, target_;
  Binding binding_{};
};

TEST_P(Commands, RightOneMovesBytes) {
  Ring ring(8, GetParam().flags);
  EXPECT_EQ(send(ring, 4096, 8192, 64 * KiB), 8192);
  const auto bytes = host_bytes(buffer_.get(), 4096, 8192);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0xa0, 64 * KiB), "");
}

TEST_P(Commands, RangeHasToLieInTheBuffer) {
  Ring ring(8, GetParam().flags);
  EXPECT_EQ(send(ring, 1 * MiB - 4096, 4096), 4096) << "up to its end";
  EXPECT_EQ(send(ring, 1 * MiB - 4096, 8192), -ERANGE);
  EXPECT_EQ(send(ring, 1 * MiB, 4096), -ERANGE);
  EXPECT_EQ(send(ring, 1ULL << 40, 4096), -ERANGE);
  EXPECT_EQ(send(ring, ~0ULL - 4095, 4096), -ERANGE);
  EXPECT_EQ(send(ring, ~0ULL - 4095, 8192), -ERANGE) << "an overflow";
}

TEST_P(Commands, MisalignedIsInvalid) {
  Ring ring(8, GetParam().flags);
  const auto info = binding_info(binding_.fd.get());
  ASSERT_GT(info.offset_align, 1u);
  ASSERT_GT(info.memory_align, 1u);
  EXPECT_EQ(send(ring, 0, 4096, 1), -EINVAL);
  EXPECT_EQ(send(ring, 0, 4096, info.offset_align - 1), -EINVAL);
  EXPECT_EQ(send(ring, 0, info.offset_align + 1), -EINVAL);
  EXPECT_EQ(send(ring, info.memory_align / 2, 4096), -EINVAL);
  EXPECT_EQ(send(ring, info.memory_align, info.offset_align, info.offset_align),
            static_cast<int>(info.offset_align))
      << "the smallest that is allowed";
}

TEST_P(Commands, TooLongIsInvalid) {
  Ring ring(8, GetParam().flags);
  const auto info = binding_info(binding_.fd.get());
  ASSERT_GE(info.max_length, 4096u);
  EXPECT_LT(send(ring, 0, 0xfffff000u), 0);
}

TEST_P(Commands, FileOffsetThatNoFileHasIsAnError) {
  Ring ring(8, GetParam().flags);
  EXPECT_LT(send(ring, 0, 4096, 1ULL << 63), 0);
  EXPECT_LT(send(ring, 0, 4096, ~0ULL - 4095), 0);
  const std::uint64_t size = drive("SAMESW").size;
  EXPECT_EQ(send(ring, 0, 4096, size), 0) << "end of the file";
  EXPECT_EQ(send(ring, 0, 8192, size - 4096), 4096) << "short at its end";
}

TEST_P(Commands, UnknownOperationFlagsAndReservedFields) {
  Ring ring(8, GetParam().flags);
  const auto send_with = [&](auto change) {
    io_uring_sqe* sqe = ring.prepare(binding_.fd.get(), DMABRIDGE_URING_READ, 0, 4096, 0);
    dmabridge_uring_cmd command{};
    std::memcpy(&command, sqe->cmd, sizeof(command));
    change(*sqe, command);
    std::memcpy(sqe->cmd, &command, sizeof(command));
    ring.submit();
    return ring.wait();
  };
  EXPECT_EQ(send_with([](auto&, auto&) {}), 4096);
  EXPECT_EQ(send_with([](auto&, auto& command) { command.flags = 1; }), -EINVAL);
  EXPECT_EQ(send_with([](auto&, auto& command) { command.__reserved = 1; }), -EINVAL);
  EXPECT_LT(send_with([](auto& sqe, auto&) { sqe.cmd_op = 0; }), 0);
  EXPECT_LT(send_with([](auto& sqe, auto&) { sqe.cmd_op = DMABRIDGE_IOCTL_INFO; }), 0);
  EXPECT_EQ(send_with([](auto& sqe, auto&) { sqe.cmd_op = DMABRIDGE_URING_WRITE; }), -EBADF)
      << "not made for this direction";
  EXPECT_LT(send_with([](auto& sqe, auto&) { sqe.uring_cmd_flags = IORING_URING_CMD_FIXED; }), 0)
      << "no fixed buffer stands behind it";
  EXPECT_LT(send_with([](auto& sqe, auto&) { sqe.uring_cmd_flags = 1U << 30; }), 0);
}

// Never a splat, always a clean errno. The seed is fixed: a failure comes again.
TEST_P(Commands, GarbageIsAnsweredWithCleanErrors) {
  Ring ring(64, GetParam().flags);
  std::mt19937_64 random(20);
  const auto pick = [&](std::initializer_list<std::uint64_t> values) {
    return *(values.begin() + random() % values.size());
  };
  const Fd other = allocate(4096);
  for (int i = 0; i < 3000; i++) {
    const auto offset = pick(
        {0, 1, 511, 512, 4096, 1 * MiB - 512, 1 * MiB, 1ULL << 32, 1ULL << 63, ~0ULL, random()});
    const auto length = static_cast<std::uint32_t>(
        pick({0, 1, 511, 512, 4096, 64 * KiB, 1 * MiB, 0x7fffffff, 0xffffffff, random()}));
    const auto file_offset = pick(
        {0, 1, 512, 4096, 192 * MiB - 512, 192 * MiB, 1ULL << 62, 1ULL << 63, ~0ULL, random()});
    const auto operation = static_cast<std::uint32_t>(
        pick({DMABRIDGE_URING_READ, DMABRIDGE_URING_READ, DMABRIDGE_URING_WRITE, random()}));
    const int fd = static_cast<int>(
        pick({static_cast<std::uint64_t>(binding_.fd.get()),
              static_cast<std::uint64_t>(binding_.fd.get()),
              static_cast<std::uint64_t>(other.get()), static_cast<std::uint64_t>(control())}));
    ring.prepare(fd, operation, offset, length, file_offset);
    ring.submit();
    const int result = ring.wait();
    EXPECT_GT(result, -4096) << "no errno";
    EXPECT_NE(result, -524) << "an errno that user space does not know";
    EXPECT_NE(result, -529) << "EIOCBQUEUED got out";
    EXPECT_LE(result, static_cast<int>(1 * MiB)) << "more bytes than the buffer has";
    if (HasFailure()) FAIL() << "at try " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Abi, Commands,
                         testing::Values(RingKind{"Default", 0},
                                         RingKind{"DeferTaskrun", IORING_SETUP_SINGLE_ISSUER |
                                                                      IORING_SETUP_DEFER_TASKRUN},
                                         RingKind{"CoopTaskrun", IORING_SETUP_COOP_TASKRUN},
                                         RingKind{"Sqe128", IORING_SETUP_SQE128},
                                         RingKind{"Cqe32", IORING_SETUP_CQE32},
                                         RingKind{"SqPoll", IORING_SETUP_SQPOLL}),
                         [](const auto& test) { return std::string(test.param.name); });

// Bindings cannot be polled. Kernels differ in whether such a ring takes commands that complete by
// interrupt.
TEST_F(Abi, IopollRingWorksOrRefusesCleanly) {
  const Fd buffer = allocate(4096), target = raw();
  const Binding binding = bind(buffer.get(), target.get());
  ASSERT_EQ(binding.error, 0);
  Ring ring(8, IORING_SETUP_IOPOLL);
  ring.prepare(binding.fd.get(), DMABRIDGE_URING_READ, 0, 4096, 0);
  ring.submit();
  io_uring_cqe* cqe = nullptr;
  ASSERT_EQ(io_uring_wait_cqe(ring.get(), &cqe), 0);
  if (cqe->res >= 0) {
    EXPECT_EQ(cqe->res, 4096);
    const auto bytes = host_bytes(buffer.get(), 0, 4096);
    EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0xa0, 0), "");
  } else {
    EXPECT_EQ(cqe->res, -EOPNOTSUPP);
  }
  io_uring_cqe_seen(ring.get(), cqe);
}

// --- every ioctl, with anything in it
// ----------------------------------------------------------------

TEST_F(Abi, GarbageInIoctlsIsAnsweredWithCleanErrors) {
  std::mt19937_64 random(7);
  const Fd buffer = allocate(64 * KiB), target = raw(), file = open_file("/etc/passwd", O_RDONLY);
  const std::array<unsigned long, 9> requests{
      DMABRIDGE_IOCTL_INFO,  DMABRIDGE_IOCTL_REGION,    DMABRIDGE_IOCTL_QUERY,
      DMABRIDGE_IOCTL_HOLD,  DMABRIDGE_IOCTL_MOVE,      DMABRIDGE_IOCTL_BIND,
      DMABRIDGE_IOCTL_WATCH, DMABRIDGE_IOCTL_NEGOTIATE, DMABRIDGE_IOCTL_ALLOC};
  const std::array<int, 6> fds{buffer.get(), target.get(), file.get(), control(), node_.get(), -1};
  const int first_free = [] {
    const Fd probe(dup(0));
    return probe.get();
  }();
  for (int i = 0; i < 20000; i++) {
    const unsigned long request = requests[random() % requests.size()];
    std::array<std::uint32_t, 1024> words{};
    const std::size_t used = 1 + random() % 12;
    for (std::size_t word = 0; word < used; word++) {
      switch (random() % 4) {
        case 0:
          words[word] = static_cast<std::uint32_t>(fds[random() % fds.size()]);
          break;
        case 1:
          words[word] = static_cast<std::uint32_t>(random() % 5);
          break;
        case 2:
          words[word] = 1U << random() % 32;
          break;
        default:
          break;
      }
    }
    // No allocation so large that clearing it takes the test's time.
    if (request == DMABRIDGE_IOCTL_ALLOC && words[1] == 0 && words[0] > 1 * MiB) words[0] = 4096;
    const std::size_t size = random() % 3 == 0 ? random() % 2048 : _IOC_SIZE(request);
    const int fd = request == DMABRIDGE_IOCTL_ALLOC ? node_.get() : control();
    const int result = call(fd, with_size(request, size), words.data());
    EXPECT_GT(result, -134) << "errno " << -result << " of request " << request
                            << " is not one of user space's";
    if (HasFailure()) FAIL() << "at try " << i;
    close_range(static_cast<unsigned>(first_free), ~0U, 0);
  }
}

}  // namespace
}  // namespace dmabridge::test
