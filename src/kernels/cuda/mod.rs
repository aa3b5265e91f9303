//! The kernels on a GPU.
//!
//! Matrix products are cuBLASLt's (`gemm`); all else is kernels of our own (`source/*.cu`), compiled at start for the
//! model and the device. Matrices keep their memory from batch to batch, tables travel through one ring, and nothing is
//! waited for until something is read.
//!
//! What was predicted of each kernel beside a layer's products (Llama-3-70B over two GPUs: 1.14 us per row and layer at
//! 750 TFLOP/s), from the bytes it moves at 4.25 TB/s: a norm 32 KB a row (0.01 us), the gate 86 KB (0.02 us), splitting the
//! heads 20 KB (0.005 us), copies of rows at joins 32 KB (0.01 us), attention over 64 keys 1.5 MFLOP on tensor cores (under
//! 0.01 us), the sum over two ranks 16 KB twice over `NVLink` (0.05 us each, hidden but for the last block).
//!
//! What was measured, full traces of 64 tokens: one H200, 8B shape, 651 TFLOP/s of 779; two H200s, 70B, 664 of 792 each.
//! Where the time of a batch of 30,000 rows went before the products became 8 % faster and gate and heads were written anew (two
//! H100s, 70B, events between the kernels): products 89 %, the residual adds with their norms, in which the sums and the
//! waiting for the other GPU are, 5.1 %, the gate 2.2 %, attention 1.9 %, splitting the heads 1.0 %.
//!
//! What limits the products is power. A square product of random numbers gives 790 TFLOP/s at once and 655 when it goes on: at
//! the board's 700 W the clock falls from 1980 to 1140 .. 1500 MHz. How far depends on how much the operands switch, so it helps
//! if neighbouring rows are nearly alike, as those of one position are in the branches of a sweep, but only in kernels
//! that, it seems, take rows and not weights as the left operand of the tensor cores (the library calls them `TNT`). 4096
//! rows that differ by 5 %, 14336 inputs, 8192 outputs: 731 TFLOP/s if alike rows are neighbours, 684 if not; another kernel
//! (`TNN`) 672 and 680. So rows of one position stand side by side (`plan::moments`), and each weight's algorithm
//! for many rows is the fastest where neighbours are alike, timed at start ([`trial`]); all that are timed give the same bits. In
//! one run on two H200s the 70B trace took 8.31 s with both, and 9.08 s with the choice alone.
//!
//! Alone on one H200, 70B's share of two GPUs: the gate writes and reads 4.26 TB/s, splitting the heads 3.3, the add with its norm
//! 3.7 with another GPU's part and 4.1 without, a norm 3.7. Loading all that a row needs before waiting for the other GPU cost
//! registers, and took 1.5 times as long.
//!
//! A kernel of our own for 16 rows (H100) had the same bits, too, and no more speed: reading the weights at 88 % of a copy's
//! rate is what the library does.

mod attention;
mod device;
mod edit;
mod fault;
mod gemm;
mod matrix;
mod nccl;
mod pace;
mod peers;
mod pool;
mod probe;
mod score;
mod sums;
mod trial;
mod upload;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;

use super::{Heads, Kernels, Norm, OnTheWay, OutOfMemory, Partial, Projections, RopeTable, RowChange};
use crate::comm::{Collective, Single, Threads};
use crate::plan::batch::{AttentionBatch, EditRows, ReadoutBatch};
use crate::spec::dtype::Dtype;
use attention::{Mode, Operands};
use device::{Arg, Buffer, Constants, Device, Shape};
use gemm::Gemm;
use nccl::Nccl;
use pace::Pace;
use peers::Peers;

pub use edit::Log;
pub use fault::Fault;
pub use matrix::Matrix;
pub use nccl::GroupId;
pub use peers::inbox_rows;
pub use upload::{Rope, Stack, Table, Vector, Weight};

/// Rows beyond its last that a product may read and write: most that padding adds.
const PAD: usize = 512;
/// Most rows of one product: what the probe compares, and what the results that are kept for a moment only take.
const BLOCK: usize = 8192;

/// What of a model's shape the kernels are compiled for.
#[derive(Debug, Clone, Copy)]
pub struct Dimensions {
    /// Width of the residual stream.
    pub hidden: usize,
    /// This rank's heads.
    pub heads: Heads,
    /// This rank's neurons of an MLP.
    pub intermediate: usize,
    /// Whether any projection to the residual stream has a bias.
    pub bias: bool,
}

