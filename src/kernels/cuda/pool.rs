//! Memory that other GPUs of the machine reach.
//!
//! From a pool of its own whose access is widened, not by opening the whole context to its peers: contexts that are open to each
//! other take one another's locks for every allocation.

#![expect(unsafe_code, reason = "the driver's interface is raw pointers")]

use std::sync::Arc;

use cudarc::driver::{CudaStream, result, sys};

use super::device::{Buffer, Device, of_allocation};
use crate::kernels::OutOfMemory;

/// A pool whose memory other GPUs read and write.
pub(super) struct Pool {
    pool: sys::CUmemoryPool,
    stream: Arc<CudaStream>,
}

impl Pool {
    /// A pool on a device that `others` reach. `None` if one of them cannot.
    pub(super) fn open(device: &Device, ordinal: usize, others: &[usize]) -> Option<Pool> {
        let own = result::device::get(ordinal as i32).ok()?;
        for other in others {
            let other = result::device::get(*other as i32).ok()?;
            let mut can = 0;
            // SAFETY: both devices exist.
            let asked = unsafe { sys::cuDeviceCanAccessPeer(&raw mut can, other, own) };
            if asked != sys::cudaError_enum::CUDA_SUCCESS || can == 0 || other == own {
                return None;
            }
        }
        let on = |ordinal: usize| sys::CUmemLocation {
            type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
            id: ordinal as i32,
        };
        let properties = sys::CUmemPoolProps {
            allocType: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            handleTypes: sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
            location: on(ordinal),
            win32SecurityAttributes: std::ptr::null_mut(),
            maxSize: 0,
            usage: 0,
            reserved: [0; 54],
        };
        let access: Vec<sys::CUmemAccessDesc> = others
            .iter()
            .map(|other| sys::CUmemAccessDesc {
                location: on(*other),
                flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
            })
            .collect();
        let mut pool = std::ptr::null_mut();
        // SAFETY: the properties are complete, and what is created is destroyed when dropped.
        unsafe { sys::cuMemPoolCreate(&raw mut pool, &raw const properties) }.result().ok()?;
        let pool = Pool { pool, stream: Arc::clone(device.stream()) };
        // SAFETY: as many descriptions as are counted.
        unsafe { sys::cuMemPoolSetAccess(pool.pool, access.as_ptr(), access.len()) }.result().ok()?;
        Some(pool)
    }

    /// Uninitialised memory, freed on the device's stream.
    pub(super) fn allocate(&self, bytes: usize) -> Result<Buffer, OutOfMemory> {
        let mut pointer = 0;
        // SAFETY: owned by the buffer.
        let allocated = unsafe {
            sys::cuMemAllocFromPoolAsync(&raw mut pointer, bytes.max(256), self.pool, self.stream.cu_stream())
        };
        of_allocation(&self.stream, allocated.result().map(|()| pointer), bytes)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: made by `open`, destroyed once; the driver keeps it until its memory has been freed.
        let _ = unsafe { sys::cuMemPoolDestroy(self.pool) };
    }
}
