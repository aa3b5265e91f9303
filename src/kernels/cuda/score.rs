//! From final rows to what this rank's vocabulary says of them: logits of a block of rows at a time, then sums in f64.

use std::ops::Range;

use super::device::{Arg, Buffer, Shape};
use super::{Cuda, Matrix, PAD, Weight};
use crate::kernels::{KlPart, Partial};
use crate::plan::batch::{AskedRows, ReadoutBatch};

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
        let refs = |(rows, asked): (Range<usize>, &AskedRows)| -> Vec<u32> {
            asked.kl_refs.iter().map(|r| rows.start as u32 + r).collect()
        };
        let refs: Vec<u32> = readout.stretches().flat_map(refs).collect();
        if refs.is_empty() {
            return self.partials_against(x, unembed, own, readout, None);
        }
        self.logits_of(x, &refs, unembed, REFERENCES, |logits| {
            self.reading(REFERENCE_SUMS, refs.len() * SUMS_PER_ROW * 8, |sums| {
                self.sums_of(logits, refs.len(), own.len(), sums.arg());
                let host = self.device.download::<f64>(sums, refs.len() * SUMS_PER_ROW);
                self.partials_against(x, unembed, own, readout, Some(&References { logits, sums, host }))
            })
        })
    }

    fn partials_against(
        &self,
        x: &Matrix,
        unembed: &Weight,
        own: Range<u32>,
        readout: &ReadoutBatch,
        references: Option<&References<'_>>,
    ) -> Vec<Partial> {
        let all: Vec<u32> = (0..x.rows as u32).collect();
        let mut partials = Vec::with_capacity(all.len());
        for rows in all.chunks(ROWS) {
            let first = partials.len();
            let stretches = stretches_of(readout, first..first + rows.len());
            let block = self.logits_of(x, rows, unembed, LOGITS, |logits| {
                self.block_of(logits, rows.len(), &own, &stretches, references)
            });
            partials.extend(block.into_partials(&stretches, references));
        }
        partials
    }

    fn block_of(
        &self,
        logits: &Buffer,
        rows: usize,
        own: &Range<u32>,
        stretches: &[Stretch<'_>],
        references: Option<&References<'_>>,
    ) -> BlockSums {
        let device = &self.device;
        let (first, width) = (Arg::from(own.start), Arg::from(own.len() as u32));
        let logits_of = |stretch: &Stretch<'_>| logits.at(stretch.rows.start * own.len() * 4);
        let sums = self.reading(SUMS, rows * SUMS_PER_ROW * 8, |buffer| {
            self.sums_of(logits, rows, own.len(), buffer.arg());
            device.download::<f64>(buffer, rows * SUMS_PER_ROW)
        });
        let picks = stretches.last().map_or(0, |last| last.first_pick + last.picks());
        let (target_logits, before) = self.reading(TARGETS, picks * 4, |picked| {
            self.reading(BEFORE, picks * 4, |before| {
                let ids: Vec<u32> = stretches.iter().flat_map(|of| &of.asked.targets).copied().collect();
                let table = device.table(&ids);
                let table_of = |of: &Stretch<'_>| Arg::from(table.pointer() + 4 * of.first_target as u64);
                for of in stretches.iter().filter(|of| of.picks() > 0) {
                    let (n, targets) = (of.rows.len() as u32, of.asked.targets.len() as u32);
                    let out = picked.at(of.first_pick * 4);
                    let args = [logits_of(of), table_of(of), out, n.into(), targets.into(), first, width];
                    device.launch("pick_targets", Shape::blocks(of.picks().div_ceil(256), 256), args);
                }
                if let Some(nccl) = self.nccl.as_ref().filter(|_| picks > 0) {
                    nccl.sum_owned(device, picked.arg(), picks);
                }
                for of in stretches.iter().filter(|of| of.picks() > 0) {
                    let (n, targets) = (of.rows.len() as u32, of.asked.targets.len() as u32);
                    let (of_targets, out) = (picked.at(of.first_pick * 4), before.at(of.first_pick * 4));
                    let shape = Shape { grid: (n, targets), block: THREADS, shared: 0 };
                    let args = [logits_of(of), table_of(of), of_targets, out, targets.into(), first, width];
                    device.launch("rank_targets", shape, args);
                }
                (device.download::<f32>(picked, picks), device.download::<u32>(before, picks))
            })
        });
        // The first tokens of a longer list are those of a shorter one.
        let topk = stretches.iter().map(|of| of.asked.topk as usize).max().unwrap_or(0);
        let (top, top_ids) = self.reading(TOP, rows * topk * 4, |values| {
            self.reading(TOP_IDS, rows * topk * 4, |ids| {
                let args = [logits.arg(), values.arg(), ids.arg(), (topk as u32).into(), first, width];
                device.launch("top_tokens", Shape::blocks(rows, THREADS), args);
                (device.download::<f32>(values, rows * topk), device.download::<u32>(ids, rows * topk))
            })
        });
        let all_gaps = stretches.last().map_or(0, |last| last.first_gap + last.gaps());
        let gaps = references.map_or_else(Vec::new, |References { logits: refs, sums, .. }| {
            self.reading(GAPS, all_gaps * 16, |gaps| {
                for of in stretches.iter().filter(|of| of.gaps() > 0) {
                    let n = of.asked.kl_refs.len() as u32;
                    let shape = Shape { grid: (of.rows.len() as u32, n), block: THREADS, shared: 0 };
                    let of_refs = refs.at(of.first_ref * own.len() * 4);
                    let of_sums = sums.at(of.first_ref * SUMS_PER_ROW * 8);
                    let args = [logits_of(of), of_refs, of_sums, gaps.at(of.first_gap * 16), n.into(), width];
                    device.launch("divergence", shape, args);
                }
                device.download::<f64>(gaps, all_gaps * 2)
            })
        });
        BlockSums { sums, target_logits, before, topk, top, top_ids, gaps }
    }
}

