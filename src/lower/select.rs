//! Selections resolved to indices, every index checked.

use std::collections::HashSet;
use std::ops::Range;

use super::classes;
use super::token_run::TokenRun;
use crate::model::config::ModelConfig;
use crate::spec::problem::{Problems, code};
use crate::spec::read::did_you_mean;
use crate::spec::select::{AllWord, Dims, Heads, Layers, PositionWord, Positions};
use crate::spec::site::Site;

/// Layers of a model of `n`, in the order given.
pub(super) fn layers(spec: &Layers, n: u32, at: &str, out: &mut Problems) -> Option<Vec<u32>> {
    let beyond = |layer: u32, at: String, out: &mut Problems| {
        let detail = format!("layer {layer} of a model with {n} layers");
        out.push(at, code::OUT_OF_RANGE, detail, format!("use layers 0 to {}", n - 1));
    };
    match spec {
        // Which of them lie above is known cell by cell.
        Layers::Word(AllWord::All) | Layers::Above(_) => Some((0..n).collect()),
        Layers::One(layer) if *layer < n => Some(vec![*layer]),
        Layers::One(layer) => {
            beyond(*layer, at.to_owned(), out);
            None
        }
        Layers::Range { from, to, step } => {
            let to = to.unwrap_or(n);
            if *from >= n || to > n {
                let (layer, end) = if *from >= n { (*from, "from") } else { (to - 1, "to") };
                beyond(layer, format!("{at}/{end}"), out);
                return None;
            }
            Some((*from..to).step_by(*step as usize).collect())
        }
        Layers::List(list) => {
            for (i, layer) in list.iter().enumerate().filter(|(_, layer)| **layer >= n) {
                beyond(*layer, format!("{at}/{i}"), out);
            }
            unique(list, at, "layer", out).filter(|list| list.iter().all(|layer| *layer < n))
        }
    }
}

/// Refuses a site that the served model does not have.
pub(super) fn site(site: Site, config: &ModelConfig, at: &str, out: &mut Problems) -> Option<()> {
    let Some(needs) = config.absent(site) else { return Some(()) };
    let (detail, fix) = needs.missing(site, config.family.name);
    out.push(at, code::NOT_SUPPORTED, detail, fix);
    None
}

/// Heads of a site with `n` of them.
pub(super) fn heads(spec: &Heads, n: u32, at: &str, out: &mut Problems) -> Option<Vec<u32>> {
    let list = match spec {
        Heads::Word(_) => return Some((0..n).collect()),
        Heads::One(head) => vec![*head],
        Heads::List(list) => list.clone(),
    };
    let mut ok = true;
    for (i, head) in list.iter().enumerate().filter(|(_, head)| **head >= n) {
        let at = if matches!(spec, Heads::One(_)) { at.to_owned() } else { format!("{at}/{i}") };
        out.push(at, code::OUT_OF_RANGE, format!("head {head} of {n}"), format!("use heads 0 to {}", n - 1));
        ok = false;
    }
    unique(&list, at, "head", out).filter(|_| ok)
}

/// One position of `len`, negative ones counted from the end.
pub(super) fn position(p: i64, len: u32, at: &str, out: &mut Problems) -> Option<u32> {
    let absolute = if p < 0 { p.checked_add(i64::from(len)) } else { Some(p) };
    match absolute {
        Some(p) if (0..i64::from(len)).contains(&p) => Some(p as u32),
        _ => {
            let detail = format!("position {p} of a prompt of {len} tokens");
            let fix = format!("use positions 0 to {}, or -1 to -{len} from the end", len - 1);
            out.push(at, code::OUT_OF_RANGE, detail, fix);
            None
        }
    }
}

/// A half-open range within `len` that isn't empty.
pub(super) fn within([start, end]: [i64; 2], len: u32, at: &str, out: &mut Problems) -> Option<Range<u32>> {
    let n = i64::from(len);
    let absolute = |p: i64| if p < 0 { p.saturating_add(n) } else { p };
    let (a, b) = (absolute(start), absolute(end));
    if a < 0 || b > n || a > n || b < 0 {
        let detail = format!("[{start}, {end}) of a prompt of {len} tokens");
        out.push(at, code::OUT_OF_RANGE, detail, format!("use ends from 0 to {len}"));
        return None;
    }
    if a >= b {
        let detail = format!("[{start}, {end}) holds no position");
        out.push(at, code::EMPTY, detail, "ranges are half-open: write the end above the start");
        return None;
    }
    Some(a as u32..b as u32)
}

