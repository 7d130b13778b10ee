// SPDX-License-Identifier: MIT
#include "pages.hpp"

#include <fmt/format.h>

#include <array>
#include <cctype>
#include <cstdint>
#include <string_view>

#include "dmabridge/reason.hpp"

namespace dmabridge::docs {
namespace {

// Codes are numbered by what they are about, with room between.
struct group {
  std::uint32_t first;
  std::string_view title;
  std::string_view remark;
};

constexpr auto groups = std::to_array<group>({
    {1, "The buffer",
     "Where its bytes are, and what keeps them there. A buffer has one placement: an importer that "
     "cannot reach the device moves it to system memory for all of them."},
    {20, "The importer", "Who wants to reach the memory, and how its driver does that."},
    {40, "The path",
     "What is between the two devices: PCIe bridges, host bridges, the kernel's list of these, and "
     "what the machine and its administrator allow."},
    {60, "Block devices and files", "What becomes of the data on its way to a drive."},
});

// Fields stand in capitals.
auto with_fields(std::string_view format) -> std::string {
  std::string text;
  bool in_field = false;
  for (const auto letter : format) {
    if (letter == '{' || letter == '}') {
      in_field = letter == '{';
    } else {
      text +=
          in_field ? static_cast<char>(std::toupper(static_cast<unsigned char>(letter))) : letter;
    }
  }
  return text;
}

auto sentence(std::string_view format) -> std::string {
  auto text = with_fields(format);
  text.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(text.front())));
  return text + '.';
}

auto remedy_of(const reason_description& entry) -> std::string {
  if (entry.remedy.empty()) return {};
  return with_fields(entry.remedy) + (entry.prefer_helps ? ", or use policy prefer." : ".");
}

// A name alone is in the reason's first line already.
auto evidence_of(const reason_description& entry) -> std::string {
  if (entry.evidence.empty() || entry.evidence == "{name}") return {};
  return with_fields(entry.evidence) + '.';
}

auto wrap(std::string_view text, std::size_t width) -> std::string {
  std::string lines;
  std::size_t column = 0;
  while (!text.empty()) {
    const auto word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(word.size() + 1, text.size()));
    if (column != 0 && column + 1 + word.size() > width) {
      lines += '\n';
      column = 0;
    } else if (column != 0) {
      lines += ' ';
      ++column;
    }
    lines += word;
    column += word.size();
  }
  return lines;
}

constexpr std::size_t page_width = 120;
constexpr std::size_t manual_width = 76;

auto paragraph(std::string_view text) -> std::string {
  return wrap(text, page_width) + "\n\n";
}

// Not as Markdown's own signs.
auto plain(std::string_view text) -> std::string {
  std::string result;
  for (const auto letter : text) {
    if (letter == '*' || letter == '<') result += '\\';
    result += letter;
  }
  return result;
}

auto markdown_entry(const reason_description& entry) -> std::string {
  auto text = fmt::format("### {} ({})\n\n", entry.id, entry.code);
  text += paragraph(plain(sentence(entry.text)));
  if (const auto evidence = evidence_of(entry); !evidence.empty()) {
    text += paragraph("Evidence: " + plain(evidence));
  }
  if (const auto remedy = remedy_of(entry); !remedy.empty()) {
    text += paragraph("To fix it: " + plain(remedy));
  }
  return text;
}

auto manual_entry(const reason_description& entry) -> std::string {
  auto text = fmt::format(".It Sy {} Pq {}\n", entry.id, entry.code);
  text += wrap(sentence(entry.text), manual_width) + '\n';
  if (const auto evidence = evidence_of(entry); !evidence.empty()) {
    text += ".br\nEvidence:\n" + wrap(evidence, manual_width) + '\n';
  }
  if (const auto remedy = remedy_of(entry); !remedy.empty()) {
    text += ".br\nTo fix it:\n" + wrap(remedy, manual_width) + '\n';
  }
  return text;
}

// The entries of one group, by one of the above.
template <typename Print>
auto entries_of(std::size_t which, Print print) -> std::string {
  const auto end = which + 1 < groups.size() ? groups[which + 1].first : ~0U;
  std::string text;
  for (const auto& entry : reason_table()) {
    if (entry.code >= groups[which].first && entry.code < end) text += print(entry);
  }
  return text;
}

