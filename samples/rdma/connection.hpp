// SPDX-License-Identifier: MIT
//
// What both programs of this sample need of RDMA: a device, and one reliable connection, whose ends
// tell each other about themselves by lines of text over TCP.
#pragma once

#include <infiniband/verbs.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace sample {

template <auto Close>
struct closer {
  void operator()(auto* object) const { Close(object); }
};

// An RDMA device with a protection domain. Throws std::runtime_error.
class device {
 public:
  explicit device(const std::string& name);

  auto context() const -> ibv_context* { return context_.get(); }
  auto domain() const -> ibv_pd* { return domain_.get(); }
  // Of port 1: its address by IPv4 (RoCE v2), and the index of that.
  auto gid() const -> const ibv_gid& { return gid_; }
  auto gid_index() const -> std::uint8_t { return gid_index_; }

 private:
  std::unique_ptr<ibv_context, closer<ibv_close_device>> context_;
  std::unique_ptr<ibv_pd, closer<ibv_dealloc_pd>> domain_;
  ibv_gid gid_{};
  std::uint8_t gid_index_ = 0;
};

// A TCP socket that speaks in lines. Throws std::system_error; the peer that is gone is one, too.
class line_socket {
 public:
  // Takes ownership.
  explicit line_socket(int descriptor) : descriptor_(descriptor) {}
  static auto connect(const std::string& host, const std::string& port) -> line_socket;
  line_socket(line_socket&& other) noexcept;
  auto operator=(line_socket&&) -> line_socket& = delete;
  ~line_socket();

  void send(const std::string& line);
  auto receive() -> std::string;
  // Whether the peer has closed its end, or is dead. Waits for nothing.
  auto is_closed() const -> bool;

 private:
  int descriptor_;
};

// Memory of a peer's, as work requests name it.
struct remote_memory {
  std::uint64_t address = 0;
  std::uint32_t key = 0;
};

// One end of a reliable connection. Throws std::runtime_error.
class connection {
 public:
  connection(const device& on, line_socket& peer);

  // Swap queue pairs, and connect. Both ends do it once.
  void establish();

  // Each waits for its completion, looking after the peer by TCP meanwhile.
  void read(std::span<std::byte> into, std::uint32_t lkey, remote_memory from);
  void write(std::span<const std::byte> from, std::uint32_t lkey, remote_memory to);
  // An empty message, which arrives after all that was written before it.
  void notify();
  void wait_for_notice();

 private:
  void move(ibv_wr_opcode way, ibv_sge here, remote_memory there);
  void post(ibv_send_wr& request);
  void complete(const char* what);

  const device& on_;
  line_socket& peer_;
  std::unique_ptr<ibv_cq, closer<ibv_destroy_cq>> completions_;
  std::unique_ptr<ibv_qp, closer<ibv_destroy_qp>> end_;
};

// To tell whether bytes arrived.
auto checksum(std::span<const std::byte> bytes) -> std::uint64_t;

}  // namespace sample
