// SPDX-License-Identifier: MIT
#include "read_machine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <sstream>

#include "sysfs.hpp"

namespace dmabridge {
namespace {

// Arguments of the kernel that decide about P2P, or tell why something is as it is. The others stay
// out: there are addresses of network cards and names of volumes among them.
constexpr auto telling_arguments = std::to_array<std::string_view>({"pci=",
                                                                    "pcie_",
                                                                    "iommu",
                                                                    "intel_iommu",
                                                                    "amd_iommu",
                                                                    "swiotlb",
                                                                    "mem_encrypt",
                                                                    "lockdown",
                                                                    "module.sig_enforce",
                                                                    "dmabridge",
                                                                    "nvme.",
                                                                    "nvme_core.",
                                                                    "memmap=",
                                                                    "mem=",
                                                                    "vfio",
                                                                    "efi=",
                                                                    "noefi",
                                                                    "nokaslr",
                                                                    "hugepages",
                                                                    "default_hugepagesz",
                                                                    "kvm",
                                                                    "xen"});

auto telling(const std::string& command_line) -> std::string {
  std::istringstream words(command_line);
  std::string kept;
  for (std::string word; words >> word;) {
    const auto matches = [&](std::string_view start) { return word.starts_with(start); };
    if (!std::ranges::any_of(telling_arguments, matches)) continue;
    kept += kept.empty() ? "" : " ";
    kept += word;
  }
  return kept;
}

auto argument(const std::string& command_line, std::string_view name) -> std::string {
  std::istringstream words(command_line);
  std::string value;
  // The last one counts.
  for (std::string word; words >> word;)
    if (word.starts_with(name)) value = word.substr(name.size());
  return value;
}

// Of the first CPU in /proc/cpuinfo.
struct cpu_facts {
  bool read = false;
  std::string vendor{};
  std::optional<unsigned> family{};
  std::optional<std::string> flags{};  // with a space around each

  auto has(std::string_view flag) const -> bool {
    return flags && flags->find(fmt::format(" {} ", flag)) != std::string::npos;
  }
};

auto read_cpu(const machine_roots& roots) -> cpu_facts {
  cpu_facts cpu;
  const auto file = read_file(roots.proc + "/cpuinfo");
  // Of more than the first CPU there is no need, and the file may be long.
  if (!file) return cpu;
  cpu.read = true;
  std::istringstream lines(*file.text);
  for (std::string line; std::getline(lines, line) && !line.empty();) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    const auto name = line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1);
    const auto value = colon + 2 < line.size() ? line.substr(colon + 2) : "";
    if (name == "vendor_id") cpu.vendor = value;
    if (name == "flags") cpu.flags = " " + value + " ";
    if (name == "cpu family") {
      unsigned family = 0;
      if (std::from_chars(value.data(), value.data() + value.size(), family).ec == std::errc{})
        cpu.family = family;
    }
  }
  return cpu;
}

class machine_reader {
 public:
  machine_reader(const machine_roots& roots, topology& machine)
      : roots_(roots), machine_(machine), facts_(machine.machine), cpu_(read_cpu(roots)) {}

  void run() {
    facts_.kernel = read_file(roots_.proc + "/sys/kernel/osrelease").text.value_or("");
    if (facts_.kernel.empty()) miss("kernel version", no_proc("sys/kernel/osrelease"));
    facts_.architecture = roots_.architecture;
    const auto command_line = read_file(roots_.proc + "/cmdline");
    if (!command_line) miss("kernel command line", no_proc("cmdline"));
    const kernel_config config(roots_, facts_.kernel);
    facts_.command_line = telling(command_line.text.value_or(""));
    read_config(config);
    read_cpu_facts();
    facts_.hypervisor = hypervisor();
    facts_.memory_encryption = memory_encryption(config, command_line.text);
    read_secure_boot();
    read_lockdown();
  }

 private:
  void miss(const std::string& what, const std::string& why, const std::string& remedy = {}) {
    machine_.unread.push_back({.what = what, .why = why, .remedy = remedy});
  }
  auto no_proc(const std::string& file) const -> std::string {
    return roots_.proc + "/" + file + " is not readable";
  }

  void read_config(const kernel_config& config);
  void read_cpu_facts();
  auto hypervisor() -> std::optional<std::string>;
  auto memory_encryption(const kernel_config& config,
                         const std::optional<std::string>& command_line) -> std::optional<bool>;
  void read_secure_boot();
  void read_lockdown();

  const machine_roots& roots_;
  topology& machine_;
  machine_facts& facts_;
  cpu_facts cpu_;
};

void machine_reader::read_config(const kernel_config& config) {
  if (config.known()) {
    facts_.config_p2pdma = config.value("CONFIG_PCI_P2PDMA") == "y";
    return;
  }
  miss("kernel configuration",
       fmt::format("neither {}/config.gz nor {}/config-{} is readable", roots_.proc, roots_.boot,
                   facts_.kernel),
       "modprobe configs, or install the configuration that belongs to the kernel");
}

