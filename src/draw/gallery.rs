//! Pictures of every kind, for tests and for eyes: `cargo test --lib gallery -- --ignored` writes them to
//! `target/gallery` as SVG and PNG.

use super::bars::{Bar, Bars, Baseline, Series};
use super::heatmap::{Arrangement, Cell, Column, Figure, Heatmap, Reference};
use super::raster;

/// A smooth made-up trace: an early site at the subject, a late one at the last token, some of it negative.
pub(super) fn heatmap(rows: usize, tokens: &[&str], subject: std::ops::Range<usize>) -> Heatmap {
    let cols = tokens.len();
    let bump = |x: f64, centre: f64, width: f64| (-((x - centre) / width).powi(2)).exp();
    let cell = |row: usize, col: usize| {
        let (y, x) = (row as f64 / rows as f64, col as f64);
        let subject_end = subject.end.saturating_sub(1) as f64;
        let value = 0.41 * bump(x, subject_end, 0.8) * bump(y, 0.1, 0.35)
            + 0.656 * bump(x, cols as f64 - 1.0, 0.7) * bump(y, 1.0, 0.4)
            - 0.2 * bump(x, cols as f64 / 2.0, 1.5) * bump(y, 0.6, 0.2);
        let exact_null = col < subject.start || (row + 1 == rows && col + 1 < cols);
        let trivial = row + 1 == rows && col + 1 == cols;
        Cell {
            value: (!(col == 1 && row == 2)).then_some(if exact_null { 0.0 } else { value }),
            not_finite: false,
            exact_null,
            trivial,
        }
    };
    Heatmap {
        title: "Causal trace of the hidden state".into(),
        subtitle: "smollm2-135m, denoising, 10 noise samples of 3σ".into(),
        references: vec![
            Reference { label: "P(clean)".into(), value: 0.656_123 },
            Reference { label: "P(corrupted)".into(), value: 0.000_412 },
        ],
        rows: (0..rows).map(|layer| layer.to_string()).collect(),
        columns: tokens
            .iter()
            .enumerate()
            .map(|(i, text)| Column { text: (*text).into(), marked: subject.contains(&i) })
            .collect(),
        cells: (0..rows).map(|row| (0..cols).map(|col| cell(row, col)).collect()).collect(),
        y_label: "layer".into(),
        x_label: String::new(),
        value_label: "indirect effect on P(\" current\")".into(),
        mark_label: "subject (corrupted)".into(),
        texts: Vec::new(),
    }
}

pub(super) const PUN: [&str; 12] =
    ["The", " electric", "ian", " was", " ", "shock", "ed", " by", " the", " strong", " electrical", " new"];

const ODD: [&str; 14] = [
    "\n\n",
    "\t",
    " ",
    "",
    "\"quoted\"",
    "<b>&amp;",
    "a\u{202e}b",
    "\u{1b}[31m",
    "日本語",
    "нейрон",
    "αβγ→",
    " an extraordinarily long token without end",
    "🙂",
    "\u{301}",
];

fn many(n: usize) -> Vec<String> {
    (0..n).map(|i| format!(" tok{i}")).collect()
}

fn arms() -> Vec<Heatmap> {
    ["hidden state", "MLP, window 10", "attention, window 10"]
        .into_iter()
        .enumerate()
        .map(|(i, name)| {
            let mut map = heatmap(30, &PUN, 1..3);
            map.title = format!("Restoring the {name}");
            map.subtitle = String::new();
            for cell in map.cells.iter_mut().flatten() {
                cell.value = cell.value.map(|v| v * (1.0 - 0.35 * i as f64));
            }
            map
        })
        .collect()
}

pub(super) fn figures() -> Vec<(&'static str, Figure)> {
    let strings = many(256);
    let tokens: Vec<&str> = strings.iter().map(String::as_str).collect();
    let three = Figure {
        title: "Causal trace".into(),
        subtitle: "The electrician was shocked by the strong electrical → “ current”".into(),
        panels: arms(),
        shared_scale: true,
        arrangement: Arrangement::Row,
        ..Figure::default()
    };
    let mut zero = heatmap(6, &PUN[..5], 1..3);
    for cell in zero.cells.iter_mut().flatten() {
        cell.value = Some(0.0);
    }
    let mut none = zero.clone();
    for cell in none.cells.iter_mut().flatten() {
        *cell = Cell { value: Some(f64::NAN), ..Cell::default() };
    }
    let mut lens = heatmap(12, &ODD, 4..6);
    lens.texts = (0..12).map(|row| (0..14).map(|col| ODD[(row + col) % 14].to_owned()).collect()).collect();
    let mut grid = Figure { arrangement: Arrangement::Grid(2), scale_end: Some(0.2), ..three.clone() };
    grid.panels.extend(arms());
    let mut tiny = heatmap(12, &["a", " b", " c"], 0..1);
    for cell in tiny.cells.iter_mut().flatten() {
        cell.value = cell.value.map(|v| v * 1e-6);
    }
    tiny.x_label = "token".into();
    vec![
        ("pun", heatmap(30, &PUN, 1..3).into()),
        ("deep", heatmap(80, &[&PUN[..], &[" kind", " of"]].concat(), 1..3).into()),
        ("arms", three.clone()),
        ("arms-own-scales", Figure { shared_scale: false, ..three.clone() }),
        ("lens", Figure { from_zero: true, scale_end: Some(1.0), ..lens.into() }),
        ("grid", grid),
        ("arms-stacked", Figure { arrangement: Arrangement::Column, ..three }),
        ("one", heatmap(1, &[" x"], 0..1).into()),
        ("huge", heatmap(128, &tokens, 9..12).into()),
        ("odd", heatmap(8, &ODD, 4..6).into()),
        ("zero", zero.into()),
        ("unmeasured", none.into()),
        ("tiny", tiny.into()),
        ("no-panels", Figure::default()),
        ("no-cells", Heatmap { rows: vec!["0".into()], cells: vec![vec![]], ..heatmap(1, &[], 0..0) }.into()),
    ]
}

