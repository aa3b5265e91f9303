//! How far a host runs ahead of its device.

use std::cell::Cell;

use cudarc::driver::CudaEvent;

use super::device::{Device, fatal};

/// Keeps the host less than so many sums ahead of the device. A host that fills a stream's queue waits inside the driver, with
/// locks held that the other ranks' hosts need, while its device waits for what these queue.
pub(super) struct Pace {
    events: Vec<CudaEvent>,
    sums: Cell<usize>,
}

impl Pace {
    const SUMS: usize = 8;
    const MANY: usize = 4096;

    pub(super) fn new(device: &Device) -> Pace {
        Pace { events: (0..Self::SUMS).map(|_| device.event()).collect(), sums: Cell::new(0) }
    }

    /// Waits for an earlier sum, and marks this one, of so many rows. Of many rows, which are queued in many blocks, only
    /// the one before the last.
    pub(super) fn keep(&self, device: &Device, rows: usize) {
        let (sums, lead) = (self.sums.get(), if rows > Self::MANY { 2 } else { Self::SUMS });
        Device::wait(&self.events[(sums + Self::SUMS - lead) % Self::SUMS]);
        fatal(self.events[sums % Self::SUMS].record(device.stream()), "an event");
        self.sums.set(sums + 1);
    }
}
