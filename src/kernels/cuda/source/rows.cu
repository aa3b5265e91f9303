// Operations that treat rows one by one: norms, positions, gates, copies.

// Sum of squares to the norm's factor; NaN where they add up to more than f32 holds: it would be 0, and the row zeros that nothing
// tells from a result. See `norm_factor` of the CPU.
__device__ __forceinline__ float norm_factor(float squares, u32 columns, float eps) {
    return squares < INFINITY ? 1.0f / sqrtf(squares / columns + eps) : NOT_A_NUMBER;
}

// The norm of a row, after x += y if there is a y: x / sqrt(mean(x^2) + eps) * weight or, of a LAYER,
// (x - mean(x)) / sqrt(var(x) + eps) * weight + bias. A block per row; the row stays in registers.
template <bool LAYER, bool ADD>
__device__ __forceinline__ void norm_row(T* x, const Parts& y, const float* weight, const float* bias, T* out, float eps) {
    if (ADD) y.await(blockIdx.x);
    constexpr int THREADS = 256, PACKS = (HIDDEN + THREADS * PACK - 1) / (THREADS * PACK);
    size_t start = at(blockIdx.x, HIDDEN);
    float kept[PACKS][PACK];
    float squares = 0, sum = 0;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        int column = (i * THREADS + threadIdx.x) * PACK;
        if (column >= HIDDEN) continue;
        Pack xs = *(const Pack*)(x + start + column);
        if (ADD) {
            Pack ys = y.sum(blockIdx.x, column);
#pragma unroll
            for (int j = 0; j < PACK; j++) xs.n[j] = down(up(xs.n[j]) + up(ys.n[j]));
            *(Pack*)(x + start + column) = xs;
        }
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            kept[i][j] = up(xs.n[j]);
            if (LAYER)
                sum += kept[i][j];
            else
                squares += kept[i][j] * kept[i][j];
        }
    }
    if (LAYER) {
        // Of the centred row: the difference of two large sums would lose its digits. Spelt out as in `turn`.
        float mean = block_sum(sum) / HIDDEN;
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int column = (i * THREADS + threadIdx.x) * PACK;
            if (column >= HIDDEN) continue;
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                kept[i][j] = __fsub_rn(kept[i][j], mean);
                squares = fmaf(kept[i][j], kept[i][j], squares);
            }
        }
    }
    float factor = norm_factor(block_sum(squares), HIDDEN, eps);
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        int column = (i * THREADS + threadIdx.x) * PACK;
        if (column >= HIDDEN) continue;
        Pack o;
        // Sixteen bytes at a time: every row reads all of them.
        __align__(16) float w[PACK];
#pragma unroll
        for (int j = 0; j < PACK; j += 4) *(float4*)(w + j) = *(const float4*)(weight + column + j);
        if (LAYER) {
            __align__(16) float b[PACK];
#pragma unroll
            for (int j = 0; j < PACK; j += 4) *(float4*)(b + j) = *(const float4*)(bias + column + j);
#pragma unroll
            for (int j = 0; j < PACK; j++) o.n[j] = down(fmaf(__fmul_rn(kept[i][j], factor), w[j], b[j]));
        } else {
#pragma unroll
            for (int j = 0; j < PACK; j++) o.n[j] = down(kept[i][j] * factor * w[j]);
        }
        *(Pack*)(out + start + column) = o;
    }
}

