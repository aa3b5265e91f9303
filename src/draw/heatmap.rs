//! What a heatmap shows: layers by tokens, one value a cell.
//!
//! Layers are on y with layer 0 at the bottom, the way the network is usually drawn (the ROME paper's figures have
//! layers on x); tokens are on x in reading order. [`Figure::to_svg`] draws.

mod svg;

use serde::{Deserialize, Serialize};

use super::{MAX_MARKS, PictureError, scale};

/// One or several heatmaps in one picture, e.g. the arms hidden, mlp and attn of a causal trace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figure {
    /// Bold first line. Empty: the panel's own title where there is one panel, else none.
    pub title: String,
    /// Lines under it; wrapped. Empty: as for `title`.
    pub subtitle: String,
    /// The heatmaps, in order.
    pub panels: Vec<Heatmap>,
    /// One scale and one colour bar for all panels, its end the largest magnitude in any of them. The bar's label is
    /// the first panel's.
    pub shared_scale: bool,
    /// Where each panel lies from the one before.
    pub arrangement: Arrangement,
    /// Colours run from 0 up instead of to both sides of it, e.g. for probabilities. Negative values have the colour of 0.
    pub from_zero: bool,
    /// The end of the colour scale; the largest magnitude if left out. What lies beyond has the colour of the end.
    pub scale_end: Option<f64>,
}

/// Where panels lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arrangement {
    /// Side by side.
    #[default]
    Row,
    /// Each below the one before.
    Column,
    /// So many side by side, then the next ones below; at least one.
    Grid(usize),
}

/// A layer x token grid.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heatmap {
    /// Bold first line.
    pub title: String,
    /// Line under it, before the references.
    pub subtitle: String,
    /// Named numbers printed in the subtitle, e.g. the clean and the corrupted run's probability.
    pub references: Vec<Reference>,
    /// Row labels, `[rows]`; the first is drawn at the bottom.
    pub rows: Vec<String>,
    /// Columns, `[cols]`, left to right.
    pub columns: Vec<Column>,
    /// Cells, `[rows][cols]`.
    pub cells: Vec<Vec<Cell>>,
    /// What y is, e.g. `layer`.
    pub y_label: String,
    /// What x is, e.g. `token`. May be empty.
    pub x_label: String,
    /// What the values are, with their unit: the colour bar's label, e.g. `indirect effect on P(" current")`.
    /// It wraps where it is longer than the bar; a no-break space keeps its two sides together.
    pub value_label: String,
    /// What marked columns are, for the legend, e.g. `subject`.
    pub mark_label: String,
    /// A short text in each cell, `[rows][cols]`; empty for none.
    pub texts: Vec<Vec<String>>,
}

/// A number named in the subtitle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name, e.g. `P(clean)`.
    pub label: String,
    /// Its value; printed with four significant digits.
    pub value: f64,
}

/// One token position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The token as decoded; anything goes (see [`super::label::visible`]).
    pub text: String,
    /// Whether it belongs to the subject: bold, coloured, with `*`.
    pub marked: bool,
}

/// One measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The value. `None` or not finite: grey.
    pub value: Option<f64>,
    /// It was measured and is no number: hatched. Else, without a value, not measured.
    pub not_finite: bool,
    /// Zero by construction, not by measurement (the edit cannot reach the readout): a dot.
    pub exact_null: bool,
    /// Nothing is left to compute after the edit (it restores the answer itself): outlined.
    pub trivial: bool,
}

impl Arrangement {
    /// How many panels of so many lie side by side.
    pub(super) fn across(self, panels: usize) -> usize {
        match self {
            Self::Row => panels.max(1),
            Self::Column => 1,
            Self::Grid(across) => across.clamp(1, panels.max(1)),
        }
    }
}

impl Cell {
    /// A plain measured cell.
    pub const fn of(value: f64) -> Self {
        Self { value: Some(value), not_finite: false, exact_null: false, trivial: false }
    }

    /// The value, if there is a finite one.
    pub fn finite(&self) -> Option<f64> {
        self.value.filter(|value| value.is_finite())
    }
}

impl Heatmap {
    /// Largest magnitude of the finite values: the end of the colour scale. `None`: nothing was measured.
    pub fn max_abs(&self) -> Option<f64> {
        scale::max_abs(self.cells.iter().flatten().filter_map(Cell::finite))
    }

    /// Whether any cell satisfies `test`; decides which legend entries appear.
    pub fn any(&self, test: impl Fn(&Cell) -> bool) -> bool {
        self.cells.iter().flatten().any(test)
    }

    /// `panel` is the index named in the error.
    pub(super) fn check(&self, panel: usize) -> Result<(), PictureError> {
        if self.cells.len() != self.rows.len() {
            return Err(PictureError::RowCount { panel, expected: self.rows.len(), got: self.cells.len() });
        }
        let expected = self.columns.len();
        match self.cells.iter().position(|row| row.len() != expected) {
            Some(row) => Err(PictureError::RaggedRow { panel, row, expected, got: self.cells[row].len() }),
            None if self.texts.is_empty() => Ok(()),
            None if self.texts.len() != self.rows.len() => {
                Err(PictureError::RowCount { panel, expected: self.rows.len(), got: self.texts.len() })
            }
            None => match self.texts.iter().position(|row| row.len() != expected) {
                Some(row) => {
                    Err(PictureError::RaggedRow { panel, row, expected, got: self.texts[row].len() })
                }
                None => Ok(()),
            },
        }
    }

    /// The subtitle followed by the references, each held together by no-break spaces.
    pub fn full_subtitle(&self) -> String {
        let references = self
            .references
            .iter()
            .map(|r| format!("{}\u{a0}=\u{a0}{}", r.label, scale::significant(r.value, 4)));
        let parts = (!self.subtitle.is_empty()).then(|| self.subtitle.clone()).into_iter().chain(references);
        parts.collect::<Vec<_>>().join("  ·  ")
    }
}

impl From<Heatmap> for Figure {
    fn from(panel: Heatmap) -> Self {
        Self { panels: vec![panel], ..Self::default() }
    }
}

impl Figure {
    /// Draws the figure as SVG. Cells carry their exact value as a tooltip.
    ///
    /// The scale is symmetric about 0 and ends at the largest magnitude: nothing is clipped. Labels that would overlap
    /// are left out, marked columns last. No panels, rows or columns: a picture that says so.
    ///
    /// # Errors
    /// [`PictureError::RowCount`], [`PictureError::RaggedRow`]: a panel's grid is not `[rows][cols]`;
    /// [`PictureError::TooMany`]: more than [`MAX_MARKS`] cells.
    pub fn to_svg(&self) -> Result<String, PictureError> {
        for (index, panel) in self.panels.iter().enumerate() {
            panel.check(index)?;
        }
        // Empty panels and columns without rows take room too, so they count.
        let got =
            self.panels.iter().map(|p| p.rows.len().max(1).saturating_mul(p.columns.len().max(1))).sum();
        if got > MAX_MARKS {
            return Err(PictureError::TooMany { got, limit: MAX_MARKS });
        }
        Ok(svg::draw(self))
    }

    /// The end of the colour scale of panel `index`.
    pub(super) fn end_of(&self, index: usize) -> Option<f64> {
        let measured = if self.shared_scale {
            scale::max_abs(self.panels.iter().filter_map(Heatmap::max_abs))
        } else {
            self.panels.get(index).and_then(Heatmap::max_abs)
        };
        measured.and(self.scale_end).or(measured)
    }
}
