//! A tensor as torch prints it.

use super::array::{Array, Data};
use super::dtype::Dtype;
use super::heap::Heap;
use super::value::{Id, Stop};
use super::view::row_major;

/// Numbers above which only the edges are shown.
const THRESHOLD: usize = 1000;
/// How many are shown at each edge.
const EDGE: usize = 3;
/// Columns of a line.
const LINE: usize = 80;
const PREFIX: &str = "tensor(";

/// `repr(tensor)`.
pub(crate) fn repr(heap: &Heap, id: Id) -> Result<String, Stop> {
    let array = heap.array(id)?;
    let mut suffixes = Vec::new();
    let empty = array.is_empty();
    if empty && array.shape.len() != 1 {
        let sizes: Vec<String> = array.shape.iter().map(usize::to_string).collect();
        suffixes.push(format!("size=({})", sizes.join(", ")));
    }
    let usual =
        array.dtype == Dtype::Float32 || (!empty && matches!(array.dtype, Dtype::Int64 | Dtype::Bool));
    if !usual {
        suffixes.push(format!("dtype=torch.{}", array.dtype.name()));
    }
    let body = if empty {
        "[]".to_owned()
    } else {
        let summarize = array.len() > THRESHOLD;
        let strides = row_major(&array.shape);
        let shown = shown(&array.shape, &strides, 0, summarize);
        let format = Format::of(&array, &shown);
        format.tensor(&array, &array.shape, &strides, 0, PREFIX.len(), summarize)
    };
    let mut text = PREFIX.to_owned() + &body;
    let mut column = text.len() - text.rfind('\n').unwrap_or(0) + 1;
    for suffix in suffixes {
        if column + suffix.len() + 2 > LINE {
            text.push_str(",\n");
            text.push_str(&" ".repeat(PREFIX.len()));
            column = PREFIX.len() + suffix.len();
        } else {
            text.push_str(", ");
            column += suffix.len() + 2;
        }
        text.push_str(&suffix);
    }
    Ok(text + ")")
}

/// Places along a dimension that are shown; none: dots.
fn edges(n: usize, summarize: bool) -> Vec<Option<usize>> {
    if summarize && n > 2 * EDGE {
        return (0..EDGE).map(Some).chain([None]).chain((n - EDGE..n).map(Some)).collect();
    }
    (0..n).map(Some).collect()
}

/// Places of all numbers that are shown.
fn shown(shape: &[usize], strides: &[usize], at: usize, summarize: bool) -> Vec<usize> {
    let ([n, shape @ ..], [stride, strides @ ..]) = (shape, strides) else { return vec![at] };
    edges(*n, summarize)
        .into_iter()
        .flatten()
        .flat_map(|place| shown(shape, strides, at + place * stride, summarize))
        .collect()
}

/// How the numbers of one tensor are written.
enum Format {
    Whole { width: usize },
    Point { width: usize },
    Fixed { width: usize },
    Science { width: usize },
}

fn science(number: f64) -> String {
    let text = format!("{number:.4e}");
    match text.split_once('e') {
        Some((digits, power)) => {
            let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
            format!("{digits}e{sign}{power:0>2}")
        }
        None => special(number).unwrap_or(text),
    }
}

fn special(number: f64) -> Option<String> {
    match number {
        _ if number.is_nan() => Some("nan".into()),
        f64::INFINITY => Some("inf".into()),
        f64::NEG_INFINITY => Some("-inf".into()),
        _ => None,
    }
}

fn exact(array: &Array, place: usize) -> String {
    match &array.data {
        Data::I64(numbers) if array.dtype == Dtype::Bool => {
            if numbers[place] == 0 { "False" } else { "True" }.into()
        }
        Data::I64(numbers) => numbers[place].to_string(),
        _ => array.get(place).to_string(),
    }
}

impl Format {
    fn of(array: &Array, shown: &[usize]) -> Format {
        if !array.dtype.is_float() {
            let width = shown.iter().map(|&place| exact(array, place).len()).max().unwrap_or(1);
            return Format::Whole { width };
        }
        let finite: Vec<f64> = shown
            .iter()
            .map(|&place| array.get(place))
            .filter(|number| number.is_finite() && *number != 0.0)
            .collect();
        if finite.is_empty() {
            return Format::Point { width: 1 };
        }
        let largest = finite.iter().fold(0.0_f64, |all, x| all.max(x.abs()));
        let smallest = finite.iter().fold(f64::INFINITY, |all, x| all.min(x.abs()));
        let whole = finite.iter().all(|x| x.ceil() == *x);
        let width = |text: fn(f64) -> String| finite.iter().map(|&x| text(x).len()).max().unwrap_or(1);
        if largest / smallest > 1000.0 || largest > 1e8 || (!whole && smallest < 1e-4) {
            return Format::Science { width: width(science) };
        }
        if whole {
            return Format::Point { width: width(|x| format!("{x:.0}.")) };
        }
        Format::Fixed { width: width(|x| format!("{x:.4}")) }
    }

    fn width(&self) -> usize {
        match self {
            Format::Whole { width }
            | Format::Point { width }
            | Format::Fixed { width }
            | Format::Science { width } => *width,
        }
    }

    fn number(&self, array: &Array, place: usize) -> String {
        let number = if array.dtype.is_float() { array.get(place) } else { 0.0 };
        let text = match self {
            Format::Whole { .. } => exact(array, place),
            _ if special(number).is_some() => special(number).unwrap_or_default(),
            Format::Point { .. } => format!("{number:.0}."),
            Format::Fixed { .. } => format!("{number:.4}"),
            Format::Science { .. } => science(number),
        };
        format!("{text:>width$}", width = self.width())
    }

    fn tensor(
        &self,
        array: &Array,
        shape: &[usize],
        strides: &[usize],
        at: usize,
        indent: usize,
        summarize: bool,
    ) -> String {
        let ([n, inner @ ..], [stride, steps @ ..]) = (shape, strides) else { return self.number(array, at) };
        let places = edges(*n, summarize);
        if inner.is_empty() {
            let per_line = (LINE.saturating_sub(indent) / (self.width() + 2)).max(1);
            let words: Vec<String> = places
                .into_iter()
                .map(|place| place.map_or(" ...".into(), |place| self.number(array, at + place * stride)))
                .collect();
            let lines: Vec<String> = words.chunks(per_line).map(|line| line.join(", ")).collect();
            return format!("[{}]", lines.join(&format!(",\n{}", " ".repeat(indent + 1))));
        }
        let parts: Vec<String> = places
            .into_iter()
            .map(|place| match place {
                Some(place) => self.tensor(array, inner, steps, at + place * stride, indent + 1, summarize),
                None => "...".into(),
            })
            .collect();
        let between = format!(",{}{}", "\n".repeat(shape.len() - 1), " ".repeat(indent + 1));
        format!("[{}]", parts.join(&between))
    }
}
