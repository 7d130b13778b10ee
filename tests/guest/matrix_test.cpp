// SPDX-License-Identifier: MIT
//
// docs/exporters-and-importers.json against this machine: every exporter's memory is given to every
// importer, bytes go both ways and are compared as a third party sees them, and what the library
// said about it is the cell.
//
// What was found is left in /share/exporters-and-importers.json. With DMABRIDGE_TABLE=measure in
// the environment the two are not compared (tests/run --table).
#include <fcntl.h>
#include <unistd.h>
#include <dmabridge/block_attachment.hpp>
#include <dmabridge/control.hpp>
#include <dmabridge/drm_memory.hpp>
#include <dmabridge/error.hpp>
#include <dmabridge/rdma_importer.hpp>
#include <dmabridge/transfer.hpp>
#include <dmabridge/vulkan_memory.hpp>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <regex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "exporter_table.hpp"
#include "support/block_fixture.hpp"
#include "support/drm_card.hpp"
#include "support/exporters.hpp"
#include "support/scramble.hpp"
#include "support/soft_rdma.hpp"

namespace dmabridge::test {
namespace {

using docs::exporter_table;
using docs::table_cell;

constexpr std::uint64_t size = 1 * MiB;
constexpr std::uint8_t old_tag = 0x51, new_tag = 0x52;
constexpr int full_access =
    IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;

// --- words

std::vector<std::string> ids(const std::vector<reason>& reasons) {
  std::vector<std::string> all;
  for (const reason& why : reasons) all.push_back(why.id());
  return all;
}

bool is_ours(const exported_memory& memory) {
  return memory.memory().exporter() == "dmabridge";
}

// What becomes of it, and, if it is ours, where it was meanwhile.
table_cell served(const std::string& outcome, const exported_memory& memory) {
  if (!is_ours(memory)) return {outcome};
  const bool on_device = placement(memory.memory().descriptor()) == DMABRIDGE_PLACEMENT_DEVICE;
  return {outcome + (on_device ? ", on the device" : ", in system memory")};
}

// The way, and the route unless that is the same.
table_cell told(const std::string& way, const verdict& word) {
  const std::string route = to_string(word.route);
  return {way == route ? way : way + ", " + route, ids(word.reasons)};
}

// Its reasons, or else what the kernel or Vulkan had to say.
table_cell refused(const error& failure) {
  if (!failure.reasons().empty()) return {"refused", ids(failure.reasons())};
  if (failure.code() != 0) return {"refused", {errno_name(failure.code())}};
  std::smatch found;
  if (std::regex_search(failure.details().detail, found, std::regex("VK_[A-Z_]+")))
    return {"refused", {found.str()}};
  throw failure;
}

// --- bytes

std::vector<std::byte> pattern(std::uint8_t tag) {
  std::vector<std::byte> bytes(size);
  fill_pattern(bytes.data(), size, tag, 0);
  return bytes;
}

// What goes wrong before an importer has a say is no refusal of the importer's.
auto before_import(const auto& action) {
  try {
    return action();
  } catch (const error& failure) {
    throw std::runtime_error(failure.what());
  }
}

exported_memory made(const Exporter& exporter) {
  return before_import([&] { return exporter.make(size); });
}
void fill(const exported_memory& memory, std::uint8_t tag) {
  before_import([&] { memory.owner().copy_in(0, pattern(tag)); });
}
exported_memory filled(const Exporter& exporter, std::uint8_t tag) {
  auto memory = made(exporter);
  fill(memory, tag);
  return memory;
}

void expect_seen(const Exporter& exporter, const exported_memory& memory, std::uint8_t tag) {
  const auto bytes = exporter.seen(memory, size);
  EXPECT_EQ(pattern_difference(bytes.data(), size, tag, 0), "");
}

// --- importers

// A file or disk with a pattern, from whose start is read, and to whose end is written.
struct Target {
  std::string path;
  std::uint64_t size;
  std::uint8_t tag;
};

exporter_table table_in_tree() {
  std::ifstream file("/src/docs/exporters-and-importers.json");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return docs::parse_exporter_table(text);
}

class Matrix : public GuestTest, public testing::WithParamInterface<std::string> {
 protected:
  static void SetUpTestSuite() {
    found_ = expected_ = table_in_tree();
    link_ = std::make_unique<SoftRdma>("rxe0");
    device_ = std::make_unique<OpenRdma>("rxe0");
  }
  static void TearDownTestSuite() {
    cards_.clear();
    device_.reset();
    link_.reset();
    std::ofstream("/share/exporters-and-importers.json") << to_text(found_);
  }
  static bool compares() {
    const char* mode = std::getenv("DMABRIDGE_TABLE");
    return mode == nullptr || std::string_view(mode) != "measure";
  }
  static const drm_device& card(const std::string& driver, const std::string& module) {
    const auto known = cards_.find(driver);
    if (known != cards_.end()) return known->second;
    return cards_.emplace(driver, card_of(driver, module)).first->second;
  }
  static docs::exporter_row* row_of(exporter_table& table, const std::string& id) {
    const auto row = std::ranges::find(table.exporters, id, &docs::exporter_row::id);
    return row != table.exporters.end() ? &*row : nullptr;
  }

