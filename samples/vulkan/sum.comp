// SPDX-License-Identifier: MIT
// Adds up the bytes of a file: each invocation those of some words of it.
#version 450

layout(local_size_x = 64) in;
layout(std430, binding = 0) readonly buffer File { uint words[]; };
layout(std430, binding = 1) writeonly buffer Sums { uint sums[]; };
layout(push_constant) uniform Parameters { uint length; };  // of the file, in bytes

uint sum_of(uint word) {
  return (word & 0xff) + (word >> 8 & 0xff) + (word >> 16 & 0xff) + (word >> 24);
}

void main() {
  const uint invocations = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
  const uint whole = length / 4, rest = length % 4;
  uint sum = 0;
  for (uint i = gl_GlobalInvocationID.x; i < whole; i += invocations) sum += sum_of(words[i]);
  if (gl_GlobalInvocationID.x == 0 && rest != 0) {
    sum += sum_of(words[whole] & (1u << rest * 8) - 1);
  }
  sums[gl_GlobalInvocationID.x] = sum;
}
