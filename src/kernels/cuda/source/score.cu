// What one rank's part of the vocabulary says of a row: `logits [rows, own]` in f32. Sums in f64, one block per row.

// out[i, t] = the logit of target t where this rank owns it, else zero: the ranks' numbers are added up.
extern "C" __global__ void pick_targets(const float* logits, const u32* targets, float* out, u32 rows, u32 n, u32 first, u32 own) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * n) return;
    u32 token = targets[i % n] - first;
    out[i] = token < own ? logits[at(i / n, own) + token] : 0.0f;
}

// Largest logit, sum of exp(l - largest), sum of exp(l - largest) (l - largest). If any logit is not finite, the largest is NaN,
// and so are the sums.
extern "C" __global__ void distribution(const float* logits, double* out, u32 own) {
    const float* row = logits + at(blockIdx.x, own);
    float largest = -INFINITY;
    bool finite = true;
    for (u32 i = threadIdx.x; i < own; i += blockDim.x) {
        largest = fmaxf(largest, row[i]);
        finite &= fabsf(row[i]) < INFINITY;
    }
    finite = __syncthreads_and(finite);
    largest = block_max(largest);
    if (!finite) largest = NOT_A_NUMBER;
    double mass = 0, expected = 0;
    for (u32 i = threadIdx.x; i < own; i += blockDim.x) {
        float gap = row[i] - largest;
        double p = expf(gap);
        mass += p;
        // Logits may lie further apart than f32 reaches, and 0 times infinity is no number.
        expected += p > 0 ? p * gap : 0;
    }
    mass = block_sum(mass);
    expected = block_sum(expected);
    if (threadIdx.x == 0) {
        out[3 * blockIdx.x] = largest;
        out[3 * blockIdx.x + 1] = mass;
        out[3 * blockIdx.x + 2] = expected;
    }
}

// How many of the rank's tokens come before each target: a larger logit, or an equal one and a lower id. Grid: row, target.
extern "C" __global__ void rank_targets(const float* logits, const u32* targets, const float* target_logits, u32* out, u32 n, u32 first, u32 own) {
    const float* row = logits + at(blockIdx.x, own);
    u32 place = blockIdx.x * n + blockIdx.y, id = targets[blockIdx.y];
    float logit = target_logits[place];
    u32 before = 0;
    for (u32 i = threadIdx.x; i < own; i += blockDim.x) before += row[i] > logit || (row[i] == logit && first + i < id);
    before = block_sum(before);
    if (threadIdx.x == 0) out[place] = before;
}

// The k largest logits, best first, ties by id: each round looks for the best that comes after the one before.
extern "C" __global__ void top_tokens(const float* logits, float* values, u32* ids, u32 k, u32 first, u32 own) {
    const float* row = logits + at(blockIdx.x, own);
    __shared__ float best_of[32];
    __shared__ u32 id_of[32];
    float last = INFINITY;
    u32 last_id = 0;
    bool any = false;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (u32 round = 0; round < k; round++) {
        float best = -INFINITY;
        u32 id = NO_ROW;
        for (u32 i = threadIdx.x; i < own; i += blockDim.x) {
            float l = row[i];
            bool later = !any || l < last || (l == last && i > last_id);
            if (later && (id == NO_ROW || l > best)) best = l, id = i;
        }
        for (int mask = 16; mask > 0; mask /= 2) {
            float other = __shfl_xor_sync(0xffffffffu, best, mask);
            u32 other_id = __shfl_xor_sync(0xffffffffu, id, mask);
            if (other_id != NO_ROW && (id == NO_ROW || other > best || (other == best && other_id < id))) best = other, id = other_id;
        }
        __syncthreads();
        if (lane == 0) best_of[warp] = best, id_of[warp] = id;
        __syncthreads();
        best = lane < warps ? best_of[lane] : -INFINITY;
        id = lane < warps ? id_of[lane] : NO_ROW;
        for (int mask = 16; mask > 0; mask /= 2) {
            float other = __shfl_xor_sync(0xffffffffu, best, mask);
            u32 other_id = __shfl_xor_sync(0xffffffffu, id, mask);
            if (other_id != NO_ROW && (id == NO_ROW || other > best || (other == best && other_id < id))) best = other, id = other_id;
        }
        if (threadIdx.x == 0) {
            values[blockIdx.x * k + round] = best;
            ids[blockIdx.x * k + round] = id == NO_ROW ? NO_ROW : first + id;
        }
        last = best, last_id = id, any = true;
    }
}

// The KL of rows to reference rows: M, the reference's largest own logit, sums of exp(r - M) and exp(r - M) (r - l), and the reference's
// logit of the row's most probable own token. A block for each of `pairs` [row, reference].
extern "C" __global__ void divergence(const float* logits, const float* references, const double* reference_distributions, const u32* pairs, const u32* top_ids, u32 k, double* out, u32 first, u32 own) {
    u32 at_row = pairs[2 * blockIdx.x], at_reference = pairs[2 * blockIdx.x + 1];
    const float* row = logits + at(at_row, own);
    const float* reference = references + at(at_reference, own);
    double* of_reference = out + at(blockIdx.x, 4);
    float largest = (float)reference_distributions[3 * at_reference];
    double mass = 0, gap = 0;
    for (u32 i = threadIdx.x; i < own; i += blockDim.x) {
        double p = expf(reference[i] - largest);
        mass += p;
        gap += p * ((double)reference[i] - (double)row[i]);
    }
    mass = block_sum(mass);
    gap = block_sum(gap);
    if (threadIdx.x == 0) {
        u32 token = top_ids[at(at_row, k)] - first;
        of_reference[0] = largest;
        of_reference[1] = mass;
        of_reference[2] = gap;
        of_reference[3] = token < own ? reference[token] : NOT_A_NUMBER;
    }
}
