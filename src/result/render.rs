//! Responses in the formats beside JSON.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use serde::Serialize;
use utoipa::ToSchema;

use super::cases::CasesResponse;
pub use super::format::{Format, RenderError};
use super::patch::PatchResponse;
use super::pictures::{PictureRequestError, chosen, patch_plates, trace_plates};
use super::plates::{Pictures, Show};
use super::run::RunResponse;
use super::run_plates::run_plates;
use super::trace::TraceResponse;
use super::{cases_render, files, tables};
use crate::draw::PictureError;
use crate::draw::raster::RasterError;
use crate::export::array::{ArrayData, NamedArray};
use crate::export::csv::Column;
use crate::export::{csv, jsonl, npz, parquet, safetensors};
use crate::lower::lint::{Lint, Severity};
use crate::plan::output::Usage;
use crate::spec::named::Named;
use crate::spec::problem::{FieldProblem, code};
use crate::spec::trace::PlotFormat;

fn names(formats: &[Format]) -> String {
    formats.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ")
}

impl RenderError {
    /// What the caller can change, as a problem of the query parameters `?metric` or `?format`; `None`: a fault of the
    /// server.
    pub fn problem(&self) -> Option<FieldProblem> {
        let numbers = || format!("ask for numbers: {}", names(&Format::NUMBERS));
        let (pointer, code, fix) = match self {
            Self::Request(PictureRequestError::Unknown { parameter, known, .. }) => {
                let fix = if known.is_empty() {
                    format!("leave `{parameter}` out")
                } else {
                    format!("write one of {}", known.join(", "))
                };
                return Some(self.at(&format!("?{parameter}"), code::UNKNOWN_NAME, fix));
            }
            Self::Request(PictureRequestError::NotHere { parameter, .. }) => {
                let fix = format!("leave `{parameter}` out");
                return Some(self.at(&format!("?{parameter}"), code::NOT_SUPPORTED, fix));
            }
            Self::Request(PictureRequestError::NoReadout) => {
                let fix =
                    "add `logit_lens`, `attention` or `attribution` to `read`, or ".to_owned() + &numbers();
                ("?format", code::NOT_SUPPORTED, fix)
            }
            Self::Request(PictureRequestError::NoMetrics | PictureRequestError::NoCells { .. }) => {
                ("?format", code::EMPTY, numbers())
            }
            Self::Request(PictureRequestError::TooManyAxes { .. }) => {
                ("?format", code::NOT_SUPPORTED, format!("sweep two axes, or {}", numbers()))
            }
            Self::Table { fix, .. } => ("?table", code::NOT_SUPPORTED, fix.clone()),
            Self::Plot { fix, .. } => ("?kind", code::NOT_SUPPORTED, (*fix).to_owned()),
            Self::Picture(PictureError::TooMany { .. }) => ("?format", code::LIMIT, numbers()),
            Self::Raster(RasterError::Size { .. }) => {
                ("?format", code::LIMIT, format!("ask for svg, or {}", numbers()))
            }
            Self::Picture(_) | Self::Raster(_) | Self::Encode(_) => return None,
        };
        Some(self.at(pointer, code, fix))
    }

    fn at(&self, pointer: &str, code: &'static str, fix: String) -> FieldProblem {
        FieldProblem { pointer: pointer.to_owned(), code, detail: self.to_string(), fix }
    }
}

/// Whatever has a form in JSON.
pub trait Json {
    /// It.
    fn json(&self) -> Vec<u8>;
}

impl<T: Serialize> Json for T {
    fn json(&self) -> Vec<u8> {
        json(self)
    }
}

/// A response that has other forms than JSON.
pub trait Rendered: Json {
    /// Names of its metrics.
    fn metrics(&self) -> Vec<&str>;
    /// Its numbers as a table, of one metric or of all.
    fn table(&self, metric: Option<&str>) -> Vec<Column>;
    /// Its numbers as arrays, of one metric or of all.
    fn arrays(&self, metric: Option<&str>) -> Vec<NamedArray>;
    /// Where its numbers come from.
    fn metadata(&self) -> BTreeMap<String, String>;
    /// Everything that can be drawn of it.
    ///
    /// # Errors
    /// [`PictureRequestError`]: there is nothing.
    fn pictures(&self) -> Result<Pictures, PictureRequestError>;

