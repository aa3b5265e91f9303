//! From a checkpoint and the configured devices to a group of ranks, one for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(feature = "cuda")]
use super::gpus;
use super::group::{Group, StartError};
use super::row_budget::Room;
use crate::comm::Threads;
use crate::config::Engine;
use crate::kernels::OutOfMemory;
use crate::kernels::cpu::Cpu;
use crate::kernels::facts::DeviceFacts;
use crate::load::{LoadError, TensorSource, available_bytes, check_fits};
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::model::shard::{Indivisible, Shard};
use crate::model::store::bytes_per_slot;
use crate::model::weights::load;
use crate::spec::device::Device;
use crate::spec::dtype::Dtype;

/// Share of the free memory that activations may take when the configuration leaves it open.
const ROW_SHARE: u64 = 4;

/// Share of what activations may take that keys and values of generated text get when the configuration leaves it open.
pub(super) const KEY_SHARE: u64 = 4;
/// More bytes than this a CPU's rank keeps only if it is told to.
const MOST_HOST_KEYS: u64 = 2 << 30;
/// More positions than this are of no use: slots are counted in 32 bits.
const MOST_SLOTS: u64 = 1 << 24;

/// Positions whose keys a rank keeps. `configured`, `own`: bytes, as the configuration has it and as memory suggests.
pub(super) fn slots(configured: u64, own: u64, per_slot: u64) -> u64 {
    let bytes = if configured == 0 { own } else { configured };
    (bytes / per_slot.max(1)).min(MOST_SLOTS)
}

/// A model in the memory of its devices.
pub struct Ranks {
    /// What computes.
    pub group: Group,
    /// What each rank found of its device.
    pub devices: Vec<DeviceFacts>,
    /// Working memory of the rank that has the least.
    pub room: Room,
}

/// Why a model is not computed on the devices asked for.
#[derive(Debug, thiserror::Error)]
pub enum RanksError {
    /// It cannot be divided.
    #[error(transparent)]
    Indivisible(#[from] Indivisible),
    /// There is no room for it, which was found before anything was read.
    #[error(transparent)]
    Room(LoadError),
    /// A device that this build knows nothing of.
    #[error(
        "{device} cannot be used: this build of mediant has no support for GPUs; use \"cpu\", or a build that has \
         (cargo build --release --features cuda)"
    )]
    Unsupported {
        /// The device.
        device: Device,
    },
    /// The GPUs cannot form a group.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Gpu(#[from] crate::kernels::cuda::Fault),
    /// A rank could not be made.
    #[error(transparent)]
    Start(#[from] StartError<RankError>),
}

/// Why a rank could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RankError {
    /// Its weights could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The threads of its arithmetic could not be started.
    #[error("cannot start the threads of the arithmetic: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// There is no room for the keys of generated text.
    #[error("the keys of generated text do not fit: {0}; lower engine.key_bytes")]
    Keys(#[from] OutOfMemory),
    /// Its GPU cannot be used.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Gpu(#[from] crate::kernels::cuda::Fault),
    /// Its weights do not fit beside what else is on the GPU.
    #[error(
        "GPU {ordinal} has {free} bytes free, and this rank's weights take {needed}; divide the model over more devices"
    )]
    GpuFull {
        /// Number of the GPU.
        ordinal: u32,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
}

/// What ranks are made from.
pub(super) struct Source {
    pub(super) dtype: Dtype,
    pub(super) shards: Vec<Shard>,
    pub(super) tensors: Arc<dyn TensorSource>,
    pub(super) progress: Progress,
}

/// Counts loaded blocks of all ranks.
pub(super) struct Progress {
    ranks: usize,
    done: AtomicUsize,
    tell: Box<dyn Fn(usize) + Send + Sync>,
}

impl Progress {
    /// A rank has loaded a further block.
    pub(super) fn block_done(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(self.ranks) {
            (self.tell)(done / self.ranks);
        }
    }
}

/// Starts a rank on each device; all load their parts of the weights side by side. CPU ranks share the configured
/// threads out among themselves. `progress` is told how many blocks all ranks have loaded.
pub fn start(
    engine: &Engine,
    dtype: Dtype,
    shape: &ModelConfig,
    tensors: &Arc<dyn TensorSource>,
    progress: impl Fn(usize) + Send + Sync + 'static,
) -> Result<Ranks, RanksError> {
    let devices = engine.devices();
    let ranks = devices.len();
    let source = Source {
        dtype,
        shards: Shard::all(shape, ranks)?,
        tensors: Arc::clone(tensors),
        progress: Progress { ranks, done: AtomicUsize::new(0), tell: Box::new(progress) },
    };
    let gpus: Vec<u32> = devices
        .iter()
        .filter_map(|device| match device {
            Device::Cpu => None,
            Device::Cuda(ordinal) => Some(*ordinal),
        })
        .collect();
    match gpus.first() {
        None => cpus(source, engine.threads(), engine.key_bytes, shape),
        #[cfg(feature = "cuda")]
        Some(_) => gpus::start(source, gpus, engine.key_bytes),
        #[cfg(not(feature = "cuda"))]
        Some(ordinal) => Err(RanksError::Unsupported { device: Device::Cuda(*ordinal) }),
    }
}

fn cpus(source: Source, threads: usize, key_bytes: u64, shape: &ModelConfig) -> Result<Ranks, RanksError> {
    let Source { dtype, shards, tensors, progress } = source;
    let needed: Vec<u64> = shards.iter().map(|shard| memory_of(shard, dtype)).collect();
    check_fits(needed.iter().sum()).map_err(RanksError::Room)?;
    let ranks = shards.len();
    // Numbers are f32 on the host. The system finds memory for them as they are written.
    let per_slot = shards.iter().map(|shard| bytes_per_slot(shard, 4)).max().unwrap_or(1);
    let before = available_bytes().unwrap_or(ROW_SHARE << 30);
    let own = before.saturating_sub(needed.iter().sum()) / ROW_SHARE / KEY_SHARE / ranks as u64;
    let slots = slots(key_bytes, own.min(MOST_HOST_KEYS), per_slot);
    let threads = (threads / ranks).max(1);
    let build = move |(rank, shard): (Threads, Shard)| -> Result<Decoder<Cpu>, RankError> {
        let cpu = Cpu::of_ranks(threads, dtype, Box::new(rank))?;
        let part = |name: &str, rows, columns| tensors.part(name, rows, columns);
        let weights = load::<_, LoadError>(&cpu, &shard, part, |_| progress.block_done())?;
        let mut decoder = Decoder::new(cpu, shard, weights);
        decoder.make_store(slots as usize)?;
        Ok(decoder)
    };
    let group = Group::start(Threads::group(ranks).into_iter().zip(shards).collect(), build)?;
    let free_bytes = available_bytes().unwrap_or(ROW_SHARE << 30);
    let facts = |weight_bytes| DeviceFacts {
        name: format!("cpu, {threads} threads"),
        weight_bytes,
        free_bytes,
        key_slots: slots,
        key_bytes: slots * per_slot,
        rates: None,
        sums: None,
        products: Vec::new(),
    };
    let devices = needed.into_iter().map(facts).collect();
    let rows = (free_bytes / ROW_SHARE).saturating_sub(ranks as u64 * slots * per_slot);
    Ok(Ranks { group, devices, room: Room::host(shape, rows) })
}

/// A rank's weights in their format, and its part of the embedding once more as it is looked up: in f32, row by row.
fn memory_of(shard: &Shard, dtype: Dtype) -> u64 {
    let table = shard.vocabulary.len() * shard.config().hidden_size;
    shard.parameters() * dtype.bytes() + 4 * table as u64
}
