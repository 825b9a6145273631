// The arithmetic of the ops, independent of the machine: one source for the CPU kernels (a vector of cells at a time)
// and for device code (a cell at a time). `L` names the lanes: L::V is a value, or a vector of values, and L has min,
// max, fma, select_positive, exp_negative and all_below for it, and the largest network to write out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#ifdef __CUDACC__
#define DCAM_HD __host__ __device__ __forceinline__
#define DCAM_UNROLL _Pragma("unroll")  // keeps arrays that a loop indexes in registers
#else
#define DCAM_HD __attribute__((always_inline)) inline
#define DCAM_UNROLL
#endif

namespace dcam {

// ------------------------------------------------------------------------------------------------- sorting networks

struct Comparator {
    uint8_t low, high;
};

// Odd-even merge sort for any n (Batcher 1968, "Sorting networks and their applications"): its comparators in order.
// Returns their number.
template <class Emit>
constexpr int batcher(int n, Emit emit) {
    int count = 0;
    for (int p = 1; p < n; p *= 2)
        for (int k = p; k >= 1; k /= 2)
            for (int j = k % p; j + k < n; j += 2 * k)
                for (int i = 0; i < k && i + j + k < n; ++i)
                    if ((i + j) / (2 * p) == (i + j + k) / (2 * p)) {
                        emit(count, i + j, i + j + k);
                        ++count;
                    }
    return count;
}

template <int N>
struct Network {
    static constexpr int size = batcher(N, [](int, int, int) {});
    Comparator pairs[size];

    constexpr Network() : pairs{} {
        batcher(N, [this](int index, int low, int high) {
            pairs[index] = {static_cast<uint8_t>(low), static_cast<uint8_t>(high)};
        });
    }
};

template <int N>
inline constexpr Network<N> network{};

template <class L>
DCAM_HD void compare_exchange(typename L::V& a, typename L::V& b) {
    const typename L::V low = L::min(a, b);
    b = L::max(a, b);
    a = low;
}

// The indices as template arguments: device code cannot read the table.
template <class L, int Low, int High>
DCAM_HD void compare_exchange_at(typename L::V* v) {
    compare_exchange<L>(v[Low], v[High]);
}

template <class L, int N, size_t... I>
DCAM_HD void sort_unrolled(typename L::V* v, std::index_sequence<I...>) {
    (compare_exchange_at<L, network<N>.pairs[I].low, network<N>.pairs[I].high>(v), ...);
}

// Sorts N values per lane. Written out, a network stays in registers, where there are enough of them.
template <class L, int N>
DCAM_HD void sort(typename L::V* v) {
    if constexpr (N <= L::kWrittenOut) {
        sort_unrolled<L, N>(v, std::make_index_sequence<Network<N>::size>{});
    } else {
        for (const Comparator& pair : network<N>.pairs) compare_exchange<L>(v[pair.low], v[pair.high]);
    }
}

// ------------------------------------------------------------------------------------------------- AKD

// The rank-weighted Gaussian mean of a window of K values (docs/method.md, section 2); reorders v.
template <class L, int K>
DCAM_HD typename L::V rank_mean(typename L::V* v) {
    using V = typename L::V;
    // sorted first: windows with the same values then give bitwise identical results, in any order
    sort<L, K>(v);
    constexpr int middle = K / 2;
    V sum = v[middle];
    DCAM_UNROLL
    for (int d = 1; d <= middle; ++d) sum += v[middle - d] + v[middle + d];
    const V mean = sum * (1.0f / K);
    V squares = (v[middle] - mean) * (v[middle] - mean);
    DCAM_UNROLL
    for (int d = 1; d <= middle; ++d) {
        const V low = v[middle - d] - mean, high = v[middle + d] - mean;
        squares += L::fma(low, low, high * high);
    }
    // 1 / (2 sigma^2) with sigma = std / mean; a flat window makes it infinite, and leaves its median alone.
    const V steep = mean * mean * (0.5f * K) / squares;
    V weights = v[0] * 0.0f + 1.0f;
    V total = v[middle];
    DCAM_UNROLL
    for (int d = 1; d <= middle; ++d) {
        const V exponent = steep * static_cast<float>(-d * d);
        // e^-20 is a thirtieth of a rounding of the median's weight, and later ranks weigh less still
        if (K > 25 && L::all_below(exponent, -20.0f)) break;
        const V u = L::exp_negative(exponent);
        weights += u + u;
        total = L::fma(u, v[middle - d] + v[middle + d], total);
    }
    return L::select_positive(mean, total / weights);
}

// Side of the adaptive kernel: odd, 3 to 11.
DCAM_HD int kernel_side(double step_ratio, double std, double size) {
    const double steps = 1 / step_ratio;
    // past 32 the factor is 2 whatever the rest, and an int would overflow
    const double by_step = steps >= 32 ? 2 : static_cast<int>(steps) / 16.0;
    const double by_std = 5 * std < 2 ? 5 * std : 2;
    const double by_size = size / 512 < 1.5 ? size / 512 : 1.5;
    const int side = static_cast<int>(3 * by_step * by_std * by_size);
    const int odd = side + 1 - side % 2;
    return odd < 3 ? 3 : odd > 11 ? 11 : odd;
}

// Reflection without repeating the edge, folded until inside.
template <class Int>
DCAM_HD Int fold(Int index, Int size) {
    if (size == 1) return 0;
    const Int period = 2 * (size - 1);
    index %= period;
    if (index < 0) index += period;
    return index < size ? index : period - index;
}

// ------------------------------------------------------------------------------------------------- order statistics

// Where a percentile lies among n ordered values: between ranks `below` and `below` + 1, `share` of the way.
struct Position {
    int64_t below;
    float share;
};

DCAM_HD Position percentile_position(int64_t n, double percent) {
    const double exact = static_cast<double>(n - 1) * percent / 100;
    const int64_t below = static_cast<int64_t>(exact) < n - 1 ? static_cast<int64_t>(exact) : n - 1;
    return {below, static_cast<float>(exact - static_cast<double>(below))};
}

// Finite floats as integers of the same order, and back: a selection can then bisect until nothing lies between. Both
// zeros are 0, so that the integers compare exactly as the floats do.
DCAM_HD int32_t ordered(float value) {
    int32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits < 0 ? INT32_MIN - bits : bits;
}

DCAM_HD float from_ordered(int32_t key) {
    const int32_t bits = key < 0 ? INT32_MIN - key : key;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace dcam
