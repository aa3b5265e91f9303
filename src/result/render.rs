//! Responses in the formats beside JSON.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use serde::Serialize;
use utoipa::ToSchema;

use super::cases::CasesResponse;
pub use super::format::{Format, RenderError};
use super::numbers::Numbers;
use super::patch::PatchResponse;
use super::pictures::{PictureRequestError, patch_plates, trace_plates};
use super::plates::{Pictures, Show};
use super::run::RunResponse;
use super::run_plates::run_plates;
use super::trace::TraceResponse;
use super::{cases_render, files, tables};
use crate::draw::PictureError;
use crate::draw::raster::RasterError;
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

/// Where a response has the pictures that its request wants inside of it.
pub struct Plots<'r> {
    /// Their forms.
    pub wanted: &'r [PlotFormat],
    /// The pictures.
    pub plots: &'r mut Named<String>,
    /// Remarks, on those that can't be drawn, too.
    pub lints: &'r mut Vec<Lint>,
}

/// A response that has other forms than JSON.
pub trait Rendered: Json + std::fmt::Debug {
    /// Its id.
    fn id(&self) -> &str;

    /// Its numbers.
    fn numbers(&self) -> Numbers;

    /// Everything that can be drawn of it.
    ///
    /// # Errors
    /// [`PictureRequestError`]: there is nothing.
    fn pictures(&self) -> Result<Pictures, PictureRequestError>;

    /// What it cost.
    fn usage(&self) -> Usage;

    /// Its own pictures, if it may have some.
    fn plots(&mut self) -> Option<Plots<'_>> {
        None
    }

    /// Draws the pictures that the request's `plot` asks for, of the first metric. One that can't be drawn becomes the lint
    /// `NO_PICTURE`: the numbers are worth having without it.
    fn fill_plots(&mut self) {
        let wanted = self.plots().map(|own| own.wanted.to_vec()).unwrap_or_default();
        let (drawn, failed) = drawn(self, &wanted);
        if let Some(own) = self.plots() {
            *own.plots = drawn;
            own.lints.extend(failed);
        }
    }

    /// The response in `format`. Tables and arrays have all metrics, unless one is asked for.
    ///
    /// # Errors
    /// [`RenderError`]; those with a [`RenderError::problem`] are the caller's.
    fn render(&self, format: Format, show: &Show) -> Result<Vec<u8>, RenderError> {
        match format {
            Format::Json => Ok(self.json()),
            Format::Svg | Format::Png => self.pictures()?.draw(show, format),
            _ => self.numbers().write(format, show.metric.as_deref()),
        }
    }
}

/// What all responses say in one way: their numbers and pictures from these functions, and their cost.
macro_rules! rendered {
    ($($Response:ty: $metrics:expr, $table:path, $arrays:path, $metadata:path, $plates:path $(, $plots:ident)?;)*) => {$(
        impl Rendered for $Response {
            fn id(&self) -> &str {
                &self.id
            }

            fn numbers(&self) -> Numbers {
                let metrics: fn(&Self) -> Vec<&str> = $metrics;
                Numbers {
                    metrics: metrics(self).into_iter().map(str::to_owned).collect(),
                    table: $table(self),
                    arrays: $arrays(self),
                    metadata: $metadata(self),
                }
            }

            fn pictures(&self) -> Result<Pictures, PictureRequestError> {
                $plates(self).map(Pictures)
            }

            fn usage(&self) -> Usage {
                self.usage
            }

            $(fn plots(&mut self) -> Option<Plots<'_>> {
                let (wanted, lints) = (&self.request.plot, &mut self.lints);
                Some(Plots { wanted, plots: &mut self.$plots, lints })
            })?
        }
    )*};
}

pub(super) use rendered;

rendered! {
    TraceResponse: |trace| trace.total_effect.names(),
        tables::trace_table, files::trace_arrays, files::trace_metadata, trace_plates, plots;
    CasesResponse: |cases| cases.total_effect.names(),
        cases_render::table, cases_render::arrays, cases_render::cases_metadata, cases_render::plates, plots;
    PatchResponse: |patch| patch.values.names(),
        tables::patch_table, files::patch_arrays, files::patch_metadata, patch_plates;
    // Every run has the same metrics.
    RunResponse: |run| run.runs.0.first().map(|(_, run)| run.metrics.names()).unwrap_or_default(),
        tables::run_table, files::run_arrays, files::run_metadata, run_plates;
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

    /// The same, to be kept.
    fn shared(self) -> Arc<dyn Rendered + Send + Sync>;
}

impl<R: Rendered + Serialize + Send + Sync + 'static> Answer for R {
    fn rendered(&mut self) -> &mut dyn Rendered {
        self
    }

    fn shared(self) -> Arc<dyn Rendered + Send + Sync> {
        Arc::new(self)
    }
}

impl Answer for TraceAnswer {
    fn rendered(&mut self) -> &mut dyn Rendered {
        match self {
            Self::One(response) => &mut **response,
            Self::Cases(response) => &mut **response,
        }
    }

    fn shared(self) -> Arc<dyn Rendered + Send + Sync> {
        match self {
            Self::One(response) => Arc::from(response as Box<dyn Rendered + Send + Sync>),
            Self::Cases(response) => Arc::from(response as Box<dyn Rendered + Send + Sync>),
        }
    }
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
                lints.push(Lint { code: "NO_PICTURE", severity, pointer, detail, fix, apply: Vec::new() });
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
