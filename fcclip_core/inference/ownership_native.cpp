// Which mask owns each pixel of the image, without storing an enlarged mask.
//
// The image is processed tile by tile. Enlarging is a weighted average, so the extremes of the few mask pixels under a
// tile bound every enlarged value in it. A mask whose probability cannot reach what another mask has everywhere in the
// tile does not compete there; one without a change of sign needs no counting. Both are exact.
// Compiled by kernels/native_library.py, for the processor that it runs on.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

constexpr int ROWS = 16, COLUMNS = 64;  // of a tile
constexpr float SLACK = 1e-5f;          // relative; rounding may carry an average beyond its extremes

struct Sizes {
  std::int64_t queries, mask_height, mask_width, height, width, row_taps, column_taps;
};

struct Axis {
  const std::int32_t* first;
  const float* weights;
  std::int64_t taps, source;

  std::int64_t last(std::int64_t target) const { return std::min<std::int64_t>(first[target] + taps, source); }
};

inline float fused(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// Written so that compilers vectorize it: no branch, no call.
inline float sigmoid(float logit) {
  const float x = std::min(std::max(-logit, -87.0f), 87.0f);
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounds to an integer
  const float r = fused(n, 2.12194440e-4f, fused(n, -0.693359375f, x));
  float p = 1.9875691500e-4f;
  p = fused(p, r, 1.3981999507e-3f);
  p = fused(p, r, 8.3334519073e-3f);
  p = fused(p, r, 4.1665795894e-2f);
  p = fused(p, r, 1.6666665459e-1f);
  p = fused(p, r, 5.0000001201e-1f);
  const float fraction = fused(p, r * r, r) + 1.0f;
  const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return 1.0f / fused(fraction, power, 1.0f);
}

struct Competitor {
  std::int64_t query;
  float lowest, highest;  // mask logits under the tile
  bool competes;

  bool straddles() const { return lowest < 0.0f && highest >= 0.0f; }
};

inline void widen_box(std::int32_t* box, std::int64_t left, std::int64_t top, std::int64_t right, std::int64_t bottom) {
  box[0] = std::min(box[0], static_cast<std::int32_t>(left));
  box[1] = std::min(box[1], static_cast<std::int32_t>(top));
  box[2] = std::max(box[2], static_cast<std::int32_t>(right));
  box[3] = std::max(box[3], static_cast<std::int32_t>(bottom));
}

// Logits of one mask, enlarged to the tile's columns, for the mask rows under the tile.
class Widened {
 public:
  void widen(const float* mask, const Axis& columns, std::int64_t mask_width, std::int64_t top, std::int64_t bottom,
             std::int64_t left, int count) {
    values_.resize((bottom - top) * COLUMNS);
    top_ = top;
    for (std::int64_t row = top; row < bottom; ++row) {
      const float* from = mask + row * mask_width;
      float* to = &values_[(row - top) * COLUMNS];
      for (int x = 0; x < count; ++x) {
        const std::int64_t first = columns.first[left + x];
        const std::int64_t taps = columns.last(left + x) - first;
        const float* weights = columns.weights + (left + x) * columns.taps;
        float sum = weights[0] * from[first];
        for (std::int64_t tap = 1; tap < taps; ++tap) sum = fused(weights[tap], from[first + tap], sum);
        to[x] = sum;
      }
    }
  }

  // One image row; `to` has COLUMNS values, of which those beyond the image mean nothing.
  void row(const Axis& rows, std::int64_t y, float* to) const {
    const float* weights = rows.weights + y * rows.taps;
    const float* from = &values_[(rows.first[y] - top_) * COLUMNS];
    const std::int64_t taps = rows.last(y) - rows.first[y];
    for (int x = 0; x < COLUMNS; ++x) to[x] = weights[0] * from[x];
    for (std::int64_t tap = 1; tap < taps; ++tap)
      for (int x = 0; x < COLUMNS; ++x) to[x] = fused(weights[tap], from[tap * COLUMNS + x], to[x]);
  }

 private:
  std::vector<float> values_;
  std::int64_t top_ = 0;
};

}  // namespace