  static table_cell block(const Exporter& exporter, const Target& target,
                          const dmabridge::control* module) {
    const auto memory = made(exporter);
    const Fd file = open_file(target.path, O_RDWR);
    const block_attachment between(module, memory, file.get(), target.path, policy::prefer,
                                   direction::both);
    transfer_engine engine;
    const auto loaded = engine.load(between, {.length = size});
    expect_moved(between, loaded);
    expect_seen(exporter, memory, target.tag);

    fill(memory, new_tag);
    const auto saved = engine.save(between, {.file_offset = target.size - size, .length = size});
    expect_moved(between, saved);
    EXPECT_EQ(fsync(file.get()), 0);
    return told(to_string(between.method()), between.verdict());
  }
  // All of it, by the route of the verdict.
  static void expect_moved(const block_attachment& between, const transfer_result& done) {
    EXPECT_EQ(done.error, 0);
    EXPECT_EQ(done.bytes, size);
    const auto counted = done.routes.at(static_cast<std::size_t>(between.verdict().route)).bytes;
    EXPECT_EQ(counted, size) << "not all by " << to_string(between.verdict().route);
  }
  static table_cell raw(const Exporter& exporter, const dmabridge::control* module) {
    const Drive raw = drive(exporter.drive());
    const auto tag = std::to_integer<std::uint8_t>(host_read(raw.image(), 7, 1).front());
    const std::uint64_t end = raw.size - size;
    const auto before = host_read(raw.image(), end, size);
    const table_cell cell = block(exporter, {raw.path(), raw.size, tag}, module);
    const auto written = host_read(raw.image(), end, size);
    EXPECT_EQ(pattern_difference(written.data(), size, new_tag, 0), "") << "on the drive";
    const Fd disk = open_file(raw.path(), O_WRONLY);
    EXPECT_EQ(pwrite(disk.get(), before.data(), size, static_cast<off_t>(end)),
              static_cast<ssize_t>(size));
    EXPECT_EQ(fsync(disk.get()), 0);
    return cell;
  }
  static table_cell without_module(const Exporter& exporter) {
    if (is_ours(made(exporter))) return {"not run", {"it is the module's own memory"}};
    return raw(exporter, nullptr);
  }

  table_cell on_ext4(const Exporter& exporter) const {
    const Mount mount(drive(exporter.drive(), "ext4").path(), "ext4");
    const std::string path = mount.file("pattern");
    make_pattern_file(path, 2 * size, old_tag);
    const table_cell cell = block(exporter, {path, 2 * size, old_tag}, &module_);
    drop_page_cache(open_file(path, O_RDONLY).get());
    const auto written = read_file(path, size, size);
    EXPECT_EQ(pattern_difference(written.data(), written.size(), new_tag, 0), "") << "in the file";
    EXPECT_EQ(written.size(), size);
    unlink(path.c_str());
    return cell;
  }

  table_cell rdma(const Exporter& exporter) const {
    const auto memory = filled(exporter, old_tag);
    const rdma_importer importer(device_->domain(), &module_);
    const auto region = importer.register_memory(memory, {.length = size, .access = full_access});
    PlainMemory peer(*device_, size);
    Loopback wire(*device_);
    EXPECT_EQ(wire.read(peer, size, region.address(), region.rkey()), IBV_WC_SUCCESS);
    EXPECT_EQ(pattern_difference(peer.bytes().data(), size, old_tag, 0), "") << "at the peer";
    fill_pattern(peer.bytes().data(), size, new_tag, 0);
    EXPECT_EQ(wire.write(peer, size, region.address(), region.rkey()), IBV_WC_SUCCESS);
    expect_seen(exporter, memory, new_tag);
    return told(to_string(region.method()), region.verdict());
  }

