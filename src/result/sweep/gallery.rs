//! Pictures and files of made-up sweeps, for eyes and other readers: `cargo test --lib sweep::gallery -- --ignored` writes
//! them to `target/gallery`.

use super::example::Example;
use super::{SweepOutcome, Table, picture, render};
use crate::effect::average::Key;
use crate::result::plates::{Plot, Show};
use crate::result::render::Format;

const LAYER: [Key; 2] = [Key::Arm, Key::Layer];

/// Sweeps that are easy and sweeps that are awkward to draw.
pub(super) fn all() -> Vec<(&'static str, Example)> {
    let one_position: fn(usize) -> u32 = |_| 8;
    vec![
        ("classes", Example::default()),
        ("layers", Example { by: LAYER.to_vec(), ..Example::default() }),
        ("one-case", Example { cases: 1, by: LAYER.to_vec(), ..Example::default() }),
        ("negative", Example { sign: -1.0, by: LAYER.to_vec(), layers: 12, ..Example::default() }),
        ("deep", Example { layers: 80, ..Example::default() }),
        (
            "heads",
            Example {
                layers: 80,
                heads: 64,
                cases: 4,
                arms: vec![("heads", &["layer", "head"])],
                by: vec![Key::Arm, Key::Layer, Key::Head],
                ..Example::default()
            },
        ),
        (
            "mixed",
            Example {
                arms: vec![("mlp", &["layer"]), ("attn", &["layer"]), ("heads", &["layer", "head"])],
                by: vec![Key::Arm, Key::Layer, Key::Head],
                ..Example::default()
            },
        ),
        (
            "positions",
            Example {
                positions: one_position,
                by: vec![Key::Arm, Key::Layer, Key::Position],
                ..Example::default()
            },
        ),
        (
            "long-names",
            Example {
                arms: vec![
                    (
                        "the MLP's output at every position, restored from the clean run",
                        &["layer", "position"],
                    ),
                    (
                        "attention at every position, restored from the clean run, window 10",
                        &["layer", "position"],
                    ),
                    ("third", &["layer"]),
                ],
                metrics: vec!["logit_diff:a_long_name_of_a_target-another_long_name_of_a_target_set"],
                ..Example::default()
            },
        ),
        ("one-layer", Example { layers: 1, ..Example::default() }),
        (
            "no-axis",
            Example { arms: vec![("all", &[]), ("more", &[])], by: vec![Key::Arm], ..Example::default() },
        ),
        (
            "single-cell",
            Example { arms: vec![("all", &[])], by: vec![Key::Arm], cases: 1, ..Example::default() },
        ),
        (
            "many-arms",
            Example {
                arms: vec![
                    ("a", &["layer"]),
                    ("b", &["layer"]),
                    ("c", &["layer"]),
                    ("d", &["layer"]),
                    ("e", &["layer"]),
                    ("f", &["layer"]),
                    ("g", &["layer"]),
                    ("h", &["layer"]),
                ],
                by: LAYER.to_vec(),
                ..Example::default()
            },
        ),
    ]
}

/// Averages of which some have no number, of a sweep that ended early.
pub(super) fn with_nulls() -> SweepOutcome {
    let mut outcome = Example::default().outcome();
    outcome.complete = false;
    outcome.cells_total *= 2;
    for row in outcome.averages.rows.iter_mut().filter(|row| row.at.layer.is_some_and(|l| l % 7 == 3)) {
        row.effect.mean = None;
        row.effect.ci_t = None;
    }
    outcome
}

#[test]
#[ignore = "writes pictures to look at"]
fn gallery() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/gallery");
    std::fs::create_dir_all(&folder).unwrap();
    let mut outcomes: Vec<(&str, SweepOutcome)> =
        all().into_iter().map(|(name, example)| (name, example.outcome())).collect();
    outcomes.push(("nulls", with_nulls()));
    for (name, outcome) in &outcomes {
        for kind in Plot::ALL {
            for format in [Format::Png, Format::Svg] {
                let path = folder.join(format!("sweep-{name}-{}.{}", kind.0, format.name()));
                match picture(outcome, &Show { kind: Some(kind.1), ..Show::default() }, format) {
                    Ok(bytes) => std::fs::write(path, bytes).unwrap(),
                    Err(error) => println!("{name} {}: {error}", kind.0),
                }
            }
        }
        if ["classes", "positions", "no-axis"].contains(name) {
            for (table, kind) in Table::ALL {
                for format in [Format::Csv, Format::Jsonl, Format::Parquet] {
                    let bytes = render(outcome, format, Some(kind), &Show::default()).unwrap();
                    std::fs::write(folder.join(format!("sweep-{name}-{table}.{}", format.name())), bytes)
                        .unwrap();
                }
            }
            for format in [Format::Npz, Format::Safetensors] {
                let bytes = render(outcome, format, None, &Show::default()).unwrap();
                std::fs::write(folder.join(format!("sweep-{name}.{}", format.name())), bytes).unwrap();
            }
            let json = serde_json::to_vec(outcome).unwrap();
            std::fs::write(folder.join(format!("sweep-{name}.json")), json).unwrap();
        }
    }
}
