// Compiled when the engine starts, by NVRTC, for the model and device at hand. Defined by the host:
//   DTYPE      0 f32, 1 bf16, 2 f16: what matrices hold
//   HIDDEN     width of the residual stream
//   HEAD_DIM   dimension of one attention head
//   GROUP      query heads that share a key/value head
//   BIAS       1 if any projection to the residual stream has a bias, else 0: others do not pay for looking
// Every reduction runs in an order fixed by the row alone, so that a row's bits do not depend on its batch.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
#define NO_ROW 0xffffffffu
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#define NOT_A_NUMBER __int_as_float(0x7fffffff)

#if DTYPE == 0
typedef float T;
__device__ __forceinline__ float up(T x) { return x; }
__device__ __forceinline__ T down(float x) { return x; }
#elif DTYPE == 1
typedef u16 T;
__device__ __forceinline__ float up(T x) { return __uint_as_float((u32)x << 16); }
__device__ __forceinline__ T down(float x) {
    T r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x));
    return r;
}
#else
typedef u16 T;
__device__ __forceinline__ float up(T x) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x));
    return r;
}
__device__ __forceinline__ T down(float x) {
    T r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
    return r;
}
#endif

// What the dtype makes of a number.
__device__ __forceinline__ float rounded(float x) { return up(down(x)); }

// Numbers in 16 bytes.
#define PACK (16 / (int)sizeof(T))
struct __align__(16) Pack { T n[PACK]; };

// Row offsets pass 2^31 elements in large batches.
__device__ __forceinline__ size_t at(u32 row, u32 columns) { return (size_t)row * columns; }

template <typename F> __device__ __forceinline__ F warp_sum(F x) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
    return x;
}

// The same for a block of whole warps; every thread gets the result.
template <typename F> __device__ __forceinline__ F block_sum(F x) {
    __shared__ F parts[32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) parts[warp] = x;
    __syncthreads();
    x = lane < warps ? parts[lane] : (F)0;
    return warp_sum(x);
}

__device__ __forceinline__ float block_max(float x) {
    __shared__ float parts[32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) parts[warp] = x;
    __syncthreads();
    return warp_max(lane < warps ? parts[lane] : -INFINITY);
}
