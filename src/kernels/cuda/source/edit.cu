// Edits whose columns do not depend on one another. One block per row; what it changed goes to the log.

struct Change { double squared; double before; double largest; };

// Infinite if one of them is not finite: of a NaN no maximum would know.
__device__ __forceinline__ float larger(float a, float b) { return b <= a ? a : b < INFINITY ? b : INFINITY; }

// op: 0 replace, 1 add coef * source, 2 scale by coef (what is cut stays cut), 3 fill with coef. Source: row `sources[i]` of x, or `given [n, width]`.
template <typename N, bool F32> __device__ __forceinline__ void edit_row(N* x, const u32* rows, const u32* sources, const float* given,
                                                                        Change* log, u32 columns, u32 first, u32 width, u32 op, float coef) {
    u32 i = blockIdx.x;
    N* row = x + at(rows[i], columns) + first;
    const N* source = sources ? x + at(sources[i], columns) + first : 0;
    double squared = 0, before = 0;
    float largest = 0;
    for (u32 c = threadIdx.x; c < width; c += blockDim.x) {
        float old = wide<N>(row[c]);
        float from = source ? wide<N>(source[c]) : (given ? given[at(i, width) + c] : 0.0f);
        float scaled = old == -INFINITY ? old : old * coef;
        float fresh = op == 0 ? from : op == 1 ? __fadd_rn(old, __fmul_rn(coef, from)) : op == 2 ? scaled : coef;
        if (!F32) fresh = rounded(fresh);
        if (F32) ((float*)row)[c] = fresh;
        else ((T*)row)[c] = down(fresh);
        // Equal numbers do not differ, infinite ones either.
        double change = fresh == old ? 0.0 : (double)fresh - (double)old;
        squared += change * change;
        before += (double)old * (double)old;
        largest = larger(largest, fabsf((float)change));
    }
    squared = block_sum(squared);
    before = block_sum(before);
    largest = block_max(largest);
    if (threadIdx.x == 0) log[i] = {squared, before, largest};
}

extern "C" __global__ void edit(T* x, const u32* rows, const u32* sources, const float* given, Change* log, u32 columns, u32 first,
                                u32 width, u32 op, float coef) {
    edit_row<T, DTYPE == 0>(x, rows, sources, given, log, columns, first, width, op, coef);
}

extern "C" __global__ void edit_f32(float* x, const u32* rows, const u32* sources, const float* given, Change* log, u32 columns,
                                    u32 first, u32 width, u32 op, float coef) {
    edit_row<float, true>(x, rows, sources, given, log, columns, first, width, op, coef);
}
