//! Tables are made of rows, column by column.

use std::collections::HashMap;

use crate::effect::average::Place;
use crate::effect::bootstrap::CaseEstimate;
use crate::export::csv::{Column, ColumnData};
use crate::lower::layout::CellKey;
use crate::spec::patch::SweepAxis;
use crate::tokens::Token;

/// Rows that become columns.
pub(super) struct Rows<R> {
    rows: Vec<R>,
    pub(super) columns: Vec<Column>,
}

impl<R> Rows<R> {
    pub(super) const fn new(rows: Vec<R>) -> Self {
        Self { rows, columns: Vec::new() }
    }

    fn add(mut self, name: impl Into<String>, data: impl FnOnce(&[R]) -> ColumnData) -> Self {
        let data = data(&self.rows);
        self.columns.push(Column { name: name.into(), data });
        self
    }

    /// Texts, one in every row.
    pub(super) fn text<'r>(self, name: &str, field: impl Fn(&R) -> &'r str) -> Self {
        self.made(name, |row| field(row).to_owned())
    }

    /// Texts that are made for the table.
    pub(super) fn made(self, name: &str, text: impl Fn(&R) -> String) -> Self {
        self.add(name, |rows| ColumnData::Text(rows.iter().map(text).collect()))
    }

    /// Texts of which there are few, or none in a row.
    pub(super) fn name<'r>(self, name: &str, field: impl Fn(&R) -> Option<&'r str>) -> Self {
        self.add(name, |rows| {
            let mut index: HashMap<&'r str, u32> = HashMap::new();
            let mut names = Vec::new();
            let mut place = |text: &'r str| {
                *index.entry(text).or_insert_with(|| {
                    names.push(text.to_owned());
                    names.len() as u32 - 1
                })
            };
            let rows = rows.iter().map(|row| field(row).map(&mut place)).collect();
            ColumnData::Names { names, rows }
        })
    }

    pub(super) fn int(self, name: impl Into<String>, field: impl Fn(&R) -> Option<u32>) -> Self {
        self.add(name, |rows| ColumnData::Int(rows.iter().map(|row| field(row).map(i64::from)).collect()))
    }

    pub(super) fn count(self, name: impl Into<String>, field: impl Fn(&R) -> usize) -> Self {
        self.int(name, |row| Some(field(row) as u32))
    }

    pub(super) fn float(self, name: impl Into<String>, field: impl Fn(&R) -> Option<f64>) -> Self {
        self.add(name, |rows| ColumnData::Float(rows.iter().map(field).collect()))
    }

    pub(super) fn flag(self, name: &str, field: impl Fn(&R) -> Option<bool>) -> Self {
        self.add(name, |rows| ColumnData::Bool(rows.iter().map(field).collect()))
    }

    /// The columns of a cell's coordinates, with the text of its token.
    pub(super) fn cell<'r>(
        self,
        key: impl Fn(&R) -> CellKey,
        token: impl Fn(u32) -> Option<&'r Token>,
    ) -> Self {
        let text = |row: &R| key(row).position.and_then(&token).map_or("", |token| token.text.as_str());
        // From the one list of axes, so that none is forgotten.
        SweepAxis::ALL.into_iter().fold(self, |table, (_, axis)| {
            let table = table.int(axis.singular(), |row| key(row).get(axis));
            if axis == SweepAxis::Positions { table.text("token", text) } else { table }
        })
    }

    /// The columns of an average's place but its group.
    pub(super) fn place<'r>(self, of: impl Fn(&R) -> &'r Place) -> Self {
        self.name("arm", |row| Some(of(row).arm.as_str()).filter(|arm| !arm.is_empty()))
            .int("layer", |row| of(row).layer)
            .int("position", |row| of(row).position)
            .name("token_class", |row| of(row).token_class.as_deref())
            .int("head", |row| of(row).head)
            .int("dim", |row| of(row).dim)
            .int("source_layer", |row| of(row).source_layer)
    }

    /// An estimate over cases, whose mean has a name of its own.
    pub(super) fn estimate(self, name: &str, of: impl Fn(&R) -> CaseEstimate) -> Self {
        self.float(name, |row| of(row).mean)
            .float("se", |row| of(row).se)
            .float("ci_low", |row| of(row).ci.map(|[low, _]| low))
            .float("ci_high", |row| of(row).ci.map(|[_, high]| high))
            .float("ci_t_low", |row| of(row).ci_t.map(|[low, _]| low))
            .float("ci_t_high", |row| of(row).ci_t.map(|[_, high]| high))
            .int("n", |row| Some(of(row).n as u32))
    }
}
