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
/// Of each row and reference: the reference's largest logit and its mass, the gap, the reference's logit of the row's best token.
const GAPS_PER_PAIR: usize = 4;

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
        // Where all rows are held at once, the references are among them.
        if refs.is_empty() || x.rows <= ROWS {
            return self.partials_against(x, unembed, own, readout, None);
        }
        self.logits_of(x, &refs, unembed, REFERENCES, |logits| {
            self.reading(REFERENCE_SUMS, refs.len() * SUMS_PER_ROW * 8, |sums| {
                self.sums_of(logits, refs.len(), own.len(), sums.arg());
                self.partials_against(x, unembed, own, readout, Some(&References { logits, sums }))
            })
        })
    }

    /// `references`: unless they are among the rows of the one block that there is.
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
                self.reading(SUMS, rows.len() * SUMS_PER_ROW * 8, |sums| {
                    self.sums_of(logits, rows.len(), own.len(), sums.arg());
                    let pairs = pairs_of(&stretches, references.is_none());
                    let among = References { logits, sums };
                    let references = references.unwrap_or(&among);
                    self.block_of(logits, sums, rows.len(), &own, &stretches, (references, &pairs))
                })
            });
            partials.extend(block.into_partials(&stretches));
        }
        partials
    }

    /// `against`: the references, and which row is compared with which.
    fn block_of(
        &self,
        logits: &Buffer,
        sums: &Buffer,
        rows: usize,
        own: &Range<u32>,
        stretches: &[Stretch<'_>],
        (references, pairs): (&References<'_>, &[[u32; 2]]),
    ) -> BlockSums {
        let device = &self.device;
        let (first, width) = (Arg::from(own.start), Arg::from(own.len() as u32));
        let (target_logits, before) = self.targets_of(logits, own, stretches);
        // The first tokens of a longer list are those of a shorter one.
        let topk = stretches.iter().map(|of| of.asked.topk as usize).max().unwrap_or(0);
        let (top, top_ids, gaps) = self.reading(TOP, rows * topk * 4, |values| {
            self.reading(TOP_IDS, rows * topk * 4, |ids| {
                let k = Arg::from(topk as u32);
                let args = [logits.arg(), values.arg(), ids.arg(), k, first, width];
                device.launch("top_tokens", Shape::blocks(rows, THREADS), args);
                let gaps = self.reading(GAPS, pairs.len() * GAPS_PER_PAIR * 8, |gaps| {
                    if pairs.is_empty() {
                        return Vec::new();
                    }
                    let table = device.table(pairs);
                    let (refs, of_refs) = (references.logits.arg(), references.sums.arg());
                    let args = [logits.arg(), refs, of_refs, table, ids.arg(), k, gaps.arg(), first, width];
                    device.launch("divergence", Shape::blocks(pairs.len(), THREADS), args);
                    device.download::<f64>(gaps, pairs.len() * GAPS_PER_PAIR)
                });
                let (top, ids) = (device.download(values, rows * topk), device.download(ids, rows * topk));
                (top, ids, gaps)
            })
        });
        let sums = device.download::<f64>(sums, rows * SUMS_PER_ROW);
        BlockSums { sums, target_logits, before, topk, top, top_ids, gaps }
    }

    /// The logit of each target of each row, whoever owns it, and how many own tokens come before it.
    fn targets_of(
        &self,
        logits: &Buffer,
        own: &Range<u32>,
        stretches: &[Stretch<'_>],
    ) -> (Vec<f32>, Vec<u32>) {
        let device = &self.device;
        let (first, width) = (Arg::from(own.start), Arg::from(own.len() as u32));
        let logits_of = |stretch: &Stretch<'_>| logits.at(stretch.rows.start * own.len() * 4);
        let picks = stretches.last().map_or(0, |last| last.first_pick + last.picks());
        if picks == 0 {
            return (Vec::new(), Vec::new());
        }
        self.reading(TARGETS, picks * 4, |picked| {
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
                if let Some(nccl) = &self.nccl {
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
        })
    }
}

/// The reference distributions of a readout, stretch by stretch, or all rows where the references are among them.
struct References<'a> {
    logits: &'a Buffer,
    sums: &'a Buffer,
}

/// For each row of a block and each of its references, one after the other, which row that is and which reference. `among`: whether
/// references are counted as rows of the block.
fn pairs_of(stretches: &[Stretch<'_>], among: bool) -> Vec<[u32; 2]> {
    let of_stretch = |of: &Stretch<'_>| {
        let reference = |(i, r): (usize, &u32)| {
            if among { of.rows.start as u32 + r } else { (of.first_ref + i) as u32 }
        };
        let references: Vec<u32> = of.asked.kl_refs.iter().enumerate().map(reference).collect();
        let pairs = |row: usize| references.iter().map(|r| [row as u32, *r]).collect::<Vec<_>>();
        of.rows.clone().flat_map(pairs).collect::<Vec<_>>()
    };
    stretches.iter().flat_map(of_stretch).collect()
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
    /// See [`GAPS_PER_PAIR`].
    gaps: Vec<f64>,
}

impl BlockSums {
    fn into_partials(self, stretches: &[Stretch<'_>]) -> impl Iterator<Item = Partial> {
        let rows = stretches.iter().flat_map(|of| of.rows.clone().map(move |row| (of, row)));
        rows.map(move |(of, row)| {
            let (targets, n) = (of.asked.targets.len(), of.asked.kl_refs.len());
            let in_stretch = row - of.rows.start;
            let sums = &self.sums[row * SUMS_PER_ROW..][..SUMS_PER_ROW];
            let of_targets = of.first_pick + in_stretch * targets..of.first_pick + (in_stretch + 1) * targets;
            let top = row * self.topk..row * self.topk + of.asked.topk as usize;
            let top = self.top[top.clone()].iter().zip(&self.top_ids[top]);
            let gaps = self.gaps.chunks_exact(GAPS_PER_PAIR).skip(of.first_gap + in_stretch * n).take(n);
            let part = |gaps: &[f64]| KlPart {
                largest: gaps[0] as f32,
                mass: gaps[1],
                gap: gaps[2],
                of_top: gaps[3] as f32,
            };
            Partial {
                largest: sums[0] as f32,
                mass: sums[1],
                expected: sums[2],
                logits: self.target_logits[of_targets.clone()].to_vec(),
                before: self.before[of_targets].to_vec(),
                top: top.filter(|(_, id)| **id != u32::MAX).map(|(l, id)| (*id, *l)).collect(),
                kl: gaps.map(part).collect(),
            }
        })
    }
}
