//! Stage 4, last step: findings as pictures and files. Pure functions over small plain structs.
//!
//! [`render`] answers a request in a format: [`pictures`], [`files`] and [`tables`] say what a response shows; they alone
//! know responses.
//!
//! What enters the drawing and writing: a [`heatmap::Figure`], a [`bars::Bars`], [`array::NamedArray`]s or
//! [`csv::Column`]s. What leaves: SVG text, PNG bytes, terminal text, `.npz`, `.safetensors`, CSV, JSON lines or Parquet bytes.
//! These know nothing of requests, models or the network, and the same input always gives the same bytes
//! (PNG: as long as the text needs no font beyond the embedded one, see [`font`]).

pub mod activation;
pub mod align;
pub mod array;
pub mod bars;
mod bars_svg;
pub mod cases;
pub mod cases_render;
mod colour_bar;
pub mod common;
pub mod dry_run;
pub mod inside;
pub mod csv;
pub mod files;
pub mod font;
mod frame;
#[cfg(test)]
mod gallery;
pub mod heatmap;
mod heatmap_svg;
pub mod label;
pub mod jsonl;
pub mod npz;
pub mod parquet;
pub mod patch;
mod phrases;
#[cfg(test)]
mod picture_tests;
pub mod pictures;
mod plane;
pub mod raster;
pub mod render;
#[cfg(test)]
mod render_tests;
pub mod run;
pub mod safetensors;
pub mod scale;
pub mod svg;
pub mod sweep;
pub mod tables;
pub mod terminal;
pub mod trace;

/// Why a picture could not be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// A row of a heatmap is not as long as there are columns.
    #[error("panel {panel}: row {row} has {got} cells, but there are {expected} columns")]
    RaggedRow {
        /// Index of the panel in its figure.
        panel: usize,
        /// Index of the row in its panel.
        row: usize,
        /// Number of columns.
        expected: usize,
        /// Number of cells found.
        got: usize,
    },
    /// A heatmap has not one row of cells for each row label.
    #[error("panel {panel}: {got} rows of cells, but {expected} row labels")]
    RowCount {
        /// Index of the panel in its figure.
        panel: usize,
        /// Number of row labels.
        expected: usize,
        /// Number of rows of cells found.
        got: usize,
    },
    /// A series has not one bar for each label.
    #[error("series {series} has {got} bars, but there are {expected} labels")]
    RaggedSeries {
        /// Index of the series.
        series: usize,
        /// Number of labels.
        expected: usize,
        /// Number of bars found.
        got: usize,
    },
    /// More elements than a picture can usefully show.
    #[error(
        "{got} cells or bars are too many for one picture (at most {limit}); ask for the numbers instead"
    )]
    TooMany {
        /// Number of cells or bars.
        got: usize,
        /// The most that is drawn.
        limit: usize,
    },
}

/// The most cells (or bars) one picture shows: 512 layers x 512 tokens. Bounds the SVG to some 40 MB.
pub const MAX_MARKS: usize = 512 * 512;
