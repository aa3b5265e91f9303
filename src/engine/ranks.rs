//! From a checkpoint and the configured devices to a group of ranks, one for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::group::{Group, StartError};
use crate::comm::Threads;
use crate::kernels::cpu::Cpu;
use crate::load::{LoadError, TensorSource, check_fits};
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::model::shard::{Indivisible, Shard};
use crate::model::weights::load;
use crate::spec::device::Device;
use crate::spec::dtype::Dtype;

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
        "{device} cannot be used: this build of mediant has no support for GPUs; use \"cpu\", or a build that has"
    )]
    Unsupported {
        /// The device.
        device: Device,
    },
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
}

/// Starts a rank on each device; all load their parts of the weights side by side. CPU ranks share `threads` out among
/// themselves. `progress` is told how many blocks all ranks have loaded.
pub fn start(
    devices: &[Device],
    threads: usize,
    dtype: Dtype,
    shape: &ModelConfig,
    tensors: &Arc<dyn TensorSource>,
    progress: impl Fn(usize) + Send + Sync + 'static,
) -> Result<Group, RanksError> {
    if let Some(&device) = devices.iter().find(|device| **device != Device::Cpu) {
        return Err(RanksError::Unsupported { device });
    }
    let world = devices.len();
    let shards = Shard::all(shape, world)?;
    check_fits(shards.iter().map(|shard| memory_of(shard, dtype)).sum()).map_err(RanksError::Room)?;
    let tensors = Arc::clone(tensors);
    let threads = (threads / world).max(1);
    let done = AtomicUsize::new(0);
    let build = move |(rank, shard): (Threads, Shard)| -> Result<Decoder<Cpu>, RankError> {
        let cpu = Cpu::of_ranks(threads, dtype, Box::new(rank))?;
        let part = |name: &str, rows, columns| tensors.part(name, rows, columns);
        let block_done = |_| {
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(world) {
                progress(done / world);
            }
        };
        let weights = load::<_, LoadError>(&cpu, &shard, part, block_done)?;
        Ok(Decoder::new(cpu, shard, weights))
    };
    Ok(Group::start(Threads::group(world).into_iter().zip(shards).collect(), build)?)
}

/// A rank's weights in their format, and its part of the embedding once more as it is looked up: in f32, row by row.
fn memory_of(shard: &Shard, dtype: Dtype) -> u64 {
    let table = shard.vocabulary.len() * shard.config().hidden_size;
    shard.parameters() * dtype.bytes() + 4 * table as u64
}
