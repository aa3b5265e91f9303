//! Which part of a set is read: `layers=0,4:8`, `positions=-1`, `heads=2`.

use std::collections::HashSet;
use std::ops::Range;

use super::block::Activation;
use crate::spec::problem::{Problems, code};

/// A part of a set as it was asked for: indices and half-open ranges, separated by commas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked<'q> {
    /// Layers; all if left out.
    pub layers: Option<&'q str>,
    /// Positions; all if left out.
    pub positions: Option<&'q str>,
    /// Heads; all if left out.
    pub heads: Option<&'q str>,
}

/// A part of a set as places in its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Indices on the first axis.
    pub layers: Vec<usize>,
    /// Indices on the second axis.
    pub positions: Vec<usize>,
    /// Heads; `None` for the whole width.
    pub heads: Option<Vec<usize>>,
    /// Columns on the third axis.
    pub columns: Vec<Range<usize>>,
}

/// One item of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    One(i64),
    Range(Option<i64>, Option<i64>),
}

fn items(text: &str, at: &str, out: &mut Problems) -> Option<Vec<Item>> {
    let end = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
    let item = |part: &str| match part.trim().split_once(':') {
        None => part.trim().parse().ok().map(Item::One),
        Some((from, to)) => Some(Item::Range(end(from)?, end(to)?)),
    };
    let items: Option<Vec<Item>> = text.split(',').map(item).collect();
    if items.is_none() {
        let detail = format!("{:?} is not a list of indices", text.chars().take(48).collect::<String>());
        out.push(at, code::WRONG_TYPE, detail, "write indices and half-open ranges, as 0,4:8");
    }
    items
}

/// Numbers written as indices and ranges with both ends, for lists that are not chosen from anything: `0,4:8`.
/// At most `most` of them.
pub fn indices(text: &str, at: &str, most: usize, out: &mut Problems) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    for item in items(text, at, out)? {
        let (from, to) = match item {
            Item::One(n) => (Some(n), n.checked_add(1)),
            Item::Range(from, to) => (from, to),
        };
        let ends = from.zip(to).and_then(|(a, b)| Some((u32::try_from(a).ok()?, u32::try_from(b).ok()?)));
        let Some((from, to)) = ends.filter(|(from, to)| from < to) else {
            let detail = "an index below 0, or a range that is empty or open".to_owned();
            out.push(at, code::OUT_OF_RANGE, detail, "write ranges with both ends, as 4:8");
            return None;
        };
        if (to - from) as usize > most.saturating_sub(found.len()) {
            out.push(at, code::LIMIT, format!("more than {most} indices"), "name fewer");
            return None;
        }
        found.extend(from..to);
    }
    Some(found)
}

/// The names of an axis and how many of `what` its negative ones count from.
struct AxisNames<'n> {
    what: &'static str,
    names: &'n [u32],
    /// What `-1` is one less than.
    end: Option<u32>,
}

impl AxisNames<'_> {
    /// Index on the axis of one name.
    fn place(&self, name: i64) -> Option<usize> {
        let name = if name < 0 { name.checked_add(i64::from(self.end?))? } else { name };
        self.names.iter().position(|n| i64::from(*n) == name)
    }

    /// Indices on the axis of the names in `[from, to)`.
    fn within(&self, from: Option<i64>, to: Option<i64>) -> Vec<usize> {
        let absolute = |n: i64| match self.end {
            Some(end) if n < 0 => n.saturating_add(i64::from(end)),
            _ => n,
        };
        let (from, to) = (from.map_or(0, absolute), to.map_or(i64::MAX, absolute));
        (0..self.names.len()).filter(|i| (from..to).contains(&i64::from(self.names[*i]))).collect()
    }

    fn choose(&self, text: Option<&str>, at: &str, out: &mut Problems) -> Option<Vec<usize>> {
        let Some(text) = text else { return Some((0..self.names.len()).collect()) };
        let mut found = Vec::new();
        for item in items(text, at, out)? {
            match item {
                Item::One(name) => match self.place(name) {
                    Some(place) => found.push(place),
                    None => return self.absent(&name.to_string(), at, out),
                },
                Item::Range(from, to) => {
                    let within = self.within(from, to);
                    if within.is_empty() {
                        let end = |n: Option<i64>| n.map_or(String::new(), |n| n.to_string());
                        return self.absent(&format!("in {}:{}", end(from), end(to)), at, out);
                    }
                    found.extend(within);
                }
            }
        }
        let mut seen = HashSet::new();
        if let Some(twice) = found.iter().find(|place| !seen.insert(**place)) {
            let detail = format!("{} {} twice", self.what, self.names[*twice]);
            out.push(at, code::DUPLICATE, detail, format!("name each {} once", self.what));
            return None;
        }
        Some(found)
    }

    fn absent<T>(&self, name: &str, at: &str, out: &mut Problems) -> Option<T> {
        let detail = format!("the set has no {} {name}", self.what);
        out.push(at, code::OUT_OF_RANGE, detail, format!("it has {}", listed(self.names)));
        None
    }
}

/// A list for a message: its first few.
fn listed(names: &[u32]) -> String {
    const SHOWN: usize = 40;
    let mut text = names.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(", …");
    }
    text
}

