//! Answers for people: tables, bars and maps in the terminal.

use std::io;

use mediant::draw::heatmap::{Cell, Column, Heatmap};
use mediant::draw::label::visible;
use serde_json::Value;

use crate::screen::Align::{Left, Right};
use crate::screen::numbers::{Mean, flat, items, short, signed, with_error};
use crate::screen::{Screen, map};

/// Averages shown of a sweep.
const STRONGEST: usize = 15;
/// Columns of the longest bar.
const BAR: f64 = 16.0;

/// The most probable tokens and the metrics of every run.
pub(super) fn runs(screen: &mut Screen, answer: &Value) -> io::Result<()> {
    for (name, run) in fields(&answer["runs"]) {
        if answer["runs"].as_object().is_some_and(|runs| runs.len() > 1) {
            screen.heading(name)?;
        }
        let rows: Vec<Vec<String>> = items(&run["topk"])
            .iter()
            .map(|token| {
                let prob = token["prob"].as_f64();
                vec![token["rank"].to_string(), word(token), percent(prob), bar(prob.unwrap_or(0.0))]
            })
            .collect();
        screen.table(&[("rank", Right), ("token", Left), ("probability", Right), ("", Left)], &rows)?;
        metrics(screen, &run["metrics"])?;
    }
    Ok(())
}

fn metrics(screen: &mut Screen, of: &Value) -> io::Result<()> {
    let said: Vec<String> =
        fields(of).map(|(name, value)| format!("{name} {}", short(value.as_f64()))).collect();
    if said.is_empty() { Ok(()) } else { screen.say(&said.join(", ")) }
}

/// Of one position a line for each layer, the last first; of several a grid of the most probable tokens.
pub(super) fn lens(screen: &mut Screen, answer: &Value) -> io::Result<()> {
    for (_, run) in fields(&answer["runs"]) {
        let lens = &run["logit_lens"];
        let layers = items(&lens["layers"]);
        let positions = items(&lens["positions"]);
        let token = |position: &Value| word(&run["tokens"][position.as_u64().unwrap_or(0) as usize]);
        if let [position] = positions {
            screen.say(&format!("at {position} ({})", token(position)))?;
            let rows: Vec<Vec<String>> = (0..layers.len())
                .rev()
                .map(|y| {
                    let best = items(&lens["topk"][y][0]).iter();
                    let best: Vec<String> =
                        best.map(|t| format!("{} {}", word(t), percent(t["prob"].as_f64()))).collect();
                    vec![layers[y].to_string(), short(lens["entropy"][y][0].as_f64()), best.join("   ")]
                })
                .collect();
            screen.table(&[("layer", Right), ("entropy", Right), ("most probable", Left)], &rows)?;
            continue;
        }
        let names: Vec<String> = positions.iter().map(token).collect();
        let head: Vec<_> =
            [("", Right)].into_iter().chain(names.iter().map(|name| (name.as_str(), Left))).collect();
        let rows: Vec<Vec<String>> = (0..layers.len())
            .rev()
            .map(|y| {
                let best = (0..positions.len()).map(|x| word(&lens["topk"][y][x][0]));
                [layers[y].to_string()].into_iter().chain(best).collect()
            })
            .collect();
        screen.table(&head, &rows)?;
    }
    Ok(())
}

/// A map for each arm, what the noise does, and the strongest cell.
pub(super) fn trace(screen: &mut Screen, answer: &Value) -> io::Result<()> {
    let metric = answer["request"]["metrics"][0].as_str().unwrap_or_default();
    for (arm, of) in fields(&answer["arms"]) {
        screen.heatmap(&map::of_arm(answer, arm, metric, metric))?;
        let best = &of["argmax"][metric];
        if let (Some(layer), Some(position)) = (best["layer"].as_u64(), best["position"].as_u64()) {
            let row = place(&of["axes"], "layer", layer);
            let column = place(&of["axes"], "position", position);
            let se = row.zip(column).and_then(|(y, x)| of["effects"][metric]["se"][y][x].as_f64());
            let mean = best["effect"].as_f64().map(|mean| Mean { mean, se });
            let token = word(&answer["tokens"][position as usize]);
            let said = format!("strongest: {arm}, layer {layer}, {token}: {}", with_error(mean));
            screen.say(&said)?;
        }
    }
    let corrupted = &answer["baselines"]["corrupted"][metric];
    let of = corrupted["mean"].as_f64().map(|mean| Mean { mean, se: corrupted["se"].as_f64() });
    let clean = short(answer["baselines"]["clean"][metric].as_f64());
    screen.gap()?;
    let corrupted = with_error(of);
    screen.say(&format!("{metric}: clean {clean}, corrupted {}", corrupted.trim_start_matches('+')))
}

