//! One GPU: its memory, its streams, its compiled kernels. All that is unsafe about talking to the driver is here, in
//! [`super::gemm`], [`super::nccl`], [`super::peers`] and [`super::pool`].
//!
//! A failing call leaves the device in an unknown state ("sticky" errors), so it is fatal to the rank: it panics, and the
//! engine's process ends. Only running out of memory when a buffer is made is an error.

#![expect(unsafe_code, reason = "the driver's interface is raw pointers")]

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};

use super::Fault;
use crate::kernels::OutOfMemory;

/// Bytes of the ring that tables travel through.
const RING: usize = 64 << 20;

/// Tables begin at multiples of this.
const ALIGNED: usize = 256;
/// Tables of a launch that are looked for among recent ones are no larger than this together.
const SMALL: usize = 16 << 10;
/// How many recent ones.
const RECENT: usize = 8;
/// Bytes of shared memory that kernels declare themselves, at most.
const STATIC_SHARED: i32 = 40 << 10;

/// All kernels, in the order of their dependence.
const SOURCE: &str = concat!(
    include_str!("source/common.cu"),
    include_str!("source/parts.cu"),
    include_str!("source/rows.cu"),
    include_str!("source/edit.cu"),
    include_str!("source/score.cu"),
    include_str!("source/attention.cu"),
);

const KERNELS: [&str; 32] = [
    "push",
    "announce",
    "settle",
    "rms_norm",
    "layer_norm",
    "add_rms_norm",
    "add_layer_norm",
    "rope",
    "split_heads",
    "gate",
    "pre_activation",
    "gelu",
    "add_positions",
    "add",
    "sum_ranks",
    "gather",
    "keep",
    "embed",
    "isolate_heads",
    "widen",
    "widen_f32",
    "make",
    "count_different",
    "edit",
    "edit_f32",
    "pick_targets",
    "distribution",
    "rank_targets",
    "top_tokens",
    "divergence",
    "attention",
    "softmax",
];

/// A device with what runs on it.
pub(super) struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
    ring: RefCell<Ring>,
}

/// Memory of a device, freed when dropped.
///
/// It comes from the stream's pool: plain allocations and frees wait for the device with locks of the driver held, and the device
/// may be waiting for another rank whose host needs these.
pub(super) struct Buffer {
    pointer: CUdeviceptr,
    bytes: usize,
    stream: Arc<CudaStream>,
}

/// Pinned host memory with a copy on the device: tables are written to one and copied to the other.
struct Ring {
    host: *mut u8,
    device: Buffer,
    used: usize,
    /// Small tables of recent launches, which the next layer's often repeat, and where they lie.
    recent: VecDeque<(Vec<Vec<u8>>, usize)>,
    /// Tables that do not fit the ring, until the next time that nothing is under way.
    large: Vec<Buffer>,
}

/// An argument of a kernel: its bytes, in a slot that any of them fits.
#[derive(Clone, Copy)]
pub(super) struct Arg(u64);

impl From<u32> for Arg {
    fn from(x: u32) -> Arg {
        Arg(u64::from(x))
    }
}

impl From<u64> for Arg {
    fn from(x: u64) -> Arg {
        Arg(x)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Arg {
        Arg(u64::from(x.to_bits()))
    }
}

/// Grid and block of a launch.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) grid: (u32, u32),
    pub(super) block: u32,
    /// Dynamic shared memory, bytes.
    pub(super) shared: u32,
}

impl Shape {
    /// A block of so many threads per item.
    pub(super) fn blocks(grid: usize, block: u32) -> Shape {
        Shape { grid: (grid as u32, 1), block, shared: 0 }
    }

    /// Enough threads for `n` items, each of which takes more than one if there are very many.
    pub(super) fn items(n: usize) -> Shape {
        Shape::blocks(n.div_ceil(256).clamp(1, 1 << 16), 256)
    }

    /// A warp for each of `n` items.
    pub(super) fn warps(n: usize) -> Shape {
        Shape::blocks(n.div_ceil(8), 256)
    }
}

/// What the compiled kernels are made for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Constants {
    pub(super) dtype: u32,
    pub(super) hidden: usize,
    pub(super) head_dim: usize,
    pub(super) group: usize,
    pub(super) bias: bool,
}