constexpr std::string_view page_head = R"(<!-- SPDX-License-Identifier: MIT -->
<!-- Made of the table in userspace/src/reason.cpp by docs/generate; the target "pages" makes it again. -->

# Why is my transfer not peer to peer?

Ask the machine first:

    dmabridge explain REGION nvme0n1 mlx5_0      # what would these get, and why
    dmabridge explain card0 nvme0n1 mlx5_0       # the same of a GPU's memory, as its driver exports it
    dmabridge topo                               # who reaches whom
    dmabridge info --buffer ...                  # who uses a buffer, and who moved it

Every verdict that is not peer to peer has reasons, all of them, each with its evidence and with what to do about it.
This page is the whole list. In the evidence and the remedies, DEVICE stands for the address of a PCI function, NAME for
what the reason names, and so on. "Or use policy prefer" is left out where the policy in force is not `require`: it would
change nothing.

## What is looked at, in this order

1. The policies of the buffer and of the importer: the stricter wins, and `require` with `forbid` is a conflict.
2. The memory: a BAR, which not everybody reaches; RAM that was reserved for a device, which everybody does; or system
   memory, which is never peer to peer. Of another exporter, it is what that lets importers have: [which GPU memory gets
   which route](gpu-support.md).
3. The importer's driver: whether it can follow a buffer that moves, asks for peer to peer, and could be stopped.
4. For block devices and files: whether the disk's queue takes peers' memory, and whether anybody reads the data on its
   way.
5. The path between the two devices, as the kernel judges it: below one PCIe bridge without ACS redirection the bytes go
   across; else through the host bridge, if that is on the kernel's list or the CPU is an AMD Zen or newer; else not.
6. Everybody else who uses the buffer: it has one placement for all.

What could not be read is `path_unknown`, and never taken for good.

)";

constexpr std::string_view page_tail = R"(## Reasons that are not in this list

A module that is newer than the programs may give reasons that they do not know. These are shown as
`unknown_reason_NUMBER` with their evidence: update the programs.
)";

constexpr std::string_view manual_head = R"(.\" SPDX-License-Identifier: MIT
.\" Made of the table in userspace/src/reason.cpp by docs/generate.
.Dd November 21, 2026
.Dt DMABRIDGE-REASONS 7
.Os
.Sh NAME
.Nm dmabridge-reasons
.Nd why a transfer is not peer to peer, or is refused
.Sh DESCRIPTION
Every verdict of
.Xr dmabridge 4
that is not peer to peer has reasons, all of them, each with its evidence.
.Xr dmabridge 1
prints them as
.Dl reason: what is the matter [name]
with the evidence and what to do in the lines below, and the same in JSON.
This is the whole list, by name and number.
A module that is newer than the programs may give reasons that are not in it;
they are shown as
.Sy unknown_reason_ Ns Ar number
with their evidence.
.Pp
Where the policy in force is not
.Cm require ,
.Dq or use policy prefer
is left out: it would change nothing.
.Pp
.Em DEVICE
stands for the address of a PCI function,
.Em NAME
for what the reason names.
.Sh REASONS
)";

constexpr std::string_view manual_tail = R"(.Sh SEE ALSO
.Xr dmabridge 1 ,
.Xr dmabridge_verdict 3 ,
.Xr dmabridge 4
)";

}  // namespace

auto why_not_p2p() -> std::string {
  std::string page(page_head);
  for (std::size_t i = 0; i < groups.size(); ++i) {
    page += fmt::format("## {}\n\n", groups[i].title);
    page += paragraph(groups[i].remark);
    page += entries_of(i, markdown_entry);
  }
  return page.append(page_tail);
}

auto reasons_manual() -> std::string {
  std::string page(manual_head);
  for (std::size_t i = 0; i < groups.size(); ++i) {
    page += fmt::format(".Ss {}\n.Bl -tag -width Ds\n", groups[i].title);
    page += entries_of(i, manual_entry);
    page += ".El\n";
  }
  return page.append(manual_tail);
}

}  // namespace dmabridge::docs
