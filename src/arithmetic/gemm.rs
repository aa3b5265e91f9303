//! `x W^T` with weights packed once at load.
//!
//! Each output is a sum, in ascending order, of chains of fused multiply-adds over [`CHAIN`] inputs each, whatever the
//! number of rows, threads or vector lanes: a row's result is a function of that row, to the bit. Short chains round less:
//! against f64, states are off by half as much as with a single chain, which is what PyTorch's f32 is off by. General GEMM libraries pick their
//! order of summation by the shape of the call, and repack the weights each time; on the machine this was written on
//! the kernel below is about twice as fast per core as they are, most of it from 512-bit vectors.
//!
//! Layout: panels of [`PANEL`] outputs, each `[in, PANEL]`, so that the inner loop reads weights in order.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::Dtype;
use crate::lanes::ARCH;
use crate::rows::{gate as gate_rows, rounded as round};

/// Outputs per panel: two 512-bit vectors, four 256-bit ones.
const PANEL: usize = 32;
/// Inputs whose products are added up before they join the sum.
const CHAIN: usize = 96;
/// Inputs per block, a multiple of [`CHAIN`], so that a panel's block stays in the second-level cache beside the rows.
const BLOCK: usize = 768;
/// Rows that pass over a panel while it is in the cache.
const ROWS: usize = 96;

/// A weight `[out, in]`, packed for the multiplication. Clones share the numbers.
#[derive(Debug, Clone)]
pub struct PackedWeight {
    outputs: usize,
    inputs: usize,
    panels: Panels,
}

#[derive(Debug, Clone)]
enum Panels {
    F32(Arc<Vec<f32>>),
    Bf16(Arc<Vec<bf16>>),
    F16(Arc<Vec<f16>>),
}

impl PackedWeight {
    /// Packs `weight [outputs, inputs]` (row-major) and rounds it to `dtype`.
    ///
    /// # Panics
    /// If the weight does not have that many numbers.
    pub fn new(weight: &[f32], outputs: usize, inputs: usize, dtype: Dtype) -> PackedWeight {
        assert_eq!(weight.len(), outputs * inputs, "BUG: the loader checks shapes");
        let row = |output: usize, row: &mut [f32]| row.copy_from_slice(&weight[output * inputs..][..inputs]);
        PackedWeight::from_rows(&row, outputs, inputs, dtype)
    }

    /// The same from a function that writes the weights of one output, `[inputs]`: the whole is never held in f32.
    pub fn from_rows(
        row: &(dyn Fn(usize, &mut [f32]) + Sync),
        outputs: usize,
        inputs: usize,
        dtype: Dtype,
    ) -> PackedWeight {
        let panels = match dtype {
            Dtype::F32 => Panels::F32(Arc::new(pack(row, outputs, inputs, |w| w))),
            Dtype::Bf16 => Panels::Bf16(Arc::new(pack(row, outputs, inputs, bf16::from_f32))),
            Dtype::F16 => Panels::F16(Arc::new(pack(row, outputs, inputs, f16::from_f32))),
        };
        PackedWeight { outputs, inputs, panels }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The weights of one output, `[in]`.
    pub fn row(&self, output: usize) -> Vec<f32> {
        let first = output / PANEL * PANEL * self.inputs + output % PANEL;
        let places = (0..self.inputs).map(|input| first + input * PANEL);
        match &self.panels {
            Panels::F32(data) => places.map(|i| data[i]).collect(),
            Panels::Bf16(data) => places.map(|i| data[i].to_f32()).collect(),
            Panels::F16(data) => places.map(|i| data[i].to_f32()).collect(),
        }
    }

    fn panel_count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Inputs `block` of a panel as f32, `[block, PANEL]`; half precisions are widened into `scratch`.
    #[inline(always)]
    fn block<'a>(&'a self, panel: usize, block: Range<usize>, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        let range = (panel * self.inputs + block.start) * PANEL..(panel * self.inputs + block.end) * PANEL;
        scratch.resize(BLOCK * PANEL, 0.0);
        let wide = &mut scratch[..range.len()];
        match &self.panels {
            Panels::F32(data) => return &data[range],
            Panels::Bf16(data) => data[range].convert_to_f32_slice(wide),
            Panels::F16(data) => data[range].convert_to_f32_slice(wide),
        }
        wide
    }
}