extern "C" {

// Pixels of the tile rows `begin` to `end`. `labels` (H, W): 1 + query that owns the pixel and contains it, else 0.
// `counts` (3, K): pixels in each mask, that it owns, and both. `boxes` (K, 4): left, top, right, bottom of the latter.
// Counts are added to, boxes are widened.
void fcclip_own_pixels(const Sizes* sizes, const float* logits, const float* scores, const std::int32_t* row_first,
                       const float* row_weights, const std::int32_t* column_first, const float* column_weights,
                       std::int16_t* labels, std::int64_t* counts, std::int32_t* boxes, std::int64_t begin,
                       std::int64_t end) {
  const Axis rows{row_first, row_weights, sizes->row_taps, sizes->mask_height};
  const Axis columns{column_first, column_weights, sizes->column_taps, sizes->mask_width};
  const std::int64_t queries = sizes->queries, plane = sizes->mask_height * sizes->mask_width;
  std::int64_t *areas = counts, *owned = counts + queries, *held = owned + queries;
  std::vector<Competitor> under;
  std::vector<Widened> widened;
  std::vector<std::int32_t> columns_held;
  std::vector<std::pair<std::int64_t, std::int64_t>> rows_held;
  alignas(64) float logit[COLUMNS], probability[COLUMNS], best[COLUMNS];
  alignas(64) std::int32_t winner[COLUMNS], inside[COLUMNS];

  for (std::int64_t top = begin * ROWS; top < std::min(end * ROWS, sizes->height); top += ROWS) {
    const std::int64_t bottom = std::min(top + ROWS, sizes->height);
    const std::int64_t source_top = rows.first[top], source_bottom = rows.last(bottom - 1);
    for (std::int64_t left = 0; left < sizes->width; left += COLUMNS) {
      const int count = static_cast<int>(std::min<std::int64_t>(COLUMNS, sizes->width - left));
      const std::int64_t source_left = columns.first[left], source_right = columns.last(left + count - 1);

      under.clear();
      float least = 0.0f;  // probability that some mask has everywhere in the tile
      for (std::int64_t query = 0; query < queries; ++query) {
        const float* mask = logits + query * plane;
        float lowest = mask[source_top * sizes->mask_width + source_left], highest = lowest;
        for (std::int64_t y = source_top; y < source_bottom; ++y)
          for (std::int64_t x = source_left; x < source_right; ++x) {
            const float value = mask[y * sizes->mask_width + x];
            lowest = std::min(lowest, value), highest = std::max(highest, value);
          }
        least = std::max(least, scores[query] * sigmoid(lowest));
        under.push_back({query, lowest, highest, false});
      }
      for (Competitor& one : under)
        one.competes = scores[one.query] * sigmoid(one.highest) * (1.0f + SLACK) >= least;
      const std::int64_t pixels = (bottom - top) * count;
      for (const Competitor& one : under)
        if (one.lowest >= 0.0f) areas[one.query] += pixels;
      under.erase(std::remove_if(under.begin(), under.end(),
                                 [](const Competitor& one) { return !one.competes && !one.straddles(); }),
                  under.end());
      if (under.empty()) {  // logits that are no numbers
        for (std::int64_t y = top; y < bottom; ++y) std::fill_n(labels + y * sizes->width + left, count, std::int16_t{0});
        continue;
      }
      if (under.size() == 1 && under[0].lowest >= 0.0f) {  // most tiles: inside one mask, and beyond all others' reach
        const std::int64_t query = under[0].query;
        owned[query] += pixels, held[query] += pixels;
        widen_box(boxes + 4 * query, left, top, left + count, bottom);
        for (std::int64_t y = top; y < bottom; ++y)
          std::fill_n(labels + y * sizes->width + left, count, static_cast<std::int16_t>(query + 1));
        continue;
      }
      if (widened.size() < under.size()) widened.resize(under.size());
      columns_held.assign(under.size() * COLUMNS, 0);
      rows_held.assign(under.size(), {sizes->height, 0});
      for (std::size_t nth = 0; nth < under.size(); ++nth)
        widened[nth].widen(logits + under[nth].query * plane, columns, sizes->mask_width, source_top, source_bottom,
                           left, count);

      for (std::int64_t y = top; y < bottom; ++y) {
        std::fill(best, best + COLUMNS, -1.0f);
        std::fill(winner, winner + COLUMNS, 0), std::fill(inside, inside + COLUMNS, 0);
        for (std::size_t nth = 0; nth < under.size(); ++nth) {
          const Competitor& one = under[nth];
          widened[nth].row(rows, y, logit);
          if (one.straddles()) {
            int positive = 0;
            for (int x = 0; x < COLUMNS; ++x) positive += (logit[x] >= 0.0f) & (x < count);
            areas[one.query] += positive;
          }
          if (!one.competes) continue;
          const float score = scores[one.query], half = 0.5f * score;
          const std::int32_t label = static_cast<std::int32_t>(under[nth].query + 1);
          for (int x = 0; x < COLUMNS; ++x) probability[x] = score * sigmoid(logit[x]);
          for (int x = 0; x < COLUMNS; ++x) {  // masks of bits, since compilers make branches of choices
            const std::int32_t better = -static_cast<std::int32_t>(probability[x] > best[x]);
            const std::int32_t contained = probability[x] >= half;
            best[x] = std::max(best[x], probability[x]);
            winner[x] = (label & better) | (winner[x] & ~better);  // the first of equal ones wins
            inside[x] = (contained & better) | (inside[x] & ~better);
          }
        }
        for (std::size_t nth = 0; nth < under.size(); ++nth) {
          if (!under[nth].competes) continue;
          const std::int32_t label = static_cast<std::int32_t>(under[nth].query + 1);
          int mine = 0, both = 0;
          std::int32_t* there = &columns_held[nth * COLUMNS];
          for (int x = 0; x < COLUMNS; ++x) {
            const std::int32_t is_mine = (winner[x] == label) & (x < count), is_both = is_mine & inside[x];
            mine += is_mine, both += is_both, there[x] |= is_both;
          }
          owned[under[nth].query] += mine, held[under[nth].query] += both;
          if (both) rows_held[nth] = {std::min(rows_held[nth].first, y), y + 1};
        }
        std::int16_t* to = labels + y * sizes->width + left;
        for (int x = 0; x < count; ++x) to[x] = static_cast<std::int16_t>(winner[x] & -inside[x]);
      }
      for (std::size_t nth = 0; nth < under.size(); ++nth) {
        const std::int32_t* there = &columns_held[nth * COLUMNS];
        const auto [first, last] = rows_held[nth];
        for (int x = 0; x < count; ++x)
          if (there[x]) widen_box(boxes + 4 * under[nth].query, left + x, first, left + x + 1, last);
      }
    }
  }
}

// `to` = `table` at `labels`, for the pixels `begin` to `end`.
void fcclip_look_up(const std::int16_t* labels, const std::int32_t* table, std::int32_t* to, std::int64_t begin,
                    std::int64_t end) {
  for (std::int64_t pixel = begin; pixel < end; ++pixel) to[pixel] = table[labels[pixel]];
}
}