extern "C" __global__ void __launch_bounds__(256) rms_norm(T* x, const float* weight, T* out, float eps) {
    norm_row<false, false>(x, Parts{}, weight, 0, out, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    layer_norm(T* x, const float* weight, const float* bias, T* out, float eps) {
    norm_row<true, false>(x, Parts{}, weight, bias, out, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    add_rms_norm(T* x, const T* y, const T* inbox, const u64* arrived, u32 capacity, u32 ranks, u32 rank, u64 product,
                 const float* y_bias, const float* weight, T* out, float eps) {
    Parts parts{y, inbox, arrived, capacity, ranks, rank, product, y_bias};
    norm_row<false, true>(x, parts, weight, 0, out, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    add_layer_norm(T* x, const T* y, const T* inbox, const u64* arrived, u32 capacity, u32 ranks, u32 rank, u64 product,
                   const float* y_bias, const float* weight, const float* bias, T* out, float eps) {
    Parts parts{y, inbox, arrived, capacity, ranks, rank, product, y_bias};
    norm_row<true, true>(x, parts, weight, bias, out, eps);
}

// Turns the pairs (i, i + half) of one head by the row's position; a warp per head. Spelt out, for a compiler that chooses which
// product to fuse would choose differently in different kernels.
__device__ __forceinline__ void turn(float& a, float& b, float c, float s) {
    float turned = fmaf(a, c, -__fmul_rn(b, s));
    b = fmaf(b, c, __fmul_rn(a, s));
    a = turned;
}

extern "C" __global__ void rope(T* x, const u32* positions, const float* cosines, const float* sines, u32 rows, u32 heads) {
    constexpr int HALF = HEAD_DIM / 2;
    u32 task = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (task >= rows * heads) return;
    u32 row = task / heads, head = task % heads;
    T* p = x + at(row, heads * HEAD_DIM) + head * HEAD_DIM;
    size_t angle = (size_t)positions[row] * HALF;
    for (int i = lane; i < HALF; i += 32) {
        float a = up(p[i]), b = up(p[i + HALF]);
        turn(a, b, cosines[angle + i], sines[angle + i]);
        p[i] = down(a);
        p[i + HALF] = down(b);
    }
}

// The product with q, k and v side by side, `in [rows, (h + 2k) e]`, to three matrices, with bias, head norms and RoPE on
// the way where there are any (null otherwise). One or more blocks per row, whose warps read the row's angles once and take
// turns at the heads. What is rounded between the steps is rounded here too.
extern "C" __global__ void __launch_bounds__(256)
    split_heads(const T* __restrict__ in, const float* bias, const float* q_norm, const float* k_norm, const u32* positions,
                const float* cosines, const float* sines, T* __restrict__ q, T* __restrict__ k, T* __restrict__ v, u32 query,
                u32 key_value, float eps) {
    constexpr int HALF = HEAD_DIM / 2, TURNS = (HALF + 63) / 64;
    struct __align__(2 * sizeof(T)) Two { T n[2]; };
    u32 row = blockIdx.x, heads = query + 2 * key_value, lane = threadIdx.x % 32;
    float cosine[TURNS][2] = {}, sine[TURNS][2] = {};
    if (positions) {
        size_t angle = (size_t)positions[row] * HALF;
#pragma unroll
        for (int j = 0; j < TURNS; j++) {
            int i = 2 * lane + 64 * j;
#pragma unroll
            for (int n = 0; n < 2; n++)
                if (i < HALF) cosine[j][n] = cosines[angle + i + n], sine[j][n] = sines[angle + i + n];
        }
    }
#pragma unroll 4
    for (u32 head = blockIdx.y * 8 + threadIdx.x / 32; head < heads; head += gridDim.y * 8) {
        const T* p = in + at(row, heads * HEAD_DIM) + head * HEAD_DIM;
        bool is_q = head < query, is_k = !is_q && head < query + key_value;
        T* out = is_q ? q + at(row, query * HEAD_DIM) + head * HEAD_DIM
                      : (is_k ? k + at(row, key_value * HEAD_DIM) + (head - query) * HEAD_DIM
                              : v + at(row, key_value * HEAD_DIM) + (head - query - key_value) * HEAD_DIM);
        float a[TURNS][2], b[TURNS][2];
        float squares = 0;
#pragma unroll
        for (int j = 0; j < TURNS; j++) {
            int i = 2 * lane + 64 * j;
            Two left = {}, right = {};
            if (i < HALF) {
                left = *(const Two*)(p + i);
                right = *(const Two*)(p + i + HALF);
            }
#pragma unroll
            for (int n = 0; n < 2; n++) {
                a[j][n] = up(left.n[n]);
                b[j][n] = up(right.n[n]);
                if (bias && i < HALF) {
                    a[j][n] = rounded(a[j][n] + bias[head * HEAD_DIM + i + n]);
                    b[j][n] = rounded(b[j][n] + bias[head * HEAD_DIM + i + n + HALF]);
                }
                // Spelt out as in `turn`: the loop is compiled more than once.
                squares = fmaf(a[j][n], a[j][n], fmaf(b[j][n], b[j][n], squares));
            }
        }
        const float* weight = is_q ? q_norm : (is_k ? k_norm : 0);
        float factor = weight ? norm_factor(warp_sum(squares), HEAD_DIM, eps) : 0;
#pragma unroll
        for (int j = 0; j < TURNS; j++) {
            int i = 2 * lane + 64 * j;
            if (i >= HALF) continue;
            Two left, right;
#pragma unroll
            for (int n = 0; n < 2; n++) {
                if (weight) {
                    a[j][n] = rounded(a[j][n] * factor * weight[i + n]);
                    b[j][n] = rounded(b[j][n] * factor * weight[i + n + HALF]);
                }
                if (positions && (is_q || is_k)) turn(a[j][n], b[j][n], cosine[j][n], sine[j][n]);
                left.n[n] = down(a[j][n]);
                right.n[n] = down(b[j][n]);
            }
            *(Two*)(out + i) = left;
            *(Two*)(out + i + HALF) = right;
        }
    }
}

// x / (1 + e^-x). In 16 bits by approximations that are off by about 2^-17 of it; below x = -87 it may be 0.
__device__ __forceinline__ float silu(float x) {
#if DTYPE == 0
    return x / (1.0f + expf(-x));
#else
    return __fdividef(x, 1.0f + __expf(-x));
#endif
}

// out = silu(gate) * up, of at most BLOCK rows: 32 bits count their numbers. A row of gates, and of ups, begins `stride` numbers
// after the one before. `out` may be the ups.
extern "C" __global__ void gate(const T* gates, const T* ups, T* out, u32 rows, u32 columns, u32 stride) {
    u32 packs = columns / PACK;
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * packs; i += gridDim.x * blockDim.x) {
        u32 row = i / packs, column = i % packs * PACK;
        Pack g = *(const Pack*)(gates + at(row, stride) + column);
        Pack u = *(const Pack*)(ups + at(row, stride) + column), o;
#pragma unroll
        for (int j = 0; j < PACK; j++) o.n[j] = down(silu(up(g.n[j])) * up(u.n[j]));
        *(Pack*)(out + at(row, columns) + column) = o;
    }
}

// What an MLP's activation gets, of at most BLOCK rows: the halves of `in [rows, gate | up]` or, where `gates` is null,
// ups = in + bias for `in [rows, up]`; the bias may be null.
extern "C" __global__ void pre_activation(const T* in, const float* bias, T* gates, T* ups, u32 rows, u32 columns) {
    u32 packs = columns / PACK;
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * packs; i += gridDim.x * blockDim.x) {
        u32 row = i / packs, column = i % packs * PACK;
        const T* from = in + at(row, gates ? 2 * columns : columns) + column;
        if (gates) {
            *(Pack*)(gates + at(row, columns) + column) = *(const Pack*)from;
            from += columns;
        }
        Pack x = *(const Pack*)from;
        if (bias) {
#pragma unroll
            for (int j = 0; j < PACK; j++) x.n[j] = down(up(x.n[j]) + bias[column + j]);
        }
        *(Pack*)(ups + at(row, columns) + column) = x;
    }
}

// GELU by its approximation with tanh: x / 2 * (1 + tanh(u / 2)) with u = 2 sqrt(2 / pi) (x + 0.044715 x^3), that is x / (1 + e^-u).
__device__ __forceinline__ float gelu_tanh(float x) {
    float u = __fmul_rn(1.5957691216f, fmaf(__fmul_rn(__fmul_rn(0.044715f, x), x), x, x));
#if DTYPE == 0
    return x / (1.0f + expf(-u));
#else
    return __fdividef(x, 1.0f + __expf(-u));
#endif
}

// out = gelu(in + bias) for `in [rows, columns]`, of at most BLOCK rows; the bias may be null.
extern "C" __global__ void gelu(const T* in, const float* bias, T* out, u32 rows, u32 columns) {
    u32 packs = columns / PACK;
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * packs; i += gridDim.x * blockDim.x) {
        u32 row = i / packs, column = i % packs * PACK;
        Pack x = *(const Pack*)(in + at(row, columns) + column), o;
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            float n = up(x.n[j]);
            if (bias) n = rounded(n + bias[column + j]);
            o.n[j] = down(gelu_tanh(n));
        }
        *(Pack*)(out + at(row, columns) + column) = o;
    }
}

// x[i] += table[positions[i]]
extern "C" __global__ void add_positions(T* x, const T* table, const u32* positions, u32 rows) {
    constexpr u32 PACKS = HIDDEN / PACK;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)rows * PACKS; i += (u64)gridDim.x * blockDim.x) {
        u32 row = i / PACKS, column = i % PACKS * PACK;
        Pack* to = (Pack*)(x + at(row, HIDDEN) + column);
        Pack a = *to, b = *(const Pack*)(table + at(positions[row], HIDDEN) + column);
#pragma unroll
        for (int j = 0; j < PACK; j++) a.n[j] = down(up(a.n[j]) + up(b.n[j]));
        *to = a;
    }
}