/// A rank's place in its group.
pub struct Place {
    /// How its GPU finds the others.
    pub group: GroupId,
    /// How its host finds the others.
    pub host: Threads,
}

/// One GPU.
pub struct Cuda {
    // Dropped in this order: what uses the device before the device.
    peers: Option<Peers>,
    nccl: Option<Nccl>,
    host: Box<dyn Collective<[f32]>>,
    gemm: Gemm,
    scratch: Scratch,
    dtype: Dtype,
    hidden: usize,
    head_dim: usize,
    widest_stack: Cell<usize>,
    pace: Pace,
    device: Device,
}

/// Buffers that operations use and leave.
#[derive(Default)]
struct Scratch {
    /// Products of stacks.
    product: RefCell<Option<Buffer>>,
    /// The log of a batch's edits, between batches.
    log: RefCell<Option<Buffer>>,
    /// Rows on their way to the host, logits and what is worked out from them.
    reading: RefCell<Vec<Option<Buffer>>>,
}

/// Bytes in use on a GPU, by everybody; `None` if it does not answer.
pub fn used_bytes(ordinal: usize) -> Option<u64> {
    let context = cudarc::driver::CudaContext::new(ordinal).ok()?;
    let (free, total) = context.mem_get_info().ok()?;
    Some((total - free) as u64)
}

impl Cuda {
    /// Opens a GPU and makes it ready for a model of this shape. With several ranks, returns when all of them have come.
    pub fn open(
        ordinal: usize,
        dtype: Dtype,
        dimensions: Dimensions,
        place: Option<Place>,
    ) -> Result<Cuda, Fault> {
        let Dimensions { hidden, heads, intermediate, bias } = dimensions;
        let of = 16 / dtype.bytes() as usize;
        for (what, columns) in
            [("hidden size", hidden), ("head size", heads.dim), ("intermediate size", intermediate)]
        {
            if !columns.is_multiple_of(of) {
                return Err(Fault::Width { what, columns, of });
            }
        }
        let constants = Constants {
            dtype: match dtype {
                Dtype::F32 => 0,
                Dtype::Bf16 => 1,
                Dtype::F16 => 2,
            },
            hidden,
            head_dim: heads.dim,
            group: heads.query / heads.key_value,
            bias,
        };
        let device = Device::open(ordinal, &constants)?;
        let (peers, nccl, host): (_, _, Box<dyn Collective<[f32]>>) = match place {
            None => (None, None, Box::new(Single)),
            Some(Place { group, host }) => {
                let (rank, ranks) = (host.rank(), host.size());
                let nccl = Nccl::join(&device, group, rank, ranks, dtype)?;
                let peers = Peers::open(&device, ordinal, hidden * dtype.bytes() as usize, &host)?;
                (peers, Some(nccl), Box::new(host))
            }
        };
        Ok(Cuda {
            peers,
            nccl,
            host,
            gemm: Gemm::new(&device, dtype)?,
            scratch: Scratch { log: RefCell::new(Some(edit::buffer(&device)?)), ..Scratch::default() },
            dtype,
            hidden,
            head_dim: heads.dim,
            widest_stack: Cell::new(0),
            pace: Pace::new(&device),
            device,
        })
    }

    /// What the driver calls the GPU.
    pub fn name(&self) -> String {
        self.device.name()
    }

    /// Bytes of its memory that are free, and all of them.
    pub fn memory(&self) -> (u64, u64) {
        let (free, total) = self.device.memory();
        (free as u64, total as u64)
    }

    /// Waits until everything queued is done.
    pub fn synchronize(&self) {
        self.device.synchronize();
    }

    fn grow(&self, x: &mut Matrix, rows: usize) -> Result<(), OutOfMemory> {
        if x.buffer.is_none() || x.capacity() < rows {
            let bytes = (rows + PAD) * x.bytes_per_row();
            let fresh = self.device.allocate(bytes)?;
            if let Some(old) = &x.buffer {
                self.device.copy(old.arg(), fresh.arg(), x.rows * x.bytes_per_row());
            }
            x.buffer = Some(fresh);
        }
        Ok(())
    }

    /// Room is made before a batch starts; what is not foreseen there is made here, and lack of it ends the rank.
    fn set_rows(&self, x: &mut Matrix, rows: usize) {
        self.settle(x);
        device::fatal(self.grow(x, rows), "room for rows");
        x.rows = rows;
    }

