//! Sums over GPUs that reach into one another's memory, without a collective library.
//!
//! A rank's share of a row-parallel product is copied into an inbox of every other rank by the copy engines, block by block
//! beside the next block's product, and takes no multiprocessor from it. The sum is taken by whatever reads it next, the
//! residual add, in rank order: nothing is written and read again for it. Ranks wait for one another on the device, by
//! numbers in memory that streams write and wait for, so hosts never meet inside a batch.
//!
//! Measured on two H100s, 70B shape, against NCCL's all-reduce beside the products: MEASURE

#![expect(unsafe_code, reason = "the driver's interface is raw pointers")]

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUstreamWaitValue_flags, CUstreamWriteValue_flags};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};

use super::Fault;
use super::device::{Arg, Buffer, Device, fatal};
use crate::comm::Collective;
use crate::kernels::OutOfMemory;

/// Most ranks that send everything to everybody: with more the copies outlast the products.
pub const MOST: usize = 4;
/// Products whose parts are under way at once.
const SLOTS: usize = 2;

/// One rank's end.
pub(super) struct Peers {
    rank: usize,
    others: Vec<Other>,
    /// The product that is to be copied.
    ready: CudaEvent,
    /// `[arrived | consumed][slot][rank]`: the last call whose part has come from, or been taken in by, a rank.
    flags: Buffer,
    /// `[slot][other rank][capacity]`
    inbox: RefCell<Option<Buffer>>,
    /// Bytes of one part, on every rank the same.
    capacity: Cell<usize>,
    /// Calls made.
    calls: Cell<u32>,
}

/// Another rank.
struct Other {
    rank: usize,
    context: Arc<CudaContext>,
    copies: Arc<CudaStream>,
    flags: Cell<u64>,
    inbox: Cell<u64>,
}

/// Parts of a sum that are not added up yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    slot: usize,
    call: u32,
}

/// Of which flags.
#[derive(Clone, Copy)]
enum Kind {
    Arrived = 0,
    Consumed = 1,
}

impl Peers {
    /// Opens the others' memory. `None`, on all ranks alike, if there are too many or any cannot reach another.
    pub(super) fn open(
        device: &Device,
        ordinal: usize,
        host: &dyn Collective<[f32]>,
    ) -> Result<Option<Peers>, Fault> {
        let (rank, ranks) = (host.rank(), host.size());
        let ordinals = exchange(host, &[ordinal as u64]);
        let others: Vec<(usize, usize)> =
            (0..ranks).filter(|r| *r != rank).map(|r| (r, ordinals[r][0] as usize)).collect();
        let reached: Option<Vec<Other>> =
            others.into_iter().map(|(rank, ordinal)| reach(device, rank, ordinal)).collect();
        let all_reach = exchange(host, &[u64::from(reached.is_some())]).iter().all(|answer| answer[0] == 1);
        let Some(others) = reached.filter(|_| all_reach && ranks <= MOST) else { return Ok(None) };
        let flags = device.allocate_shared(4 * 2 * SLOTS * ranks).map_err(|_| Fault::NoMemory)?;
        device.clear(&flags);
        device.synchronize();
        Ok(Some(Peers {
            rank,
            others,
            ready: device.event(),
            flags,
            inbox: RefCell::default(),
            capacity: Cell::new(0),
            calls: Cell::new(0),
        }))
    }

    /// How many ranks there are.
    fn ranks(&self) -> usize {
        self.others.len() + 1
    }

    /// Makes room for parts of so many bytes.
    pub(super) fn reserve(&self, device: &Device, bytes: usize) -> Result<(), OutOfMemory> {
        let mut inbox = self.inbox.borrow_mut();
        if bytes > self.capacity.get() {
            *inbox = None;
            self.capacity.set(0);
            *inbox = Some(device.allocate_shared(SLOTS * self.others.len() * bytes)?);
            self.capacity.set(bytes);
        }
        Ok(())
    }

    /// Tells the others where this rank's memory lies. Once a batch, when all ranks have made room.
    pub(super) fn meet(&self, host: &dyn Collective<[f32]>) {
        let inbox = self.inbox.borrow().as_ref().map_or(0, |inbox| inbox.arg().pointer());
        let places = exchange(host, &[self.flags.arg().pointer(), inbox]);
        for other in &self.others {
            other.flags.set(places[other.rank][0]);
            other.inbox.set(places[other.rank][1]);
        }
    }

    /// Begins a sum.
    pub(super) fn begin(&self) -> Parts {
        let call = self.calls.get().wrapping_add(1);
        self.calls.set(call);
        let parts = Parts { slot: call as usize % SLOTS, call };
        for other in &self.others {
            // What lay there two calls ago must have been taken in.
            let consumed = self.flag(Kind::Consumed, parts.slot, other.rank);
            wait(&other.copies, self.flags.at(consumed), call.wrapping_sub(SLOTS as u32));
        }
        parts
    }