// x += y; a block per row.
extern "C" __global__ void __launch_bounds__(256)
    add(T* x, const T* y, const T* inbox, const u64* arrived, u32 capacity, u32 ranks, u32 rank, u64 product, const float* bias) {
    Parts parts{y, inbox, arrived, capacity, ranks, rank, product, bias};
    parts.await(blockIdx.x);
#pragma unroll 4
    for (int column = threadIdx.x * PACK; column < HIDDEN; column += 256 * PACK) {
        Pack* to = (Pack*)(x + at(blockIdx.x, HIDDEN) + column);
        Pack a = *to, b = parts.sum(blockIdx.x, column);
#pragma unroll
        for (int j = 0; j < PACK; j++) a.n[j] = down(up(a.n[j]) + up(b.n[j]));
        *to = a;
    }
}

// out = the sum of what the ranks brought, `parts [ranks, n]`, in rank order and in f32.
extern "C" __global__ void sum_ranks(const T* parts, T* out, u64 packs, u32 ranks) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += (u64)gridDim.x * blockDim.x) {
        float sum[PACK] = {};
        for (u32 rank = 0; rank < ranks; rank++) {
            Pack part = ((const Pack*)parts)[rank * packs + i];
#pragma unroll
            for (int j = 0; j < PACK; j++) sum[j] = rank ? sum[j] + up(part.n[j]) : up(part.n[j]);
        }
        Pack o;
#pragma unroll
        for (int j = 0; j < PACK; j++) o.n[j] = down(sum[j]);
        ((Pack*)out)[i] = o;
    }
}