    /// Runs `f(first row, rows)` over blocks of rows.
    fn blocks(rows: usize, mut f: impl FnMut(usize, usize)) {
        let mut first = 0;
        while first < rows {
            let n = (rows - first).min(BLOCK);
            f(first, n);
            first += n;
        }
    }

    /// A stack's product of a block of rows, in scratch memory.
    fn product(&self, x: &Matrix, stack: &Weight, first: usize, rows: usize) -> Arg {
        let product = self.scratch.product.borrow();
        let out = product.as_ref().expect("BUG: room is made before the batch").arg();
        self.gemm.multiply(x.row(first), stack.start(), stack.shape(), rows, out, false);
        out
    }

    /// `silu(gate) * up` of a block's rows, which begin `stride` numbers after one another, to rows of `out`.
    fn gate(&self, [gates, ups]: [Arg; 2], stride: usize, out: &Matrix, first: usize, rows: usize) {
        let (count, columns) = ((rows as u32).into(), (out.columns as u32).into());
        let args = [gates, ups, out.row(first), count, columns, (stride as u32).into()];
        self.device.launch("gate", Shape::items(rows * out.bytes_per_row() / 16), args);
    }

    /// A buffer for reading, by purpose, of at least so many bytes.
    fn reading<R>(&self, purpose: usize, bytes: usize, f: impl FnOnce(&Buffer) -> R) -> R {
        let taken = {
            let mut all = self.scratch.reading.borrow_mut();
            if all.len() <= purpose {
                all.resize_with(purpose + 1, || None);
            }
            all[purpose].take().filter(|buffer| buffer.bytes() >= bytes)
        };
        let buffer = taken
            .unwrap_or_else(|| device::fatal(self.device.allocate(bytes.next_power_of_two()), "a buffer"));
        let result = f(&buffer);
        self.scratch.reading.borrow_mut()[purpose] = Some(buffer);
        result
    }
}

impl Kernels for Cuda {
    type Matrix = Matrix;
    type Weight = Weight;
    type Stack = Stack;
    type Table = Table;
    type Vector = Vector;
    type Rope = Rope;
    type Log = Log;

    fn matrix(&self, columns: usize) -> Matrix {
        Matrix::new(columns, self.dtype.bytes() as usize)
    }

    fn scores_matrix(&self, columns: usize) -> Matrix {
        Matrix::new(columns, 4)
    }

    fn rows(&self, x: &Matrix) -> usize {
        x.rows
    }

    fn reserve(&self, x: &mut Matrix, rows: usize) -> Result<(), OutOfMemory> {
        if x.columns == 0 {
            return Ok(());
        }
        if x.capacity() < rows {
            // What it held is not needed any more, and both may not fit.
            (x.buffer, x.rows) = (None, 0);
        }
        self.grow(x, rows)?;
        let mut product = self.scratch.product.borrow_mut();
        let needed = (rows.min(BLOCK) + PAD) * self.widest_stack.get() * self.dtype.bytes() as usize;
        if product.as_ref().is_none_or(|p| p.bytes() < needed) {
            *product = None;
            *product = Some(self.device.allocate(needed)?);
        }
        drop(product);
        self.reserve_sums(x, rows)
    }

    fn embed(&self, table: &Table, tokens: &[u32], out: &mut Matrix) {
        self.meet();
        self.set_rows(out, tokens.len());
        let n = tokens.len();
        let args = [
            table.start(),
            self.device.table(tokens),
            out.start(),
            (n as u32).into(),
            table.first().into(),
            table.own().into(),
        ];
        self.device.launch("embed", Shape::items(n * out.columns), args);
        self.sum_embedded(out);
    }

    fn add_positions(&self, x: &mut Matrix, table: &Table, positions: &[u32]) {
        let args = [x.start(), table.start(), self.device.table(positions), (x.rows as u32).into()];
        self.device.launch("add_positions", Shape::items(x.rows * x.bytes_per_row() / 16), args);
    }

    fn norm(&self, x: &Matrix, norm: &Norm<Vector>, out: &mut Matrix) {
        self.set_rows(out, x.rows);
        let shape = Shape::blocks(x.rows, 256);
        match norm {
            Norm::Rms { weight, eps } => {
                let args = [x.start(), weight.start(), out.start(), (*eps).into()];
                self.device.launch("rms_norm", shape, args);
            }
            Norm::Layer { weight, bias, eps } => {
                let args = [x.start(), weight.start(), bias.start(), out.start(), (*eps).into()];
                self.device.launch("layer_norm", shape, args);
            }
        }
    }