/// Of one axis a line for each cell; of two a map.
pub(super) fn patch(screen: &mut Screen, answer: &Value) -> io::Result<()> {
    let metric = answer["request"]["metrics"][0].as_str().unwrap_or_default();
    let (values, effects) = (flat(&answer["values"][metric]), flat(&answer["effects"][metric]));
    match items(&answer["axes"]) {
        [] => screen.say(&format!("{metric} {}, effect {}", first(&values), sign_of(&effects)))?,
        [axis] => {
            let name = axis["name"].as_str().unwrap_or_default();
            let (zero, one) = ends(&answer["baselines"], metric);
            let rows: Vec<Vec<String>> = items(&axis["values"])
                .iter()
                .enumerate()
                .map(|(i, at)| {
                    let value = values.get(i).copied().flatten();
                    let mark = if answer["masks"]["trivial"][i] == true { "trivial" } else { "" };
                    let top = word(&answer["topk"][i][0]);
                    let effect = signed(effects.get(i).copied().flatten());
                    vec![at.to_string(), short(value), effect, top, along(value, zero, one), mark.to_owned()]
                })
                .collect();
            let head =
                [(name, Right), (metric, Right), ("effect", Right), ("says", Left), ("", Left), ("", Left)];
            screen.table(&head, &rows)?;
        }
        [down, across] => screen.heatmap(&grid(answer, metric, down, across))?,
        _ => screen.say("a grid of more than two axes: --format csv shows it")?,
    }
    for (run, of) in fields(&answer["baselines"]) {
        screen.say(&format!("{run}: {metric} {}", short(of[metric].as_f64())))?;
    }
    for (what, said) in [("leaves_base", "leaves the base at"), ("reaches_source", "reaches the source at")] {
        let lasting = &answer["derived"][what][0]["lasting"];
        if let Some(layer) = lasting["layer"].as_u64() {
            screen.say(&format!("{said} layer {layer} ({})", word(&lasting["token"])))?;
        }
    }
    Ok(())
}

fn grid(answer: &Value, metric: &str, down: &Value, across: &Value) -> Heatmap {
    let names = |axis: &Value| items(&axis["values"]).iter().map(ToString::to_string).collect::<Vec<_>>();
    let masks = &answer["masks"];
    let rows = items(&answer["effects"][metric]).iter().enumerate();
    let cells = rows.map(|(y, row)| {
        let cell = |(x, value): (usize, Option<f64>)| Cell {
            value,
            not_finite: value.is_none(),
            exact_null: masks["exact_null"][y][x] == true,
            trivial: masks["trivial"][y][x] == true,
        };
        flat(row).into_iter().enumerate().map(cell).collect()
    });
    Heatmap {
        title: format!("effect on {metric}"),
        rows: names(down),
        columns: names(across).into_iter().map(|text| Column { text, marked: false }).collect(),
        cells: cells.collect(),
        y_label: down["name"].as_str().unwrap_or_default().to_owned(),
        x_label: across["name"].as_str().unwrap_or_default().to_owned(),
        value_label: format!("effect on {metric}"),
        ..Heatmap::default()
    }
}

/// What was kept, and the largest averages of the first metric.
pub(super) fn sweep(screen: &mut Screen, answer: &Value) -> io::Result<()> {
    let averages = &answer["averages"];
    let metric = answer["metrics"][0].as_str().unwrap_or_default();
    screen.say(&format!("{} cases kept, {} dropped", averages["kept"], averages["dropped"]))?;
    for case in items(&answer["cases"]).iter().filter(|case| case["kept"] == false) {
        let why: Vec<&str> = items(&case["dropped"])
            .iter()
            .filter_map(|why| why["detail"].as_str().or(why.as_str()))
            .collect();
        screen.say(&format!("dropped {}: {}", text(&case["id"]), why.join("; ")))?;
    }
    for total in items(&averages["totals"]).iter().filter(|total| total["metric"] == metric) {
        let of = &total["total_effect"];
        let group = total["group"].as_str().map(|group| format!(", {group}")).unwrap_or_default();
        let said =
            format!("{}{group}: total effect on {metric} {}", text(&total["arm"]), with_error(mean(of)));
        screen.say(&said)?;
    }
    let by: Vec<&str> = items(&averages["by"]).iter().filter_map(Value::as_str).collect();
    let mut rows: Vec<&Value> =
        items(&averages["rows"]).iter().filter(|row| row["metric"] == metric).collect();
    let size = |row: &Value| row["effect"]["mean"].as_f64().map_or(-1.0, f64::abs);
    rows.sort_by(|a, b| size(b).total_cmp(&size(a)));
    let all = rows.len();
    if all == 0 {
        return Ok(());
    }
    rows.truncate(STRONGEST);
    let head: Vec<_> = by
        .iter()
        .map(|axis| (*axis, Left))
        .chain([("effect", Right), ("recovery", Right), ("n", Right)])
        .collect();
    let shown: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let axes =
                by.iter().map(|axis| if row[*axis].is_null() { String::new() } else { text(&row[*axis]) });
            let numbers = [
                with_error(mean(&row["effect"])),
                short(row["recovery"].as_f64()),
                row["effect"]["n"].to_string(),
            ];
            axes.chain(numbers).collect()
        })
        .collect();
    screen.gap()?;
    screen.say(&format!("the {} largest of {all} averages of {metric}:", rows.len()))?;
    screen.table(&head, &shown)
}

