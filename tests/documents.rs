//! Documents say what the code does: their generated parts are written from its tables. `UPDATE=1` writes them anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::fmt::Write as _;
use std::path::Path;

use mediant::lower::lint::LINTS;
use mediant::spec::site::{SITES, Width};

/// Compares the part of a document between two comments, or writes it.
fn generated(document: &str, part: &str, expected: &str) {
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
