//! Pictures: heatmaps and bars as SVG and PNG. A leaf: what enters is plain structs of texts and numbers.
//!
//! A [`heatmap::Figure`] or a [`bars::Bars`] becomes SVG; [`raster`] makes PNG of it. The same input always gives the same
//! bytes (PNG: as long as the text needs no font beyond the embedded one, see [`font`]).

pub mod bars;
mod colour_bar;
pub mod font;
mod frame;
#[cfg(test)]
mod gallery;
pub mod heatmap;
pub mod label;
pub mod plane;
pub mod raster;
pub mod scale;
pub mod svg;
#[cfg(test)]
mod tests;

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
