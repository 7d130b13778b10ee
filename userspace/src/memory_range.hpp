// SPDX-License-Identifier: MIT
// Ranges of addresses and of owned memory, checked in one place.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dmabridge/exported_memory.hpp"

namespace dmabridge {

// What a copy by an owner asks for has to be in its memory. Throws dmabridge::error, of kind usage.
void check_copy(const memory_owner& owner, std::uint64_t memory_size, std::uint64_t offset,
                std::uint64_t length);

// As above, for memory that somebody wants exported: not empty, not at address 0, and not beyond
// the end of all addresses. `attempted` is as in error_details.
void check_address_range(const char* attempted, std::uint64_t address, std::uint64_t size);

// As above, for memory that is to be allocated, a page more than asked for.
void check_new_size(const char* attempted, std::uint64_t size);

// Up, to a multiple of the page size.
auto round_to_pages(std::uint64_t size) -> std::uint64_t;

// For an owner's name: what a dma-buf shows besides the range that was asked for; empty: nothing.
auto surroundings(const buffer& memory, std::uint64_t offset, std::uint64_t size) -> std::string;

// "hip (GPU 0, AMD Instinct MI300X; a note; another)"; empty notes are left out.
auto owner_name(const std::string& api, const std::string& device,
                const std::vector<std::string>& notes) -> std::string;

}  // namespace dmabridge
