//! A trace's JSON response as a heatmap for the terminal.

use serde_json::Value;

use super::numbers::{flat, items};
use mediant::draw::heatmap::{Cell, Column, Heatmap, Reference};

/// Effects of one arm on one metric.
pub(crate) fn of_arm(response: &Value, arm: &str, metric: &str, what: &str) -> Heatmap {
    let of = &response["arms"][arm];
    let (nulls, trivial) = (&of["masks"]["exact_null"], &of["masks"]["trivial"]);
    let axis = |name: &str| {
        let found = items(&of["axes"]).iter().find(|axis| axis["name"] == name);
        found.map(|axis| items(&axis["values"]).to_vec()).unwrap_or_default()
    };
    let rows = items(&of["effects"][metric]["mean"]).iter().enumerate();
    let cells = rows.map(|(y, row)| {
        let cell = |(x, value): (usize, Option<f64>)| Cell {
            value,
            // What is known beforehand is null only where there is no number.
            not_finite: value.is_none() && trivial[y][x].is_null(),
            exact_null: nulls[y][x] == true,
            trivial: trivial[y][x] == true,
        };
        flat(row).into_iter().enumerate().map(cell).collect()
    });
    let column = |position: &Value| {
        let token = &response["tokens"][position.as_u64().unwrap_or(0) as usize];
        Column {
            text: token["text"].as_str().unwrap_or_default().to_owned(),
            marked: token["corrupted"] == true,
        }
    };
    let window = of["window"].as_u64().unwrap_or(1);
    let site = of["site"].as_str().unwrap_or_default();
    let together = if window > 1 { format!(", {window} layers together") } else { String::new() };
    let reference =
        |label: &str, value: &Value| value.as_f64().map(|value| Reference { label: label.to_owned(), value });
    let references = [
        reference("clean", &response["baselines"]["clean"][metric]),
        reference("corrupted", &response["baselines"]["corrupted"][metric]["mean"]),
    ];
    Heatmap {
        title: format!("{arm}: clean {site} restored{together}"),
        subtitle: String::new(),
        references: references.into_iter().flatten().collect(),
        rows: axis("layer").iter().map(ToString::to_string).collect(),
        columns: axis("position").iter().map(column).collect(),
        cells: cells.collect(),
        y_label: "layer".to_owned(),
        x_label: "token".to_owned(),
        value_label: format!("effect on {what}"),
        mark_label: "corrupted".to_owned(),
        ..Heatmap::default()
    }
}