pub(super) fn charts() -> Vec<(&'static str, Bars)> {
    let wave = |i: usize, phase: f64| (i as f64 / 5.0 + phase).sin();
    let baseline = |label: &str, value| Baseline { label: label.into(), value };
    let sweep = Bars {
        title: "Patching resid_post at the last token, layer by layer".into(),
        subtitle: "base: the literal prompt; source: the pun prompt".into(),
        labels: (0..30).map(|i| i.to_string()).collect(),
        x_label: "layer".into(),
        value_label: "P(\" current\")".into(),
        series: vec![Series {
            name: String::new(),
            bars: (0..30)
                .map(|i| Bar {
                    value: Some(0.03 + 0.6 / (1.0 + (-(i as f64 - 18.0) / 3.0).exp())),
                    error: Some(0.01 + 0.04 * (i % 3) as f64),
                    trivial: i == 29,
                    ..Bar::default()
                })
                .collect(),
        }],
        baselines: vec![baseline("base run", 0.03), baseline("source run", 0.64), baseline("mean", 0.615)],
        origin: 0.03,
        ..Bars::default()
    };
    let grouped = Bars {
        title: "Average indirect effect".into(),
        subtitle: "12 prompts, standard errors over prompts".into(),
        labels: (0..12).map(|i| format!("layer {i}")).collect(),
        x_label: String::new(),
        value_label: "AIE (difference of probability)".into(),
        series: ["MLP", "attention"]
            .into_iter()
            .enumerate()
            .map(|(s, name)| Series {
                name: name.into(),
                bars: (0..12)
                    .map(|i| Bar { error: Some(0.03), ..Bar::of(0.2 * wave(i, s as f64)) })
                    .collect(),
            })
            .collect(),
        ..Bars::default()
    };
    let negative = Bars {
        title: "All below zero".into(),
        value_label: "log-probability".into(),
        labels: ODD.iter().map(|t| (*t).into()).collect(),
        series: vec![Series {
            name: "x".into(),
            bars: (0..14).map(|i| Bar::of(-3.5 - wave(i, 0.0))).collect(),
        }],
        baselines: vec![baseline("clean", -0.42)],
        ..Bars::default()
    };
    let wide = Bars {
        labels: (0..300).map(|i| format!("{i}")).collect(),
        series: vec![Series {
            name: String::new(),
            bars: (0..300).map(|i| Bar::of(1e-5 * wave(i, 0.0))).collect(),
        }],
        value_label: "effect".into(),
        ..Bars::default()
    };
    let one = Bars {
        title: "One bar".into(),
        labels: vec!["29".into()],
        series: vec![Series { name: String::new(), bars: vec![Bar::of(0.5)] }],
        ..Bars::default()
    };
    vec![
        ("bars", sweep),
        ("bars-grouped", grouped),
        ("bars-negative", negative),
        ("bars-wide", wide),
        ("bars-one", one),
        ("bars-none", Bars::default()),
    ]
}

#[test]
#[ignore = "writes pictures to look at"]
fn gallery() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/gallery");
    std::fs::create_dir_all(&folder).expect("a folder");
    let pictures = figures().into_iter().map(|(name, f)| (name, f.to_svg().expect("drawn")));
    let charts = charts().into_iter().map(|(name, b)| (name, b.to_svg().expect("drawn")));
    for (name, svg) in pictures.chain(charts) {
        let start = std::time::Instant::now();
        let png = raster::png(&svg, 1.5).expect("rasterised");
        println!("{name}: svg {} kB, png {} kB in {:?}", svg.len() / 1000, png.len() / 1000, start.elapsed());
        std::fs::write(folder.join(format!("{name}.svg")), svg).expect("written");
        std::fs::write(folder.join(format!("{name}.png")), png).expect("written");
    }
}