    fn add_norm(&self, x: &mut Matrix, y: &Matrix, norm: &Norm<Vector>, out: &mut Matrix) {
        self.set_rows(out, x.rows);
        let shape = Shape::blocks(x.rows, 256);
        self.adding(y, |[inbox, arrived, capacity, ranks, rank, product, y_bias]| {
            let (x, y, out) = (x.start(), y.own_row(0), out.start());
            match norm {
                Norm::Rms { weight, eps } => {
                    let (weight, eps) = (weight.start(), (*eps).into());
                    let args =
                        [x, y, inbox, arrived, capacity, ranks, rank, product, y_bias, weight, out, eps];
                    self.device.launch("add_rms_norm", shape, args);
                }
                Norm::Layer { weight, bias, eps } => {
                    let (weight, bias, eps) = (weight.start(), bias.start(), (*eps).into());
                    let args = [
                        x, y, inbox, arrived, capacity, ranks, rank, product, y_bias, weight, bias, out, eps,
                    ];
                    self.device.launch("add_layer_norm", shape, args);
                }
            }
        });
    }

    fn project(
        &self,
        x: &Matrix,
        qkv: &Projections<Self>,
        on_the_way: OnTheWay<'_, Self>,
        q: &mut Matrix,
        k: &mut Matrix,
        v: &mut Matrix,
    ) {
        for out in [&mut *q, &mut *k, &mut *v] {
            self.set_rows(out, x.rows);
        }
        let dim = qkv.stack.dim();
        let heads = (q.columns / dim, k.columns / dim);
        let OnTheWay { norms, rotate } = on_the_way;
        let (positions, rope) = rotate.unzip();
        let vector = |v: Option<&Vector>| v.map_or(Arg::NULL, Vector::start);
        Self::blocks(x.rows, |first, rows| {
            let product = self.product(x, &qkv.stack.weight, first, rows);
            let args = [
                product,
                vector(qkv.bias.as_ref()),
                vector(norms.map(|norms| &norms.query)),
                vector(norms.map(|norms| &norms.key)),
                positions.map_or(Arg::NULL, |p| self.device.table(&p[first..first + rows])),
                rope.map_or(Arg::NULL, Rope::cosines),
                rope.map_or(Arg::NULL, Rope::sines),
                q.row(first),
                k.row(first),
                v.row(first),
                (heads.0 as u32).into(),
                (heads.1 as u32).into(),
                norms.map_or(0.0, |norms| norms.eps).into(),
            ];
            // Few rows would not keep the device busy.
            let blocks = if rows < 1024 { (heads.0 + 2 * heads.1).div_ceil(8) } else { 1 };
            let shape = Shape { grid: (rows as u32, blocks as u32), block: 256, shared: 0 };
            self.device.launch("split_heads", shape, args);
        });
    }

    fn norm_heads(&self, heads: Heads, x: &mut Matrix, weight: &Vector, eps: f32) {
        let all = x.columns / heads.dim;
        let product = self.scratch.product.borrow();
        let copy = product.as_ref().expect("BUG: room is made before the batch").arg();
        // The kernel that norms heads on their way out of the projection, of q alone: so the bits are the same.
        Self::blocks(x.rows, |first, rows| {
            self.device.copy(x.row(first), copy, rows * x.bytes_per_row());
            let none = Arg::NULL;
            let args = [
                copy,
                none,
                weight.start(),
                none,
                none,
                none,
                none,
                x.row(first),
                none,
                none,
                (all as u32).into(),
                0_u32.into(),
                eps.into(),
            ];
            let blocks = if rows < 1024 { all.div_ceil(8) } else { 1 };
            let shape = Shape { grid: (rows as u32, blocks as u32), block: 256, shared: 0 };
            self.device.launch("split_heads", shape, args);
        });
    }

    fn rope_table(&self, table: &RopeTable) -> Result<Rope, OutOfMemory> {
        self.rope_of(table)
    }

    fn rope(&self, x: &mut Matrix, positions: &[u32], rope: &Rope) {
        let heads = x.columns / rope.dim();
        let args = [
            x.start(),
            self.device.table(positions),
            rope.cosines(),
            rope.sines(),
            (x.rows as u32).into(),
            (heads as u32).into(),
        ];
        self.device.launch("rope", Shape::warps(x.rows * heads), args);
    }

