//! From final rows to what this rank's vocabulary says of them: logits of a block of rows at a time, then sums in f64.

use std::ops::Range;

use super::device::{Arg, Buffer, Shape};
use super::{Cuda, Matrix, PAD, Weight};
use crate::kernels::{KlPart, Partial};
use crate::plan::batch::ReadoutBatch;

/// Rows whose logits are held at once.
const ROWS: usize = 512;
/// Threads that share a row.
const THREADS: u32 = 512;

// Purposes of reading buffers; 0 is for rows.
const LOGITS: usize = 1;
const REFERENCES: usize = 2;
const REFERENCE_SUMS: usize = 3;
const SUMS: usize = 4;
const TARGETS: usize = 5;
const BEFORE: usize = 6;
const TOP: usize = 7;
const TOP_IDS: usize = 8;
const GAPS: usize = 9;
const GATHERED: usize = 10;

/// Largest logit, mass and expectation of each row.
const SUMS_PER_ROW: usize = 3;

impl Cuda {
    /// See [`crate::kernels::Kernels::logits`].
    pub(super) fn unembed(&self, x: &Matrix, rows: &[u32], unembed: &Weight) -> Vec<f32> {
        let (own, _) = unembed.shape();
        let mut logits = Vec::with_capacity(rows.len() * own);
        for rows in rows.chunks(ROWS) {
            self.logits_of(x, rows, unembed, LOGITS, |buffer| {
                logits.extend(self.device.download::<f32>(buffer, rows.len() * own));
            });
        }
        logits
    }

    /// Logits of some rows in a buffer `[rows, own]`.
    fn logits_of<R>(
        &self,
        x: &Matrix,
        rows: &[u32],
        unembed: &Weight,
        purpose: usize,
        f: impl FnOnce(&Buffer) -> R,
    ) -> R {
        let (own, _) = unembed.shape();
        self.reading(GATHERED, (rows.len() + PAD) * x.bytes_per_row(), |gathered| {
            self.copy_rows(x, rows, gathered.arg());
            self.reading(purpose, (rows.len() + PAD) * own * 4, |logits| {
                let (weight, out) = (unembed.start(), logits.arg());
                self.gemm.multiply(gathered.arg(), weight, unembed.shape(), rows.len(), out, true);
                f(logits)
            })
        })
    }

    fn sums_of(&self, logits: &Buffer, rows: usize, own: usize, out: Arg) {
        self.device.launch(
            "distribution",
            Shape::blocks(rows, THREADS),
            [logits.arg(), out, (own as u32).into()],
        );
    }

    /// See [`crate::kernels::Kernels::score`].
    pub(super) fn partials(
        &self,
        x: &Matrix,
        unembed: &Weight,
        own: Range<u32>,
        readout: &ReadoutBatch,
    ) -> Vec<Partial> {
        let n = readout.kl_refs.len();
        if n == 0 {
            return self.partials_against(x, unembed, own, readout, None);
        }
        self.logits_of(x, &readout.kl_refs, unembed, REFERENCES, |references| {
            self.reading(REFERENCE_SUMS, n * SUMS_PER_ROW * 8, |sums| {
                self.sums_of(references, n, own.len(), sums.arg());
                self.partials_against(x, unembed, own, readout, Some((references, sums)))
            })
        })
    }

    fn partials_against(
        &self,
        x: &Matrix,
        unembed: &Weight,
        own: Range<u32>,
        readout: &ReadoutBatch,
        references: Option<(&Buffer, &Buffer)>,
    ) -> Vec<Partial> {
        let all: Vec<u32> = (0..x.rows as u32).collect();
        let reference_sums = references.map_or_else(Vec::new, |(_, sums)| {
            self.device.download::<f64>(sums, readout.kl_refs.len() * SUMS_PER_ROW)
        });
        let mut partials = Vec::with_capacity(all.len());
        for rows in all.chunks(ROWS) {
            let block = self.logits_of(x, rows, unembed, LOGITS, |logits| {
                self.block_of(logits, rows.len(), &own, readout, references)
            });
            partials.extend(block.into_partials(rows.len(), readout, &reference_sums));
        }
        partials
    }

