//! Responses in the formats beside JSON.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use serde::Serialize;
use utoipa::ToSchema;

use super::cases::CasesResponse;
use super::patch::PatchResponse;
use super::pictures::{PictureRequestError, chosen, of_patch, of_trace};
use super::run::RunResponse;
use super::trace::TraceResponse;
use super::{cases_render, files, tables};
use crate::draw::PictureError;
use crate::draw::raster::{self, RasterError};
use crate::export::array::{ArrayData, EncodeError, NamedArray};
use crate::export::{csv, npz, safetensors};
use crate::lower::lint::{Lint, Severity};
use crate::plan::output::Usage;
use crate::spec::named::Named;
use crate::spec::problem::{FieldProblem, code};
use crate::spec::trace::PlotFormat;

/// Pixels of a PNG per unit of its SVG.
pub(super) const PNG_SCALE: f32 = 2.0;

/// A format of a result beside JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A tidy table.
    Csv,
    /// `NumPy` arrays.
    Npz,
    /// Named tensors.
    Safetensors,
    /// A table, one JSON object a line.
    Jsonl,
    /// A table by columns.
    Parquet,
    /// Vector graphics.
    Svg,
    /// Pixels.
    Png,
}

impl Format {
    /// Those of a single response; tables by lines or columns are of sweeps.
    pub const ALL: [Self; 5] = [Self::Csv, Self::Npz, Self::Safetensors, Self::Svg, Self::Png];
    /// Those that carry numbers.
    pub const NUMBERS: [Self; 3] = [Self::Csv, Self::Npz, Self::Safetensors];

    /// Its name in `?format=`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Npz => "npz",
            Self::Safetensors => "safetensors",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::Svg => "svg",
            Self::Png => "png",
        }
    }
}