/// Panels of the weight, the last filled up with zeros.
fn pack<T: Copy + Send + Sync>(
    row: &(dyn Fn(usize, &mut [f32]) + Sync),
    outputs: usize,
    inputs: usize,
    convert: impl Fn(f32) -> T + Sync,
) -> Vec<T> {
    let mut packed = vec![convert(0.0); outputs.div_ceil(PANEL) * PANEL * inputs];
    packed.par_chunks_mut(PANEL * inputs).enumerate().for_each(|(panel, packed)| {
        let mut weights = vec![0.0; inputs];
        for (place, output) in (panel * PANEL..outputs).take(PANEL).enumerate() {
            row(output, &mut weights);
            for (input, &w) in weights.iter().enumerate() {
                packed[input * PANEL + place] = convert(w);
            }
        }
    });
    packed
}

/// `out [m, outputs] = x [m, inputs] W^T (+ bias)`, rounded to `dtype`. Runs on the current thread pool.
pub fn linear(x: &[f32], weight: &PackedWeight, bias: Option<&[f32]>, dtype: Dtype, out: &mut [f32]) {
    for_tiles(x, weight, out, |tile, scratch| ARCH.dispatch(Linear { tile, weight, bias, dtype, scratch }));
}

/// `out [m, outputs] = silu(x G^T) * (x U^T)`, rounded to `dtype` where a device would store it. Runs on the current thread pool.
pub fn gated(x: &[f32], gate: &PackedWeight, up: &PackedWeight, dtype: Dtype, out: &mut [f32]) {
    for_tiles(x, gate, out, |tile, scratch| ARCH.dispatch(Gated { tile, gate, up, dtype, scratch }));
}

/// A block of rows and a range of panels, with the part of the output that belongs to them.
struct Tile<'a> {
    /// Input rows.
    x: Vec<&'a [f32]>,
    panels: Range<usize>,
    /// Output rows, cut to the tile's columns.
    out: Vec<&'a mut [f32]>,
}

/// Cuts the product into tiles and runs `f` on them in parallel. Few rows are shared out by columns.
fn for_tiles(
    x: &[f32],
    weight: &PackedWeight,
    out: &mut [f32],
    f: impl Fn(Tile<'_>, &mut Scratch) + Sync + Send,
) {
    let rows = x.len() / weight.inputs;
    let blocks = rows.div_ceil(ROWS);
    if blocks == 0 {
        return;
    }
    let wanted = 4 * rayon::current_num_threads();
    let splits = wanted.div_ceil(blocks).clamp(1, weight.panel_count());
    let panels_per_tile = weight.panel_count().div_ceil(splits);
    let mut tiles = Vec::with_capacity(blocks * splits);
    // Rows are shared out evenly: a last block of a few rows would cost as much memory traffic as a full one.
    let rows_per_block = rows.div_ceil(blocks);
    let blocks =
        x.chunks(rows_per_block * weight.inputs).zip(out.chunks_mut(rows_per_block * weight.outputs));
    for (x, out) in blocks {
        let x: Vec<&[f32]> = x.chunks_exact(weight.inputs).collect();
        let mut rest: Vec<&mut [f32]> = out.chunks_exact_mut(weight.outputs).collect();
        let mut start = 0;
        while start < weight.panel_count() {
            let end = (start + panels_per_tile).min(weight.panel_count());
            let columns = (end * PANEL).min(weight.outputs) - start * PANEL;
            let (now, later) = rest.into_iter().map(|row| row.split_at_mut(columns)).unzip();
            tiles.push(Tile { x: x.clone(), panels: start..end, out: now });
            rest = later;
            start = end;
        }
    }
    // Not inside `f`'s vectorised code: a closure there that is not inlined would not be compiled for the machine.
    tiles.into_par_iter().for_each(|tile| SCRATCH.with_borrow_mut(|scratch| f(tile, scratch)));
}

/// Sums of a block of rows over one panel.
type Sums = Vec<[f32; PANEL]>;

/// Room for the sums of two products and for widened weights.
#[derive(Default)]
struct Scratch {
    sums: Sums,
    other_sums: Sums,
    wide: Vec<f32>,
}

thread_local! {
    /// Kept from tile to tile, because fresh pages cost more than the arithmetic.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

struct Linear<'a> {
    tile: Tile<'a>,
    weight: &'a PackedWeight,
    bias: Option<&'a [f32]>,
    dtype: Dtype,
    scratch: &'a mut Scratch,
}

impl WithSimd for Linear<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Linear { mut tile, weight, bias, dtype, scratch } = self;
        let Scratch { sums, wide, .. } = scratch;
        for panel in tile.panels.clone() {
            product(simd, &tile.x, weight, panel, sums, wide);
            let column = (panel - tile.panels.start) * PANEL;
            for (out, sums) in tile.out.iter_mut().zip(sums.iter_mut()) {
                let end = out.len().min(column + PANEL);
                let out = &mut out[column..end];
                if let Some(bias) = bias {
                    sums.iter_mut().zip(&bias[panel * PANEL..]).for_each(|(s, b)| *s += b);
                }
                out.copy_from_slice(&sums[..out.len()]);
                round(dtype, out);
            }
        }
    }
}

