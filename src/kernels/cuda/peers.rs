//! Sums over GPUs that reach into one another's memory.
//!
//! A rank's part of a row-parallel product goes into an inbox of every other rank, and the sum is taken by whatever reads it
//! next, the residual add, in rank order: it is not written and read again, and its bits are the same on all ranks. Large
//! products are sent block by block by the copy engines, beside the next block's product, from which they take no
//! multiprocessor; the last block, which nothing hides, and small products are sent by a kernel, whose rows arrive one by one.
//!
//! Ranks wait for one another on the device only. Each row carries the number of the product it is of, which only grows, and is
//! written after the row. An inbox has two places in turn: a rank sends product n + 2 after it has seen all of n + 1 from the
//! others, who sent that after they had taken in all of n. What waits in a kernel never keeps its own device from sending:
//! the computing stream first waits for its own copies, which also makes the product's memory free to be used again.
//! No call takes another context than the rank's own, and `Pace` keeps hosts from filling a stream's queue: a host that waits
//! inside the driver holds locks that another rank's host may need.
//!
//! Predicted: 9 % of a trace, what NCCL's sums take. Measured on two H200s, 70B shape, 64 tokens, when products took longer than now:
//! 9.02 s of computing, 9.53 s with NCCL in an earlier run, that is 612 TFLOP/s a GPU where one without sums (8B) had 617 in the same run. A clean run of 16
//! tokens, whose 161 sums are all small: 22.5 ms, 26.2 ms with NCCL. On four H100s the results are right, but a rank sends three times as
//! much (70B, 16 tokens: 430 TFLOP/s a GPU).

#![expect(unsafe_code, reason = "the driver's interface is raw pointers")]

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result};

use super::Fault;
use super::device::{Arg, Buffer, Device, Shape, fatal};
use super::pool::Pool;
use crate::comm::Collective;
use crate::kernels::OutOfMemory;

/// Most ranks that send everything to everybody.
pub(super) const MOST: usize = 4;
/// Products whose parts may be in an inbox at once: `SLOTS` of the kernels.
pub(super) const SLOTS: usize = 2;

/// Rows that a rank takes in from the others for each row of its own.
pub const fn inbox_rows(ranks: usize) -> usize {
    SLOTS * (ranks - 1)
}

/// One rank's end.
pub(super) struct Peers {
    rank: usize,
    others: Vec<Other>,
    bytes_per_row: usize,
    inbox: RefCell<Option<Inbox>>,
    /// Where the others' inboxes are, as kernels read it: a [`Target`] each.
    targets: Buffer,
    /// The block that is to be copied, and the copies.
    ready: CudaEvent,
    sent: CudaEvent,
    /// Products so far.
    products: Cell<u64>,
    pool: Pool,
}

/// Where the others' parts arrive.
struct Inbox {
    /// `[slot][other rank][row]`
    rows: Buffer,
    /// `[other rank][row]`: of which product the row is.
    arrived: Buffer,
    capacity: usize,
}

/// Another rank.
struct Other {
    rank: usize,
    copies: Arc<CudaStream>,
    target: Cell<Target>,
}

/// Where another rank takes in this rank's parts.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
struct Target {
    inbox: [u64; SLOTS],
    arrived: u64,
}

/// Parts of a product that are not added up yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    slot: usize,
    product: u64,
}

impl Peers {
    /// Makes room that the others reach. `None`, on all ranks alike, if there are too many or one cannot reach another.
    pub(super) fn open(
        device: &Device,
        ordinal: usize,
        bytes_per_row: usize,
        host: &dyn Collective<[f32]>,
    ) -> Result<Option<Peers>, Fault> {
        let (rank, ranks) = (host.rank(), host.size());
        let ordinals = exchange(host, &[ordinal as u64]);
        let others: Vec<usize> = (0..ranks).filter(|r| *r != rank).collect();
        let their_ordinals: Vec<usize> = others.iter().map(|r| ordinals[*r][0] as usize).collect();
        let pool = if ranks <= MOST { Pool::open(device, ordinal, &their_ordinals) } else { None };
        let all_reach = exchange(host, &[u64::from(pool.is_some())]).iter().all(|answer| answer[0] == 1);
        let Some(pool) = pool.filter(|_| all_reach) else { return Ok(None) };
        let targets = device.allocate(others.len() * size_of::<Target>());
        let of_rank = |rank| Other { rank, copies: device.new_stream(), target: Cell::default() };
        Ok(Some(Peers {
            rank,
            others: others.into_iter().map(of_rank).collect(),
            bytes_per_row,
            inbox: RefCell::default(),
            targets: targets.map_err(|OutOfMemory { .. }| Fault::NoMemory)?,
            ready: device.event(),
            sent: device.event(),
            products: Cell::new(0),
            pool,
        }))
    }

    /// Makes room for parts of so many rows.
    pub(super) fn reserve(&self, device: &Device, rows: usize) -> Result<(), OutOfMemory> {
        let mut inbox = self.inbox.borrow_mut();
        if inbox.as_ref().is_none_or(|inbox| inbox.capacity < rows) {
            *inbox = None;
            let others = self.others.len();
            let arrived = self.pool.allocate(others * rows * size_of::<u64>())?;
            device.clear(&arrived);
            let rows_at = self.pool.allocate(SLOTS * others * rows * self.bytes_per_row)?;
            // The others write to it from streams of their own.
            device.synchronize();
            *inbox = Some(Inbox { rows: rows_at, arrived, capacity: rows });
        }
        Ok(())
    }

