// SPDX-License-Identifier: MIT
// Changes every word of a buffer in place, to something that depends on what it was and where.
#version 450

layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer Words { uint words[]; };
layout(push_constant) uniform Parameters { uint count; };

void main() {
  const uint invocations = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
  for (uint i = gl_GlobalInvocationID.x; i < count; i += invocations) {
    words[i] = words[i] * 2654435761u + i;
  }
}