void machine_reader::read_cpu_facts() {
  facts_.cpu_vendor = cpu_.vendor;
  facts_.cpu_family = cpu_.family;
  if (!cpu_.read) miss("CPU", no_proc("cpuinfo"));
}

// The firmware's tables carry the name of who made the machine, also of a made-up one.
auto machine_reader::hypervisor() -> std::optional<std::string> {
  const auto name = [&]() -> std::string {
    const auto xen = read_file(roots_.sys + "/hypervisor/type");
    if (xen && !xen.text->empty()) return *xen.text;
    const auto vendor = read_file(roots_.sys + "/class/dmi/id/sys_vendor");
    return vendor && !vendor.text->empty() ? *vendor.text : "unknown";
  };
  if (cpu_.flags) return cpu_.has("hypervisor") ? name() : "";
  // Where CPUs do not say it, a device tree may.
  const auto compatible =
      read_file(roots_.proc + "/device-tree/hypervisor/compatible").text.value_or("");
  if (!compatible.empty()) return compatible.substr(0, compatible.find('\0'));
  miss("hypervisor", "this kind of CPU does not tell whether there is one");
  return {};
}

auto machine_reader::memory_encryption(const kernel_config& config,
                                       const std::optional<std::string>& command_line)
    -> std::optional<bool> {
  constexpr auto what = "memory encryption";
  if (!cpu_.flags) {
    miss(what, "this kind of CPU does not tell, or " + no_proc("cpuinfo"));
    return {};
  }
  if (cpu_.has("tdx_guest")) return true;
  if (cpu_.vendor != "AuthenticAMD" && cpu_.vendor != "HygonGenuine") return false;

  if (cpu_.has("hypervisor")) {
    // Only guests of SEV-SNP have this; of the other kinds nothing tells but the CPU itself.
    if (exists(roots_.sys + "/devices/system/cpu/sev/vmpl")) return true;
    if (roots_.encrypts_as_guest == false) return false;
    miss(what, "the hypervisor offers SEV; whether the kernel took it is in a register for root",
         "dmesg | grep -i 'Memory Encryption Features active'");
    return {};
  }
  // Without the flag neither CPU nor firmware lets the kernel do it.
  if (!cpu_.has("sme")) return false;
  if (!command_line) {
    miss(what, "the CPU can, and whether the kernel does is on its command line");
    return {};
  }
  const auto wanted = argument(*command_line, "mem_encrypt=");
  if (wanted == "on") return true;
  if (wanted == "off") return false;
  if (config.known()) return config.value("CONFIG_AMD_MEM_ENCRYPT_ACTIVE_BY_DEFAULT") == "y";
  miss(what, "the CPU can, and whether the kernel does is in its configuration",
       "dmesg | grep -i 'Memory Encryption Features active'");
  return {};
}

void machine_reader::read_secure_boot() {
  const auto efi = roots_.sys + "/firmware/efi";
  if (!exists(roots_.sys + "/firmware")) {
    miss("Secure Boot", roots_.sys + "/firmware is not there, as in a container");
    return;
  }
  // Not booted by UEFI, which alone has it.
  if (!exists(efi)) {
    facts_.secure_boot = false;
    return;
  }
  const auto variable = read_file(efi + "/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
  // Four bytes of attributes come first. Firmware without Secure Boot has no such variable.
  if (variable && variable.text->size() == 5) {
    facts_.secure_boot = (*variable.text)[4] == 1;
  } else if (variable.code == ENOENT && !names_in(efi + "/efivars").empty()) {
    facts_.secure_boot = false;
  } else {
    miss("Secure Boot", efi + "/efivars is not mounted, or not for the caller to read",
         "mount -t efivarfs efivarfs /sys/firmware/efi/efivars");
  }
}

void machine_reader::read_lockdown() {
  const auto folder = roots_.sys + "/kernel/security";
  const auto choice = read_file(folder + "/lockdown");
  if (!choice) {
    const auto modules = read_file(folder + "/lsm");
    // The kernel was built or started without it.
    if (modules && modules.text->find("lockdown") == std::string::npos) {
      facts_.lockdown = "none";
      return;
    }
    miss("lockdown", folder + "/lockdown is not readable",
         "mount -t securityfs securityfs /sys/kernel/security");
    return;
  }
  // "none [integrity] confidentiality"
  const auto open = choice.text->find('[');
  const auto close = choice.text->find(']');
  if (open != std::string::npos && close != std::string::npos && open < close)
    facts_.lockdown = choice.text->substr(open + 1, close - open - 1);
}

}  // namespace

void read_machine(const machine_roots& roots, topology& machine) {
  machine_reader(roots, machine).run();
}

}  // namespace dmabridge