impl Device {
    /// Opens a GPU and compiles the kernels for it.
    pub(super) fn open(ordinal: usize, constants: &Constants) -> Result<Device, Fault> {
        // Ranks are threads: a driver library that is not there must be an error, not a panic of its loader.
        let context = std::panic::catch_unwind(|| CudaContext::new(ordinal)).map_err(|_| Fault::NoDriver)?;
        let context = context.map_err(|source| Fault::Open { ordinal, source })?;
        // One stream computes and one communicates, with events of ours between them.
        // SAFETY: nothing here uses slices that rely on tracking.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(|source| Fault::Open { ordinal, source })?;
        let (major, minor) =
            context.compute_capability().map_err(|source| Fault::Open { ordinal, source })?;
        let module = context
            .load_module(compile(constants, major, minor)?)
            .map_err(|source| Fault::Open { ordinal, source })?;
        let function = |name: &'static str| {
            let function = module.load_function(name).map_err(|source| Fault::Open { ordinal, source })?;
            Ok((name, function))
        };
        let functions: HashMap<_, _> = KERNELS.into_iter().map(function).collect::<Result<_, Fault>>()?;
        // The plain kernel of attention keeps a row's scores in shared memory: some 45 000 keys on a Hopper.
        let most = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let most = context.attribute(most).map_err(|source| Fault::Open { ordinal, source })?;
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        functions["attention"]
            .set_attribute(attribute, most - STATIC_SHARED)
            .map_err(|source| Fault::Open { ordinal, source })?;
        let device = allocate(&stream, RING).map_err(|_| Fault::NoMemory)?;
        // SAFETY: freed when the ring is dropped, after the stream has come to rest.
        let host = unsafe { result::malloc_host(RING, sys::CU_MEMHOSTALLOC_WRITECOMBINED) };
        let host = host.map_err(|source| Fault::Open { ordinal, source })?.cast::<u8>();
        let ring = RefCell::new(Ring { host, device, used: 0, recent: VecDeque::new(), large: Vec::new() });
        Ok(Device { context, stream, functions, ring })
    }

    /// What the driver calls it.
    pub(super) fn name(&self) -> String {
        fatal(self.context.name(), "its name")
    }

    /// The stream that computes.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// A further stream, for what runs beside the computation.
    pub(super) fn new_stream(&self) -> Arc<CudaStream> {
        fatal(self.context.new_stream(), "a stream")
    }

    /// An event that only orders streams.
    pub(super) fn event(&self) -> CudaEvent {
        fatal(self.context.new_event(None), "an event")
    }

    /// Bytes free and in all.
    pub(super) fn memory(&self) -> (usize, usize) {
        fatal(self.context.mem_get_info(), "its memory")
    }

    /// Uninitialised memory.
    pub(super) fn allocate(&self, bytes: usize) -> Result<Buffer, OutOfMemory> {
        allocate(&self.stream, bytes)
    }

    /// Waits until everything queued is done.
    pub(super) fn synchronize(&self) {
        // SAFETY: the stream lives as long as `self`.
        until(|| match unsafe { sys::cuStreamQuery(self.stream.cu_stream()) } {
            sys::cudaError_enum::CUDA_SUCCESS => true,
            sys::cudaError_enum::CUDA_ERROR_NOT_READY => false,
            error => fatal(error.result().map(|()| false), "what was queued"),
        });
    }

    /// Waits until an event has come.
    pub(super) fn wait(event: &CudaEvent) {
        until(|| fatal(event.try_is_complete(), "an event"));
    }

    /// Queues a kernel on the computing stream.
    pub(super) fn launch<const N: usize>(&self, kernel: &str, shape: Shape, args: [Arg; N]) {
        self.launch_on(&self.stream, kernel, shape, args);
    }

    /// Queues a kernel on a stream.
    pub(super) fn launch_on<const N: usize>(
        &self,
        stream: &CudaStream,
        kernel: &str,
        shape: Shape,
        args: [Arg; N],
    ) {
        if shape.grid.0 == 0 || shape.grid.1 == 0 {
            return;
        }
        let function = &self.functions[kernel];
        let mut builder = stream.launch_builder(function);
        for arg in &args {
            cudarc::driver::PushKernelArg::arg(&mut builder, &arg.0);
        }
        let config = cudarc::driver::LaunchConfig {
            grid_dim: (shape.grid.0, shape.grid.1, 1),
            block_dim: (shape.block, 1, 1),
            shared_mem_bytes: shape.shared,
        };
        // SAFETY: arguments are pointers to buffers of this device, which are freed in the order of the stream, and plain
        // numbers, in the order of the kernel's parameters; little-endian slots hold narrower numbers in their first bytes.
        let queued = unsafe { builder.launch(config) };
        fatal(queued, kernel);
    }

    /// Puts a table where kernels find it: see [`Device::tables`].
    pub(super) fn table<N: bytemuck::NoUninit>(&self, table: &[N]) -> Arg {
        let [place] = self.tables([bytemuck::cast_slice(table)]);
        place
    }

    /// Puts the tables of one launch where kernels find them, until much later ones take their place. All of them at once: one
    /// after the other, a later one might take the place of an earlier one before the launch.
    pub(super) fn tables<const T: usize>(&self, tables: [&[u8]; T]) -> [Arg; T] {
        let mut ring = self.ring.borrow_mut();
        let needed = tables.iter().map(|table| table.len().next_multiple_of(ALIGNED)).sum::<usize>();
        if needed > RING {
            let place = |table: &[u8]| {
                let buffer = fatal(self.allocate(table.len()), "large tables");
                self.upload(table, &buffer, 0);
                let at = buffer.arg();
                ring.large.push(buffer);
                at
            };
            return tables.map(place);
        }
        if ring.used + needed > RING {
            self.synchronize();
            ring.used = 0;
            ring.recent.clear();
            ring.large.clear();
        }
        let known = ring.recent.iter().find(|(known, _)| known.iter().map(Vec::as_slice).eq(tables));
        let mut at = known.map_or(ring.used, |(_, at)| *at);
        if known.is_none() {
            ring.used += needed;
            self.stage(&ring, &tables, at, needed);
            if needed <= SMALL {
                ring.recent.truncate(RECENT - 1);
                ring.recent.push_front((tables.map(<[u8]>::to_vec).to_vec(), at));
            }
        }
        tables.map(|table| {
            let place = Arg(ring.device.pointer + at as u64);
            at += table.len().next_multiple_of(ALIGNED);
            place
        })
    }

    /// Writes tables to the ring from `at` on, and queues one copy of them all.
    fn stage(&self, ring: &Ring, tables: &[&[u8]], mut at: usize, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let (target, first) = (ring.device.pointer + at as u64, at);
        for table in tables {
            // SAFETY: each lies in the ring, and no copy out of its place is under way: it was last used before the stream was
            // waited for.
            unsafe { std::ptr::copy_nonoverlapping(table.as_ptr(), ring.host.add(at), table.len()) };
            at += table.len().next_multiple_of(ALIGNED);
        }
        // SAFETY: the range lies in the ring and was written just now, but for gaps that nobody reads.
        let staged = unsafe { std::slice::from_raw_parts(ring.host.add(first), bytes) };
        // SAFETY: source and target are as long as each other, and the source stays until the stream is waited for.
        let copied = unsafe { result::memcpy_htod_async(target, staged, self.stream.cu_stream()) };
        fatal(copied, "tables");
    }

    /// Copies numbers into a buffer, and waits for it.
    pub(super) fn upload<N: bytemuck::NoUninit>(&self, numbers: &[N], buffer: &Buffer, at: usize) {
        let bytes: &[u8] = bytemuck::cast_slice(numbers);
        assert!(at + bytes.len() <= buffer.bytes, "BUG: an upload past the end of a buffer");
        // On the stream: the buffer may have been allocated there only just now.
        // SAFETY: the range was checked, and the source lives until the stream has been waited for.
        let copied =
            unsafe { result::memcpy_htod_async(buffer.pointer + at as u64, bytes, self.stream.cu_stream()) };
        fatal(copied, "an upload");
        self.synchronize();
    }

    /// Copies numbers from device memory when everything queued is done.
    pub(super) fn download<N: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        buffer: &Buffer,
        n: usize,
    ) -> Vec<N> {
        let mut numbers = vec![N::zeroed(); n];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut numbers);
        assert!(bytes.len() <= buffer.bytes, "BUG: a download past the end of a buffer");
        if n > 0 {
            // A copy to ordinary memory waits inside the driver for what is queued before it.
            self.synchronize();
            // SAFETY: the range was checked, and the host's memory lives until the stream has been waited for.
            let copied = unsafe { result::memcpy_dtoh_async(bytes, buffer.pointer, self.stream.cu_stream()) };
            fatal(copied, "a download");
            self.synchronize();
        }
        numbers
    }

    /// Copies device memory on the computing stream.
    pub(super) fn copy(&self, from: Arg, to: Arg, bytes: usize) {
        // SAFETY: callers copy between ranges of buffers of this device.
        let copied = unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream.cu_stream()) };
        fatal(copied, "a copy");
    }

    /// Sets memory to zero bytes.
    pub(super) fn clear(&self, buffer: &Buffer) {
        // SAFETY: the whole buffer.
        let cleared =
            unsafe { result::memset_d8_async(buffer.pointer, 0, buffer.bytes, self.stream.cu_stream()) };
        fatal(cleared, "zeros");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // What is still under way may read the ring. Errors have been seen where they happened.
        let _ = self.stream.synchronize();
        // SAFETY: made by `malloc_host`, freed once.
        let _ = unsafe { result::free_host(self.ring.get_mut().host.cast::<c_void>()) };
    }
}

