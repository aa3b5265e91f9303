//! The forms of a result, and why one cannot be had.

use crate::draw::PictureError;
use crate::draw::raster::RasterError;
use crate::export::array::EncodeError;

/// A form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The whole answer.
    Json,
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
    /// All forms.
    pub const ALL: [Self; 8] = [
        Self::Json,
        Self::Csv,
        Self::Npz,
        Self::Safetensors,
        Self::Jsonl,
        Self::Parquet,
        Self::Svg,
        Self::Png,
    ];
    /// Those that carry numbers, beside JSON.
    pub const NUMBERS: [Self; 5] = [Self::Csv, Self::Jsonl, Self::Parquet, Self::Npz, Self::Safetensors];

    /// Its name in `?format=`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Npz => "npz",
            Self::Safetensors => "safetensors",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::Svg => "svg",
            Self::Png => "png",
        }
    }

    /// Value of `Content-Type`.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Npz => "application/x-npz",
            Self::Safetensors => "application/vnd.safetensors",
            Self::Jsonl => "application/x-ndjson",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Svg => "image/svg+xml",
            Self::Png => "image/png",
        }
    }

    /// Whether it is text, which becomes much shorter when it is compressed.
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Json | Self::Csv | Self::Jsonl | Self::Svg)
    }

    /// Whether it is a table.
    pub const fn is_table(self) -> bool {
        matches!(self, Self::Csv | Self::Jsonl | Self::Parquet)
    }

    /// Whether it is a picture.
    pub const fn is_picture(self) -> bool {
        matches!(self, Self::Svg | Self::Png)
    }
}

/// Why a response could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The picture asked for can't be of this response, or the metric isn't in it.
    #[error(transparent)]
    Request(#[from] PictureRequestError),
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

/// Why a response has no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureRequestError {
    /// Something that the response doesn't have.
    #[error("the result has no {parameter} {asked:?}; it has {}", listed(known))]
    Unknown {
        /// `metric`, `arm`, `group`, ..
        parameter: &'static str,
        /// The one asked for.
        asked: String,
        /// Those of the response.
        known: Vec<String>,
    },
    /// A choice that is not one of this kind of response.
    #[error("`{parameter}` {of}")]
    NotHere {
        /// The parameter.
        parameter: &'static str,
        /// What it belongs to.
        of: &'static str,
    },
    /// Clean runs of which nothing was read that has a picture.
    #[error(
        "a clean run has a picture of its logit lens, attention patterns or attribution, and none of these was read"
    )]
    NoReadout,
    /// A response without metrics.
    #[error("the result has no metrics, so there is nothing to draw")]
    NoMetrics,
    /// A response without cells.
    #[error("{of} has no cells, so there is nothing to draw")]
    NoCells {
        /// What has none.
        of: String,
    },
    /// More axes than a page has.
    #[error("{of} has the axes {}; a picture shows at most two", axes.join(", "))]
    TooManyAxes {
        /// What has them.
        of: String,
        /// Their names.
        axes: Vec<&'static str>,
    },
}

/// At most 40 names.
fn listed(known: &[String]) -> String {
    let more = known.len().saturating_sub(40);
    let shown = known.iter().take(40).cloned().collect::<Vec<_>>().join(", ");
    match (known.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (_, 0) => shown,
        _ => format!("{shown} and {more} more"),
    }
}