    /// What it cost.
    fn usage(&self) -> Usage;

    /// The pictures that the request wants inside of the response.
    fn plot(&self) -> &[PlotFormat] {
        &[]
    }

    /// Puts pictures, and remarks on those that can't be drawn, into the response.
    fn set_plots(&mut self, _: Named<String>, _: Vec<Lint>) {}

    /// Draws the pictures that the request's `plot` asks for, of the first metric. One that can't be drawn becomes the lint
    /// `NO_PICTURE`: the numbers are worth having without it.
    fn fill_plots(&mut self) {
        let (plots, failed) = drawn(self, self.plot());
        self.set_plots(plots, failed);
    }

    /// The response in `format`. Tables and arrays have all metrics, unless one is asked for.
    ///
    /// # Errors
    /// [`RenderError`]; those with a [`RenderError::problem`] are the caller's.
    fn render(&self, format: Format, show: &Show) -> Result<Vec<u8>, RenderError> {
        let metric = show.metric.as_deref();
        if format.is_picture() {
            return self.pictures()?.draw(show, format);
        }
        check_metric(metric, &self.metrics())?;
        match format {
            Format::Json => Ok(self.json()),
            Format::Csv => Ok(csv::write(&self.table(metric))?),
            Format::Jsonl => {
                let mut out = Vec::new();
                jsonl::append(&mut out, &self.table(metric))?;
                Ok(out)
            }
            Format::Parquet => Ok(parquet::write([self.table(metric)], &self.metadata())?),
            Format::Npz => numpy(self.arrays(metric), &self.metadata()),
            Format::Safetensors | Format::Svg | Format::Png => tensors(self.arrays(metric), &self.metadata()),
        }
    }
}

impl Rendered for TraceResponse {
    fn metrics(&self) -> Vec<&str> {
        self.total_effect.names()
    }

    fn table(&self, metric: Option<&str>) -> Vec<Column> {
        tables::trace_table(self, metric)
    }

    fn arrays(&self, metric: Option<&str>) -> Vec<NamedArray> {
        files::trace_arrays(self, metric)
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        files::trace_metadata(self)
    }

    fn pictures(&self) -> Result<Pictures, PictureRequestError> {
        trace_plates(self).map(Pictures)
    }

    fn usage(&self) -> Usage {
        self.usage
    }

    fn plot(&self) -> &[PlotFormat] {
        &self.request.plot
    }

    fn set_plots(&mut self, plots: Named<String>, failed: Vec<Lint>) {
        self.plots = plots;
        self.lints.extend(failed);
    }
}

impl Rendered for CasesResponse {
    fn metrics(&self) -> Vec<&str> {
        self.total_effect.names()
    }

    fn table(&self, metric: Option<&str>) -> Vec<Column> {
        cases_render::table(self, metric)
    }

    fn arrays(&self, metric: Option<&str>) -> Vec<NamedArray> {
        cases_render::arrays(self, metric)
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        cases_render::cases_metadata(self)
    }

    fn pictures(&self) -> Result<Pictures, PictureRequestError> {
        cases_render::plates(self).map(Pictures)
    }

    fn usage(&self) -> Usage {
        self.usage
    }

    fn plot(&self) -> &[PlotFormat] {
        &self.request.plot
    }

    fn set_plots(&mut self, plots: Named<String>, failed: Vec<Lint>) {
        self.plots = plots;
        self.lints.extend(failed);
    }
}

/// An answer of `POST /v1/trace`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TraceAnswer {
    /// Of one prompt.
    One(Box<TraceResponse>),
    /// Of `cases`.
    Cases(Box<CasesResponse>),
}