impl Buffer {
    /// Where it begins.
    pub(super) fn arg(&self) -> Arg {
        Arg(self.pointer)
    }

    /// Where byte `at` of it lies.
    pub(super) fn at(&self, at: usize) -> Arg {
        debug_assert!(at <= self.bytes);
        Arg(self.pointer + at as u64)
    }

    /// Its size.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Arg {
    /// No memory.
    pub(super) const NULL: Arg = Arg(0);

    /// As an address.
    pub(super) fn pointer(self) -> u64 {
        self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _ = self.stream.context().bind_to_thread();
        // SAFETY: allocated by `allocate`, freed once.
        let _ = unsafe { result::free_async(self.pointer, self.stream.cu_stream()) };
    }
}

fn allocate(stream: &Arc<CudaStream>, bytes: usize) -> Result<Buffer, OutOfMemory> {
    fatal(stream.context().bind_to_thread(), "its context");
    // SAFETY: owned by the buffer, and used on this stream or behind it.
    of_allocation(stream, unsafe { result::malloc_async(stream.cu_stream(), bytes.max(256)) }, bytes)
}

/// A buffer from the driver's answer; it is freed on this stream.
pub(super) fn of_allocation(
    stream: &Arc<CudaStream>,
    allocated: Result<CUdeviceptr, DriverError>,
    bytes: usize,
) -> Result<Buffer, OutOfMemory> {
    match allocated {
        Ok(pointer) => Ok(Buffer { pointer, bytes, stream: Arc::clone(stream) }),
        Err(DriverError(sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY)) => {
            Err(OutOfMemory { bytes: bytes as u64 })
        }
        Err(error) => fatal(Err(error), "memory"),
    }
}

