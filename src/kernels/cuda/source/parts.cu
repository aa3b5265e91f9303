// Sums over ranks that reach into one another's memory: each sends its part to the others, and whatever reads the sum takes it.

#define SLOTS 2

// Where another rank takes in this rank's parts: rows of two products in turn, and which product each row is of.
struct Target {
    T* inbox[SLOTS];
    u64* arrived;
};

// Seen by other GPUs only after all that was written before, and the other way round.
__device__ __forceinline__ void publish(u64* flag, u64 product) {
    __threadfence_system();
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(flag), "l"(product) : "memory");
}

__device__ __forceinline__ u64 published(const u64* flag) {
    u64 product;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(product) : "l"(flag) : "memory");
    return product;
}

// Sends rows of this rank's part, each followed by its flag: a block per row and other rank.
extern "C" __global__ void __launch_bounds__(256) push(const T* y, const Target* targets, u32 slot, u32 first, u64 product) {
    const Target& target = targets[blockIdx.y];
    u32 row = first + blockIdx.x;
    const Pack* from = (const Pack*)(y + at(row, HIDDEN));
    Pack* to = (Pack*)(target.inbox[slot] + at(row, HIDDEN));
#pragma unroll 4
    for (int i = threadIdx.x; i < HIDDEN / PACK; i += 256) to[i] = from[i];
    __syncthreads();
    if (threadIdx.x == 0) publish(target.arrived + row, product);
}

// Flags of rows that copy engines have sent to one other rank.
extern "C" __global__ void announce(const Target* target, u32 rows, u64 product) {
    for (u32 row = blockIdx.x * blockDim.x + threadIdx.x; row < rows; row += gridDim.x * blockDim.x)
        publish(target->arrived + row, product);
}

// A product that is the sum of the ranks' parts: this rank's own, `y`, and the others' in its inbox, `capacity` rows apart, with
// as many flags; then the bias, if there is one (null otherwise). Of one rank just the product and the bias.
struct Parts {
    const T* y;
    const T* inbox;
    const u64* arrived;
    u32 capacity, ranks, rank;
    u64 product;
    const float* bias;

    // Waits for the others' parts of a row; by all threads of a block.
    __device__ __forceinline__ void await(u32 row) const {
        if (ranks == 1) return;
        if (threadIdx.x < ranks - 1)
            while (published(arrived + at(threadIdx.x, capacity) + row) < product) {}
        __syncthreads();
    }

    // In rank order and in f32, rounded as the stored sum would be, and once more after the bias.
    __device__ __forceinline__ Pack sum(u32 row, u32 column) const {
        Pack sum = without_bias(row, column);
#if BIAS
        if (bias) {
#pragma unroll
            for (int j = 0; j < PACK; j++) sum.n[j] = down(up(sum.n[j]) + bias[column + j]);
        }
#endif
        return sum;
    }

    __device__ __forceinline__ Pack without_bias(u32 row, u32 column) const {
        size_t place = at(row, HIDDEN) + column;
        Pack own = *(const Pack*)(y + place);
        if (ranks == 1) return own;
        float total[PACK];
        for (u32 r = 0, other = 0; r < ranks; r++) {
            Pack part = r == rank ? own : *(const Pack*)(inbox + at(other++ * capacity, HIDDEN) + place);
#pragma unroll
            for (int j = 0; j < PACK; j++) total[j] = r ? total[j] + up(part.n[j]) : up(part.n[j]);
        }
#pragma unroll
        for (int j = 0; j < PACK; j++) own.n[j] = down(total[j]);
        return own;
    }
};

// y = the sum of its parts; a block per row.
extern "C" __global__ void __launch_bounds__(256)
    settle(T* y, const T* inbox, const u64* arrived, u32 capacity, u32 ranks, u32 rank, u64 product, const float* bias) {
    Parts parts{y, inbox, arrived, capacity, ranks, rank, product, bias};
    parts.await(blockIdx.x);
    for (int column = threadIdx.x * PACK; column < HIDDEN; column += 256 * PACK)
        *(Pack*)(y + at(blockIdx.x, HIDDEN) + column) = parts.sum(blockIdx.x, column);
}
