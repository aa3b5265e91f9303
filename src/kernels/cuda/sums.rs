//! Products of which each rank has a part, and their sums: by [`super::peers`] where GPUs reach one another's memory, else by
//! [`super::nccl`].

use super::device::{Arg, Shape};
use super::matrix::Pending;
use super::peers::{self, Peers};
use super::{BLOCK, Cuda, Matrix, Vector, Weight};
use crate::kernels::OutOfMemory;
use crate::kernels::facts::Sums;

impl Cuda {
    /// How it adds up products with the other ranks.
    pub fn sums(&self) -> Option<Sums> {
        self.nccl.as_ref().map(|_| if self.peers.is_some() { Sums::Peers } else { Sums::Nccl })
    }

    /// Makes room for the sums of so many rows of `x`.
    pub(super) fn reserve_sums(&self, x: &Matrix, rows: usize) -> Result<(), OutOfMemory> {
        match (&self.peers, &self.nccl) {
            (Some(peers), _) if x.columns == self.hidden => peers.reserve(&self.device, rows),
            (None, Some(nccl)) => nccl.reserve(&self.device, rows.min(BLOCK) * self.hidden),
            _ => Ok(()),
        }
    }

    /// Tells the other ranks what room was made, before the first sum of a batch.
    pub(super) fn meet(&self) {
        if let Some(peers) = &self.peers {
            peers.meet(&self.device, &*self.host);
        }
    }

    /// `x = sum over ranks of x`, where one rank's row is not zeros.
    pub(super) fn sum_embedded(&self, x: &Matrix) {
        match (&self.peers, &self.nccl) {
            (Some(peers), _) => {
                self.spread(peers, x, |_, _| ());
                self.settle(x);
            }
            (None, Some(nccl)) => {
                Self::blocks(x.rows, |first, rows| {
                    nccl.start_sum(&self.device, x.row(first), rows * x.columns);
                });
                nccl.wait(&self.device);
            }
            (None, None) => {}
        }
    }

    /// `out = sum over ranks of x W^T, + bias`. The bias, and with peers the sum, is left to what reads it.
    pub(super) fn multiply_and_sum(&self, x: &Matrix, weight: &Weight, bias: Option<&Vector>, out: &Matrix) {
        let multiply = |first: usize, rows: usize| {
            let (from, to) = (x.row(first), out.own_row(first));
            self.gemm.multiply(from, weight.start(), weight.shape(), rows, to, false);
        };
        match (&self.peers, &self.nccl) {
            (Some(peers), _) => self.spread(peers, out, multiply),
            (None, Some(nccl)) => {
                for (first, rows) in overlapped(x.rows, out.columns) {
                    multiply(first, rows);
                    nccl.start_sum(&self.device, out.row(first), rows * out.columns);
                }
                nccl.wait(&self.device);
            }
            (None, None) => Self::blocks(x.rows, multiply),
        }
        let Pending { parts, .. } = out.pending.get();
        out.pending.set(Pending { parts, bias: bias.map(Vector::start) });
        if self.nccl.is_some() {
            self.pace.keep(&self.device, x.rows);
        }
    }

    /// Lets `f` queue what adds up the parts of `x` and its bias, given where they are.
    pub(super) fn adding(&self, x: &Matrix, f: impl FnOnce([Arg; 7])) {
        let Pending { parts, bias } = x.pending.take();
        let [inbox, arrived, capacity, ranks, rank, product] = match (parts, &self.peers) {
            (Some(parts), Some(peers)) => peers.args(parts),
            _ => peers::alone(),
        };
        f([inbox, arrived, capacity, ranks, rank, product, bias.unwrap_or(Arg::NULL)]);
    }

    /// Adds up what is not added up yet, for those that cannot do it on the way.
    pub(super) fn settle(&self, x: &Matrix) {
        if !x.pending.get().is_none() {
            self.adding(x, |[inbox, arrived, capacity, ranks, rank, product, bias]| {
                let args = [x.own_row(0), inbox, arrived, capacity, ranks, rank, product, bias];
                self.device.launch("settle", Shape::blocks(x.rows, 256), args);
            });
        }
    }

    /// Queues a product whose sum over the ranks is left to what reads it: `multiply(first row, rows)` queues a block of it.
    fn spread(&self, peers: &Peers, out: &Matrix, multiply: impl Fn(usize, usize)) {
        let blocks = overlapped(out.rows, out.columns);
        let Some((&(last, rows), earlier)) = blocks.split_last() else { return };
        let parts = peers.begin();
        for &(first, rows) in earlier {
            multiply(first, rows);
            peers.copy(&self.device, parts, out.own_row(first), first, rows);
        }
        if last > 0 {
            peers.announce(&self.device, parts, last);
        }
        multiply(last, rows);
        peers.push(&self.device, parts, out.own_row(0), last, rows);
        if last > 0 {
            peers.wait_for_copies(&self.device);
        }
        out.pending.set(Pending { parts: Some(parts), bias: None });
    }
}

/// Blocks of a product that travel to the other ranks beside the next block's product: large ones, then ever smaller ones, for
/// nothing hides the last. Blocks of 8192 rows with a shorter tail made a trace no faster.
fn overlapped(rows: usize, columns: usize) -> Vec<(usize, usize)> {
    /// Numbers that the multiprocessors compute at once, 128 x 256 each.
    const WAVE: usize = 1 << 22;
    const MOST: usize = 4096;
    let least = (WAVE / columns).next_multiple_of(128).min(MOST);
    let mut blocks = Vec::new();
    let mut first = 0;
    while first < rows {
        let left = rows - first;
        let n = if left <= least { left } else { left.div_ceil(2).next_multiple_of(least).min(MOST) };
        blocks.push((first, n));
        first += n;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_all_rows_and_become_smaller() {
        let sizes = |rows, columns| -> Vec<usize> {
            let blocks = overlapped(rows, columns);
            assert!(blocks.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0));
            assert_eq!(blocks.iter().map(|(_, n)| n).sum::<usize>(), rows);
            blocks.into_iter().map(|(_, n)| n).collect()
        };
        assert!(sizes(0, 8192).is_empty());
        assert_eq!(sizes(16, 8192), [16]);
        assert_eq!(sizes(1300, 8192), [1024, 276]);
        assert_eq!(sizes(12_288, 8192), [4096, 4096, 2048, 1024, 512, 512]);
        assert_eq!(sizes(3000, 4096), [2048, 952]);
        assert_eq!(sizes(3000, 64), [3000]);
    }
}
