//! What an answer is made of: its form, what of it is shown, its bytes.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::IntoParams;

use super::encoding::negotiate;
use super::kept::Results;
use super::packing;
use super::problem::{Kind, Problem};
use crate::capacity::{Abandoned, InEngine, Lane, Share};
use crate::result::plates::{Plot, Show};
use crate::result::render::{Answer, Format, RenderError};
use crate::result::sweep::Table;
use crate::spec::problem::{Problems, code};
use crate::spec::select::TokenClass;

/// Characters of a title, at most.
const LONGEST_TITLE: usize = 300;

/// The form of a result.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents a parameter")]
pub(super) struct FormatParam {
    /// json, csv, jsonl, parquet, npz, safetensors, svg or png; else by Accept
    format: Option<String>,
}

/// The table of a sweep's result.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents a parameter")]
pub(super) struct TableParam {
    /// Of the jsonl, csv and parquet of a sweep: averages (by default), cells, cases, differences or top
    table: Option<String>,
}

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

/// In which form a result is asked for.
pub(super) struct Asked {
    pub(super) format: Format,
    /// Of a sweep.
    pub(super) table: Option<Table>,
    pub(super) show: Show,
}

impl Asked {
    /// Reads it from the query, or from `Accept`; one of `served`.
    ///
    /// # Errors
    /// A value that is not known, or a choice that the form does not have.
    pub(super) fn of(
        headers: &HeaderMap,
        mut query: BTreeMap<String, String>,
        served: &[Format],
    ) -> Result<Self, Problem> {
        let format = negotiate(headers, query.get("format").map(String::as_str), served)?;
        let table = query.get("table").map(|name| one_of("table", name, &Table::ALL)).transpose()?;
        if table.is_some() && !format.is_table() {
            let detail = format!("{} has no table to choose", format.name());
            let fix = "leave it out, or ask for csv, jsonl or parquet";
            let problem = Problem::new(Kind::InvalidRequest, format!("?table: {detail}; {fix}"));
            return Err(problem.error("?table", code::NOT_SUPPORTED, detail, fix));
        }
        Ok(Self { format, table, show: show(&mut query, format)? })
    }

    /// Makes an answer on a thread where it may take its time: a picture takes a good part of a second. The memory is held
    /// until the client has taken the last byte.
    pub(super) async fn answer(
        self,
        share: Share,
        encode: impl FnOnce(&Self) -> Result<Vec<u8>, RenderError> + Send + 'static,
    ) -> Result<Response, Problem> {
        let format = self.format;
        let bytes = share.run(Lane::Finish, move |_: &Abandoned| encode(&self)).await?;
        Ok(tied(format, bytes, share))
    }

    /// The same of a result that was just computed, which is kept for its other forms.
    pub(super) async fn answer_with(
        self,
        mut result: impl Answer,
        share: Share,
        results: Results,
    ) -> Result<Response, Problem> {
        let (owner, fresh) = (share.owner().clone(), share.wants_fresh());
        share.stays_light(self.format == Format::Json);
        let encode = move |asked: &Self| {
            result.rendered().fill_plots();
            let result = result.shared();
            let bytes = result.render(asked.format, &asked.show)?;
            if !fresh {
                let json = if asked.format == Format::Json { bytes.len() } else { result.json().len() };
                results.keep(&owner, result, json);
            }
            Ok(bytes)
        };
        self.answer(share, encode).await
    }
}

impl From<RenderError> for Problem {
    fn from(error: RenderError) -> Self {
        match error.problem() {
            Some(problem) => Problems(vec![problem]).into(),
            None => Self::new(Kind::Internal, error.to_string()),
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
fn show(query: &mut BTreeMap<String, String>, format: Format) -> Result<Show, Problem> {
    let given: Vec<&str> = ShowParams::NAMES.into_iter().filter(|name| query.contains_key(*name)).collect();
    let params = ShowParams::of(query);
    let mut out = Problems::default();
    for name in given {
        // Tables and files have a metric, too; all else is of pictures.
        let fix = match name {
            "metric" if format == Format::Json => "leave it out, or ask for csv, jsonl or parquet",
            "metric" => continue,
            _ if format.is_picture() => continue,
            _ => "leave it out, or ask for svg or png",
        };
        out.push(
            format!("?{name}"),
            code::NOT_SUPPORTED,
            format!("{} has no {name} to choose", format.name()),
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

/// One of a few words, if it is there.
pub(super) fn chosen<T: Copy>(
    name: &str,
    value: Option<&str>,
    choices: &[(&'static str, T)],
    out: &mut Problems,
) -> Option<T> {
    let value = value?;
    let found = choices.iter().find(|(word, _)| *word == value).map(|(_, found)| *found);
    if found.is_none() {
        let shown: String = value.chars().take(48).collect();
        out.push(format!("?{name}"), code::UNKNOWN_VALUE, format!("{shown:?} is not known"), fix_of(choices));
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

/// An answer in bytes, which hold the request's memory until the client has taken them.
pub(super) fn tied(format: Format, bytes: Vec<u8>, share: Share) -> Response {
    let (length, holds, in_engine) = (bytes.len(), share.clone(), share.in_engine());
    let body = Body::from(Bytes::from_owner(share.tie(bytes)));
    let mut response = (StatusCode::OK, [(header::CONTENT_TYPE, format.media_type())], body).into_response();
    packing::mark(&mut response, format, length, &holds);
    if let Some(in_engine) = in_engine {
        response.extensions_mut().insert(InEngine(in_engine));
    }
    response
}