    fn block_of(
        &self,
        logits: &Buffer,
        rows: usize,
        own: &Range<u32>,
        readout: &ReadoutBatch,
        references: Option<(&Buffer, &Buffer)>,
    ) -> BlockSums {
        let device = &self.device;
        let (targets, k, n) = (readout.targets.len(), readout.topk as usize, readout.kl_refs.len());
        let (first, width) = (Arg::from(own.start), Arg::from(own.len() as u32));
        let sums = self.reading(SUMS, rows * SUMS_PER_ROW * 8, |buffer| {
            self.sums_of(logits, rows, own.len(), buffer.arg());
            device.download::<f64>(buffer, rows * SUMS_PER_ROW)
        });
        let (target_logits, before) = self.reading(TARGETS, rows * targets * 4, |picked| {
            let table = device.table(&readout.targets);
            let args = [
                logits.arg(),
                table,
                picked.arg(),
                (rows as u32).into(),
                (targets as u32).into(),
                first,
                width,
            ];
            device.launch("pick_targets", Shape::blocks((rows * targets).div_ceil(256), 256), args);
            if let Some(nccl) = self.nccl.as_ref().filter(|_| targets > 0) {
                nccl.sum_owned(device, picked.arg(), rows * targets);
            }
            self.reading(BEFORE, rows * targets * 4, |before| {
                let shape = Shape { grid: (rows as u32, targets as u32), block: THREADS, shared: 0 };
                let args =
                    [logits.arg(), table, picked.arg(), before.arg(), (targets as u32).into(), first, width];
                device.launch("rank_targets", shape, args);
                (
                    device.download::<f32>(picked, rows * targets),
                    device.download::<u32>(before, rows * targets),
                )
            })
        });
        let (top, top_ids) = self.reading(TOP, rows * k * 4, |values| {
            self.reading(TOP_IDS, rows * k * 4, |ids| {
                let args = [logits.arg(), values.arg(), ids.arg(), (k as u32).into(), first, width];
                device.launch("top_tokens", Shape::blocks(rows, THREADS), args);
                (device.download::<f32>(values, rows * k), device.download::<u32>(ids, rows * k))
            })
        });
        let gaps = references.map_or_else(Vec::new, |(references, sums)| {
            self.reading(GAPS, rows * n * 16, |gaps| {
                let shape = Shape { grid: (rows as u32, n as u32), block: THREADS, shared: 0 };
                let args = [logits.arg(), references.arg(), sums.arg(), gaps.arg(), (n as u32).into(), width];
                device.launch("divergence", shape, args);
                device.download::<f64>(gaps, rows * n * 2)
            })
        });
        BlockSums { sums, target_logits, before, top, top_ids, gaps }
    }
}

/// What the kernels found of a block of rows.
struct BlockSums {
    sums: Vec<f64>,
    target_logits: Vec<f32>,
    before: Vec<u32>,
    top: Vec<f32>,
    top_ids: Vec<u32>,
    /// (mass, gap) by row and reference.
    gaps: Vec<f64>,
}

impl BlockSums {
    fn into_partials(
        self,
        rows: usize,
        readout: &ReadoutBatch,
        reference_sums: &[f64],
    ) -> impl Iterator<Item = Partial> {
        let (targets, k, n) = (readout.targets.len(), readout.topk as usize, readout.kl_refs.len());
        let largest_of: Vec<f32> =
            reference_sums.chunks_exact(SUMS_PER_ROW).map(|sums| sums[0] as f32).collect();
        (0..rows).map(move |row| {
            let sums = &self.sums[row * SUMS_PER_ROW..][..SUMS_PER_ROW];
            let of_targets = row * targets..(row + 1) * targets;
            let top = self.top[row * k..][..k].iter().zip(&self.top_ids[row * k..][..k]);
            let gaps = self.gaps[row * n * 2..][..n * 2].chunks_exact(2);
            Partial {
                largest: sums[0] as f32,
                mass: sums[1],
                expected: sums[2],
                logits: self.target_logits[of_targets.clone()].to_vec(),
                before: self.before[of_targets].to_vec(),
                top: top.filter(|(_, id)| **id != u32::MAX).map(|(l, id)| (*id, *l)).collect(),
                kl: gaps
                    .zip(&largest_of)
                    .map(|(pair, largest)| KlPart { largest: *largest, mass: pair[0], gap: pair[1] })
                    .collect(),
            }
        })
    }
}
