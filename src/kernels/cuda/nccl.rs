//! Sums over the GPUs of a machine through NCCL, on a stream of their own so that they run beside the next product: where GPUs do
//! not reach one another's memory, or are too many for [`super::peers`].
//!
//! With two ranks NCCL adds two numbers, and the order of two does not matter. With more, its order depends on where a row
//! lies in the message, which would give a row other bits in another batch; so there NCCL only gathers, and
//! `sum_ranks` adds in rank order.
//!
//! These sums take 9 % of a trace (two H100s, 70B shape, 32 tokens: 2.43 s, 2.21 s without any), though all but the last block of
//! each runs beside a product: NCCL's kernels take multiprocessors from it. Fewer of these make it worse (`NCCL_MAX_CTAS` 8: 2.54 s,
//! 4: 2.74 s, 2: 3.30 s), blocks of 2048 or 8192 rows instead of 4096 make no difference (2.48 s, 2.45 s).

#![expect(unsafe_code, reason = "NCCL's interface is raw pointers")]

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream};
use cudarc::nccl::{result, sys};

use super::Fault;
use super::device::{Arg, Buffer, Device, Shape, fatal};
use crate::kernels::OutOfMemory;
use crate::spec::dtype::Dtype;

/// What the ranks of a group share so as to find each other.
#[derive(Debug, Clone, Copy)]
pub struct GroupId(sys::ncclUniqueId);

impl GroupId {
    /// A new group.
    ///
    /// # Errors
    /// If NCCL is not there.
    pub fn new() -> Result<GroupId, Fault> {
        let id = std::panic::catch_unwind(result::get_uniqueid).map_err(|_| Fault::NoNccl)?;
        id.map(GroupId).map_err(|error| Fault::Nccl { error: format!("{error:?}") })
    }
}

/// One rank's end of a group of GPUs.
pub(super) struct Nccl {
    comm: sys::ncclComm_t,
    ranks: usize,
    element: sys::ncclDataType_t,
    bytes: usize,
    stream: Arc<CudaStream>,
    /// The product whose sum is due, and the sum.
    ready: CudaEvent,
    done: CudaEvent,
    /// What all ranks brought, where NCCL only gathers.
    parts: RefCell<Option<Buffer>>,
}

impl Nccl {
    /// Joins a group: returns when all ranks have.
    pub(super) fn join(
        device: &Device,
        id: GroupId,
        rank: usize,
        ranks: usize,
        dtype: Dtype,
    ) -> Result<Nccl, Fault> {
        let mut comm = MaybeUninit::uninit();
        // SAFETY: the id is NCCL's own, and the device's context is current on this thread.
        unsafe { result::comm_init_rank(comm.as_mut_ptr(), ranks as i32, id.0, rank as i32) }
            .map_err(|error| Fault::Nccl { error: format!("{error:?}") })?;
        let element = match dtype {
            Dtype::F32 => sys::ncclDataType_t::ncclFloat32,
            Dtype::Bf16 => sys::ncclDataType_t::ncclBfloat16,
            Dtype::F16 => sys::ncclDataType_t::ncclFloat16,
        };
        Ok(Nccl {
            // SAFETY: set by the call above.
            comm: unsafe { comm.assume_init() },
            ranks,
            element,
            bytes: dtype.bytes() as usize,
            stream: device.new_stream(),
            ready: device.event(),
            done: device.event(),
            parts: RefCell::default(),
        })
    }

    /// Makes room for sums of so many numbers.
    pub(super) fn reserve(&self, device: &Device, numbers: usize) -> Result<(), OutOfMemory> {
        let needed = numbers * self.bytes * self.ranks;
        let mut parts = self.parts.borrow_mut();
        if self.ranks > 2 && parts.as_ref().is_none_or(|parts| parts.bytes() < needed) {
            *parts = None;
            *parts = Some(device.allocate(needed)?);
        }
        Ok(())
    }

    /// Queues `x[i] = sum over ranks of x[i]` behind what the computing stream has been given so far. What is computed next
    /// runs beside it until [`Nccl::wait`].
    pub(super) fn start_sum(&self, device: &Device, x: Arg, numbers: usize) {
        fatal(self.ready.record(device.stream()), "an event");
        fatal(self.stream.wait(&self.ready), "an event");
        if self.ranks == 2 {
            self.reduce(x, numbers, self.element);
            return;
        }
        let parts = self.parts.borrow();
        let parts = parts.as_ref().expect("BUG: room is made before the batch").arg();
        // SAFETY: `parts` holds `ranks` times `numbers`.
        let queued = unsafe {
            let (from, to) = (x.pointer() as *const _, parts.pointer() as *mut _);
            result::all_gather(from, to, numbers, self.element, self.comm, self.stream.cu_stream().cast())
        };
        fatal(queued, "a gather");
        let packs = numbers * self.bytes / 16;
        let args = [parts, x, (packs as u64).into(), (self.ranks as u32).into()];
        device.launch_on(&self.stream, "sum_ranks", Shape::items(packs), args);
    }

    /// Makes the computing stream wait for the sums queued so far.
    pub(super) fn wait(&self, device: &Device) {
        fatal(self.done.record(&self.stream), "an event");
        fatal(device.stream().wait(&self.done), "an event");
    }

    /// The sum of f32 numbers of which at most one rank's is not zero, so that any order gives it.
    pub(super) fn sum_owned(&self, device: &Device, x: Arg, numbers: usize) {
        fatal(self.ready.record(device.stream()), "an event");
        fatal(self.stream.wait(&self.ready), "an event");
        self.reduce(x, numbers, sys::ncclDataType_t::ncclFloat32);
        self.wait(device);
    }

    fn reduce(&self, x: Arg, numbers: usize, element: sys::ncclDataType_t) {
        // SAFETY: a buffer of this device with so many numbers.
        let queued = unsafe {
            let (from, to) = (x.pointer() as *const _, x.pointer() as *mut _);
            let sum = sys::ncclRedOp_t::ncclSum;
            result::all_reduce(from, to, numbers, element, sum, self.comm, self.stream.cu_stream().cast())
        };
        fatal(queued, "a sum");
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // SAFETY: made by `join`, ended once. Aborting does not wait for ranks that are gone.
        let _ = unsafe { result::comm_abort(self.comm) };
    }
}