    fn linear(&self, x: &Matrix, weight: &Weight, out: &mut Matrix) {
        self.set_rows(out, x.rows);
        Self::blocks(x.rows, |first, rows| {
            self.gemm.multiply(x.row(first), weight.start(), weight.shape(), rows, out.row(first), false);
        });
    }

    fn row_parallel(&self, x: &Matrix, weight: &Weight, bias: Option<&Vector>, out: &mut Matrix) {
        self.set_rows(out, x.rows);
        self.multiply_and_sum(x, weight, bias, out);
    }

    fn gated(&self, x: &Matrix, gate_up: &Stack, out: &mut Matrix) {
        self.set_rows(out, x.rows);
        Self::blocks(x.rows, |first, rows| {
            let product = self.product(x, &gate_up.weight, first, rows);
            let ups = (product.pointer() + out.bytes_per_row() as u64).into();
            self.gate([product, ups], 2 * out.columns, out, first, rows);
        });
    }

    fn gelu(&self, x: &Matrix, up: &Stack, bias: Option<&Vector>, out: &mut Matrix) {
        self.set_rows(out, x.rows);
        let bias = bias.map_or(Arg::NULL, Vector::start);
        Self::blocks(x.rows, |first, rows| {
            let product = self.product(x, &up.weight, first, rows);
            let args = [product, bias, out.row(first), (rows as u32).into(), (out.columns as u32).into()];
            self.device.launch("gelu", Shape::items(rows * out.bytes_per_row() / 16), args);
        });
    }

    fn pre_activation(
        &self,
        x: &Matrix,
        stack: &Stack,
        bias: Option<&Vector>,
        gate: Option<&mut Matrix>,
        up: &mut Matrix,
    ) {
        self.set_rows(up, x.rows);
        let gate = gate.map(|gate| {
            self.set_rows(gate, x.rows);
            &*gate
        });
        let bias = bias.map_or(Arg::NULL, Vector::start);
        Self::blocks(x.rows, |first, rows| {
            let args = [
                self.product(x, &stack.weight, first, rows),
                bias,
                gate.map_or(Arg::NULL, |gate| gate.row(first)),
                up.row(first),
                (rows as u32).into(),
                (up.columns as u32).into(),
            ];
            self.device.launch("pre_activation", Shape::items(rows * up.bytes_per_row() / 16), args);
        });
    }

    fn activate(&self, gate: Option<&Matrix>, up: &mut Matrix) {
        Self::blocks(up.rows, |first, rows| {
            if let Some(gate) = gate {
                self.gate([gate.row(first), up.row(first)], up.columns, up, first, rows);
            } else {
                let (x, rows_arg, columns) =
                    (up.row(first), (rows as u32).into(), (up.columns as u32).into());
                let args = [x, Arg::NULL, x, rows_arg, columns];
                self.device.launch("gelu", Shape::items(rows * up.bytes_per_row() / 16), args);
            }
        });
    }

    fn attention(
        &self,
        heads: Heads,
        q: &Matrix,
        k: &Matrix,
        v: &Matrix,
        batch: &AttentionBatch,
        positions: &[u32],
        out: &mut Matrix,
    ) {
        self.set_rows(out, q.rows);
        let (q, k, v, out) = (q.start(), k.start(), v.start(), out.start());
        self.attend(Mode::Whole, heads, Operands { q, k, v, out, ..Operands::NONE }, batch, positions);
    }

    fn scores(
        &self,
        heads: Heads,
        q: &Matrix,
        k: &Matrix,
        batch: &AttentionBatch,
        positions: &[u32],
        out: &mut Matrix,
    ) {
        self.set_rows(out, q.rows);
        let (q, k, scores, stride) = (q.start(), k.start(), out.start(), out.columns / heads.query);
        self.attend(
            Mode::Scores,
            heads,
            Operands { q, k, scores, stride, ..Operands::NONE },
            batch,
            positions,
        );
    }

    fn softmax(&self, heads: Heads, positions: &[u32], scores: &mut Matrix) {
        self.soften(heads, positions, scores);
    }

