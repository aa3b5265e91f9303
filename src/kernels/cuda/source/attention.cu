// Ragged causal attention: each row sees its own list of key rows, `keys[key_start[row]] ..= position`. No padding, no
// scores in memory unless they are asked for. `mode`: 0 the whole; 1 scores only; 2 weighing by a given pattern. Scores and
// patterns are `[rows, heads, stride]` in f32, zero where a row has no key; 1, `softmax` and 2 give the bits of 0.

#define MMA (DTYPE != 0 && HEAD_DIM % 16 == 0 && HEAD_DIM <= 128 && GROUP <= 64)

#if MMA

// Tensor cores: a block takes 64 query heads that share keys and a key/value head (as many rows as make that), 16 a warp,
// over blocks of 64 keys from position 0 on. A row's sums run over its keys in an order that its neighbours do not enter;
// a masked key adds exactly 0. The maximum and the sum are known before anything is weighed, in passes of their own over
// the scores (computed anew in each: the tensor cores have nothing else to do), so that nothing is ever rescaled.

#define ROWS (64 / GROUP)
#define KEYS 64
#define LINE (HEAD_DIM + 8) // of shared memory: eight rows fall into different banks
#define EXP(x) __expf(x)

__device__ __forceinline__ void multiply(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if DTYPE == 1
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#endif
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ u32 pair(float low, float high) { return (u32)down(low) | (u32)down(high) << 16; }

// Begins to load 64 rows of one key/value head, zeros past the last key.
__device__ __forceinline__ void load_keys(const T* x, const u32* list, u32 first, u32 count, u32 width, u32 column, T* shared) {
    constexpr int PACKS = HEAD_DIM / PACK;
    for (int i = threadIdx.x; i < KEYS * PACKS; i += 128) {
        int key = i / PACKS, pack = i % PACKS * PACK;
        bool there = first + key < count;
        const T* from = there ? x + at(list[first + key], width) + column + pack : x;
        u32 to = (u32)__cvta_generic_to_shared(shared + key * LINE + pack);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0));
    }
    asm volatile("cp.async.commit_group;");
}

// Waits for all loads but the last LATER.
template <int LATER> __device__ __forceinline__ void wait_for_keys() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
    __syncthreads();
}

