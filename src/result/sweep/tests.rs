use std::collections::HashMap;

use serde_json::Value;

use super::example::Example;
use super::*;
use crate::effect::average::Key;
use crate::result::plates::{Plot, Show};
use crate::result::render::{Format, RenderError};

/// This metric alone.
fn of(metric: Option<&str>) -> Show {
    Show { metric: metric.map(str::to_owned), ..Show::default() }
}

/// A picture of this kind.
fn as_plot(kind: Option<Plot>) -> Show {
    Show { kind, ..Show::default() }
}

fn csv(outcome: &SweepOutcome, table: Table, metric: Option<&str>) -> Vec<HashMap<String, String>> {
    let bytes = render(outcome, Format::Csv, Some(table), &of(metric)).unwrap();
    let mut reader = ::csv::Reader::from_reader(&bytes[..]);
    reader.deserialize().map(Result::unwrap).collect()
}

fn jsonl(outcome: &SweepOutcome, table: Table) -> Vec<Value> {
    let bytes = render(outcome, Format::Jsonl, Some(table), &Show::default()).unwrap();
    std::str::from_utf8(&bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn grouped() -> SweepOutcome {
    Example { by: vec![Key::Arm, Key::Layer, Key::TokenClass, Key::Group], layers: 3, ..Example::default() }
        .outcome()
}

#[test]
fn tables_have_a_row_for_each_cell_average_difference_and_case() {
    let outcome = grouped();
    let cells = outcome.cells.as_ref().unwrap();
    let rows = csv(&outcome, Table::Cells, None);
    assert_eq!(rows.len(), 2 * cells.len());
    for (i, row) in rows.iter().enumerate() {
        let (metric, cell) = (i / cells.len(), i % cells.len());
        assert_eq!(row["metric"], outcome.metrics[metric]);
        let effect = cells.metrics[metric].effect[cell].unwrap();
        let total = outcome.cases[cells.case[cell] as usize].total_effect[0][0].mean.unwrap();
        assert_eq!(row["effect"].parse(), Ok(effect));
        assert_eq!(row["recovery"].parse(), Ok(effect / total));
        assert_eq!(row["case"], outcome.cases[cells.case[cell] as usize].id);
        assert_eq!((row["head"].as_str(), row["trivial"].parse().ok()), ("", cells.trivial[cell]));
    }
    assert_eq!(csv(&outcome, Table::Cells, Some("logit:target")).len(), cells.len());

    let rows = jsonl(&outcome, Table::Averages);
    assert_eq!(rows.len(), outcome.averages.rows.len());
    for (row, average) in rows.iter().zip(&outcome.averages.rows) {
        assert_eq!(row["mean"].as_f64(), average.effect.mean);
        assert_eq!(row["ci_high"].as_f64(), average.effect.ci.map(|ci| ci[1]));
        assert_eq!(row["group"].as_str(), average.at.group.as_deref());
        assert_eq!(row["token_class"].as_str(), average.at.token_class.as_deref());
        assert_eq!((row["n"].as_u64(), row["head"].is_null()), (Some(average.effect.n as u64), true));
        assert!(row["total_effect"].is_f64());
    }
    let differences = jsonl(&outcome, Table::Differences);
    assert_eq!(differences.len(), outcome.averages.differences.len());
    assert!(differences.iter().any(|row| row["over"] == "arm" && row["arm"].is_null()));
    assert_eq!(jsonl(&outcome, Table::Top).len(), 10);
    let cases = csv(&outcome, Table::Cases, None);
    assert_eq!(
        (cases.len(), cases[11]["kept"].as_str(), cases[11]["dropped"].as_str()),
        (12, "false", "min_clean_prob")
    );
    assert_eq!(cases[0]["clean/tokens"], "6");
    assert!(cases[0]["total_effect/mlp/prob:target/se"] == "0.02");
}

#[test]
fn every_format_is_written_and_repeats_to_the_byte() {
    for by in
        [vec![Key::Arm, Key::Layer, Key::TokenClass], vec![Key::Arm], vec![Key::Arm, Key::Layer, Key::Head]]
    {
        let outcome = Example { by, layers: 3, ..Example::default() }.outcome();
        for format in [
            Format::Csv,
            Format::Jsonl,
            Format::Parquet,
            Format::Npz,
            Format::Safetensors,
            Format::Svg,
            Format::Png,
        ] {
            let write = || render(&outcome, format, None, &Show::default()).unwrap();
            assert_eq!(write(), write(), "{}", format.name());
        }
    }
}

#[test]
fn arrays_are_dense_where_axes_agree_and_by_class_where_positions_differ() {
    let shapes = |outcome: &SweepOutcome| -> HashMap<String, Vec<usize>> {
        arrays::arrays(outcome, None).into_iter().map(|array| (array.name, array.shape)).collect()
    };
    let ragged = shapes(&Example { layers: 3, ..Example::default() }.outcome());
    assert_eq!(ragged["averages/mlp/prob:target/mean"], [3, 5]);
    assert_eq!(
        (&ragged["averages/mlp/layers"][..], &ragged["averages/mlp/token_classes"][..]),
        (&[3][..], &[5][..])
    );
    assert_eq!(ragged["classes/attn/logit:target/effect"], [11, 6, 3]);
    assert!(ragged.contains_key("columns/prob:target/value") && !ragged.contains_key("cells/mlp/layers"));
    let dense = Example { layers: 3, positions: |_| 7, ..Example::default() }.outcome();
    let found = arrays::arrays(&dense, Some("logit:target"));
    let effect = found.iter().find(|array| array.name == "cells/attn/logit:target/effect").unwrap();
    assert_eq!(effect.shape, [11, 3, 7]);
    let cells = dense.cells.as_ref().unwrap();
    let mine = (0..cells.len()).filter(|i| cells.arm[*i] == 1);
    let expected: Vec<f64> = mine.map(|i| cells.metrics[1].effect[i].unwrap()).collect();
    assert_eq!(effect.data, crate::export::array::ArrayData::F64(expected));
    assert!(!shapes(&dense).keys().any(|name| name.starts_with("columns/")));
    assert!(!found.iter().any(|array| array.name.contains("prob:target")));
    assert_eq!(shapes(&grouped())["groups/pun/averages/mlp/prob:target/n"], [3, 5]);
}

#[test]
fn a_sweep_without_cases_or_cells_still_has_files() {
    let mut outcome = Example { cases: 1, layers: 2, ..Example::default() }.outcome();
    outcome.cells = Some(Cells::default());
    outcome.averages = Averages::default();
    for (_, table) in Table::ALL {
        for format in [Format::Csv, Format::Jsonl, Format::Parquet] {
            render(&outcome, format, Some(table), &Show::default()).unwrap();
        }
    }
    for format in [Format::Npz, Format::Safetensors] {
        render(&outcome, format, None, &Show::default()).unwrap();
    }
    let error = picture(&outcome, &Show::default(), Format::Svg).unwrap_err();
    assert!(error.to_string().contains("no case was kept"), "{error}");
}

#[test]
fn what_cannot_be_given_says_what_can() {
    let mut outcome = grouped();
    outcome.cells = None;
    let told = |found: Result<Vec<u8>, RenderError>| {
        let problem = found.unwrap_err().problem().unwrap();
        (problem.pointer, problem.fix)
    };
    let (pointer, fix) = told(render(&outcome, Format::Csv, Some(Table::Cells), &Show::default()));
    assert_eq!(
        (pointer.as_str(), fix.as_str()),
        ("?table", "write one of averages, cases, differences, top")
    );
    assert_eq!(told(render(&outcome, Format::Npz, Some(Table::Cases), &Show::default())).0, "?table");
    let (pointer, fix) = told(render(&outcome, Format::Csv, None, &of(Some("prob:x"))));
    assert_eq!((pointer.as_str(), fix.as_str()), ("?metric", "write one of prob:target, logit:target"));
    let by = vec![Key::Arm, Key::Layer, Key::Head];
    let heads =
        || Example { arms: vec![("heads", &["layer", "head"])], layers: 3, cases: 3, ..Example::default() };
    let two = Example { by: by.clone(), ..heads() }.outcome();
    let (pointer, fix) = told(picture(&two, &as_plot(Some(Plot::Bars)), Format::Svg));
    assert_eq!((pointer.as_str(), fix.as_str()), ("?kind", "write `heatmap`"));
    let arms: Vec<(&'static str, &'static [&'static str])> = vec![("all", &["layer", "position", "head"])];
    let three =
        Example { arms, by: [by, vec![Key::TokenClass]].concat(), layers: 3, cases: 3, ..Example::default() };
    for kind in [None, Some(Plot::Bars), Some(Plot::Heatmap)] {
        assert_eq!(told(picture(&three.outcome(), &as_plot(kind), Format::Svg)).0, "?kind");
    }
}

#[test]
fn a_plain_picture_is_bars_and_one_by_class_a_heatmap() {
    let svg = |outcome: &SweepOutcome, kind| {
        String::from_utf8(picture(outcome, &as_plot(kind), Format::Svg).unwrap()).unwrap()
    };
    let plain = Example { by: vec![Key::Arm, Key::Layer], ..Example::default() }.outcome();
    let bars = svg(&plain, None);
    assert_eq!(bars, svg(&plain, Some(Plot::Bars)));
    let row = &plain.averages.rows[0];
    let [low, high] = row.effect.ci_t.unwrap();
    assert!(
        bars.contains(&format!("0, mlp: {:?} [{low:?}, {high:?}]", row.effect.mean.unwrap())),
        "exact tooltips"
    );
    assert!(bars.contains("mean\u{a0}over\u{a0}positions") && bars.contains("11\u{a0}of\u{a0}12\u{a0}cases"));
    let classes = Example::default().outcome();
    assert_eq!(svg(&classes, None), svg(&classes, Some(Plot::Heatmap)));
    let panels = svg(&classes, Some(Plot::Bars));
    assert!(panels.contains(">last subject<") && panels.contains(">last<"));
    assert!(
        panels.contains("trivial: the answer of the source by construction"),
        "of the second panel alone"
    );
}

#[test]
fn groups_have_panels_of_their_own_beside_all_cases_and_one_asked_for_stands_alone() {
    let outcome = grouped();
    let metric = outcome.metrics[0].clone();
    let panels = |show: &Show| -> Vec<String> {
        let arms = arm::drawn(&outcome, &metric, show).unwrap();
        heatmaps::of(&outcome, &metric, &arms).unwrap().panels.into_iter().map(|panel| panel.title).collect()
    };
    let (all, arms) = (panels(&Show::default()), outcome.arms.len());
    for group in ["all cases", "pun", "literal"] {
        let own = all.iter().filter(|title| title.contains(&format!(", {group}:"))).count();
        assert_eq!(own, arms, "{group}: {all:?}");
    }
    assert_eq!(all.len(), 3 * arms);
    let one = panels(&Show { group: Some("pun".into()), ..Show::default() });
    assert!(one.len() == arms && one.iter().all(|title| title.contains(", pun:")), "{one:?}");
}

#[test]
fn awkward_sweeps_are_drawn_or_say_why_not() {
    for (name, example) in gallery::all() {
        let outcome = example.outcome();
        let drawn = picture(&outcome, &Show::default(), Format::Svg)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let svg = String::from_utf8(drawn).unwrap();
        assert!(!svg.contains("NaN"), "{name}");
        resvg::usvg::roxmltree::Document::parse(&svg).unwrap();
    }
    let hatched = picture(&gallery::with_nulls(), &Show::default(), Format::Svg).unwrap();
    assert!(String::from_utf8(hatched).unwrap().contains("not finite"));
}
