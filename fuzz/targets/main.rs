//! Fuzz targets: what comes from outside, read by what the server reads it with, under the same limits.
//!
//! One program, so that it is linked once: `MEDIANT_FUZZ` names the target.

#![no_main]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a fault of the harness ends it")]

mod activations;
mod datasets;
mod folder;
mod gguf;
mod json;
mod merge;
mod mutate;
mod programs;
mod requests;
mod safetensors;
mod served;
mod templates;
mod tokenizer;
mod torch;

// what the tests of merging compute with
#[allow(dead_code, unused_imports, reason = "tests stand in these files, too")]
#[path = "../../tests/engine/merged.rs"]
mod merged;
#[allow(dead_code, unused_imports, reason = "tests stand in these files, too")]
#[path = "../../tests/engine/random.rs"]
mod random;
#[allow(dead_code, unused_imports, reason = "tests stand in these files, too")]
#[path = "../../tests/engine/tiny.rs"]
mod tiny;
#[path = "../../tests/shared/tiny_tensors.rs"]
mod tiny_tensors;
#[path = "../../tests/shared/uniform.rs"]
mod uniform;

use std::alloc::System;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex};

use cap::Cap;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

/// What one input may make the program hold. A file that claims to be large is found before the memory is touched.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, 2 << 30);

/// A target.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    /// How many bytes before a JSON text say how it is read; of targets whose inputs are such.
    json_at: Option<usize>,
}

const TARGETS: [Target; 11] = [
    Target { name: "json", run: json::run, json_at: Some(1) },
    Target { name: "requests", run: requests::run, json_at: Some(1) },
    Target { name: "datasets", run: datasets::run, json_at: Some(1) },
    Target { name: "activations", run: activations::run, json_at: Some(1) },
    Target { name: "gguf", run: gguf::run, json_at: None },
    Target { name: "safetensors", run: safetensors::run, json_at: Some(8) },
    Target { name: "tokenizer", run: tokenizer::run, json_at: Some(0) },
    Target { name: "templates", run: templates::run, json_at: None },
    Target { name: "torch", run: torch::run, json_at: None },
    Target { name: "programs", run: programs::run, json_at: None },
    Target { name: "merge", run: merge::run, json_at: None },
];

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("MEDIANT_FUZZ").unwrap_or_default();
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("MEDIANT_FUZZ={name:?} is no target: set it to one of {}", names.join(", "));
        std::process::exit(2)
    })
});

/// What the last panic said. Some are caught on purpose, where a library is given what others wrote: those are no findings.
static PANIC: Mutex<String> = Mutex::new(String::new());

fn begin() {
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::force_capture();
        *PANIC.lock().unwrap() = format!("{panic}\n{trace}");
    }));
    assert!(mutate::words() > 0);
    // What is made once, at first use, is no input's time.
    (0..=u8::MAX).take(16).for_each(|choice| (TARGET.run)(&[choice, b'{', b'}']));
}

fuzz_target!(init: begin(), |data: &[u8]| {
    if catch_unwind(AssertUnwindSafe(|| (TARGET.run)(data))).is_err() {
        eprintln!("{}", PANIC.lock().unwrap());
        std::process::abort();
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed = TARGET.json_at.and_then(|at| mutate::json(data.get(..size)?, at, max_size, seed));
    match changed {
        Some(changed) => {
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});

/// The byte that chooses one of several ways, and what follows it.
fn choose(data: &[u8]) -> (usize, &[u8]) {
    data.split_first().map_or((0, data), |(choice, rest)| (usize::from(*choice), rest))
}