/// Whatever an experiment is answered with.
pub trait Answer: Serialize + Send + 'static {
    /// The response that it is.
    fn rendered(&mut self) -> &mut dyn Rendered;
}

impl<R: Rendered + Serialize + Send + 'static> Answer for R {
    fn rendered(&mut self) -> &mut dyn Rendered {
        self
    }
}

impl Answer for TraceAnswer {
    fn rendered(&mut self) -> &mut dyn Rendered {
        match self {
            Self::One(response) => &mut **response,
            Self::Cases(response) => &mut **response,
        }
    }
}

impl Rendered for PatchResponse {
    fn metrics(&self) -> Vec<&str> {
        self.values.names()
    }

    fn table(&self, metric: Option<&str>) -> Vec<Column> {
        tables::patch_table(self, metric)
    }

    fn arrays(&self, metric: Option<&str>) -> Vec<NamedArray> {
        files::patch_arrays(self, metric)
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        files::patch_metadata(self)
    }

    fn pictures(&self) -> Result<Pictures, PictureRequestError> {
        patch_plates(self).map(Pictures)
    }

    fn usage(&self) -> Usage {
        self.usage
    }
}

impl Rendered for RunResponse {
    fn metrics(&self) -> Vec<&str> {
        // Every run has the same metrics.
        self.runs.0.first().map(|(_, run)| run.metrics.names()).unwrap_or_default()
    }

    fn table(&self, metric: Option<&str>) -> Vec<Column> {
        tables::run_table(self, metric)
    }

    fn arrays(&self, metric: Option<&str>) -> Vec<NamedArray> {
        files::run_arrays(self, metric)
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        files::run_metadata(self)
    }

    fn pictures(&self) -> Result<Pictures, PictureRequestError> {
        run_plates(self).map(Pictures)
    }

    fn usage(&self) -> Usage {
        self.usage
    }
}

/// A metric that is named must exist, whatever the format.
pub(super) fn check_metric(asked: Option<&str>, known: &[&str]) -> Result<(), PictureRequestError> {
    if asked.is_some() { chosen(asked, known).map(|_| ()) } else { Ok(()) }
}

pub(super) fn numpy(
    mut arrays: Vec<NamedArray>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, RenderError> {
    arrays.push(files::metadata_array(metadata));
    Ok(npz::write(&arrays)?)
}

pub(super) fn tensors(
    mut arrays: Vec<NamedArray>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, RenderError> {
    arrays.retain(|array| !matches!(array.data, ArrayData::Text(_)));
    Ok(safetensors::write(&arrays, metadata)?)
}

/// Pictures in these formats, and remarks on those that can't be drawn.
fn drawn(response: &(impl Rendered + ?Sized), formats: &[PlotFormat]) -> (Named<String>, Vec<Lint>) {
    let draw =
        |format| -> Result<Vec<u8>, RenderError> { response.pictures()?.draw(&Show::default(), format) };
    let (mut plots, mut lints): (Named<String>, Vec<Lint>) = (Named::default(), Vec::new());
    for format in formats {
        let (name, picture) = match format {
            PlotFormat::Svg => ("svg", draw(Format::Svg).map(text)),
            PlotFormat::Png => ("png", draw(Format::Png).map(|png| STANDARD.encode(png))),
        };
        if plots.get(name).is_some() {
            continue;
        }
        match picture {
            Ok(picture) => plots.0.push((name.to_owned(), picture)),
            Err(error) => {
                let fix = error.problem().map_or_else(|| "ask for the numbers".to_owned(), |p| p.fix);
                let (pointer, detail) = ("/plot".to_owned(), format!("no {name}: {error}"));
                let severity = Severity::Info;
                lints.push(Lint { code: "NO_PICTURE", severity, pointer, detail, fix });
            }
        }
    }
    (plots, lints)
}

fn text(svg: Vec<u8>) -> String {
    String::from_utf8(svg).expect("BUG: pictures are drawn as text")
}

/// A result as JSON.
///
/// # Panics
/// It has keys that are not strings; no result has.
pub fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("BUG: results have string keys and finite numbers")
}
