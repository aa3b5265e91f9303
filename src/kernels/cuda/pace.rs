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

    pub(super) fn new(device: &Device) -> Pace {
        Pace { events: (0..Self::SUMS).map(|_| device.event()).collect(), sums: Cell::new(0) }
    }

    /// Waits for the sum that many before, and marks this one.
    pub(super) fn keep(&self, device: &Device) {
        let event = &self.events[self.sums.get() % Self::SUMS];
        Device::wait(event);
        fatal(event.record(device.stream()), "an event");
        self.sums.set(self.sums.get() + 1);
    }
}
