//! Pictures of what clean runs were read for: the logit lens, attention patterns, direct logit attribution.

use super::common::TopToken;
use super::inside::{AttentionResult, AttributionResult, LensResult};
use super::phrases;
use super::pictures::{DOT, PictureRequestError, arrangement};
use super::plates::{Picture, Plate, Plot};
use super::run::{RunResponse, RunResult};
use crate::draw::MAX_MARKS;
use crate::draw::bars::{Bar, Bars, Baseline, Series};
use crate::draw::heatmap::{Cell, Column, Figure, Heatmap};
use crate::tokens::Token;

/// The pictures of every run: of the lens the probability of the most probable token and each metric, of attention one for
/// each entry of the request.
///
/// # Errors
/// [`PictureRequestError::NoReadout`]: there is nothing to draw.
pub(super) fn run_plates(response: &RunResponse) -> Result<Vec<Plate>, PictureRequestError> {
    let mut plates = Vec::new();
    let several = response.runs.0.len() > 1;
    for (name, run) in response.runs.iter() {
        let subtitle = |more: Vec<String>| {
            let prompt = phrases::prompt(run.tokens.tokens.iter());
            let prompt = if several { format!("{name}: {prompt}") } else { prompt };
            let parts = [response.model.clone(), prompt].into_iter().chain(more);
            parts.chain(phrases::warnings(&response.lints)).collect::<Vec<_>>().join(DOT)
        };
        let mut add = |kind, metric: Option<&str>, parts, picture| {
            let (run, metric) = (Some(name.to_owned()), metric.map(str::to_owned));
            plates.push(Plate { kind, metric, run, group: None, parts, picture });
        };
        if let Some(lens) = &run.logit_lens {
            add(Plot::Lens, None, Vec::new(), Picture::Figure(lens_figure(run, lens, &subtitle)));
            for (key, values) in lens.metrics.iter() {
                let what = phrases::metric(key, &response.request.experiment, &response.targets);
                let figure = lens_metric(run, lens, (&what, &values.data), &subtitle);
                add(Plot::Lens, Some(key), Vec::new(), Picture::Figure(figure));
            }
        }
        for attention in &run.attention {
            let (figure, parts) = attention_figure(run, attention, &subtitle);
            add(Plot::Attention, None, parts, Picture::Figure(figure));
        }
        if let Some(attribution) = &run.attribution {
            let what = phrases::logit(&attribution.target, &response.targets);
            let picture = attribution_picture(run, (attribution, &what), &subtitle);
            add(Plot::Attribution, None, Vec::new(), picture);
        }
    }
    if plates.is_empty() { Err(PictureRequestError::NoReadout) } else { Ok(plates) }
}

fn column(tokens: &[Token], position: u32) -> Column {
    let text = tokens.get(position as usize).map_or_else(|| position.to_string(), |token| token.text.clone());
    Column { text, marked: false }
}

fn numbers(list: &[u32]) -> Vec<String> {
    list.iter().map(u32::to_string).collect()
}

/// Layers up, positions right; the most probable token in each cell.
fn lens_grid(run: &RunResult, lens: &LensResult, value: impl Fn(usize) -> Cell) -> Heatmap {
    let across = lens.positions.len();
    let rows = 0..lens.layers.len();
    let first = |at: usize| Some(lens.topk.data[at].as_ref()?.first()?.text.clone());
    let at = move |row: usize| (0..across).map(move |column| row * across + column);
    Heatmap {
        cells: rows.clone().map(|row| at(row).map(&value).collect()).collect(),
        texts: rows.map(|row| at(row).map(|at| first(at).unwrap_or_default()).collect()).collect(),
        rows: numbers(&lens.layers),
        columns: lens.positions.iter().map(|at| column(&run.tokens.tokens, *at)).collect(),
        y_label: "layer".to_owned(),
        ..Heatmap::default()
    }
}

fn lens_figure(run: &RunResult, lens: &LensResult, subtitle: &dyn Fn(Vec<String>) -> String) -> Figure {
    let probability = |top: &Option<Vec<TopToken>>| top.as_ref()?.first()?.prob;
    let panel = lens_grid(run, lens, |at| {
        let value = probability(&lens.topk.data[at]);
        Cell { value, not_finite: value.is_none(), ..Cell::default() }
    });
    Figure {
        title: "Logit lens: the most probable next token".to_owned(),
        subtitle: subtitle(vec![
            "each layer\u{2019}s residual stream read as if it were the last".to_owned(),
        ]),
        panels: vec![Heatmap { value_label: "its probability".to_owned(), ..panel }],
        from_zero: true,
        scale_end: Some(1.0),
        ..Figure::default()
    }
}

fn lens_metric(
    run: &RunResult,
    lens: &LensResult,
    (what, values): (&str, &[Option<f64>]),
    subtitle: &dyn Fn(Vec<String>) -> String,
) -> Figure {
    let panel = lens_grid(run, lens, |at| Cell {
        value: values[at],
        not_finite: values[at].is_none(),
        ..Cell::default()
    });
    let probability = values.iter().flatten().all(|value| (0.0..=1.0).contains(value));
    Figure {
        title: format!("Logit lens: {what}"),
        subtitle: subtitle(vec!["in each cell the most probable next token".to_owned()]),
        panels: vec![Heatmap { value_label: what.to_owned(), ..panel }],
        from_zero: probability,
        ..Figure::default()
    }
}