// Three blocks on a multiprocessor: what waits for memory needs company.
extern "C" __global__ void __launch_bounds__(128, 3)
    attention(const T* q, const T* k, const T* v, const u32* tiles, const u32* keys, const u32* key_start, const u32* positions,
              float* scores, T* out, u32 heads, u32 key_value, u32 stride, u32 mode) {
    constexpr int E = HEAD_DIM, STEPS = E / 16;
    __shared__ __align__(16) T ks[KEYS * LINE];
    __shared__ __align__(16) T vs[KEYS * LINE];
    const u32* tile = tiles + blockIdx.x * ROWS;
    u32 kv = blockIdx.y, width = key_value * E;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const u32* list = keys + key_start[tile[0]];
    u32 count = 0;
#pragma unroll 4
    for (int r = 0; r < ROWS; r++)
        if (tile[r] != NO_ROW) count = max(count, positions[tile[r]] + 1);
    u32 blocks = (count + KEYS - 1) / KEYS;
    // Few keys are loaded once, and all at once.
    bool once = mode == 0 && blocks == 1;
    if (once) {
        load_keys(k, list, 0, count, width, kv * E, ks);
        load_keys(v, list, 0, count, width, kv * E, vs);
    }

    // The two rows of the tile that this thread holds parts of.
    int position[2];
    size_t query[2], line[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int m = warp * 16 + g + 8 * i, r = m / GROUP;
        u32 row = r < ROWS ? tile[r] : NO_ROW, head = kv * GROUP + m % GROUP;
        position[i] = row == NO_ROW ? -1 : (int)positions[row];
        query[i] = row == NO_ROW ? 0 : at(row, heads * E) + head * E;
        line[i] = row == NO_ROW ? 0 : (size_t)(row * (u64)heads + head) * stride;
    }
    u32 qa[STEPS][4];
    if (mode != 2) {
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                qa[step][i] = position[i % 2] < 0 ? 0 : *(const u32*)(q + query[i % 2] + step * 16 + 2 * t + 8 * (i / 2));
    }

    float s[8][4];
    // Scaled scores with a block of keys; -inf where masked.
    auto score = [&](u32 block) {
        if (once) {
            wait_for_keys<1>();
        } else {
            __syncthreads();
            load_keys(k, list, block * KEYS, count, width, kv * E, ks);
            wait_for_keys<0>();
        }
        float scale = 1.0f / sqrtf((float)E);
#pragma unroll
        for (int n = 0; n < 8; n++) {
            s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                const T* p = ks + (n * 8 + g) * LINE + step * 16 + 2 * t;
                multiply(s[n], qa[step], *(const u32*)p, *(const u32*)(p + 8));
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = block * KEYS + n * 8 + 2 * t + i % 2;
                s[n][i] = key <= position[i / 2] ? s[n][i] * scale : -INFINITY;
            }
        }
    };

    if (mode == 1) {
        for (u32 block = 0; block * KEYS < stride; block++) {
            if (block < blocks) score(block);
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int key = block * KEYS + n * 8 + 2 * t + i % 2, p = position[i / 2];
                    if (p >= 0 && key < (int)stride) scores[line[i / 2] + key] = key <= p ? s[n][i] : 0.0f;
                }
        }
        return;
    }

    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    if (mode == 0) {
        for (u32 block = 0; block < blocks; block++) {
            score(block);
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) top[i / 2] = fmaxf(top[i / 2], s[n][i]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 1));
            top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 2));
            if (position[i] < 0) top[i] = 0;
        }
        for (u32 block = 0; block < blocks; block++) {
            if (blocks > 1) score(block);
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) sum[i / 2] += EXP(s[n][i] - top[i / 2]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
            sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
            sum[i] = position[i] < 0 ? 0 : 1.0f / sum[i];
        }
    }

    // A masked key adds exactly 0 as long as its value is finite; 0 times any other is NaN, also in rows that do not see the key.
    // Such values are rare, and looked for only where an output is NaN: then once more, with zeros in their place, and NaN in the
    // rows that see one.
    __shared__ u32 unsound; // the first key with such a value
    float o[E / 8][4];
    for (bool careful = false;; careful = true) {
#pragma unroll
        for (int n = 0; n < E / 8; n++) o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0;
        for (u32 block = 0; block < blocks; block++) {
            if (mode == 0 && (blocks > 1 || careful)) score(block);
            if (once) {
                wait_for_keys<0>();
            } else {
                __syncthreads();
                load_keys(v, list, block * KEYS, count, width, kv * E, vs);
                wait_for_keys<0>();
            }
            if (careful) {
                for (int i = threadIdx.x; i < KEYS * E; i += 128) {
                    T* value = vs + i / E * LINE + i % E;
                    if (fabsf(up(*value)) < INFINITY) continue;
                    *value = down(0);
                    atomicMin(&unsound, block * KEYS + i / E);
                }
                __syncthreads();
            }
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (mode == 0) {
                        s[n][i] = EXP(s[n][i] - top[i / 2]) * sum[i / 2];
                    } else {
                        int key = block * KEYS + n * 8 + 2 * t + i % 2;
                        s[n][i] = key <= position[i / 2] ? scores[line[i / 2] + key] : 0.0f;
                    }
                }
#pragma unroll
            for (int step = 0; step < KEYS / 16; step++) {
                // The layout of the scores as they came out is that of a left operand.
                u32 p[4] = {pair(s[2 * step][0], s[2 * step][1]), pair(s[2 * step][2], s[2 * step][3]),
                            pair(s[2 * step + 1][0], s[2 * step + 1][1]), pair(s[2 * step + 1][2], s[2 * step + 1][3])};
#pragma unroll
                for (int n = 0; n < E / 8; n += 2) {
                    u32 b[4];
                    u32 address = (u32)__cvta_generic_to_shared(vs + (step * 16 + lane % 16) * LINE + n * 8 + lane / 16 * 8);
                    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                                 : "r"(address));
                    multiply(o[n], p, b[0], b[1]);
                    multiply(o[n + 1], p, b[2], b[3]);
                }
            }
        }
        bool nan = false;
