//! The direction of dependencies: what each module may use, and that files do not go in circles. A line added here is a decision; add it with its reason.

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
    // A name, whoever has it.
    ("owner", &[]),
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
    // Its process opens the configured model by itself; each rank loads its part, and a group of ranks says why it broke. Owners
    // take turns.
    ("engine", &["spec", "disk", "comm", "kernels", "load", "model", "plan", "config", "owner"]),
    ("effect", &["spec", "lower", "plan"]),
    // Texts, written step by step: owns what is between a request and the engine's steps. Draws the first token of a text as the
    // model's ranks draw the others.
    ("generate", &["spec", "tokens", "lower", "plan", "effect", "engine", "model", "owner"]),
    // Pictures and files, whatever they show: texts and numbers go in, bytes come out.
    ("draw", &[]),
    ("export", &[]),
    // Texts are put together of what happens to them.
    ("result", &["spec", "tokens", "activations", "lower", "plan", "effect", "generate", "draw", "export"]),
    // What outlives the process knows requests by their kind; what they say is text to it.
    ("store", &["spec", "disk"]),
    ("config", &["spec"]),
    // Who may ask for what. Times are written as everywhere on the wire.
    ("keys", &["activations", "owner", "store"]),
    // What owners use, counted in memory and kept by the store.
    ("usage", &["owner", "store"]),
    // Memory and threads, and whose request has them.
    ("capacity", &["owner"]),
    // The whole flow. Cases are reduced one by one, so that their effects need not be held together.
    (
        "service",
        &[
            "usage",
            "capacity",
            "spec",
            "tokens",
            "activations",
            "lower",
            "plan",
            "effect",
            "engine",
            "generate",
            "load",
            "model",
            "result",
            "config",
            "owner",
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
            // The lints of a job, which were found before it ran.
            "lower",
            "plan",
            "result",
            "service",
            "spec",
            "store",
            "owner",
            // What a unit costs is stored with it.
            "usage",
        ],
    ),
    // Jobs of nnsight: read in processes of their own, computed through the service.
    ("remote", &["capacity", "config", "engine", "model", "owner", "plan", "service", "spec"]),
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
            "telemetry",
            "keys",
            "owner",
            "usage",
            "remote",
        ],
    ),
    // Numbers to be shown, whoever counts them.
    ("telemetry", &["config", "engine"]),
    // Ends the engine process when the server ends.
    ("app", &["capacity", "config", "engine", "http", "jobs", "service", "store", "keys", "usage", "remote"]),
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
        // `arithmetic` and `worker` are crates of their own, which depend on nothing of ours by their manifests; `bin` is the program, which
        // sees of the library what any user of it does.
        if ["lib", "arithmetic", "worker", "bin"].contains(&module.as_str()) {
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
    let code = without_tests(text);
    let after = |line: &str| -> Vec<String> {
        line.split("crate::")
            .skip(1)
            .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
            .collect()
    };
    let mut found: BTreeSet<String> = code.lines().flat_map(after).filter(|name| !name.is_empty()).collect();
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

/// The code of a file without comments and without the unit tests at its end.
fn without_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = code.split("#[cfg(test)]\n#[").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
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

/// Files of one folder that use each other in a circle, with the reason. The list shrinks: a circle that is gone, or that
/// became smaller, must go from here too.
const CIRCLES: &[(&[&str], &str)] = &[
    (
        &["model/architecture", "model/config", "model/rope"],
        "a configuration names its family, whose shape it is made of",
    ),
    (&["plan/edits", "plan/tables"], "two halves of one table"),
    (&["engine/gpus", "engine/ranks"], "a rank is made where its GPU is opened"),
    (
        &["http/problem", "http/request_id"],
        "a problem names its request, and a request's id completes problems",
    ),
    (&["tokens/build", "tokens/table"], "`BuildError` is in the wrong file"),
];

/// Ordinary Rust is left out: a file and the ones below it (`x.rs` and `x/`), and what `mod.rs` gives its children.
#[test]
fn files_of_a_folder_do_not_use_each_other_in_circles() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    for file in rust_files(&source) {
        let relative = file.strip_prefix(&source).unwrap().with_extension("");
        let mut path: Vec<String> = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if path.last().is_some_and(|last| ["mod", "lib"].contains(&last.as_str())) {
            path.pop();
        }
        if !relative.starts_with("arithmetic") && !relative.starts_with("worker") {
            files.insert(path, std::fs::read_to_string(&file).unwrap());
        }
    }
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, text) in &files {
        if from.iter().any(|part| part.contains("test")) {
            continue;
        }
        for to in used_files(from, text, &files) {
            let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            // Modules are in the table above; here it is their files.
            if shared > 0 && shared < from.len().min(to.len()) {
                uses.entry(from[..=shared].join("/")).or_default().insert(to[..=shared].join("/"));
            }
        }
    }
    let mut faults = Vec::new();
    let found = circles(&uses);
    for circle in &found {
        let allowed =
            CIRCLES.iter().any(|(files, _)| circle.iter().all(|file| files.contains(&file.as_str())));
        if !allowed {
            let edges = circle.iter().map(|file| (file, uses[file].intersection(circle).collect::<Vec<_>>()));
            faults.push(format!("a circle: {:?}", edges.collect::<BTreeMap<_, _>>()));
        }
    }
    for (files, reason) in CIRCLES {
        let free: Vec<_> =
            files.iter().filter(|file| !found.iter().any(|circle| circle.contains(**file))).collect();
        if !free.is_empty() {
            faults.push(format!("in no circle any more, take them off the list: {free:?} ({reason})"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The files that a file's paths lead to; unit tests left out.
fn used_files(from: &[String], text: &str, files: &BTreeMap<Vec<String>, String>) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let code = without_tests(text);
    for (word, base) in [("crate", 0), ("self", from.len()), ("super", from.len())] {
        for (at, _) in code.match_indices(&format!("{word}::")) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut ends = Vec::new();
            let up = if word == "super" { vec!["super".to_owned()] } else { Vec::new() };
            paths(&code[at + word.len() + 2..], up, &mut ends);
            for end in ends {
                let above = end.iter().take_while(|part| *part == "super").count();
                let mut path: Vec<String> = from[..base.saturating_sub(above)].to_vec();
                path.extend(end.into_iter().skip(above));
                while !path.is_empty() && !files.contains_key(&path) {
                    path.pop();
                }
                if !path.is_empty() && path != from {
                    found.insert(path);
                }
            }
        }
    }
    found
}

/// Reads a path, or a tree of them in braces, and adds each to `ends`; returns what follows.
fn paths<'t>(text: &'t str, mut before: Vec<String>, ends: &mut Vec<Vec<String>>) -> &'t str {
    let text = text.trim_start();
    if let Some(mut inside) = text.strip_prefix('{') {
        loop {
            let rest = paths(inside, before.clone(), ends);
            match rest.find([',', '}']) {
                Some(at) if rest[at..].starts_with(',') => inside = &rest[at + 1..],
                Some(at) => return &rest[at + 1..],
                None => return rest,
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    if end == 0 {
        return text;
    }
    before.push(text[..end].to_owned());
    if let Some(rest) = text[end..].strip_prefix("::") {
        return paths(rest, before, ends);
    }
    ends.push(before);
    &text[end..]
}

/// Groups of files that reach each other.
fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reached = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(file) = open.pop() {
            let next = uses.get(&file).into_iter().flatten().filter(|to| seen.insert((*to).clone()));
            open.extend(next.cloned().collect::<Vec<_>>());
        }
        seen
    };
    let all: BTreeMap<&String, BTreeSet<String>> = uses.keys().map(|file| (file, reached(file))).collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for (file, reaches) in &all {
        if reaches.contains(*file) && !found.iter().any(|circle| circle.contains(*file)) {
            let back = |to: &&String| all.get(to).is_some_and(|own| own.contains(*file));
            found.push(reaches.iter().filter(back).cloned().collect());
        }
    }
    found
}

#[test]
fn circles_are_seen() {
    let files: BTreeMap<Vec<String>, String> = [
        ("m/a", "use super::{b::{X, Y}, c as d};\nfn f() { crate::m::b::g(); }\n"),
        (
            "m/b",
            "//! [`super::a`]\nuse crate::m::c::Z;\n#[cfg(test)]\nmod tests {\n    use super::super::a;\n}\n",
        ),
        ("m/c", "use self::below::W;\n"),
        ("m/c/below", "use super::super::a::V;\n"),
    ]
    .map(|(path, text)| (path.split('/').map(str::to_owned).collect(), text.to_owned()))
    .into();
    let used = |file: &str| -> Vec<String> {
        let path: Vec<String> = file.split('/').map(str::to_owned).collect();
        used_files(&path, &files[&path], &files).iter().map(|path| path.join("/")).collect()
    };
    assert_eq!(
        (used("m/a"), used("m/b")),
        (vec!["m/b".to_owned(), "m/c".to_owned()], vec!["m/c".to_owned()])
    );
    assert_eq!((used("m/c"), used("m/c/below")), (vec!["m/c/below".to_owned()], vec!["m/a".to_owned()]));
    let edge = |from: &str, to: &[&str]| (from.to_owned(), to.iter().map(|to| (*to).to_owned()).collect());
    let uses =
        [edge("a", &["b"]), edge("b", &["c", "d"]), edge("c", &["a"]), edge("d", &["c"]), edge("e", &["a"])];
    assert_eq!(circles(&uses.into()), [["a", "b", "c", "d"].map(str::to_owned).into()]);
}