/// One panel a head, queries down in reading order, keys right. As many heads as one picture can hold.
fn attention_figure(
    run: &RunResult,
    attention: &AttentionResult,
    subtitle: &dyn Fn(Vec<String>) -> String,
) -> (Figure, Vec<String>) {
    let (queries, keys) = (attention.positions.len(), attention.values.shape[3]);
    let size = queries * keys;
    let heads =
        attention.layers.iter().flat_map(|layer| attention.heads.iter().map(move |head| (layer, head)));
    let all = attention.layers.len() * attention.heads.len();
    let held = all.min(MAX_MARKS / size.max(1)).max(1);
    let tokens = &run.tokens.tokens;
    let panels: Vec<(String, Heatmap)> = heads
        .enumerate()
        .take(held)
        .map(|(at, (layer, head))| {
            let row = |query: usize| {
                let from = at * size + query * keys;
                attention.values.data[from..from + keys].iter().map(|weight| Cell {
                    value: weight.map(f64::from),
                    not_finite: weight.is_none(),
                    ..Cell::default()
                })
            };
            let panel = Heatmap {
                title: format!("layer {layer}, head {head}"),
                // The first is drawn at the bottom.
                cells: (0..queries).rev().map(|query| row(query).collect()).collect(),
                rows: attention.positions.iter().rev().map(|at| column(tokens, *at).text).collect(),
                columns: (0..keys as u32).map(|at| column(tokens, at)).collect(),
                y_label: "query".to_owned(),
                x_label: "key".to_owned(),
                value_label: "attention weight".to_owned(),
                ..Heatmap::default()
            };
            (format!("L{layer}H{head}"), panel)
        })
        .collect();
    let (parts, panels): (Vec<String>, Vec<Heatmap>) = panels.into_iter().unzip();
    let cut =
        (held < all).then(|| format!("the first {held} of {all} heads; name fewer in `read.attention`"));
    let figure = Figure {
        title: "Attention patterns".to_owned(),
        subtitle: subtitle(cut.into_iter().collect()),
        arrangement: arrangement(&panels, None),
        panels,
        shared_scale: true,
        from_zero: true,
        scale_end: Some(1.0),
    };
    (figure, parts)
}

/// Bars by layer; with heads a heatmap of layers by heads and MLP.
fn attribution_picture(
    run: &RunResult,
    (found, what): (&AttributionResult, &str),
    subtitle: &dyn Fn(Vec<String>) -> String,
) -> Picture {
    let layers = found.attn_out.len();
    let at = column(&run.tokens.tokens, found.position).text;
    let title = format!("Direct logit attribution: {what} after {at:?}");
    let alone = [
        ("logit", found.logit),
        ("embed", found.embed),
        ("positions", found.positions.filter(|share| *share != 0.0)),
        ("bias", found.bias.filter(|share| *share != 0.0)),
    ];
    let shares = alone.iter().filter(|(_, share)| share.is_some());
    let subtitle = subtitle(shares.map(|(name, share)| phrases::number(name, *share)).collect());
    let value_label = format!("share of {what}");
    let Some(heads) = &found.heads else {
        let series = |name: &str, shares: &[Option<f64>]| Series {
            name: name.to_owned(),
            bars: shares
                .iter()
                .map(|share| Bar { value: *share, not_finite: share.is_none(), ..Bar::default() })
                .collect(),
        };
        return Picture::Bars(Bars {
            title,
            subtitle,
            labels: (0..layers).map(|layer| layer.to_string()).collect(),
            x_label: "layer".to_owned(),
            value_label,
            series: vec![series("attention", &found.attn_out), series("MLP", &found.mlp_out)],
            baselines: found
                .embed
                .map(|value| Baseline { label: "embed".to_owned(), value })
                .into_iter()
                .collect(),
            ..Bars::default()
        });
    };
    let across = heads.shape[1];
    let cell = |value: Option<f64>| Cell { value, not_finite: value.is_none(), ..Cell::default() };
    let row = |layer: usize| {
        let heads = (0..across).map(|head| heads.data[layer * across + head]);
        let bias = found.attn_bias.iter().map(|shares| shares[layer]);
        heads.chain(bias).chain([found.mlp_out[layer]]).map(cell).collect()
    };
    let named = |text: &str| Column { text: text.to_owned(), marked: false };
    let mut columns: Vec<Column> = (0..across).map(|head| named(&head.to_string())).collect();
    columns.extend(found.attn_bias.iter().map(|_| named("bias")));
    columns.push(named("MLP"));
    let panel = Heatmap {
        cells: (0..layers).map(row).collect(),
        rows: (0..layers).map(|layer| layer.to_string()).collect(),
        columns,
        y_label: "layer".to_owned(),
        x_label: "head".to_owned(),
        value_label,
        ..Heatmap::default()
    };
    Picture::Figure(Figure { title, subtitle, panels: vec![panel], ..Figure::default() })
}
