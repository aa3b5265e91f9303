//! Ranks on GPUs: each opens its device, measures it, loads its part of the weights, and says what is left.

use std::sync::{Arc, Mutex, PoisonError};

use super::group::Group;
use super::ranks::{KEY_SHARE, RankError, Ranks, RanksError, Source, slots};
use super::row_budget::Room;
use crate::comm::Threads;
use crate::kernels::cuda::{Cuda, GroupId, Place, inbox_rows};
use crate::kernels::facts::{DeviceFacts, Sums};
use crate::kernels::{Heads, Kernels, OutOfMemory};
use crate::load::LoadError;
use crate::model::decoder::Decoder;
use crate::model::shard::Shard;
use crate::model::store::bytes_per_slot;
use crate::model::weights::load;
use crate::spec::dtype::Dtype;

/// Rows past which products gain nothing, and a batch would only take longer before others have their turn.
const MOST_ROWS: usize = 32_768;
/// What operations take beside the rows: products of a block, logits of a block and of references, tables, the libraries'
/// workspace.
const SCRATCH: u64 = 5 << 29;

/// Starts a rank on each of these GPUs.
pub(super) fn start(source: Source, ordinals: Vec<u32>, key_bytes: u64) -> Result<Ranks, RanksError> {
    let Source { dtype, shards, tensors, progress } = source;
    let ranks = ordinals.len();
    let group = (ranks > 1).then(GroupId::new).transpose()?;
    let room_of = |shard: &Shard| (bytes_per_row(shard, dtype), shard.attention().query);
    let (bytes_per_row, heads) = shards.iter().map(room_of).max().unwrap_or((1, 1));
    let hidden = shards.first().map_or(0, |shard| shard.config().hidden_size);
    let found: Arc<Mutex<Vec<Option<DeviceFacts>>>> = Arc::new(Mutex::new(vec![None; ranks]));
    let facts = Arc::clone(&found);
    let build = move |((host, shard), ordinal): ((Threads, Shard), u32)| -> Result<Decoder<Cuda>, RankError> {
        let rank = shard.rank;
        let cuda = Cuda::open(
            ordinal as usize,
            dtype,
            shard.dimensions(),
            group.map(|group| Place { group, host }),
        )?;
        // Tied or not, the embedding is held twice: as it is looked up, and as it is multiplied with.
        let config = shard.config();
        let copy = if config.tie_word_embeddings { shard.vocabulary.len() * config.hidden_size } else { 0 };
        let weight_bytes = (shard.parameters() + copy as u64) * dtype.bytes();
        let (free, _) = cuda.memory();
        let needed = weight_bytes + SCRATCH;
        if needed > free {
            return Err(RankError::GpuFull { ordinal, free, needed });
        }
        let full =
            |OutOfMemory { bytes }| RankError::GpuFull { ordinal, free: cuda.memory().0, needed: bytes };
        let rates = cuda.rates().map_err(full)?;
        let part = |name: &str, rows, columns| tensors.part(name, rows, columns);
        let weights = load::<_, LoadError>(&cuda, &shard, part, |_| progress.block_done())?;
        let products = cuda.probe(&weights.products()).map_err(full)?;
        cuda.synchronize();
        let per_slot = bytes_per_slot(&shard, dtype.bytes());
        let own = cuda.memory().0.saturating_sub(SCRATCH) / KEY_SHARE / 2;
        // All ranks keep the same positions.
        let of_ranks = cuda.exchange(vec![slots(key_bytes, own, per_slot) as f32]);
        let slots = of_ranks.iter().flatten().copied().fold(f32::MAX, f32::min) as u64;
        let mut decoder = Decoder::new(cuda, shard, weights);
        decoder.make_store(slots as usize)?;
        let cuda = decoder.kernels();
        let of_rank = DeviceFacts {
            name: cuda.name(),
            weight_bytes,
            free_bytes: cuda.memory().0,
            key_slots: slots,
            key_bytes: slots * per_slot,
            rates: Some(rates),
            sums: cuda.sums(),
            products,
        };
        facts.lock().unwrap_or_else(PoisonError::into_inner)[rank] = Some(of_rank);
        Ok(decoder)
    };
    let seeds = Threads::group(ranks).into_iter().zip(shards).zip(ordinals).collect();
    let group = Group::start(seeds, build)?;
    let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    let devices: Vec<DeviceFacts> = found.into_iter().flatten().collect();
    let taken_in = match devices.first().and_then(|device| device.sums) {
        Some(Sums::Peers) => inbox_rows(ranks) * hidden,
        Some(Sums::Nccl) | None => 0,
    };
    let bytes_per_row = bytes_per_row + taken_in as u64 * dtype.bytes();
    let free = devices.iter().map(|device| device.free_bytes).min().unwrap_or(0);
    let room = Room { bytes: free.saturating_sub(SCRATCH), bytes_per_row, heads, most_rows: MOST_ROWS };
    Ok(Ranks { group, devices, room })
}

/// A row's share of a rank's buffers.
fn bytes_per_row(shard: &Shard, dtype: Dtype) -> u64 {
    let Heads { query, key_value, dim } = shard.attention();
    let hidden = shard.config().hidden_size;
    let neurons = shard.config().block.mlp.buffers() * shard.mlp.len();
    let numbers = 3 * hidden + 2 * query * dim + 2 * key_value * dim + neurons;
    numbers as u64 * dtype.bytes()
}
