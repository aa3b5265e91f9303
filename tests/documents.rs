//! Documents say what the code does: their generated parts are written from its tables. `UPDATE=1` writes them anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use mediant::http::Kind;
use mediant::lower::lint::LINTS;
use mediant::spec::corruption::METHODS;
use mediant::spec::metric::{METRICS, Unit};
use mediant::spec::op::OPS;
use mediant::spec::problem::code;
use mediant::spec::site::{SITES, Width};

/// Compares the part of a document between two comments, or writes it.
fn generated(document: &str, part: &str, expected: &str) {
    // Several parts of one document are written by tests that run side by side.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(document);
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- {part}: generated, UPDATE=1 cargo test --test documents -->\n");
    let end = format!("<!-- end of {part} -->\n");
    let first = text.find(&begin).unwrap_or_else(|| panic!("{document} has no part {part}")) + begin.len();
    let last = first + text[first..].find(&end).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{}{expected}{}", &text[..first], &text[last..])).unwrap();
    } else {
        assert_eq!(&text[first..last], expected, "docs/{document}: UPDATE=1 cargo test --test documents");
    }
}

#[test]
fn the_table_of_sites_is_that_of_the_code() {
    let mut table = String::from(
        "| site | shape | TransformerLens | nnsight, transformers | pyvene | ROME |\n|---|---|---|---|---|---|\n",
    );
    for site in &SITES {
        let shape = match site.width {
            Width::Hidden => "d",
            Width::Queries => "h, e",
            Width::KeyValues => "k, e",
            Width::Keys => "h, t",
            Width::HeadOutputs => "h, d",
            Width::Neurons => "f",
            Width::Vocabulary => "v",
        };
        let peers = [site.transformer_lens, site.nnsight, site.pyvene, site.rome];
        let peers = peers.map(|name| if name == "-" { name.to_owned() } else { format!("`{name}`") });
        writeln!(table, "| `{}` | `[{shape}]` | {} |", site.name, peers.join(" | ")).unwrap();
    }
    generated("VOCABULARY.md", "sites", &table);
}

#[test]
fn the_table_of_lints_is_that_of_the_code() {
    assert!(LINTS.is_sorted_by_key(|lint| lint.code), "in the order of the alphabet");
    let mut table = String::from("| lint | what it says |\n|---|---|\n");
    for lint in LINTS {
        writeln!(table, "| `{}` | {} |", lint.code, lint.means).unwrap();
    }
    generated("READING-RESULTS.md", "lints", &table);
}

#[test]
fn the_tables_of_errors_are_those_of_the_code() {
    let mut table =
        String::from("| `type` ends with | status | what is wrong | what to do |\n|---|---|---|---|\n");
    for kind in Kind::ALL {
        let (slug, status) = (kind.slug(), kind.status().as_u16());
        writeln!(table, "| `{slug}` | {status} | {} | {} |", kind.title(), kind.cure()).unwrap();
    }
    generated("ERRORS.md", "problems", &table);
    let mut table = String::from("| `code` | what it means |\n|---|---|\n");
    for (code, means) in code::ALL {
        writeln!(table, "| `{code}` | {} |", means.trim()).unwrap();
    }
    generated("ERRORS.md", "codes", &table);
}

#[test]
fn the_list_of_commands_is_that_of_the_program() {
    let help = |arguments: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_mediant")).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let all = help(&["--help"]);
    let commands = all.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut table = String::from("| command | what it does |\n|---|---|\n");
    for line in commands.lines() {
        let (name, means) = line.trim().split_once("  ").unwrap();
        if name != "help" {
            writeln!(table, "| `mediant {name}` | {} |", means.trim().replace('|', "\\|")).unwrap();
        }
    }
    generated("COMMAND-LINE.md", "commands", &table);
}

#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let mut table = String::from("| metric | unit | range | what it is |\n|---|---|---|---|\n");
    for metric in &METRICS {
        let unit = match metric.unit {
            Unit::Probability => "probability",
            Unit::Nats => "nats",
            Unit::Logits => "logits",
            Unit::Rank => "rank",
            Unit::Flag => "0 or 1",
            Unit::Activation => "as the site",
        };
        let range = match metric.bounds {
            [Some(least), Some(most)] => format!("{least} to {most}"),
            [Some(least), None] => format!("{least} or more"),
            [None, Some(most)] => format!("{most} or less"),
            [None, None] => "any".to_owned(),
        };
        writeln!(table, "| `{}` | {unit} | {range} | {} |", metric.form(), metric.means).unwrap();
    }
    generated("EXPERIMENTS.md", "metrics", &table);
}

/// `a`, `b`
fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_table_of_operations_is_that_of_the_code() {
    let mut table =
        String::from("| `op` | its fields | what it does | in the literature |\n|---|---|---|---|\n");
    for op in &OPS {
        writeln!(table, "| `{}` | {} | {} | {} |", op.name, listed(op.fields), op.means, op.known_as)
            .unwrap();
    }
    generated("EXPERIMENTS.md", "operations", &table);
}

#[test]
fn the_table_of_corruptions_is_that_of_the_code() {
    let mut table =
        String::from("| `method` | its fields | what it does | in the literature |\n|---|---|---|---|\n");
    for method in &METHODS {
        let shared = ["from", "method"];
        let fields: Vec<&str> =
            method.fields.iter().copied().filter(|field| !shared.contains(field)).collect();
        writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            method.name,
            listed(&fields),
            method.means,
            method.known_as
        )
        .unwrap();
    }
    generated("EXPERIMENTS.md", "corruptions", &table);
}

fn document(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Its requests are run by `clients/python/tests/test_guides.py`, as all code of the guides is.
#[test]
fn the_readme_is_read_in_five_minutes() {
    let readme = document("README.md");
    let lines = readme.lines().count();
    assert!(lines <= 120, "README.md has {lines} lines: what is more belongs to docs");
    let fences = |language: &str| {
        let begun = format!("```{language} ");
        readme.lines().filter(|line| line.starts_with(&begun)).collect::<Vec<_>>()
    };
    assert_eq!(fences("curl"), ["```curl run"; 4], "four requests, each of which is run");
    assert!(!fences("console").is_empty() && readme.contains("!["), "commands, and a picture");
}

/// The name of a heading in a link.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().to_lowercase();
    let kept = letters.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guides = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let others = ["README.md", "CONTRIBUTING.md", "clients/python/README.md", "openapi/examples/README.md"];
    let pages = guides.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let mut faults = Vec::new();
    let mut links = 0;
    for page in pages.chain(others.map(|other| root.join(other))) {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if link.contains("://") || link.contains(' ') {
                continue;
            }
            links += 1;
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let heads = |text: String| {
                text.lines().any(|l| l.starts_with('#') && anchor(l.trim_start_matches('#')) == part)
            };
            let found =
                target.exists() && (part.is_empty() || heads(std::fs::read_to_string(&target).unwrap()));
            if !found {
                faults.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(faults.is_empty() && links > 50, "{links} links, {faults:#?}");
}