  static table_cell by_vulkan(const Exporter& exporter) {
    const auto memory = filled(exporter, old_tag);
    const auto imported = import_to_vulkan(vulkan(), memory.memory(),
                                           {.offset = memory.offset(), .size = memory.size()});
    Scramble(vulkan(), imported.handle(), size).run();
    EXPECT_EQ(scramble_difference(exporter.seen(memory, size), old_tag), "");
    return served("imported", memory);
  }

  table_cell drm(const Exporter& exporter, const drm_device& card) const {
    const auto memory = filled(exporter, old_tag);
    const drm_handle imported = import_drm(card, memory.memory());
    const exported_memory again =
        export_drm(card, imported.value(), memory.offset(), memory.size());
    EXPECT_EQ(again.memory().inode(), memory.memory().inode());
    std::vector<std::byte> bytes(size);
    again.owner().copy_out(0, bytes);
    EXPECT_EQ(pattern_difference(bytes.data(), size, old_tag, 0), "") << "as imported";
    again.owner().copy_in(0, pattern(new_tag));
    expect_seen(exporter, memory, new_tag);
    if (!is_ours(memory)) return {"imported"};
    // The kernel's word on the driver's attachment.
    const auto users = module_.query(memory.memory().descriptor()).users;
    EXPECT_EQ(users.size(), 1U);
    return told("imported", users.at(0).verdict);
  }

  static table_cell cpu(const Exporter& exporter) {
    const auto memory = filled(exporter, old_tag);
    const auto mapping = memory.memory().map(cpu_access::read_write);
    const auto bytes = mapping.bytes().subspan(memory.offset(), size);
    {
      const cpu_access_bracket bracket(mapping, cpu_access::read_write);
      EXPECT_EQ(pattern_difference(bytes.data(), size, old_tag, 0), "") << "in the mapping";
      fill_pattern(bytes.data(), size, new_tag, 0);
    }
    expect_seen(exporter, memory, new_tag);
    return served("mapped", memory);
  }

  // By the table's ids.
  table_cell measure(const std::string& importer, const Exporter& exporter) const {
    const std::map<std::string, std::function<table_cell()>> all{
        {"block_raw", [&] { return raw(exporter, &module_); }},
        {"block_without_module", [&] { return without_module(exporter); }},
        {"block_ext4", [&] { return on_ext4(exporter); }},
        {"rdma", [&] { return rdma(exporter); }},
        {"vulkan", [&] { return by_vulkan(exporter); }},
        {"drm_vgem", [&] { return drm(exporter, card("vgem", "vgem")); }},
        {"drm_bochs", [&] { return drm(exporter, card("bochs-drm", "bochs")); }},
        {"drm_virtio_gpu", [&] { return drm(exporter, card("virtio_gpu", "virtio-gpu")); }},
        {"cpu", [&] { return cpu(exporter); }},
    };
    try {
      return all.at(importer)();
    } catch (const error& failure) {
      return refused(failure);
    }
  }

  static inline exporter_table expected_, found_;
  static inline std::map<std::string, drm_device> cards_;  // by driver
  static inline std::unique_ptr<SoftRdma> link_;
  static inline std::unique_ptr<OpenRdma> device_;
  const dmabridge::control module_;
};

INSTANTIATE_TEST_SUITE_P(, Matrix, testing::ValuesIn(exporter_ids()),
                         [](const auto& test) { return test.param; });

TEST_P(Matrix, EveryImporterGetsWhatTheTableSays) {
  auto* const row = row_of(found_, GetParam());
  ASSERT_NE(row, nullptr) << "no such row in docs/exporters-and-importers.json";
  const auto exporter = make_exporter(GetParam());
  const std::string missing = exporter->missing();
  for (const auto& importer : found_.importers) {
    SCOPED_TRACE(row->title + " to " + importer.title);
    table_cell& cell = row->cells.at(importer.id);
    cell = missing.empty() ? measure(importer.id, *exporter) : table_cell{"not run", {missing}};
    const auto& wanted = row_of(expected_, GetParam())->cells.at(importer.id);
    if (compares()) {
      EXPECT_EQ(to_text(cell), to_text(wanted))
          << "if it is to be so: tests/run --table writes it into the table and its page";
    }
  }
}

TEST(MatrixRows, AreAllMeasured) {
  std::vector<std::string> rows;
  for (const auto& row : table_in_tree().exporters) rows.push_back(row.id);
  EXPECT_EQ(rows, exporter_ids());
}

}  // namespace
}  // namespace dmabridge::test
