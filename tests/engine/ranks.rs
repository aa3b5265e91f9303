//! A group of ranks: the same model whatever their number, and how it fails.

use std::convert::Infallible;
use std::sync::Arc;

use mediant::comm::Threads;
use mediant::config::Engine;
use mediant::engine::group::{Group, StartError};
use mediant::engine::ranks::{RanksError, start};
use mediant::engine::{Model, ModelError};
use mediant::kernels::OutOfMemory;
use mediant::kernels::cpu::{Cpu, Dtype};
use mediant::load::{LoadOptions, ModelRef, open};
use mediant::model::config::ModelConfig;
use mediant::model::decoder::Decoder;
use mediant::model::shard::Shard;
use mediant::plan::batch::{CaptureRows, ForwardBatch};
use mediant::plan::pack::{Mode, Packing};
use mediant::plan::{Address, Capture, Edit, EditGroup, Op, Plan, Source};
use mediant::spec::device::Device;
use mediant::spec::site::Site;

use crate::faulty::{Fault, Faulty};
use crate::tiny::{Outcome, config, golden, on, on_threads, run, uniform};

/// A clean run, one with noise and one with a patch, read at the end.
fn plan() -> Plan {
    let mut plan = Plan::default();
    let clean = plan.root(Arc::from([17, 301, 5, 44, 209]));
    let noise = uniform("noise", 2 * 64).into();
    let at = |layer, site| Address { layer, site };
    let noise =
        Edit::new(at(0, Site::Embed), vec![1, 2], Op::add(Source::Constant(noise)), EditGroup::Corruption);
    let corrupted = plan.branch(clean, vec![noise]);
    let copy = Op::Replace(Source::Run { run: clean, positions: vec![3] });
    let patched = plan.branch(corrupted, vec![Edit::new(at(2, Site::Z), vec![3], copy, EditGroup::Patch)]);
    for run in [clean, corrupted, patched] {
        plan.read(run, 4);
        plan.captures.push(Capture { run, at: at(0, Site::Embed), positions: (0..5).collect() });
        plan.captures.push(Capture { run, at: at(3, Site::MlpAct), positions: vec![3, 4] });
    }
    plan.scoring.targets = vec![3, 44, 300];
    plan.scoring.topk = 5;
    plan
}

/// The default configuration with these devices and two threads.
fn engine(devices: &[Device]) -> Engine {
    let config = mediant::config::load(None, std::iter::empty(), &[]).unwrap().config;
    Engine { devices: devices.to_vec(), threads: 2, ..config.engine }
}

fn batch() -> ForwardBatch {
    Packing::new(&plan(), 4, 1000, Mode::Branching).unwrap().chunk(0).batch
}

fn assert_close(a: &Outcome, b: &Outcome, at: &str) {
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-4, "{at}: {a} {b}");
    for (a, b) in a.scores.iter().zip(&b.scores) {
        near(a.log_sum_exp, b.log_sum_exp);
        a.logits.iter().zip(&b.logits).for_each(|(a, b)| near(f64::from(*a), f64::from(*b)));
        assert_eq!(a.ranks, b.ranks, "{at}");
        let ids = |top: &[(u32, f32)]| top.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(ids(&a.top), ids(&b.top), "{at}");
    }
    for (a, b) in a.captures.iter().zip(&b.captures) {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).for_each(|(a, b)| near(f64::from(*a), f64::from(*b)));
    }
}

#[test]
fn eight_ranks_with_copies_of_keys_compute_what_one_does() {
    let config = ModelConfig { num_heads: 8, num_kv_heads: 2, head_dim: 8, ..config(&golden("tiny_llama")) };
    let outcomes = [1, 2, 4, 8].map(|world| {
        let shards = Shard::all(&config, world).unwrap();
        let build = |(rank, shard): (Threads, Shard)| {
            Ok::<_, Infallible>(on(Cpu::of_ranks(1, Dtype::F32, Box::new(rank)).unwrap(), shard))
        };
        let mut group = Group::start(Threads::group(world).into_iter().zip(shards).collect(), build).unwrap();
        run(&mut group, 4, &plan(), 1000, Mode::Branching)
    });
    for other in &outcomes[1..] {
        assert_close(&outcomes[0], other, "eight heads");
    }
}

#[test]
fn a_dummy_model_is_the_same_on_any_number_of_ranks_and_so_is_noise() {
    ["dummy:tiny?seed=3", "dummy:gpt2-tiny?seed=3"].into_iter().for_each(check_dummy);
}