/// One text as it stands, several with their branches.
pub(super) fn texts(screen: &mut Screen, answer: &Value) -> io::Result<()> {
    let prompt = text(&answer["prompt"]["text"]);
    let all: Vec<(&String, usize, &Value)> = fields(&answer["branches"])
        .flat_map(|(branch, of)| {
            items(&of["samples"]).iter().enumerate().map(move |(i, one)| (branch, i, one))
        })
        .collect();
    if let [(_, _, only)] = all[..] {
        return screen.line(&format!("{prompt}{}", text(&only["text"])));
    }
    for (branch, sample, one) in all {
        screen.gap()?;
        screen.say(&format!("{branch}, text {sample} (ends by {}):", text(&one["finish"])))?;
        screen.line(&text(&one["text"]))?;
    }
    Ok(())
}

/// What a request would do and cost.
pub(super) fn plan(screen: &mut Screen, answer: &Value) -> io::Result<()> {
    let cost = &answer["cost"];
    let megabytes = cost["peak_bytes"].as_f64().map(|bytes| bytes / 1e6);
    let runs = answer["runs"].as_u64().map(|runs| format!("{runs} runs, ")).unwrap_or_default();
    let allowed = if answer["allowed"] == true { "allowed" } else { "not allowed" };
    let said = format!(
        "{}: {runs}{} rows, about {} s, {} MB, {allowed}",
        text(&answer["kind"]),
        cost["rows"],
        short(cost["seconds"].as_f64()),
        short(megabytes)
    );
    screen.say(&said)
}

/// The tokens with their positions, and the positions of spans.
pub(super) fn tokens(screen: &mut Screen, answer: &Value) -> io::Result<()> {
    let tokens = items(&answer["tokens"]);
    let rows: Vec<Vec<String>> = tokens
        .iter()
        .enumerate()
        .map(|(i, token)| {
            let spans = fields(&answer["spans"]).filter(|(_, span)| {
                let end = |at: usize| span[at].as_u64().unwrap_or(0) as usize;
                (end(0)..end(1)).contains(&i)
            });
            let spans: Vec<&str> = spans.map(|(name, _)| name.as_str()).collect();
            vec![i.to_string(), word(token), token["id"].to_string(), spans.join(", ")]
        })
        .collect();
    screen.table(&[("position", Right), ("token", Left), ("id", Right), ("span", Left)], &rows)?;
    let added: Vec<String> = items(&answer["continuation"]["tokens"]).iter().map(word).collect();
    if added.is_empty() { Ok(()) } else { screen.say(&format!("the continuation adds {}", added.join(" "))) }
}

fn fields(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A token whose spaces can be seen.
fn word(token: &Value) -> String {
    token["text"].as_str().map(visible).unwrap_or_default()
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// A bar of eighths of a column.
fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * BAR * 8.0).round() as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    format!("{}{rest}", "█".repeat(eighths / 8))
}

/// Where a value lies between what counts as 0 and what counts as 1.
fn along(value: Option<f64>, zero: Option<f64>, one: Option<f64>) -> String {
    let share = value.zip(zero).zip(one).map(|((value, zero), one)| (value - zero) / (one - zero));
    share.filter(|share| share.is_finite()).map(bar).unwrap_or_default()
}

fn ends(baselines: &Value, metric: &str) -> (Option<f64>, Option<f64>) {
    (baselines["base"][metric].as_f64(), baselines["source"][metric].as_f64())
}

fn mean(of: &Value) -> Option<Mean> {
    of["mean"].as_f64().map(|mean| Mean { mean, se: of["se"].as_f64() })
}

fn first(values: &[Option<f64>]) -> String {
    short(values.first().copied().flatten())
}

fn sign_of(values: &[Option<f64>]) -> String {
    signed(values.first().copied().flatten())
}

/// The index of a value on an axis.
fn place(axes: &Value, name: &str, value: u64) -> Option<usize> {
    let axis = items(axes).iter().find(|axis| axis["name"] == name)?;
    items(&axis["values"]).iter().position(|at| at.as_u64() == Some(value))
}