    /// Tells the others where this rank's inbox lies. Once a batch, when all ranks have made room.
    pub(super) fn meet(&self, device: &Device, host: &dyn Collective<[f32]>) {
        let places = {
            let inbox = self.inbox.borrow();
            let inbox = inbox.as_ref().expect("BUG: room is made before the batch");
            let own = [inbox.rows.arg().pointer(), inbox.arrived.arg().pointer(), inbox.capacity as u64];
            exchange(host, &own)
        };
        let mut changed = false;
        for other in &self.others {
            let [rows, arrived, capacity] = places[other.rank][..] else { continue };
            let place = place(self.rank, other.rank) as u64;
            let part = |slot: u64| (slot * self.others.len() as u64 + place) * capacity;
            let target = Target {
                inbox: std::array::from_fn(|slot| rows + part(slot as u64) * self.bytes_per_row as u64),
                arrived: arrived + part(0) * size_of::<u64>() as u64,
            };
            changed |= other.target.replace(target) != target;
        }
        if changed {
            let targets: Vec<Target> = self.others.iter().map(|other| other.target.get()).collect();
            device.upload(&targets, &self.targets, 0);
        }
    }

    /// Begins a product of at least one row.
    pub(super) fn begin(&self) -> Parts {
        let product = self.products.get() + 1;
        self.products.set(product);
        Parts { slot: product as usize % SLOTS, product }
    }

    /// Copies a block of this rank's part, which the computing stream has been told to compute, to the others' inboxes. They
    /// are told with [`Peers::announce`].
    pub(super) fn copy(&self, device: &Device, parts: Parts, from: Arg, first: usize, rows: usize) {
        fatal(self.ready.record(device.stream()), "an event");
        for other in &self.others {
            fatal(other.copies.wait(&self.ready), "an event");
            let to = other.target.get().inbox[parts.slot] + (first * self.bytes_per_row) as u64;
            let bytes = rows * self.bytes_per_row;
            // SAFETY: the others' inboxes have as much room as this rank's, which was made before the batch.
            let copied =
                unsafe { result::memcpy_dtod_async(to, from.pointer(), bytes, other.copies.cu_stream()) };
            fatal(copied, "a copy to another GPU");
        }
    }

    /// Tells the others that the first rows have been copied, and makes the computing stream wait for the copies.
    pub(super) fn announce(&self, device: &Device, parts: Parts, rows: usize) {
        for (i, other) in self.others.iter().enumerate() {
            let args = [self.targets.at(i * size_of::<Target>()), (rows as u32).into(), parts.product.into()];
            device.launch_on(&other.copies, "announce", Shape::items(rows), args);
        }
    }

    /// Makes the computing stream wait for this rank's copies.
    pub(super) fn wait_for_copies(&self, device: &Device) {
        for other in &self.others {
            fatal(self.sent.record(&other.copies), "an event");
            fatal(device.stream().wait(&self.sent), "an event");
        }
    }

    /// Sends rows of this rank's part, the product at `from`, on the computing stream.
    pub(super) fn push(&self, device: &Device, parts: Parts, from: Arg, first: usize, rows: usize) {
        let shape = Shape { grid: (rows as u32, self.others.len() as u32), block: 256, shared: 0 };
        let args = [
            from,
            self.targets.arg(),
            (parts.slot as u32).into(),
            (first as u32).into(),
            parts.product.into(),
        ];
        device.launch("push", shape, args);
    }

    /// Where the others' parts lie, as kernels take it: the first row of the first, the first flag, rows between two parts, ranks,
    /// this rank, the product's number.
    pub(super) fn args(&self, parts: Parts) -> [Arg; 6] {
        let inbox = self.inbox.borrow();
        let inbox = inbox.as_ref().expect("BUG: room is made before the batch");
        [
            inbox.rows.at(parts.slot * self.others.len() * inbox.capacity * self.bytes_per_row),
            inbox.arrived.arg(),
            (inbox.capacity as u32).into(),
            (self.others.len() as u32 + 1).into(),
            (self.rank as u32).into(),
            parts.product.into(),
        ]
    }
}

/// Of one rank: nothing to add.
pub(super) fn alone() -> [Arg; 6] {
    [Arg::NULL, Arg::NULL, 0u32.into(), 1u32.into(), 0u32.into(), 0u64.into()]
}

/// Which of the parts in the inbox of rank `to` is that of `from`.
fn place(from: usize, to: usize) -> usize {
    if from < to { from } else { from - 1 }
}

/// Everybody's words. They travel as the bits of f32 numbers, which nothing computes with.
fn exchange(host: &dyn Collective<[f32]>, words: &[u64]) -> Vec<Vec<u64>> {
    let halves = words.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]).map(f32::from_bits);
    let whole = |pair: &[f32]| u64::from(pair[0].to_bits()) | u64::from(pair[1].to_bits()) << 32;
    let all = host.exchange(halves.collect());
    all.iter().map(|halves| halves.chunks_exact(2).map(whole).collect()).collect()
}
