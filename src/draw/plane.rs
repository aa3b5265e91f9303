//! Numbers with up to two axes laid out as a heatmap.

use super::heatmap::{Cell, Column, Heatmap};

/// An axis of a grid of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Axis {
    /// Its name beside the picture. May be empty.
    pub name: String,
    /// One label a value, in order.
    pub ticks: Vec<Column>,
    /// The smaller, the rather it stands upright. Of equal ones the outer stands.
    pub height: u8,
}

/// Lays out values that are in row-major order of at most two axes; `cell` makes the one at an index. One axis lies
/// flat. `alone` labels the only row or column where there is no axis. `None`: more than two axes.
pub fn lay_out(axes: Vec<Axis>, cell: impl Fn(usize) -> Cell, alone: &str) -> Option<Heatmap> {
    let alone = || Axis {
        name: String::new(),
        ticks: vec![Column { text: alone.to_owned(), marked: false }],
        height: 0,
    };
    let mut axes = axes.into_iter();
    let (outer, inner, more) = (axes.next(), axes.next(), axes.next());
    // Distance of neighbours in y and in x, in cells.
    let (y, x, strides) = match (outer, inner, more) {
        (_, _, Some(_)) => return None,
        (None, ..) => (alone(), alone(), (0, 0)),
        (Some(x), None, _) => (alone(), x, (0, 1)),
        (Some(outer), Some(inner), _) => {
            let across = inner.ticks.len();
            if outer.height <= inner.height {
                (outer, inner, (across, 1))
            } else {
                (inner, outer, (1, across))
            }
        }
    };
    let row = |row: usize| (0..x.ticks.len()).map(|col| cell(row * strides.0 + col * strides.1)).collect();
    Some(Heatmap {
        cells: (0..y.ticks.len()).map(row).collect(),
        rows: y.ticks.into_iter().map(|tick| tick.text).collect(),
        columns: x.ticks,
        y_label: y.name,
        x_label: x.name,
        ..Heatmap::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(names: &[&str]) -> Option<(Heatmap, Vec<Vec<f64>>)> {
        let axis = |(name, n): (&&str, u32)| Axis {
            name: (*name).to_owned(),
            ticks: (0..n).map(|i| Column { text: format!("{name} {i}"), marked: false }).collect(),
            height: u8::from(*name != "layer"),
        };
        let map = lay_out(names.iter().zip(2..).map(axis).collect(), |i| Cell::of(i as f64), "alone")?;
        let cells = map.cells.iter().map(|row| row.iter().map(|c| c.value.unwrap()).collect()).collect();
        Some((map, cells))
    }

    #[test]
    fn layers_go_up_and_tokens_go_right_whatever_the_order_of_the_axes() {
        let (map, cells) = laid_out(&["layer", "position"]).unwrap();
        assert_eq!(cells, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]);
        assert_eq!((map.y_label.as_str(), map.x_label.as_str()), ("layer", "position"));
        let (map, cells) = laid_out(&["position", "layer"]).unwrap();
        assert_eq!(cells, [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]);
        assert_eq!((map.y_label.as_str(), map.columns[1].text.as_str()), ("layer", "position 1"));
        let (map, _) = laid_out(&["position", "head"]).unwrap();
        assert_eq!((map.rows[1].as_str(), map.x_label.as_str()), ("position 1", "head"));
    }

    #[test]
    fn one_axis_is_one_row_no_axis_one_cell_and_three_are_none() {
        let (map, cells) = laid_out(&["layer"]).unwrap();
        assert_eq!((cells, map.rows[0].as_str()), (vec![vec![0.0, 1.0]], "alone"));
        assert_eq!(laid_out(&[]).unwrap().1, [[0.0]]);
        assert!(laid_out(&["layer", "head", "position"]).is_none());
    }
}