// out[i] = x[rows[i]], rows of `words` 4-byte words.
extern "C" __global__ void gather(const u32* x, const u32* rows, u32* out, u32 n, u32 words) {
    if (words % 4 == 0) {
        u32 packs = words / 4;
        for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)n * packs; i += (u64)gridDim.x * blockDim.x) {
            u32 row = i / packs, pack = i % packs;
            ((uint4*)(out + at(row, words)))[pack] = ((const uint4*)(x + at(rows[row], words)))[pack];
        }
    } else {
        for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)n * words; i += (u64)gridDim.x * blockDim.x) {
            u32 row = i / words, word = i % words;
            out[at(row, words) + word] = x[at(rows[row], words) + word];
        }
    }
}

// store[slots[i]] = x[rows[i]], rows of `words` 4-byte words, a multiple of 4.
extern "C" __global__ void keep(const u32* x, const u32* rows, u32* store, const u32* slots, u32 n, u32 words) {
    u32 packs = words / 4;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)n * packs; i += (u64)gridDim.x * blockDim.x) {
        u32 row = i / packs, pack = i % packs;
        ((uint4*)(store + at(slots[row], words)))[pack] = ((const uint4*)(x + at(rows[row], words)))[pack];
    }
}

// out[i] = table[tokens[i] - first]; zeros for tokens that another rank owns.
extern "C" __global__ void embed(const T* table, const u32* tokens, T* out, u32 n, u32 first, u32 own) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)n * HIDDEN; i += (u64)gridDim.x * blockDim.x) {
        u32 token = tokens[i / HIDDEN] - first;
        out[i] = token < own ? table[at(token, HIDDEN) + i % HIDDEN] : down(0);
    }
}