#pragma unroll
        for (int n = 0; n < E / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (careful && (int)min(unsound, 0x7fffffffu) <= position[i / 2]) o[n][i] = NOT_A_NUMBER;
                nan |= o[n][i] != o[n][i];
            }
        if (threadIdx.x == 0 && !careful) unsound = NO_ROW;
        if (careful || !__syncthreads_or(nan)) break;
    }
#pragma unroll
    for (int n = 0; n < E / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (position[i] >= 0) *(u32*)(out + query[i] + n * 8 + 2 * t) = pair(o[n][2 * i], o[n][2 * i + 1]);
}

// Four threads a head, each with the keys that it has above.
extern "C" __global__ void softmax(float* scores, const u32* positions, u32 rows, u32 heads, u32 stride) {
    u32 task = (blockIdx.x * blockDim.x + threadIdx.x) / 4, t = threadIdx.x % 4;
    bool live = task < rows * heads;
    int last = live ? (int)positions[task / heads] : -1;
    float* row = scores + (size_t)(live ? task : 0) * stride;
    float top = -INFINITY, sum = 0;
    for (int key = 2 * t; key <= last; key += 8) top = fmaxf(top, fmaxf(row[key], key < last ? row[key + 1] : -INFINITY));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    for (int key = 2 * t; key <= last; key += 8) {
        sum += EXP(row[key] - top);
        if (key < last) sum += EXP(row[key + 1] - top);
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    float inverse = 1.0f / sum;
    for (int key = 2 * t; key <= last; key += 8) {
        row[key] = EXP(row[key] - top) * inverse;
        if (key < last) row[key + 1] = EXP(row[key + 1] - top) * inverse;
    }
}

#else

// Any dtype and head: a block of 128 threads per row and head, scores in shared memory.

__device__ __forceinline__ void soften(float* s, u32 n) {
    float top = -INFINITY, sum = 0;
    for (u32 key = threadIdx.x; key < n; key += 128) top = fmaxf(top, s[key]);
    top = block_max(top);
    for (u32 key = threadIdx.x; key < n; key += 128) sum += s[key] = expf(s[key] - top);
    float inverse = 1.0f / block_sum(sum);
    for (u32 key = threadIdx.x; key < n; key += 128) s[key] *= inverse;
}

extern "C" __global__ void __launch_bounds__(128)
    attention(const T* q, const T* k, const T* v, const u32* tiles, const u32* keys, const u32* key_start, const u32* positions,
              float* scores, T* out, u32 heads, u32 key_value, u32 stride, u32 mode) {
    extern __shared__ float s[];
    u32 row = blockIdx.x, head = blockIdx.y, n = positions[row] + 1, width = key_value * HEAD_DIM;
    const u32* list = keys + key_start[row];
    float* line = scores + (size_t)(row * (u64)heads + head) * stride;
    u32 column = head / GROUP * HEAD_DIM;
    size_t query = at(row, heads * HEAD_DIM) + head * HEAD_DIM;
    if (mode == 2) {
        for (u32 key = threadIdx.x; key < n; key += 128) s[key] = line[key];
    } else {
        float scale = 1.0f / sqrtf((float)HEAD_DIM);
        for (u32 key = threadIdx.x / 32; key < n; key += 4) {
            float sum = 0;
            for (u32 i = threadIdx.x % 32; i < HEAD_DIM; i += 32)
                sum = fmaf(up(q[query + i]), up(k[at(list[key], width) + column + i]), sum);
            sum = warp_sum(sum);
            if (threadIdx.x % 32 == 0) s[key] = sum * scale;
        }
    }
    __syncthreads();
    if (mode == 1) {
        for (u32 key = threadIdx.x; key < stride; key += 128) line[key] = key < n ? s[key] : 0.0f;
        return;
    }
    if (mode == 0) soften(s, n);
    __syncthreads();
    for (u32 i = threadIdx.x; i < HEAD_DIM; i += 128) {
        float sum = 0;
        for (u32 key = 0; key < n; key++) sum = fmaf(s[key], up(v[at(list[key], width) + column + i]), sum);
        out[query + i] = down(sum);
    }
}

extern "C" __global__ void __launch_bounds__(128) softmax(float* scores, const u32* positions, u32 rows, u32 heads, u32 stride) {
    soften(scores + (size_t)blockIdx.x * stride, positions[blockIdx.x / heads] + 1);
}

#endif
