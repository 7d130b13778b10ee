// SPDX-License-Identifier: MIT
// What libdmabridge exports; everything else in it is hidden.
#pragma once

#define DMABRIDGE_API __attribute__((visibility("default")))
