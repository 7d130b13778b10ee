// SPDX-License-Identifier: MIT
//
// What is shown of a measurement that was taken several times: one of the middle, as the machine is
// noisy.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace dmabridge::bench {

inline double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// Of the ratios within each turn.
inline double median_ratio(const std::vector<double>& values, const std::vector<double>& base) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < values.size(); i++) ratios.push_back(values[i] / base[i]);
  return median(ratios);
}

}  // namespace dmabridge::bench