/// Why a response could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The picture asked for can't be of this response, or the metric isn't in it.
    #[error(transparent)]
    Request(#[from] PictureRequestError),
    /// A format that this kind of response doesn't have.
    #[error("this result has no {} form; it has {}", asked.name(), names(served))]
    Format {
        /// The format asked for.
        asked: Format,
        /// Those it has.
        served: &'static [Format],
    },
    /// A table that the result of a sweep doesn't have in this format.
    #[error("no table `{asked}`: {reason}")]
    Table {
        /// Its name.
        asked: &'static str,
        /// Why not.
        reason: &'static str,
        /// What to ask for.
        fix: String,
    },
    /// A kind of picture that can't be of these averages.
    #[error("no {asked}: {reason}")]
    Plot {
        /// Its name.
        asked: &'static str,
        /// Why not.
        reason: String,
        /// What to ask for.
        fix: &'static str,
    },
    /// The picture can't be drawn.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The picture can't be made of pixels.
    #[error(transparent)]
    Raster(#[from] RasterError),
    /// The numbers can't be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

fn names(formats: &[Format]) -> String {
    formats.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ")
}

impl RenderError {
    /// What the caller can change, as a problem of the query parameters `?metric` or `?format`; `None`: a fault of the
    /// server.
    pub fn problem(&self) -> Option<FieldProblem> {
        let numbers = || format!("ask for numbers: {}", names(&Format::NUMBERS));
        let (pointer, code, fix) = match self {
            Self::Request(PictureRequestError::UnknownMetric { known, .. }) if !known.is_empty() => {
                ("?metric", code::UNKNOWN_NAME, format!("write one of {}", known.join(", ")))
            }
            Self::Request(PictureRequestError::UnknownMetric { .. }) => {
                ("?metric", code::UNKNOWN_NAME, "leave `metric` out".to_owned())
            }
            Self::Request(PictureRequestError::NoMetrics | PictureRequestError::NoCells { .. }) => {
                ("?format", code::EMPTY, numbers())
            }
            Self::Request(PictureRequestError::TooManyAxes { .. }) => {
                ("?format", code::NOT_SUPPORTED, format!("sweep two axes, or {}", numbers()))
            }
            Self::Format { served, .. } => {
                ("?format", code::NOT_SUPPORTED, format!("write one of {}", names(served)))
            }
            Self::Table { fix, .. } => ("?table", code::NOT_SUPPORTED, fix.clone()),
            Self::Plot { fix, .. } => ("?kind", code::NOT_SUPPORTED, (*fix).to_owned()),
            Self::Picture(PictureError::TooMany { .. }) => ("?format", code::LIMIT, numbers()),
            Self::Raster(RasterError::Size { .. }) => {
                ("?format", code::LIMIT, format!("ask for svg, or {}", numbers()))
            }
            Self::Picture(_) | Self::Raster(_) | Self::Encode(_) => return None,
        };
        Some(FieldProblem { pointer: pointer.to_owned(), code, detail: self.to_string(), fix })
    }
}

/// A response that has other forms than JSON.
pub trait Rendered {
    /// The response in `format`. `metric`: the metric drawn, by default the first; tables and arrays have that one alone,
    /// by default all.
    ///
    /// # Errors
    /// [`RenderError`]; those with a [`RenderError::problem`] are the caller's.
    fn render(&self, format: Format, metric: Option<&str>) -> Result<Vec<u8>, RenderError>;
}

impl Rendered for TraceResponse {
    fn render(&self, format: Format, metric: Option<&str>) -> Result<Vec<u8>, RenderError> {
        check_metric(metric, &self.total_effect.names())?;
        match format {
            Format::Csv => Ok(csv::write(&tables::trace_table(self, metric))?),
            Format::Npz => numpy(files::trace_arrays(self, metric), &files::trace_metadata(self)),
            Format::Safetensors => tensors(files::trace_arrays(self, metric), &files::trace_metadata(self)),
            Format::Svg => Ok(of_trace(self, metric)?.to_svg()?.into_bytes()),
            Format::Png => Ok(raster::png(&of_trace(self, metric)?.to_svg()?, PNG_SCALE)?),
            Format::Jsonl | Format::Parquet => {
                Err(RenderError::Format { asked: format, served: &Format::ALL })
            }
        }
    }
}

impl Rendered for CasesResponse {
    fn render(&self, format: Format, metric: Option<&str>) -> Result<Vec<u8>, RenderError> {
        check_metric(metric, &self.total_effect.names())?;
        match format {
            Format::Csv => Ok(csv::write(&cases_render::table(self, metric))?),
            Format::Npz => numpy(cases_render::arrays(self, metric), &cases_render::cases_metadata(self)),
            Format::Safetensors => {
                tensors(cases_render::arrays(self, metric), &cases_render::cases_metadata(self))
            }
            Format::Svg => Ok(cases_render::figure(self, metric)?.to_svg()?.into_bytes()),
            Format::Png => Ok(raster::png(&cases_render::figure(self, metric)?.to_svg()?, PNG_SCALE)?),
            Format::Jsonl | Format::Parquet => {
                Err(RenderError::Format { asked: format, served: &Format::ALL })
            }
        }
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

impl Rendered for TraceAnswer {
    fn render(&self, format: Format, metric: Option<&str>) -> Result<Vec<u8>, RenderError> {
        match self {
            Self::One(response) => response.render(format, metric),
            Self::Cases(response) => response.render(format, metric),
        }
    }
}

impl TraceAnswer {
    /// Whether pictures are asked for.
    pub fn wants_plots(&self) -> bool {
        match self {
            Self::One(one) => !one.request.plot.is_empty(),
            Self::Cases(many) => !many.request.plot.is_empty(),
        }
    }

    /// Cost.
    pub fn usage(&self) -> Usage {
        match self {
            Self::One(one) => one.usage,
            Self::Cases(many) => many.usage,
        }
    }

    /// Fills `plots` with the pictures that the request's `plot` asks for; see [`fill_plots`].
    pub fn fill_plots(&mut self) {
        match self {
            Self::One(one) => fill_plots(one),
            Self::Cases(many) => {
                let (plots, failed) = drawn(&**many, &many.request.plot);
                many.plots = plots;
                many.lints.extend(failed);
            }
        }
    }
}

impl Rendered for PatchResponse {
    fn render(&self, format: Format, metric: Option<&str>) -> Result<Vec<u8>, RenderError> {
        check_metric(metric, &self.values.names())?;
        match format {
            Format::Csv => Ok(csv::write(&tables::patch_table(self, metric))?),
            Format::Npz => numpy(files::patch_arrays(self, metric), &files::patch_metadata(self)),
            Format::Safetensors => tensors(files::patch_arrays(self, metric), &files::patch_metadata(self)),
            Format::Svg => Ok(of_patch(self, metric)?.to_svg()?.into_bytes()),
            Format::Png => Ok(raster::png(&of_patch(self, metric)?.to_svg()?, PNG_SCALE)?),
            Format::Jsonl | Format::Parquet => {
                Err(RenderError::Format { asked: format, served: &Format::ALL })
            }
        }
    }
}

impl Rendered for RunResponse {
    /// Clean runs have no picture.
    fn render(&self, format: Format, metric: Option<&str>) -> Result<Vec<u8>, RenderError> {
        // Every run has the same metrics.
        let known = self.runs.0.first().map(|(_, run)| run.metrics.names()).unwrap_or_default();
        check_metric(metric, &known)?;
        match format {
            Format::Csv => Ok(csv::write(&tables::run_table(self, metric))?),
            Format::Npz => numpy(files::run_arrays(self, metric), &files::run_metadata(self)),
            Format::Safetensors => tensors(files::run_arrays(self, metric), &files::run_metadata(self)),
            _ => Err(RenderError::Format { asked: format, served: &Format::NUMBERS }),
        }
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

/// Fills [`TraceResponse::plots`] with the pictures that the request's `plot` asks for, of the first metric. A picture that
/// can't be drawn becomes the lint `NO_PICTURE`: the numbers are worth having without it.
pub fn fill_plots(response: &mut TraceResponse) {
    let (plots, failed) = drawn(response, &response.request.plot);
    response.plots = plots;
    response.lints.extend(failed);
}

/// Pictures in these formats, and remarks on those that can't be drawn.
fn drawn(response: &impl Rendered, formats: &[PlotFormat]) -> (Named<String>, Vec<Lint>) {
    let (mut plots, mut lints): (Named<String>, Vec<Lint>) = (Named::default(), Vec::new());
    for format in formats {
        let (name, picture) = match format {
            PlotFormat::Svg => ("svg", response.render(Format::Svg, None).map(text)),
            PlotFormat::Png => ("png", response.render(Format::Png, None).map(|png| STANDARD.encode(png))),
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
