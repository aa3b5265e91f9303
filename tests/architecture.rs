//! The direction of dependencies: what each module may use. A line added here is a decision; add it with its reason.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Module -> modules it may use, besides itself.
const ALLOWED: &[(&str, &[&str])] = &[
    // The vocabulary depends on nothing of ours.
    ("spec", &[]),
    ("tokens", &[]),
    // Files, whatever is in them.
    ("disk", &[]),
    // Stored sets know where in a model they are from, not what requests do with them.
    ("activations", &["spec", "disk"]),
    // What the engine reads; knows sites, not requests.
    ("plan", &["spec"]),
    // What ranks say to each other: numbers, whatever they mean.
    ("comm", &[]),
    // Products over several ranks are one operation.
    ("kernels", &["spec", "plan", "comm"]),
    ("model", &["spec", "kernels", "plan"]),
    // Hands weights over in the pieces that kernels take.
    ("load", &["kernels", "model", "tokens"]),
    // What requests mean; knows the model's shape and words, not its weights.
    ("lower", &["spec", "tokens", "activations", "plan", "model"]),
    // Its process opens the configured model by itself; each rank loads its part, and a group of ranks says why it broke.
    ("engine", &["spec", "disk", "comm", "kernels", "load", "model", "plan", "config"]),
    ("effect", &["spec", "lower", "plan"]),
    // Pictures and files, whatever they show: texts and numbers go in, bytes come out.
    ("draw", &[]),
    ("export", &[]),
    ("result", &["spec", "tokens", "activations", "lower", "plan", "effect", "draw", "export"]),
    // What outlives the process knows no request from another: they are texts to it.
    ("store", &["disk"]),
    ("config", &["spec"]),
    // Memory and threads, whoever uses them.
    ("capacity", &[]),
    // The whole flow. Cases are reduced one by one, so that their effects need not be held together.
    (
        "service",
        &[
            "capacity",
            "spec",
            "tokens",
            "activations",
            "lower",
            "plan",
            "effect",
            "engine",
            "load",
            "model",
            "result",
            "config",
        ],
    ),
    // Stored requests, computed and put together. A result says when it expires.
    (
        "jobs",
        &[
            "activations",
            "capacity",
            "config",
            "effect",
            "engine",
            "plan",
            "result",
            "service",
            "spec",
            "store",
        ],
    ),
    // Adapters see the service and what it gives back, not what lies behind it.
    (
        "http",
        &[
            "capacity",
            "spec",
            "activations",
            "lower",
            "plan",
            "engine",
            "load",
            "model",
            "result",
            "config",
            "service",
            "store",
            "jobs",
        ],
    ),
    ("telemetry", &["config"]),
    // Ends the engine process when the server ends.
    ("app", &["capacity", "config", "engine", "http", "jobs", "service"]),
];

#[test]
fn modules_use_only_what_they_may() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(module, uses)| (*module, uses.iter().copied().collect())).collect();
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for file in rust_files(&source) {
        let relative = file.strip_prefix(&source).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        // `arithmetic` is a crate of its own, which depends on nothing of ours by its manifest; `bin` is the program, which
        // sees of the library what any user of it does.
        if ["lib", "arithmetic", "bin"].contains(&module.as_str()) {
            continue;
        }
        seen.insert(module.clone());
        let Some(allowed) = allowed.get(module.as_str()) else {
            faults.push(format!("src/{module} is not in the table"));
            continue;
        };
        for used in uses(&std::fs::read_to_string(&file).unwrap()) {
            let test_only = relative.components().any(|c| c.as_os_str().to_string_lossy().contains("test"));
            if used != module && !allowed.contains(used.as_str()) && !test_only {
                faults.push(format!("{} uses crate::{used}", relative.display()));
            }
        }
    }
    faults.sort();
    faults.dedup();
    assert!(faults.is_empty(), "{faults:#?}");
    let stale: Vec<_> = allowed.keys().filter(|module| !seen.contains(**module)).collect();
    assert!(stale.is_empty(), "no such modules: {stale:?}");
}

/// First path segments after `crate::`, unit tests at the end of a file left out.
fn uses(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = code.split("#[cfg(test)]\n#[expect").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let after = |line: &str| -> Vec<String> {
        line.split("crate::")
            .skip(1)
            .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
            .collect()
    };
    let mut found: BTreeSet<String> = lines.flat_map(after).filter(|name| !name.is_empty()).collect();
    // `use crate::{app, http};`
    for group in code.split("use crate::{").skip(1) {
        let inside = group.split("};").next().unwrap();
        for name in inside.split(',').map(|part| part.trim().split("::").next().unwrap_or_default()) {
            if !name.is_empty() && !name.contains(['{', '}']) {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
