// Order statistics by bisection: each step counts, a vector at a time, how many values lie under a bound. Nothing is
// sorted or moved, and the cost hardly depends on the values.
#pragma once

#include "dcam/cpu/simd.h"

namespace dcam::DCAM_ISA {

DCAM_HD int64_t count_at_most(const float* values, int64_t n, float bound) {
    int32_t count = 0;
#pragma omp simd reduction(+ : count)
    for (int64_t i = 0; i < n; ++i) count += values[i] <= bound ? 1 : 0;
    return count;
}

DCAM_HD float min_above(const float* values, int64_t n, float bound) {
    float lowest = __builtin_inff();
#pragma omp simd reduction(min : lowest)
    for (int64_t i = 0; i < n; ++i) {
        const float candidate = values[i] > bound ? values[i] : __builtin_inff();
        lowest = candidate < lowest ? candidate : lowest;
    }
    return lowest;
}

// The value `share` of the way from rank `below` to the next (0-based) among n finite values, all at most `highest`.
// `under` of them are at most `floor`, and the rank sought is past those.
static float between_ranks(const float* values, int64_t n, Position at, float floor, int64_t under, float highest) {
    int32_t low = ordered(floor), high = ordered(highest);
    int64_t over = n;  // values at most `high`
    // one candidate left, or only copies of one
    while (over - under > 1 && static_cast<int64_t>(high) - low > 1) {
        const int32_t middle = static_cast<int32_t>((static_cast<int64_t>(low) + high) >> 1);
        const int64_t count = count_at_most(values, n, from_ordered(middle));
        (count > at.below ? high : low) = middle;
        (count > at.below ? over : under) = count;
    }
    const float value = min_above(values, n, from_ordered(low));
    if (at.share == 0 || over > at.below + 1) return value;
    return value + at.share * (min_above(values, n, value) - value);
}

// Any percentile of n > 0 finite values. Copies of the minimum are counted first, because there may be no float between
// it and a floor below it that comparisons tell apart: 0 has -0, and subnormals count as 0 where they are flushed.
static float percentile(const float* values, int64_t n, double percent, float lowest, float highest) {
    const Position at = percentile_position(n, percent);
    const int64_t copies = count_at_most(values, n, lowest);
    if (at.below >= copies) return between_ranks(values, n, at, lowest, copies, highest);
    if (at.share == 0 || at.below + 1 < copies) return lowest;
    return lowest + at.share * (min_above(values, n, lowest) - lowest);
}

}  // namespace dcam::DCAM_ISA
