//! Averages against pandas, NumPy and `SciPy`: `tests/python/make_average_golden.py`.

use serde_json::Value;

use super::*;
use crate::effect::cells::{ArmHead, CaseHead, CaseRun, Cells, MetricColumns};
use crate::effect::flips::SignFlips;
use crate::effect::stats::Estimate;
use crate::spec::select::TokenClass;
use crate::spec::statistics::Stat;
use crate::spec::sweep::Order;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/averages.json")).unwrap()
}

fn rows<'g>(golden: &'g Value, name: &str) -> Vec<&'g [Value]> {
    golden[name].as_array().unwrap().iter().map(|row| row.as_array().unwrap().as_slice()).collect()
}

fn int(value: &Value) -> Option<u32> {
    value.as_u64().map(|n| u32::try_from(n).unwrap())
}

fn observed(golden: &Value) -> (Observed, How) {
    let arm = |name: &str| ArmHead {
        name: name.into(),
        axes: vec!["layer".into(), "position".into()],
        sites: vec![],
        base: "corrupted".into(),
        reference: Some("clean".into()),
    };
    let case = |case: &Value| {
        let total = |i: usize| vec![Estimate { mean: case["total"][i].as_f64(), se: None }];
        CaseHead {
            id: case["id"].as_str().unwrap().into(),
            group: case["group"].as_str().map(Into::into),
            kept: case["kept"].as_bool().unwrap(),
            dropped: vec![],
            answers: None,
            runs: Vec::<CaseRun>::new(),
            subject: None,
            total_effect: vec![total(0), total(1)],
        }
    };
    let mut cells = Cells { metrics: vec![MetricColumns::default()], ..Cells::default() };
    for row in rows(golden, "cells") {
        cells.case.push(int(&row[0]).unwrap());
        cells.arm.push(int(&row[1]).unwrap());
        cells.layer.push(int(&row[2]));
        cells.position.push(int(&row[3]));
        cells.token_class.push(int(&row[4]).map(|class| class as u8));
        cells.head.push(None);
        cells.dim.push(None);
        cells.source_layer.push(None);
        cells.trivial.push(Some(row[6] == 1));
        cells.exact_null.push(Some(row[7] == 1));
        cells.metrics[0].effect.push(row[5].as_f64());
        cells.metrics[0].value.push(None);
        cells.metrics[0].effect_se.push(None);
    }
    let how = &golden["how"];
    let how = How {
        by: vec![Key::Arm, Key::Layer, Key::TokenClass, Key::Group],
        resamples: int(&how["resamples"]).unwrap(),
        seed: how["seed"].as_u64().unwrap(),
        level: how["level"].as_f64().unwrap(),
        stats: vec![Stat::Median, Stat::TrimmedMean],
        order: Order::Effect,
        topk: int(&how["top_k"]),
        compare_arms: true,
    };
    let cases = golden["cases"].as_array().unwrap().iter().map(case).collect();
    (
        Observed {
            metrics: vec!["prob:target".into()],
            arms: vec![arm("mlp"), arm("attn")],
            cases,
            cells,
            sampled: Vec::new(),
        },
        how,
    )
}

fn near(found: Option<f64>, expected: &Value, what: &dyn std::fmt::Debug) {
    match (found, expected.as_f64()) {
        (None, None) => {}
        (Some(a), Some(b)) => assert!((a - b).abs() <= 1e-11 * b.abs().max(1.0), "{a} {b} {what:?}"),
        (a, b) => panic!("{a:?} {b:?} {what:?}"),
    }
}

fn interval(found: Option<[f64; 2]>, expected: &Value, what: &dyn std::fmt::Debug) {
    for end in 0..2 {
        near(found.map(|ci| ci[end]), &expected[end], what);
    }
}

/// `[mean, se, ci, n, ci_t]`
fn estimate(found: &CaseEstimate, expected: &[Value], what: &dyn std::fmt::Debug) {
    interval(found.ci_t, &expected[4], what);
    near(found.mean, &expected[0], what);
    near(found.se, &expected[1], what);
    interval(found.ci, &expected[2], what);
    assert_eq!(found.n as u64, expected[3].as_u64().unwrap(), "{what:?}");
}

fn place(arm: &Value, layer: &Value, class: &Value) -> Place {
    Place {
        arm: if arm == 0 { "mlp" } else { "attn" }.into(),
        layer: int(layer),
        token_class: Some(TokenClass::ALL[int(class).unwrap() as usize].0.into()),
        ..Place::default()
    }
}

#[test]
fn means_intervals_and_recovery_by_class_and_group_are_numpys() {
    let golden = golden();
    let (observed, how) = observed(&golden);
    let found = averages(&observed, &how);
    assert_eq!((found.kept, found.dropped), (11, 1));
    let expected = rows(&golden, "rows");
    assert_eq!(found.rows.len(), expected.len());
    for (row, golden) in found.rows.iter().zip(expected) {
        let group = golden[0].as_str().map(Into::into);
        assert_eq!(row.at, Place { group, ..place(&golden[1], &golden[2], &golden[3]) });
        estimate(&row.effect, &golden[4..9], &row.at);
        near(row.recovery, &golden[9], &row.at);
        interval(row.recovery_ci, &golden[10], &row.at);
        assert_eq!(
            (row.cells as u64, row.trivial as u64),
            (golden[11].as_u64().unwrap(), golden[12].as_u64().unwrap())
        );
        let robust = row.effect.robust.unwrap();
        near(robust.median, &golden[13], &row.at);
        interval(robust.median_ci, &golden[14], &row.at);
        near(robust.trimmed_mean, &golden[15], &row.at);
        interval(robust.trimmed_mean_ci, &golden[16], &row.at);
    }
    for (total, golden) in found.totals.iter().zip(rows(&golden, "totals")) {
        assert_eq!(total.group.as_deref(), golden[0].as_str());
        estimate(&total.total_effect, &golden[2..], total);
    }
}