struct Gated<'a> {
    tile: Tile<'a>,
    gate: &'a PackedWeight,
    up: &'a PackedWeight,
    dtype: Dtype,
    scratch: &'a mut Scratch,
}

impl WithSimd for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Gated { mut tile, gate, up, dtype, scratch } = self;
        let Scratch { sums: gates, other_sums: ups, wide } = scratch;
        for panel in tile.panels.clone() {
            product(simd, &tile.x, gate, panel, gates, wide);
            product(simd, &tile.x, up, panel, ups, wide);
            let column = (panel - tile.panels.start) * PANEL;
            for (out, (gate, up)) in tile.out.iter_mut().zip(gates.iter_mut().zip(ups.iter_mut())) {
                let end = out.len().min(column + PANEL);
                let out = &mut out[column..end];
                round(dtype, gate);
                round(dtype, up);
                gate_rows(gate, up, out);
                round(dtype, out);
            }
        }
    }
}

/// `sums[i] = x[i] . panel` for every row of the tile.
#[inline(always)]
fn product<S: Simd>(
    simd: S,
    x: &[&[f32]],
    weight: &PackedWeight,
    panel: usize,
    sums: &mut Sums,
    wide: &mut Vec<f32>,
) {
    sums.clear();
    sums.resize(x.len(), [0.0; PANEL]);
    let mut start = 0;
    while start < weight.inputs {
        let end = (start + BLOCK).min(weight.inputs);
        let weights = weight.block(panel, start..end, wide);
        match S::F32_LANES {
            16 => rows::<S, 12, 2>(simd, x, start..end, weights, sums),
            8 => rows::<S, 3, 4>(simd, x, start..end, weights, sums),
            4 => rows::<S, 2, 8>(simd, x, start..end, weights, sums),
            _ => rows::<S, 1, { PANEL }>(simd, x, start..end, weights, sums),
        }
        start = end;
    }
}

/// Takes rows `TALL` at a time (as many as fit the registers), then the rest in smaller groups.
#[inline(always)]
fn rows<S: Simd, const TALL: usize, const VECTORS: usize>(
    simd: S,
    x: &[&[f32]],
    block: Range<usize>,
    weights: &[f32],
    sums: &mut [[f32; PANEL]],
) {
    let tall = x.len() / TALL * TALL;
    let (x_tall, x_rest) = x.split_at(tall);
    let (sums_tall, sums_rest) = sums.split_at_mut(tall);
    for (x, sums) in x_tall.chunks_exact(TALL).zip(sums_tall.chunks_exact_mut(TALL)) {
        micro::<S, TALL, VECTORS>(simd, x, &block, weights, sums);
    }
    let half = x_rest.len() / 4 * 4;
    let (x_tall, x_rest) = x_rest.split_at(half);
    let (sums_tall, sums_rest) = sums_rest.split_at_mut(half);
    for (x, sums) in x_tall.chunks_exact(4).zip(sums_tall.chunks_exact_mut(4)) {
        micro::<S, 4, VECTORS>(simd, x, &block, weights, sums);
    }
    for (x, sums) in x_rest.chunks_exact(1).zip(sums_rest.chunks_exact_mut(1)) {
        micro::<S, 1, VECTORS>(simd, x, &block, weights, sums);
    }
}