/// Positions of a run, in the order given. Of a map, those written.
pub(super) fn positions(spec: &Positions, run: &TokenRun, at: &str, out: &mut Problems) -> Option<Vec<u32>> {
    let len = run.len();
    match spec {
        Positions::Word(PositionWord::All) => Some((0..len).collect()),
        Positions::Word(PositionWord::Last) => Some(vec![len - 1]),
        Positions::One(p) => Some(vec![position(*p, len, at, out)?]),
        Positions::Range { range } => within(*range, len, &format!("{at}/range"), out).map(Iterator::collect),
        Positions::Span { span, which } => {
            let Some(found) = run.spans.get(span) else {
                unknown_span(span, run, &format!("{at}/span"), out);
                return None;
            };
            Some(found.tokens(*which))
        }
        Positions::Class { class, span } => {
            let Some(found) = run.spans.get(span) else {
                unknown_span(span, run, &format!("{at}/class"), out);
                return None;
            };
            let Some(range) = found.range() else {
                let detail = format!("{span:?} is every occurrence of a text, and classes are around one");
                out.push(format!("{at}/class"), code::CONFLICT, detail, "name one occurrence of the text");
                return None;
            };
            let found = classes::positions(*class, &range, len);
            if found.is_empty() {
                let (detail, fix) = classes::absent(*class, span, &range, len);
                out.push(format!("{at}/class"), code::EMPTY, detail, fix);
                return None;
            }
            Some(found)
        }
        Positions::Steps { .. } | Positions::Joint(_) => {
            let detail = "steps are those of generated text, and a prompt has none";
            out.push(at, code::CONFLICT, detail, "name positions of the prompt");
            None
        }
        // Lowered to a map where both runs are known.
        Positions::Align { .. } => {
            let detail = "an alignment needs a source run";
            out.push(format!("{at}/align"), code::CONFLICT, detail, "name positions of this run");
            None
        }
        Positions::List(list) => {
            let found: Vec<u32> = list
                .iter()
                .enumerate()
                .filter_map(|(i, p)| position(*p, len, &format!("{at}/{i}"), out))
                .collect();
            unique(&found, at, "position", out).filter(|found| found.len() == list.len())
        }
        Positions::Map { map } => {
            let found: Vec<u32> = map
                .iter()
                .enumerate()
                .filter_map(|(i, pair)| position(pair[1], len, &format!("{at}/map/{i}/1"), out))
                .collect();
            unique(&found, &format!("{at}/map"), "destination", out).filter(|found| found.len() == map.len())
        }
    }
}

/// Positions of the source run that a map reads.
pub(super) fn map_sources(
    map: &[[i64; 2]],
    run: &TokenRun,
    at: &str,
    out: &mut Problems,
) -> Option<Vec<u32>> {
    let found: Vec<u32> = map
        .iter()
        .enumerate()
        .filter_map(|(i, pair)| position(pair[0], run.len(), &format!("{at}/map/{i}/0"), out))
        .collect();
    (found.len() == map.len()).then_some(found)
}

fn unknown_span(span: &str, run: &TokenRun, at: &str, out: &mut Problems) {
    let names = run.spans.names();
    let detail = format!("the run has no span called {span:?}{}", did_you_mean(span, &names));
    let fix = if names.is_empty() {
        format!("add \"spans\": {{{span:?}: \"its text\"}} to the run")
    } else {
        format!("its spans are {}", names.join(", "))
    };
    out.push(at, code::UNKNOWN_NAME, detail, fix);
}

fn unique(list: &[u32], at: &str, what: &str, out: &mut Problems) -> Option<Vec<u32>> {
    let mut seen = HashSet::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        if !seen.insert(*item) {
            let detail = format!("{what} {item} twice");
            out.push(format!("{at}/{i}"), code::DUPLICATE, detail, format!("list each {what} once"));
            return None;
        }
    }
    Some(list.to_vec())
}

/// Layers restored together around `layer`: `[l - w/2, l + ceil(w/2))` clipped to the model, as ROME does.
pub fn window(layer: u32, width: u32, n: u32) -> Range<u32> {
    layer.saturating_sub(width / 2)..n.min(layer.saturating_add(width.div_ceil(2)))
}

/// Columns of a part of `width` each.
pub(super) fn dims(spec: &Dims, width: u32, at: &str, out: &mut Problems) -> Option<Vec<u32>> {
    let list = match spec {
        Dims::One(dim) => vec![*dim],
        Dims::List(list) => list.clone(),
        Dims::Range { range: [start, end] } if *end <= width => (*start..*end).collect(),
        Dims::Range { range: [start, end] } => {
            let detail = format!("[{start}, {end}) of {width} columns");
            out.push(format!("{at}/range"), code::OUT_OF_RANGE, detail, format!("end at {width} or before"));
            return None;
        }
    };
    let mut ok = true;
    for (i, dim) in list.iter().enumerate().filter(|(_, dim)| **dim >= width) {
        let at = if matches!(spec, Dims::One(_)) { at.to_owned() } else { format!("{at}/{i}") };
        let fix = format!("use columns 0 to {}", width - 1);
        out.push(at, code::OUT_OF_RANGE, format!("column {dim} of {width}"), fix);
        ok = false;
    }
    unique(&list, at, "column", out).filter(|_| ok)
}

/// The given columns of the given parts (heads) of `part` columns each, of which a site has `n`; neighbours merged.
/// `[None]` for the whole width.
pub(super) fn columns(
    heads: Option<&[u32]>,
    dims: Option<&[u32]>,
    part: usize,
    n: usize,
) -> Vec<Option<Range<u32>>> {
    if heads.is_none() && dims.is_none() {
        return vec![None];
    }
    let all: Vec<u32> = (0..n as u32).collect();
    let mut heads = heads.unwrap_or(&all).to_vec();
    heads.sort_unstable();
    let part = part as u32;
    let mut ranges: Vec<Range<u32>> = Vec::new();
    let mut add = |range: Range<u32>| match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    };
    let mut dims = dims.map(<[u32]>::to_vec);
    if let Some(dims) = &mut dims {
        dims.sort_unstable();
    }
    for head in heads {
        match &dims {
            None => add(head * part..(head + 1) * part),
            Some(dims) => dims.iter().for_each(|dim| add(head * part + dim..head * part + dim + 1)),
        }
    }
    let whole = 0..part * n as u32;
    ranges.into_iter().map(|range| (range != whole).then_some(range)).collect()
}
