//! What a sweep has found so far, without intervals: cheap enough to tell whenever a chunk is done.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::compute::plain_mean;
use super::table::Table;
use super::{How, Key};
use crate::effect::cells::Observed;

/// Means over the cases that have cells so far: `{"cases": n, "means": [..]}` with, of each arm and metric, `peak`, the
/// average with the largest |mean| (its place `at`, and `mean`), trivial ones apart, null where none has a mean; and
/// `by_layer`, the mean of each layer's cells, `{"layers": [..], "mean": [..]}`, left out of arms without layers.
pub fn running(observed: &Observed, how: &How) -> Value {
    let table = Table::new(observed, &how.by);
    let layers = Table::new(observed, &[Key::Arm, Key::Layer]);
    let mut seen = vec![false; observed.cases.len()];
    for case in &observed.cells.case {
        seen[*case as usize] = true;
    }
    let mut means = Vec::new();
    for (i, arm) in (0_u32..).zip(&observed.arms) {
        for (j, metric) in observed.metrics.iter().enumerate() {
            let places = table.places.iter().filter(|place| {
                place.key.arm == i && place.entries.iter().any(|entry| entry.trivial < entry.cells)
            });
            let places = places.filter_map(|place| Some((place, plain_mean(place, j).mean?)));
            let peak = places.reduce(|best, next| if next.1.abs() > best.1.abs() { next } else { best });
            let peak = peak.map(|(place, mean)| json!({"at": table.place(&place.key), "mean": mean}));
            let mut one = json!({"arm": arm.name, "metric": metric, "peak": peak});
            let by_layer: BTreeMap<u32, Option<f64>> = layers
                .places
                .iter()
                .filter(|place| place.key.arm == i)
                .filter_map(|place| Some((place.key.layer?, plain_mean(place, j).mean)))
                .collect();
            if !by_layer.is_empty() {
                let (layers, mean): (Vec<u32>, Vec<Option<f64>>) = by_layer.into_iter().unzip();
                one["by_layer"] = json!({"layers": layers, "mean": mean});
            }
            means.push(one);
        }
    }
    json!({"cases": seen.iter().filter(|seen| **seen).count(), "means": means})
}