/// The reference distributions of a readout, stretch by stretch.
struct References<'a> {
    logits: &'a Buffer,
    sums: &'a Buffer,
    /// The same sums.
    host: Vec<f64>,
}

/// The rows of a block of which the same is read, and where that stands among the block's.
struct Stretch<'a> {
    asked: &'a AskedRows,
    /// In the block.
    rows: Range<usize>,
    first_target: usize,
    first_pick: usize,
    first_gap: usize,
    /// Among all references of the readout.
    first_ref: usize,
}

impl Stretch<'_> {
    /// Targets, of all rows.
    fn picks(&self) -> usize {
        self.rows.len() * self.asked.targets.len()
    }

    /// Divergences, of all rows.
    fn gaps(&self) -> usize {
        self.rows.len() * self.asked.kl_refs.len()
    }
}

/// The stretches of a readout that have rows in a block.
fn stretches_of(readout: &ReadoutBatch, block: Range<usize>) -> Vec<Stretch<'_>> {
    let mut found: Vec<Stretch<'_>> = Vec::new();
    let mut first_ref = 0;
    for (rows, asked) in readout.stretches() {
        let held = rows.start.max(block.start)..rows.end.min(block.end);
        if !held.is_empty() {
            let (first_target, first_pick, first_gap) = found.last().map_or((0, 0, 0), |last| {
                let first_target = last.first_target + last.asked.targets.len();
                (first_target, last.first_pick + last.picks(), last.first_gap + last.gaps())
            });
            let rows = held.start - block.start..held.end - block.start;
            found.push(Stretch { asked, rows, first_target, first_pick, first_gap, first_ref });
        }
        first_ref += asked.kl_refs.len();
    }
    found
}

/// What the kernels found of a block of rows.
struct BlockSums {
    sums: Vec<f64>,
    target_logits: Vec<f32>,
    before: Vec<u32>,
    /// Tokens a row in `top`.
    topk: usize,
    top: Vec<f32>,
    top_ids: Vec<u32>,
    /// (mass, gap) by row and reference.
    gaps: Vec<f64>,
}

impl BlockSums {
    fn into_partials(
        self,
        stretches: &[Stretch<'_>],
        references: Option<&References<'_>>,
    ) -> impl Iterator<Item = Partial> {
        let rows = stretches.iter().flat_map(|of| of.rows.clone().map(move |row| (of, row)));
        rows.map(move |(of, row)| {
            let (targets, n) = (of.asked.targets.len(), of.asked.kl_refs.len());
            let in_stretch = row - of.rows.start;
            let sums = &self.sums[row * SUMS_PER_ROW..][..SUMS_PER_ROW];
            let of_targets = of.first_pick + in_stretch * targets..of.first_pick + (in_stretch + 1) * targets;
            let top = row * self.topk..row * self.topk + of.asked.topk as usize;
            let top = self.top[top.clone()].iter().zip(&self.top_ids[top]);
            let gaps = self.gaps.chunks_exact(2).skip(of.first_gap + in_stretch * n).take(n);
            let reference_sums = references.map_or(&[][..], |references| &references.host);
            let largest = reference_sums.chunks_exact(SUMS_PER_ROW).skip(of.first_ref);
            Partial {
                largest: sums[0] as f32,
                mass: sums[1],
                expected: sums[2],
                logits: self.target_logits[of_targets.clone()].to_vec(),
                before: self.before[of_targets].to_vec(),
                top: top.filter(|(_, id)| **id != u32::MAX).map(|(l, id)| (*id, *l)).collect(),
                kl: gaps
                    .zip(largest)
                    .map(|(pair, sums)| KlPart { largest: sums[0] as f32, mass: pair[0], gap: pair[1] })
                    .collect(),
            }
        })
    }
}
