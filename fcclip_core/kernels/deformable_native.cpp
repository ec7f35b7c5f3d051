// Multi-scale deformable attention on a processor, between its linear layers, for some of the queries.
//
// One pass: softmax over a query's points, and each point's four neighbors read where they lie, widened to float32 and
// added up in registers.
// Compiled by deformable_native.py, for the processor that it runs on, with GCC's and Clang's vector types.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int LANES = 8;
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef std::uint32_t Words __attribute__((vector_size(4 * LANES)));

// Sums of neighboring channels, kept in registers. A bfloat16 is the upper half of a float32: of two in one word, the
// second is a float32 once the first is cleared, and the first once it is moved up.
template <typename Value>
struct Block;

template <>
struct Block<float> {
  static constexpr int channels = LANES;
  Floats sum = {};

  void add(float share, const float* from) {
    Floats values;
    std::memcpy(&values, from, sizeof values);
    sum += share * values;
  }

  void store(float* to) const { std::memcpy(to, &sum, sizeof sum); }
};

template <>
struct Block<std::uint16_t> {
  static constexpr int channels = 2 * LANES;
  Floats even = {}, odd = {};

  void add(float share, const std::uint16_t* from) {
    Words pairs;
    std::memcpy(&pairs, from, sizeof pairs);
    even += share * reinterpret_cast<Floats>(pairs << 16);
    odd += share * reinterpret_cast<Floats>(pairs & 0xFFFF0000u);
  }

  void store(std::uint16_t* to) const {
    const Words pairs = (round(even) >> 16) | (round(odd) & 0xFFFF0000u);
    std::memcpy(to, &pairs, sizeof pairs);
  }

  static Words round(Floats values) {  // to the nearest, ties to even; NaN stays NaN
    const Words bits = reinterpret_cast<Words>(values), is_number = reinterpret_cast<Words>(values == values);
    return ((bits + 0x7FFFu + ((bits >> 16) & 1u)) & is_number) | (~is_number & 0x7FC00000u);
  }
};

inline float widen(float value) { return value; }

inline float widen(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

constexpr std::int64_t MOST_POINTS = 64;  // of one query and head, over all levels

struct Sizes {
  std::int64_t level_count, points, heads, channels;
  const std::int64_t* levels;  // (level_count, 3): height, width, first token
};

// Softmax of `count` scores.
template <typename Value>
void softmax(const Value* scores, std::int64_t count, float* weights) {
  float largest = widen(scores[0]), sum = 0;
  for (std::int64_t i = 1; i < count; ++i) largest = std::max(largest, widen(scores[i]));
  for (std::int64_t i = 0; i < count; ++i) sum += weights[i] = std::exp(widen(scores[i]) - largest);
  for (std::int64_t i = 0; i < count; ++i) weights[i] /= sum;
}

template <typename Value, int C>
void attend_rows(const Sizes& sizes, const Value* values, const float* centers, const Value* offsets,
                 const Value* scores, Value* sums, std::int64_t begin, std::int64_t end) {
  constexpr int blocks = C / Block<Value>::channels;
  const std::int64_t stride = sizes.heads * C, count = sizes.level_count * sizes.points;
  for (std::int64_t row = begin; row < end; ++row) {  // a row is one query of one head
    float weights[MOST_POINTS];
    softmax(scores + row * count, count, weights);
    const float* center = centers + row / sizes.heads * 2;
    const Value* offset = offsets + row * count * 2;
    const float* weight = weights;
    Block<Value> totals[blocks];
    for (std::int64_t level = 0; level < sizes.level_count; ++level) {
      const std::int64_t* size = sizes.levels + 3 * level;
      const std::int64_t height = size[0], width = size[1];
      const Value* map = values + size[2] * stride + row % sizes.heads * C;
      const float center_x = center[0] * width - 0.5f, center_y = center[1] * height - 0.5f;
      for (std::int64_t point = 0; point < sizes.points; ++point, offset += 2, ++weight) {
        const float x = center_x + widen(offset[0]), y = center_y + widen(offset[1]);
        if (!(x > -1.0f && y > -1.0f && x < width && y < height)) continue;  // NaN, too
        const std::int64_t left = static_cast<std::int64_t>(x + 1.0f) - 1, top = static_cast<std::int64_t>(y + 1.0f) - 1;
        const float right_share = x - left, low_share = y - top;
        const auto add = [&](std::int64_t line, std::int64_t column, float share) {
          if (line < 0 || line >= height || column < 0 || column >= width) return;
          const Value* neighbor = map + (line * width + column) * stride;
          for (int block = 0; block < blocks; ++block) {
            totals[block].add(share, neighbor + block * Block<Value>::channels);
          }
        };
        const float low = *weight * low_share, high = *weight - low;
        add(top, left, high * (1.0f - right_share));
        add(top, left + 1, high * right_share);
        add(top + 1, left, low * (1.0f - right_share));
        add(top + 1, left + 1, low * right_share);
      }
    }
    for (int block = 0; block < blocks; ++block) {
      totals[block].store(sums + row * C + block * Block<Value>::channels);
    }
  }
}

template <typename Value>
int attend(const Sizes& sizes, const void* values, const float* centers, const void* offsets, const void* scores,
           void* sums, std::int64_t begin, std::int64_t end) {
  if (sizes.level_count * sizes.points > MOST_POINTS) return 1;
  const auto run = [&](auto kernel) {
    kernel(sizes, static_cast<const Value*>(values), centers, static_cast<const Value*>(offsets),
           static_cast<const Value*>(scores), static_cast<Value*>(sums), begin, end);
    return 0;
  };
  switch (sizes.channels) {  // a number that the compiler knows keeps the sums in registers
    case 16: return run(attend_rows<Value, 16>);
    case 32: return run(attend_rows<Value, 32>);
    case 64: return run(attend_rows<Value, 64>);
    default: return 1;
  }
}

}  // namespace

// Of one image: values (N, heads, channels), centers (Q, 2) as shares of the image, offsets (Q, heads, levels, points, 2)
// in pixels of their level, scores (Q, heads, levels * points), sums (Q, heads, channels). Computes rows begin to end of
// the Q * heads. Returns 1 if there is no kernel for such sizes.
extern "C" int fcclip_attend_float32(const Sizes* sizes, const void* values, const float* centers, const void* offsets,
                                     const void* scores, void* sums, std::int64_t begin, std::int64_t end) {
  return attend<float>(*sizes, values, centers, offsets, scores, sums, begin, end);
}

extern "C" int fcclip_attend_bfloat16(const Sizes* sizes, const void* values, const float* centers, const void* offsets,
                                      const void* scores, void* sums, std::int64_t begin, std::int64_t end) {
  return attend<std::uint16_t>(*sizes, values, centers, offsets, scores, sums, begin, end);
}