impl Activation {
    /// Names of the second axis: positions of the prompt, or merely indices.
    fn position_names(&self) -> (Vec<u32>, Option<u32>) {
        match &self.positions {
            Some(positions) => (positions.clone(), self.prompt_tokens),
            None => ((0..self.shape[1] as u32).collect(), Some(self.shape[1] as u32)),
        }
    }
}

/// The index on the second axis of a position; negative ones count from the end of the prompt, where that is known.
pub fn position_slot(meta: &Activation, position: i64) -> Option<usize> {
    let (names, end) = meta.position_names();
    AxisNames { what: "position", names: &names, end }.place(position)
}

/// Indices on the second axis of the positions in `[from, to)`, as [`position_slot`] counts them.
pub fn position_slots(meta: &Activation, [from, to]: [i64; 2]) -> Vec<usize> {
    let (names, end) = meta.position_names();
    AxisNames { what: "position", names: &names, end }.within(Some(from), Some(to))
}

/// The positions of a set, for a message.
pub fn position_list(meta: &Activation) -> String {
    listed(&meta.position_names().0)
}

impl Selection {
    /// Finds what was asked for; pointers are those of query parameters.
    pub fn of(meta: &Activation, asked: &Asked<'_>, out: &mut Problems) -> Option<Self> {
        let layers = match (&meta.layers, asked.layers) {
            (Some(names), text) => AxisNames { what: "layer", names, end: None }.choose(text, "?layers", out),
            (None, None) => Some(vec![0]),
            (None, Some(_)) => {
                out.push("?layers", code::CONFLICT, "the set is of no layer", "leave out `layers`");
                None
            }
        };
        let (names, end) = meta.position_names();
        let positions =
            AxisNames { what: "position", names: &names, end }.choose(asked.positions, "?positions", out);
        let heads = match (meta.heads, asked.heads) {
            (_, None) => Some(None),
            (Some(layout), Some(text)) => {
                let names: Vec<u32> = (0..layout.count as u32).collect();
                AxisNames { what: "head", names: &names, end: None }
                    .choose(Some(text), "?heads", out)
                    .map(Some)
            }
            (None, Some(_)) => {
                let detail = format!("site {} is not divided into heads", meta.site);
                out.push("?heads", code::CONFLICT, detail, "leave out `heads`");
                None
            }
        };
        let (layers, positions, heads) = (layers?, positions?, heads?);
        let columns = match (&heads, meta.heads) {
            (Some(heads), Some(layout)) => {
                heads.iter().map(|head| head * layout.width..(head + 1) * layout.width).collect()
            }
            _ => std::iter::once(0..meta.shape[2]).collect(),
        };
        Some(Self { layers, positions, heads, columns })
    }

    /// Numbers per position.
    pub fn width(&self) -> usize {
        self.columns.iter().map(ExactSizeIterator::len).sum()
    }

    /// Numbers in all.
    pub fn elements(&self) -> u64 {
        self.layers.len() as u64 * self.positions.len() as u64 * self.width() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[u32], end: Option<u32>, text: &str) -> Result<Vec<usize>, String> {
        let mut out = Problems::default();
        let found = AxisNames { what: "position", names, end }.choose(Some(text), "?positions", &mut out);
        out.or(found).map_err(|problems| problems.0[0].code.to_owned())
    }

    #[test]
    fn ranges_are_half_open_over_the_names_and_negative_names_count_from_the_prompts_end() {
        let names = [2, 5, 6, 9];
        assert_eq!(chosen(&names, Some(10), "5,9"), Ok(vec![1, 3]));
        assert_eq!(chosen(&names, Some(10), "5:9"), Ok(vec![1, 2]));
        assert_eq!(chosen(&names, Some(10), "-1,:3"), Ok(vec![3, 0]));
        assert_eq!(chosen(&names, Some(10), "-4:"), Ok(vec![2, 3]));
        assert_eq!(chosen(&names, None, "-1"), Err(code::OUT_OF_RANGE.to_owned()));
        for (text, expected) in [
            ("3", code::OUT_OF_RANGE),
            ("3:5", code::OUT_OF_RANGE),
            ("5,4:6", code::DUPLICATE),
            ("", code::WRONG_TYPE),
            ("1:2:3", code::WRONG_TYPE),
            ("all", code::WRONG_TYPE),
            ("-9223372036854775808", code::OUT_OF_RANGE),
        ] {
            assert_eq!(chosen(&names, Some(10), text), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn lists_of_indices_are_bounded_before_they_are_made() {
        let read = |text| {
            let mut out = Problems::default();
            let found = indices(text, "?layers", 10, &mut out);
            out.or(found).map_err(|problems| problems.0[0].code)
        };
        assert_eq!(read("7,0:3"), Ok(vec![7, 0, 1, 2]));
        assert_eq!(read("0:4294967295"), Err(code::LIMIT));
        assert_eq!(read("0:6,0:6"), Err(code::LIMIT));
        assert_eq!(read("3:"), Err(code::OUT_OF_RANGE));
        assert_eq!(read("-1"), Err(code::OUT_OF_RANGE));
        assert_eq!(read("5:5"), Err(code::OUT_OF_RANGE));
    }
}