#[test]
fn groups_are_drawn_apart_and_arms_together_as_by_numpy() {
    let golden = golden();
    let (observed, how) = observed(&golden);
    let found = averages(&observed, &how).differences;
    let groups: Vec<&Difference> = found.iter().filter(|d| d.over == Key::Group).collect();
    assert_eq!(groups.len(), rows(&golden, "groups").len());
    for (one, golden) in groups.iter().zip(rows(&golden, "groups")) {
        assert_eq!((one.a.as_str(), one.b.as_str()), ("pun", "literal"));
        assert_eq!(one.at, place(&golden[0], &golden[1], &golden[2]));
        estimate(&one.difference, &golden[3..], one);
    }
    let arms: Vec<&Difference> =
        found.iter().filter(|d| d.over == Key::Arm && d.at.group.is_none()).collect();
    assert_eq!(arms.len(), rows(&golden, "arms").len());
    for (one, golden) in arms.iter().zip(rows(&golden, "arms")) {
        assert_eq!((one.a.as_str(), one.b.as_str()), ("mlp", "attn"));
        let at = place(&Value::from(0), &golden[0], &golden[1]);
        assert_eq!(one.at, Place { arm: String::new(), ..at });
        estimate(&one.difference, &golden[2..], one);
    }
}

#[test]
fn the_strongest_and_their_adjusted_p_values_are_numpys() {
    let golden = golden();
    let (observed, how) = observed(&golden);
    for (order, name) in [(Order::Effect, "top"), (Order::T, "top_by_t")] {
        let found = averages(&observed, &How { order, ..how.clone() });
        assert_eq!(found.top.len(), 3);
        for (top, golden) in found.top.iter().zip(rows(&golden, name)) {
            assert_eq!(top.at, place(&golden[0], &golden[1], &golden[2]));
            near(Some(top.mean), &golden[3], top);
            near(top.se, &golden[4], top);
            assert_eq!(top.n as u64, golden[5].as_u64().unwrap());
            near(top.t, &golden[6], top);
            near(top.p_max_t, &golden[7], top);
            near(top.stability, &golden[8], top);
        }
        let expected = SignFlips { cases: 11, patterns: 1024, exact: true, smallest_p: 1.0 / 1024.0 };
        assert_eq!(found.test, Some(expected));
    }
}

#[test]
fn p_values_of_one_average_alone_are_scipys() {
    let golden = golden();
    let (observed, how) = observed(&golden);
    let mut tested = 0;
    for golden in rows(&golden, "alone") {
        let [arm, layer, class] = [0, 1, 2].map(|i| int(&golden[i]));
        // The same sweep with the cells of one place only.
        let mut alone = Observed { cells: Cells::default(), ..observed.clone() };
        alone.cells.metrics = vec![MetricColumns::default()];
        let (all, cells) = (&observed.cells, &mut alone.cells);
        let own = |i: &usize| {
            Some(all.arm[*i]) == arm && all.layer[*i] == layer && all.token_class[*i].map(u32::from) == class
        };
        for i in (0..all.len()).filter(own) {
            cells.case.push(all.case[i]);
            cells.arm.push(all.arm[i]);
            cells.layer.push(all.layer[i]);
            cells.position.push(all.position[i]);
            cells.token_class.push(all.token_class[i]);
            cells.head.push(None);
            cells.dim.push(None);
            cells.source_layer.push(None);
            cells.trivial.push(all.trivial[i]);
            cells.exact_null.push(all.exact_null[i]);
            cells.metrics[0].effect.push(all.metrics[0].effect[i]);
            cells.metrics[0].value.push(None);
            cells.metrics[0].effect_se.push(None);
        }
        let found = averages(&alone, &how);
        near(found.top[0].p_max_t, &golden[3], &found.top[0]);
        tested += 1;
    }
    assert!(tested > 15, "{tested}");
}

#[test]
fn intervals_are_scipys_within_monte_carlo_error() {
    let golden = golden();
    let (observed, how) = observed(&golden);
    let found = averages(&observed, &How { resamples: 20_000, ..how });
    for golden in rows(&golden, "scipy") {
        let at = place(&golden[0], &golden[1], &golden[2]);
        let row = found.rows.iter().find(|row| row.at == at).unwrap();
        let (ci, se) = (row.effect.ci.unwrap(), row.effect.se.unwrap());
        for end in 0..2 {
            // The 5 % quantile of 20 000 draws varies by 0.015 standard errors; four of these.
            let off = (ci[end] - golden[3 + end].as_f64().unwrap()) / se;
            assert!(off.abs() < 0.06, "{at:?} {off}");
        }
    }
}