/// The inner loop: `R` rows against one block of a panel, all sums in registers.
#[inline(always)]
fn micro<S: Simd, const R: usize, const VECTORS: usize>(
    simd: S,
    x: &[&[f32]],
    block: &Range<usize>,
    weights: &[f32],
    sums: &mut [[f32; PANEL]],
) {
    let inputs = block.len();
    let x: [&[f32]; R] = std::array::from_fn(|r| &x[r][block.clone()]);
    let x: [&[f32]; R] = std::array::from_fn(|r| &x[r][..inputs]); // lets the compiler drop the bounds checks
    let (weights, _) = S::as_simd_f32s(weights);
    for (chain, weights) in weights.chunks(CHAIN * VECTORS).enumerate() {
        let first = chain * CHAIN;
        let length = weights.len() / VECTORS;
        let x: [&[f32]; R] = std::array::from_fn(|r| &x[r][first..first + length]);
        let mut acc = [[simd.splat_f32s(0.0); VECTORS]; R];
        for (i, weights) in weights.chunks_exact(VECTORS).take(length).enumerate() {
            for r in 0..R {
                let x = simd.splat_f32s(x[r][i]);
                for v in 0..VECTORS {
                    acc[r][v] = simd.mul_add_f32s(x, weights[v], acc[r][v]);
                }
            }
        }
        for r in 0..R {
            let (sums, _) = S::as_mut_simd_f32s(&mut sums[r]);
            for v in 0..VECTORS {
                sums[v] = simd.add_f32s(sums[v], acc[r][v]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// The definition: chains of fused multiply-adds, added up.
    fn reference(x: &[f32], weight: &[f32], inputs: usize) -> Vec<f32> {
        let chain = |(x, w): (&[f32], &[f32])| x.iter().zip(w).fold(0.0f32, |sum, (x, w)| x.mul_add(*w, sum));
        let dot =
            |x: &[f32], w: &[f32]| x.chunks(CHAIN).zip(w.chunks(CHAIN)).map(chain).fold(0.0f32, |a, b| a + b);
        x.chunks_exact(inputs).flat_map(|x| weight.chunks_exact(inputs).map(move |w| dot(x, w))).collect()
    }

    #[test]
    fn every_shape_gives_the_bits_of_the_definition() {
        for (rows, inputs, outputs) in
            [(1, 1, 1), (5, 33, 31), (12, 64, 96), (13, 800, 65), (99, 7, 33), (205, 1600, 40), (3, 97, 32)]
        {
            let (x, w) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
            let mut out = vec![f32::NAN; rows * outputs];
            linear(&x, &PackedWeight::new(&w, outputs, inputs, Dtype::F32), None, Dtype::F32, &mut out);
            assert_eq!(out, reference(&x, &w, inputs), "{rows} x {inputs} x {outputs}");
        }
    }

    #[test]
    fn half_precision_weights_multiply_as_their_rounded_values() {
        let (rows, inputs, outputs) = (7, 900, 70);
        let (x, w) = (numbers(rows * inputs, 3), numbers(outputs * inputs, 4));
        for (dtype, round) in [
            (Dtype::Bf16, (|w| bf16::from_f32(w).to_f32()) as fn(f32) -> f32),
            (Dtype::F16, |w| f16::from_f32(w).to_f32()),
        ] {
            let rounded: Vec<f32> = w.iter().copied().map(round).collect();
            let mut out = vec![0.0; rows * outputs];
            linear(&x, &PackedWeight::new(&w, outputs, inputs, dtype), None, Dtype::F32, &mut out);
            assert_eq!(out, reference(&x, &rounded, inputs));
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours_or_on_the_number_of_threads() {
        let (inputs, outputs) = (576, 200);
        let (x, w) = (numbers(300 * inputs, 5), numbers(outputs * inputs, 6));
        let weight = PackedWeight::new(&w, outputs, inputs, Dtype::F32);
        let run = |threads: usize, x: &[f32]| {
            let mut out = vec![0.0; x.len() / inputs * outputs];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| linear(x, &weight, None, Dtype::F32, &mut out));
            out
        };
        let all = run(1, &x);
        for (first, rows, threads) in [(0, 1, 1), (3, 2, 4), (17, 64, 2), (100, 200, 3)] {
            let part = run(threads, &x[first * inputs..][..rows * inputs]);
            assert_eq!(part, all[first * outputs..][..rows * outputs]);
        }
    }

    #[test]
    fn gating_is_silu_of_one_product_times_the_other() {
        let (rows, inputs, outputs) = (20, 40, 50);
        let (x, g, u) =
            (numbers(rows * inputs, 7), numbers(outputs * inputs, 8), numbers(outputs * inputs, 9));
        let mut out = vec![0.0; rows * outputs];
        let pack = |w: &[f32]| PackedWeight::new(w, outputs, inputs, Dtype::F32);
        gated(&x, &pack(&g), &pack(&u), Dtype::F32, &mut out);
        for ((out, g), u) in out.iter().zip(reference(&x, &g, inputs)).zip(reference(&x, &u, inputs)) {
            let expected = f64::from(g) / (1.0 + (-f64::from(g)).exp()) * f64::from(u);
            assert!((f64::from(*out) - expected).abs() < 1e-5 * (1.0 + expected.abs()));
        }
    }
}
