//! What an answer is made of: its form, what of it is shown, its bytes.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::IntoParams;

use super::encoding::Encoding;
use super::packing;
use super::problem::{Kind, Problem};
use crate::capacity::Share;
use crate::result::plates::{Plot, Show};
use crate::result::render::Format;
use crate::spec::problem::{Problems, code};
use crate::spec::select::TokenClass;

/// Characters of a title, at most.
const LONGEST_TITLE: usize = 300;

/// What is shown of a result. All but `metric` are of pictures.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowParams {
    /// The metric drawn (the first by default), or the one metric of a table or file (all by default)
    metric: Option<String>,
    /// The kind of picture: bars or heatmap; of a run lens, attention or attribution. What suits the result by default
    kind: Option<String>,
    /// Of a sweep with groups: the group drawn; all cases and every group by default
    group: Option<String>,
    /// Of a sweep averaged by token class: the class drawn
    token_class: Option<String>,
    /// The arm drawn; all by default. Of attention patterns the head, as L3H5
    arm: Option<String>,
    /// Of clean runs: the run drawn; the first by default
    run: Option<String>,
    /// The picture's first line
    title: Option<String>,
    /// The end of the colour scale, or how far the y axis of bars reaches, for pictures that are to be compared
    vmax: Option<String>,
}

impl ShowParams {
    /// The names of its parameters.
    pub(super) const NAMES: [&str; 8] =
        ["metric", "kind", "group", "token_class", "arm", "run", "title", "vmax"];

    fn of(query: &mut BTreeMap<String, String>) -> Self {
        Self {
            metric: query.remove("metric"),
            kind: query.remove("kind"),
            group: query.remove("group"),
            token_class: query.remove("token_class"),
            arm: query.remove("arm"),
            run: query.remove("run"),
            title: query.remove("title"),
            vmax: query.remove("vmax"),
        }
    }
}

/// The names of parameters, those of [`ShowParams`] among them.
pub(super) fn with_show(own: &[&'static str]) -> Vec<&'static str> {
    own.iter().copied().chain(ShowParams::NAMES).collect()
}

/// What a request wants to be shown in a form.
///
/// # Errors
/// A value that is not known, or a choice that the form does not have.
pub(super) fn show(query: &mut BTreeMap<String, String>, encoding: Encoding) -> Result<Show, Problem> {
    let given: Vec<&str> = ShowParams::NAMES.into_iter().filter(|name| query.contains_key(*name)).collect();
    let params = ShowParams::of(query);
    let mut out = Problems::default();
    let is_picture = matches!(encoding, Encoding::Svg | Encoding::Png);
    for name in given {
        // Tables and files have a metric, too; all else is of pictures.
        let fix = match name {
            "metric" if encoding == Encoding::Json => "leave it out, or ask for csv, jsonl or parquet",
            "metric" => continue,
            _ if is_picture => continue,
            _ => "leave it out, or ask for svg or png",
        };
        out.push(
            format!("?{name}"),
            code::NOT_SUPPORTED,
            format!("{} has no {name} to choose", encoding.name()),
            fix,
        );
    }
    let vmax = params.vmax.as_ref().and_then(|text| {
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
        if number.is_none() {
            let detail = format!("{text:?} is no end of a scale");
            out.push("?vmax", code::UNKNOWN_VALUE, detail, "write a number above 0, as 0.5");
        }
        number
    });
    if params.title.as_ref().is_some_and(|title| title.chars().count() > LONGEST_TITLE) {
        let detail = format!("the title has more than {LONGEST_TITLE} characters");
        out.push("?title", code::LIMIT, detail, "shorten it");
    }
    let kind = chosen("kind", params.kind.as_deref(), &Plot::ALL, &mut out);
    let token_class = chosen("token_class", params.token_class.as_deref(), &TokenClass::ALL, &mut out);
    if !out.is_empty() {
        return Err(out.into());
    }
    let ShowParams { metric, group, arm, run, title, .. } = params;
    Ok(Show { metric, kind, group, token_class, arm, run, title, vmax })
}

fn chosen<T: Copy>(
    name: &str,
    value: Option<&str>,
    choices: &[(&'static str, T)],
    out: &mut Problems,
) -> Option<T> {
    let value = value?;
    let found = choices.iter().find(|(word, _)| *word == value).map(|(_, found)| *found);
    if found.is_none() {
        out.push(format!("?{name}"), code::UNKNOWN_VALUE, format!("{value:?} is not known"), fix_of(choices));
    }
    found
}

fn fix_of<T>(choices: &[(&'static str, T)]) -> String {
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    format!("write one of {}", words.join(", "))
}

/// One of a few words in the query.
pub(super) fn one_of<T: Copy>(name: &str, value: &str, choices: &[(&'static str, T)]) -> Result<T, Problem> {
    let mut out = Problems::default();
    chosen(name, Some(value), choices, &mut out).ok_or_else(|| {
        let problem = out.0.remove(0);
        let detail = format!("{}: {}; {}", problem.pointer, problem.detail, problem.fix);
        Problem::new(Kind::InvalidRequest, detail).error(
            problem.pointer,
            problem.code,
            problem.detail,
            problem.fix,
        )
    })
}

/// The format of a form; JSON has none.
pub(super) const fn format(encoding: Encoding) -> Option<Format> {
    match encoding {
        Encoding::Json => None,
        Encoding::Csv => Some(Format::Csv),
        Encoding::Npz => Some(Format::Npz),
        Encoding::Safetensors => Some(Format::Safetensors),
        Encoding::Jsonl => Some(Format::Jsonl),
        Encoding::Parquet => Some(Format::Parquet),
        Encoding::Svg => Some(Format::Svg),
        Encoding::Png => Some(Format::Png),
    }
}

/// An answer in bytes, which hold the request's memory until the client has taken them.
pub(super) fn tied(encoding: Encoding, bytes: Vec<u8>, share: Share) -> Response {
    let (length, holds) = (bytes.len(), share.clone());
    let body = Body::from(Bytes::from_owner(share.tie(bytes)));
    let mut response =
        (StatusCode::OK, [(header::CONTENT_TYPE, encoding.media_type())], body).into_response();
    packing::mark(&mut response, encoding, length, &holds);
    response
}