// out[i * heads + j] = z[rows[i]] with all heads but j zeroed.
extern "C" __global__ void isolate_heads(const T* z, const u32* rows, T* out, u32 n, u32 heads) {
    u32 width = heads * HEAD_DIM;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)n * heads * width; i += (u64)gridDim.x * blockDim.x) {
        u32 row = i / width, column = i % width;
        out[i] = column / HEAD_DIM == row % heads ? z[at(rows[row / heads], width) + column] : down(0);
    }
}

// Rows in f32, for the host.
template <typename N> __device__ __forceinline__ float wide(N x);
template <> __device__ __forceinline__ float wide<T>(T x) { return up(x); }
#if DTYPE != 0
template <> __device__ __forceinline__ float wide<float>(float x) { return x; }
#endif

template <typename N> __device__ __forceinline__ void widen_rows(const N* x, const u32* rows, float* out, u32 n, u32 columns) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)n * columns; i += (u64)gridDim.x * blockDim.x)
        out[i] = wide<N>(x[at(rows[i / columns], columns) + i % columns]);
}

extern "C" __global__ void widen(const T* x, const u32* rows, float* out, u32 n, u32 columns) {
    widen_rows<T>(x, rows, out, n, columns);
}

extern "C" __global__ void widen_f32(const float* x, const u32* rows, float* out, u32 n, u32 columns) {
    widen_rows<float>(x, rows, out, n, columns);
}

// A dummy weight, number for number that of the host: `out [rows, columns]` from a tensor of `width` columns.
// `bf16`: rounded as the numbers of a checkpoint are.
extern "C" __global__ void make(T* out, u64 key, float mean, float std, u32 bf16, u64 rows, u64 columns, u64 first_row, u64 first_column, u64 width) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * columns; i += (u64)gridDim.x * blockDim.x) {
        u64 index = (first_row + i / columns) * width + first_column + i % columns;
        u64 z = key + (index + 1) * 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        z ^= z >> 31;
        long long sum = (long long)((z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48));
        float unit = __fmul_rn((float)(sum - 131070), 1.0f / 37837.227f);
        float value = __fadd_rn(mean, __fmul_rn(std, unit));
        if (bf16) {
            u32 bits = __float_as_uint(value);
            value = __uint_as_float((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
        }
        out[i] = down(value);
    }
}

// How many of the rows `x [rows, columns]` differ from row `i % period` of `expected`.
extern "C" __global__ void count_different(const T* x, const T* expected, u32* count, u32 rows, u32 columns, u32 period) {
    u32 different = 0;
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x)
        different += x[at(blockIdx.x, columns) + i] != expected[at(blockIdx.x % period, columns) + i];
    if (different) atomicAdd(count, different);
}