    /// Sends a block of this rank's part, which the computing stream has been told to compute.
    pub(super) fn send(&self, device: &Device, parts: Parts, from: Arg, at: usize, bytes: usize) {
        fatal(self.ready.record(device.stream()), "an event");
        for other in &self.others {
            fatal(other.copies.wait(&self.ready), "an event");
            let place = parts.slot * self.others.len() + place(self.rank, other.rank);
            let to = other.inbox.get() + (place * self.capacity.get() + at) as u64;
            // SAFETY: the others' inboxes are as large as this rank's, and were made room for before the batch.
            let copied = unsafe {
                let (theirs, ours) = (other.context.cu_ctx(), device.stream().context().cu_ctx());
                result::memcpy_peer_async(theirs, to, ours, from.pointer(), bytes, other.copies.cu_stream())
            };
            fatal(copied, "a copy to another GPU");
        }
    }

    /// Ends a sum: says that this rank's part is there, and lets the computing stream wait for the others'.
    pub(super) fn end(&self, device: &Device, parts: Parts) {
        for other in &self.others {
            let arrived = self.flag(Kind::Arrived, parts.slot, self.rank);
            write(&other.copies, other.flags.get() + arrived as u64, parts.call);
        }
        for other in &self.others {
            let arrived = self.flag(Kind::Arrived, parts.slot, other.rank);
            wait(device.stream(), self.flags.at(arrived), parts.call);
        }
    }

    /// Says that the computing stream has been told to take in the others' parts.
    pub(super) fn consumed(&self, device: &Device, parts: Parts) {
        for other in &self.others {
            let consumed = self.flag(Kind::Consumed, parts.slot, self.rank);
            write(device.stream(), other.flags.get() + consumed as u64, parts.call);
        }
    }

    /// Where the others' parts lie, as kernels take it: first part, numbers between two, ranks, this rank.
    pub(super) fn args(&self, parts: Parts, element: usize) -> [Arg; 4] {
        let inbox = self.inbox.borrow();
        let inbox = inbox.as_ref().expect("BUG: room is made before the batch");
        [
            inbox.at(parts.slot * self.others.len() * self.capacity.get()),
            ((self.capacity.get() / element) as u64).into(),
            (self.ranks() as u32).into(),
            (self.rank as u32).into(),
        ]
    }

    /// Byte of a flag.
    fn flag(&self, kind: Kind, slot: usize, rank: usize) -> usize {
        4 * ((kind as usize * SLOTS + slot) * self.ranks() + rank)
    }
}

/// Of one rank: nothing to add.
pub(super) fn alone() -> [Arg; 4] {
    [Arg::NULL, 0u64.into(), 1u32.into(), 0u32.into()]
}

/// Which of the parts in the inbox of rank `to` is that of `from`.
fn place(from: usize, to: usize) -> usize {
    if from < to { from } else { from - 1 }
}

/// Makes another GPU's memory addressable from this one.
fn reach(device: &Device, rank: usize, ordinal: usize) -> Option<Other> {
    let own = device.stream().context();
    let theirs = CudaContext::new(ordinal).ok()?;
    own.bind_to_thread().ok()?;
    let mut can = 0;
    // SAFETY: both devices exist, and this rank's context is current.
    let enabled = unsafe {
        let asked = sys::cuDeviceCanAccessPeer(&raw mut can, own.cu_device(), theirs.cu_device());
        if asked != sys::cudaError_enum::CUDA_SUCCESS || can == 0 {
            return None;
        }
        sys::cuCtxEnablePeerAccess(theirs.cu_ctx(), 0)
    };
    let open =
        [sys::cudaError_enum::CUDA_SUCCESS, sys::cudaError_enum::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED];
    open.contains(&enabled).then(|| Other {
        rank,
        context: theirs,
        copies: device.new_stream(),
        flags: Cell::new(0),
        inbox: Cell::new(0),
    })
}

/// Everybody's words. They travel as the bits of f32 numbers, which nothing computes with.
fn exchange(host: &dyn Collective<[f32]>, words: &[u64]) -> Vec<Vec<u64>> {
    let halves = words.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]).map(f32::from_bits);
    let whole = |pair: &[f32]| u64::from(pair[0].to_bits()) | u64::from(pair[1].to_bits()) << 32;
    let all = host.exchange(halves.collect());
    all.iter().map(|halves| halves.chunks_exact(2).map(whole).collect()).collect()
}

fn write(stream: &CudaStream, address: u64, value: u32) {
    let flags = CUstreamWriteValue_flags::CU_STREAM_WRITE_VALUE_DEFAULT as u32;
    // SAFETY: a flag of this or another rank.
    let queued = unsafe { sys::cuStreamWriteValue32_v2(stream.cu_stream(), address, value, flags) };
    fatal(queued.result(), "a flag");
}

/// Waits until the flag has come to the value; values are compared around their wrap.
fn wait(stream: &CudaStream, flag: Arg, value: u32) {
    let flags = CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_GEQ as u32;
    // SAFETY: a flag of this rank.
    let queued = unsafe { sys::cuStreamWaitValue32_v2(stream.cu_stream(), flag.pointer(), value, flags) };
    fatal(queued.result(), "a flag");
}