/// The kernels for these constants. Ranks compile the same, so what one has compiled is kept for the others.
fn compile(constants: &Constants, major: i32, minor: i32) -> Result<Ptx, Fault> {
    static COMPILED: Mutex<Vec<(Constants, Ptx)>> = Mutex::new(Vec::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, ptx)) = compiled.iter().find(|(made_for, _)| made_for == constants) {
        return Ok(ptx.clone());
    }
    let Constants { dtype, hidden, head_dim, group, bias } = constants;
    let options = CompileOptions {
        options: vec![
            format!("--gpu-architecture=compute_{major}{minor}"),
            format!("-DDTYPE={dtype}"),
            format!("-DHIDDEN={hidden}"),
            format!("-DHEAD_DIM={head_dim}"),
            format!("-DGROUP={group}"),
            format!("-DBIAS={}", u32::from(*bias)),
        ],
        ..CompileOptions::default()
    };
    let ptx = std::panic::catch_unwind(|| compile_ptx_with_opts(SOURCE, options))
        .map_err(|_| Fault::NoDriver)?
        .map_err(|error| Fault::Compile { log: format!("{error:?}") })?;
    compiled.push((constants.clone(), ptx.clone()));
    Ok(ptx)
}

/// Asks until the answer is yes. Waiting inside the driver would hold locks that other ranks' hosts need, and this device may be
/// waiting for what they queue.
fn until(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > Duration::from_micros(200) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// The device's answer, or the end of this rank.
#[expect(clippy::panic, reason = "a device that fails is of no further use to its process")]
pub(super) fn fatal<T, E: std::fmt::Debug>(answer: Result<T, E>, what: &str) -> T {
    match answer {
        Ok(answer) => answer,
        Err(error) => panic!("the GPU failed at {what}: {error:?}"),
    }
}
