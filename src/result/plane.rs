//! Results with up to two axes laid out as a heatmap.

use super::heatmap::{Cell, Column, Heatmap};
use super::patch::Masks;
use crate::lower::layout::Axis;

/// Which axis is y and which x. Layers go up, tokens go right; what is left takes the other side.
pub(super) struct Plane<'a> {
    y: Option<&'a Axis>,
    x: Option<&'a Axis>,
    /// Distance of neighbours in y and in x, in cells.
    strides: (usize, usize),
}

impl<'a> Plane<'a> {
    /// `None`: more than two axes.
    pub(super) fn new(axes: &'a [Axis]) -> Option<Self> {
        match axes {
            [] => Some(Self { y: None, x: None, strides: (0, 0) }),
            [x] => Some(Self { y: None, x: Some(x), strides: (0, 1) }),
            [outer, inner] if height(outer) <= height(inner) => {
                Some(Self { y: Some(outer), x: Some(inner), strides: (inner.values.len(), 1) })
            }
            [outer, inner] => Some(Self { y: Some(inner), x: Some(outer), strides: (1, inner.values.len()) }),
            _ => None,
        }
    }

    /// A heatmap of values in row-major order of the axes, without words but the axes' names. `alone` labels the only
    /// row or column where there is no axis; `column` labels a value of the x axis.
    pub(super) fn heatmap(
        &self,
        values: &[Option<f64>],
        masks: &Masks,
        alone: &str,
        column: impl Fn(&Axis, u32) -> Column,
    ) -> Heatmap {
        let rows =
            self.y.map_or_else(|| vec![alone.to_owned()], |y| y.values.iter().map(u32::to_string).collect());
        let columns = self.x.map_or_else(
            || vec![Column { text: alone.to_owned(), marked: false }],
            |x| x.values.iter().map(|value| column(x, *value)).collect(),
        );
        let cell = |row: usize, col: usize| {
            let at = row * self.strides.0 + col * self.strides.1;
            Cell {
                value: values[at],
                not_finite: values[at].is_none() && !masks.lost[at],
                exact_null: masks.exact_null.data[at] == Some(true),
                trivial: masks.trivial.data[at] == Some(true),
            }
        };
        let cells = (0..rows.len()).map(|row| (0..columns.len()).map(|col| cell(row, col)).collect());
        Heatmap {
            cells: cells.collect(),
            y_label: self.y.map_or_else(String::new, |y| y.name.to_owned()),
            // Tokens speak for themselves.
            x_label: self.x.filter(|x| x.name != "position").map_or_else(String::new, |x| x.name.to_owned()),
            rows,
            columns,
            ..Heatmap::default()
        }
    }
}

/// The smaller, the rather an axis stands upright.
fn height(axis: &Axis) -> u8 {
    match axis.name {
        "layer" => 0,
        "head" => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::super::common::NdArray;
    use super::*;

    fn laid_out(names: &[&'static str]) -> Option<(Heatmap, Vec<Vec<f64>>)> {
        let axes: Vec<Axis> =
            names.iter().zip([2, 3, 4]).map(|(name, n)| Axis { name, values: (0..n).collect() }).collect();
        let shape: Vec<usize> = axes.iter().map(|axis| axis.values.len()).collect();
        let n = shape.iter().product();
        let values: Vec<_> = (0..n).map(|i| Some(i as f64)).collect();
        let masks = Masks {
            exact_null: NdArray::new(&shape, vec![Some(false); n]),
            trivial: NdArray::new(&shape, vec![Some(true); n]),
            lost: vec![false; n],
        };
        let column = |axis: &Axis, i| Column { text: format!("{} {i}", axis.name), marked: false };
        let map = Plane::new(&axes)?.heatmap(&values, &masks, "alone", column);
        let cells = map.cells.iter().map(|row| row.iter().map(|c| c.value.unwrap()).collect()).collect();
        Some((map, cells))
    }

    #[test]
    fn layers_go_up_and_tokens_go_right_whatever_the_order_of_the_axes() {
        let (map, cells) = laid_out(&["layer", "position"]).unwrap();
        assert_eq!(cells, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]);
        assert_eq!((map.y_label.as_str(), map.x_label.as_str()), ("layer", ""));
        let (map, cells) = laid_out(&["position", "layer"]).unwrap();
        assert_eq!(cells, [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]);
        assert_eq!((map.y_label.as_str(), map.columns[1].text.as_str()), ("layer", "position 1"));
        assert_eq!(laid_out(&["head", "layer"]).unwrap().0.x_label, "head");
        assert_eq!(laid_out(&["position", "head"]).unwrap().0.y_label, "head");
    }

    #[test]
    fn one_axis_is_one_row_no_axis_one_cell_and_three_are_none() {
        let (map, cells) = laid_out(&["layer"]).unwrap();
        assert_eq!((cells, map.rows[0].as_str()), (vec![vec![0.0, 1.0]], "alone"));
        let (map, cells) = laid_out(&[]).unwrap();
        assert_eq!((cells, map.cells[0][0].trivial), (vec![vec![0.0]], true));
        assert!(laid_out(&["layer", "head", "position"]).is_none());
    }
}