fn check_dummy(reference: &str) {
    let dummy = open(&reference.parse::<ModelRef>().unwrap(), &LoadOptions::default()).unwrap();
    let outcomes = [1, 2, 4].map(|world| {
        let devices = vec![Device::Cpu; world];
        let (told, progress) = std::sync::mpsc::channel();
        let report = move |blocks| told.send(blocks).unwrap();
        let ranks = start(&engine(&devices), Dtype::F32, &dummy.config, &dummy.tensors, report).unwrap();
        let mut group = ranks.group;
        assert_eq!((ranks.devices.len(), ranks.room.heads), (world, 4));
        assert_eq!(progress.into_iter().max(), Some(4), "progress counts blocks that all ranks have");
        run(&mut group, 4, &plan(), 1000, Mode::Branching)
    });
    for other in &outcomes[1..] {
        assert_close(&outcomes[0], other, "dummy");
        for (capture, embedded) in plan().captures.iter().zip(&other.captures).enumerate() {
            if embedded.0.at.site == Site::Embed {
                assert_eq!(
                    *embedded.1, outcomes[0].captures[capture],
                    "embeddings and noise have the same bits"
                );
            }
        }
    }
}

#[test]
fn devices_that_do_not_do_are_refused_before_anything_is_loaded() {
    let dummy = open(&"dummy:tiny".parse::<ModelRef>().unwrap(), &LoadOptions::default()).unwrap();
    let refused = |devices: &[Device]| {
        start(&engine(devices), Dtype::F32, &dummy.config, &dummy.tensors, |_| ()).err().unwrap()
    };
    assert!(matches!(refused(&[Device::Cpu; 3]), RanksError::Indivisible(_)));
    // A build for GPUs looks for the device.
    if cfg!(not(feature = "cuda")) {
        let gpu = refused(&[Device::Cuda(1)]).to_string();
        assert!(gpu.starts_with("cuda:1 cannot be used"), "{gpu}");
    }
}

#[test]
fn a_rank_that_panics_fails_the_batch_and_the_group_but_not_the_process() {
    for world in [1, 2, 4] {
        // An index out of range is a panic on a CPU; a GPU would read what lies there.
        let mut group = on_threads(&config(&golden("tiny_llama")), world, Dtype::F32);
        let good = Arc::new(batch());
        group.forward(&good).unwrap();
        let mut bad = batch();
        // Read by the rank that speaks for the residual stream alone; the others wait for it in the next product.
        bad.layers[1].taps[0].captures.push(CaptureRows { capture: 0, rows: vec![10_000] });
        let failed = group.forward(&Arc::new(bad));
        let Err(ModelError::Failed(message)) = failed else { panic!("{failed:?}") };
        assert!(message.starts_with("rank 0 failed: range"), "{message}");
        assert_eq!(group.forward(&good), Err(ModelError::Failed(message)), "nothing is healed in place");
    }
}

#[test]
fn a_rank_without_room_refuses_the_batch_for_all_and_the_next_one_is_computed() {
    let config = config(&golden("tiny_llama"));
    let shards = Shard::all(&config, 2).unwrap();
    let build = |(rank, shard): (Threads, Shard)| -> Result<Decoder<Faulty>, Infallible> {
        let rows = if shard.rank == 1 { 8 } else { 1000 };
        let inner = Cpu::of_ranks(1, Dtype::F32, Box::new(rank)).unwrap();
        Ok(on(Faulty { inner, fault: Fault::NoRoom { rows } }, shard))
    };
    let mut group = Group::start(Threads::group(2).into_iter().zip(shards).collect(), build).unwrap();
    let large = Arc::new(batch());
    assert!(large.peak_rows > 8);
    assert_eq!(group.forward(&large), Err(ModelError::OutOfMemory(OutOfMemory { bytes: 4096 })));
    let mut small = Plan::default();
    let root = small.root(Arc::from([1, 2, 3]));
    small.read(root, 2);
    let small = Packing::new(&small, 4, 12, Mode::Branching).unwrap().chunk(0).batch;
    assert_eq!(group.forward(&Arc::new(small)).unwrap().scores.len(), 1);
}

#[test]
fn a_rank_that_cannot_be_made_keeps_the_group_from_starting() {
    let build = |rank: usize| -> Result<Decoder<Cpu>, String> {
        assert_ne!(rank, 1, "no such rank");
        Err("never mind".to_owned())
    };
    let error = Group::start(vec![1], build).unwrap_err();
    assert!(
        matches!(&error, StartError::Panicked { rank: 0, message } if message.contains("no such rank")),
        "{error:?}"
    );
    let error = Group::start(vec![0, 2], build).unwrap_err();
    assert!(matches!(&error, StartError::Build(why) if why == "never mind"), "{error:?}");
}
