// SPDX-License-Identifier: MIT
// The page that is made of the table of exporters and importers.
#pragma once

#include <string>

#include "exporter_table.hpp"

namespace dmabridge::docs {

// docs/exporters-and-importers.md
auto exporters_and_importers(const exporter_table& table) -> std::string;

}  // namespace dmabridge::docs