    fn weigh(
        &self,
        heads: Heads,
        pattern: &Matrix,
        v: &Matrix,
        batch: &AttentionBatch,
        positions: &[u32],
        out: &mut Matrix,
    ) {
        self.set_rows(out, pattern.rows);
        let stride = pattern.columns / heads.query;
        let (v, scores, out) = (v.start(), pattern.start(), out.start());
        self.attend(
            Mode::Weigh,
            heads,
            Operands { v, scores, out, stride, ..Operands::NONE },
            batch,
            positions,
        );
    }

    fn isolate_heads(&self, heads: Heads, z: &Matrix, rows: &[u32], out: &mut Matrix) {
        self.set_rows(out, rows.len() * heads.query);
        let table = self.device.table(rows);
        let args = [z.start(), table, out.start(), (rows.len() as u32).into(), (heads.query as u32).into()];
        self.device.launch("isolate_heads", Shape::items(out.rows * out.columns), args);
    }

    fn add(&self, x: &mut Matrix, y: &Matrix) {
        self.adding(y, |[inbox, arrived, capacity, ranks, rank, product, bias]| {
            let args = [x.start(), y.own_row(0), inbox, arrived, capacity, ranks, rank, product, bias];
            self.device.launch("add", Shape::blocks(x.rows, 256), args);
        });
    }

    fn gather(&self, x: &Matrix, rows: &[u32], out: &mut Matrix) {
        self.set_rows(out, rows.len());
        self.copy_rows(x, rows, out.start());
    }

    fn append(&self, x: &mut Matrix, rows: &[u32]) {
        self.settle(x);
        let old = x.rows;
        self.set_rows(x, old + rows.len());
        self.copy_rows(x, rows, x.row(old));
    }

    fn store(&self, columns: usize, rows: usize) -> Result<Matrix, OutOfMemory> {
        let mut store = self.matrix(columns);
        self.grow(&mut store, rows)?;
        store.rows = rows;
        Ok(store)
    }

    fn keep(&self, x: &Matrix, rows: &[u32], store: &mut Matrix, slots: &[u32]) {
        let words = x.bytes_per_row() / 4;
        let [rows_, slots_] = self.device.tables([rows, slots].map(bytemuck::cast_slice));
        let args =
            [x.start(), rows_, store.start(), slots_, (rows.len() as u32).into(), (words as u32).into()];
        self.device.launch("keep", Shape::items(rows.len() * words / 4), args);
    }

    fn log(&self) -> Log {
        Log::default()
    }

    fn edit(&self, x: &mut Matrix, edit: &EditRows, log: &mut Log) {
        self.settle(x);
        self.apply(x, edit, log);
    }

    fn changes(&self, log: Log) -> Vec<RowChange> {
        self.read_log(log)
    }

    fn exchange(&self, own: Vec<f32>) -> Arc<[Vec<f32>]> {
        self.host.exchange(own)
    }

    fn read(&self, x: &Matrix, rows: &[u32]) -> Vec<f32> {
        self.settle(x);
        self.read_rows(x, rows)
    }

    fn logits(&self, x: &Matrix, rows: &[u32], unembed: &Weight) -> Vec<f32> {
        self.unembed(x, rows, unembed)
    }

    fn score(&self, x: &Matrix, unembed: &Weight, own: Range<u32>, readout: &ReadoutBatch) -> Vec<Partial> {
        self.partials(x, unembed, own, readout)
    }
}

impl Cuda {
    /// Copies rows to `to`.
    fn copy_rows(&self, x: &Matrix, rows: &[u32], to: Arg) {
        let words = x.bytes_per_row() / 4;
        let args =
            [x.start(), self.device.table(rows), to, (rows.len() as u32).into(), (words as u32).into()];
        self.device.launch("gather", Shape::items(rows.len() * words / 4), args);
    }

    fn read_rows(&self, x: &Matrix, rows: &[u32]) -> Vec<f32> {
        const BYTES: usize = 64 << 20;
        let most = (BYTES / (4 * x.columns.max(1))).max(1);
        let mut numbers = Vec::with_capacity(rows.len() * x.columns);
        for rows in rows.chunks(most) {
            let n = rows.len() * x.columns;
            numbers.extend(self.reading(0, 4 * n, |buffer| {
                let kernel = if x.wide(self.dtype) { "widen_f32" } else { "widen" };
                let args = [
                    x.start(),
                    self.device.table(rows),
                    buffer.arg(),
                    (rows.len() as u32).into(),
                    (x.columns as u32).into(),
                ];
                self.device.launch(kernel, Shape::items(n), args);
                self.device.download::<f32>(buffer, n)
            }));
        }
        numbers
    }
}
