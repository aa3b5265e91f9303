//! A heatmap as text: coloured blocks where the terminal can, signs and letters where it cannot.
//!
//! Layer 0 is at the bottom, as in the pictures. Tokens are numbered below the grid and named in a legend, because
//! their widths are anything; a grid wider than the terminal continues in further blocks.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

use mediant::draw::heatmap::{Cell, Heatmap};
use mediant::draw::label;
use mediant::draw::scale::{self, Rgb};

/// What the terminal can show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Plain characters only.
    #[default]
    Never,
    /// The 256-colour palette.
    Palette,
    /// 24-bit colour.
    Full,
}

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Columns of the terminal; no line is wider (at least 40 are used).
    pub(crate) width: usize,
    /// Its colours.
    pub(crate) colour: Colour,
}

/// Strength of a positive value without colour, from the weakest to the strongest.
const POSITIVE: [char; 10] = [' ', '.', ':', '-', '=', '+', '*', '#', '%', '@'];
/// Strength of a negative value without colour.
const NEGATIVE: [char; 10] = [' ', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i'];
const EXACT_NULL: char = '0';
const MISSING: char = '?';
const NOT_FINITE: char = '/';
const TRIVIAL: char = '!';

/// Prints the heatmap, lines ended by line feeds. Total: rows shorter than the columns are filled up as not measured,
/// longer ones cut.
pub(crate) fn render(map: &Heatmap, options: Options) -> String {
    let width = options.width.max(40);
    let mut out = String::new();
    for line in [&map.title, &map.full_subtitle()] {
        push_wrapped(
            &mut out,
            label::one_line(line).split(' ').filter(|word| !word.is_empty()).map(str::to_owned),
            " ",
            width,
        );
    }
    if map.rows.is_empty() || map.columns.is_empty() {
        out.push_str("(no cells)\n");
        return out;
    }
    let names: Vec<String> = map.rows.iter().map(|row| fit(&label::visible(row), 8)).collect();
    let margin = names.iter().map(|name| name.width()).max().unwrap_or(0);
    let room = width - margin - 2;
    // As wide as there is room for, two characters a cell making it about square.
    let cell = (room / map.columns.len()).clamp(1, 4);
    let per_block = (room / cell).max(1);
    let end = map.max_abs().unwrap_or(0.0);

    for first in (0..map.columns.len()).step_by(per_block) {
        let block = first..(first + per_block).min(map.columns.len());
        for (row, name) in names.iter().enumerate().rev() {
            let cells = map.cells.get(row);
            let _ = write!(out, "{}{name} |", " ".repeat(margin - name.width()));
            for column in block.clone() {
                let one = cells.and_then(|cells| cells.get(column)).copied().unwrap_or_default();
                push_cell(&mut out, one, end, cell, options.colour);
            }
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
        }
        push_axis(&mut out, map, block, margin, cell);
    }
    push_scale(&mut out, map, end, options.colour, width);
    let tokens = map.columns.iter().enumerate().map(|(index, column)| {
        let star = if column.marked { "*" } else { "" };
        format!("{index} {}{star}", fit(&label::visible(&column.text), 16))
    });
    push_wrapped(&mut out, tokens, "  ", width);
    out
}

/// Column numbers, their digits below one another where a cell is narrow, and `*` under marked columns.
fn push_axis(out: &mut String, map: &Heatmap, block: std::ops::Range<usize>, margin: usize, cell: usize) {
    let _ = writeln!(out, "{} +{}", " ".repeat(margin), "-".repeat(cell * block.len()));
    let digits = (block.end - 1).to_string().len();
    let lines = if digits < cell { 1 } else { digits };
    for line in 0..lines {
        let mut text = " ".repeat(margin + 2);
        for column in block.clone() {
            let number = format!("{column:>digits$}");
            let shown = if lines == 1 { number } else { number.chars().skip(line).take(1).collect() };
            let _ = write!(text, "{shown:^cell$}");
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
    if map.columns[block.clone()].iter().any(|column| column.marked) {
        let mut text = String::new();
        for column in block {
            let _ = write!(text, "{:^cell$}", if map.columns[column].marked { "*" } else { "" });
        }
        let _ = writeln!(out, "{}{}", " ".repeat(margin + 2), text.trim_end());
    }
}

/// Level 0 ..= 9 of a value; 0 only for what is less than 5 % of the scale.
fn level(value: f64, end: f64) -> usize {
    ((scale::relative(value, end).abs() * 9.0 + 0.55).floor() as usize).min(9)
}

/// The character of a cell without colour.
fn sign(cell: Cell, end: f64) -> char {
    match cell.finite() {
        None if cell.not_finite => NOT_FINITE,
        None => MISSING,
        _ if cell.exact_null => EXACT_NULL,
        Some(value) if value < 0.0 => NEGATIVE[level(value, end)],
        Some(value) => POSITIVE[level(value, end)],
    }
}

fn push_cell(out: &mut String, cell: Cell, end: f64, width: usize, colour: Colour) {
    if colour == Colour::Never {
        let c = sign(cell, end);
        if c == EXACT_NULL {
            let _ = write!(out, "{c:^width$}");
            return;
        }
        // Where there is room, a trivial cell is flagged beside its strength.
        let last = if cell.trivial && width > 1 && c != NOT_FINITE { TRIVIAL } else { c };
        out.extend(std::iter::repeat_n(c, width - 1));
        out.push(last);
        return;
    }
    let fill = cell.finite().map_or(scale::MISSING, |value| scale::diverging(scale::relative(value, end)));
    let mark = match cell.finite() {
        None if cell.not_finite => NOT_FINITE,
        None => MISSING,
        _ if cell.exact_null => '·',
        _ if cell.trivial => TRIVIAL,
        _ => ' ',
    };
    let dark = u32::from(fill.0) * 3 + u32::from(fill.1) * 6 + u32::from(fill.2) < 1300;
    let ink = if dark { 97 } else { 90 };
    // Hatched all over.
    let marked = |at| at == width / 2 || mark == NOT_FINITE;
    let text: String = (0..width).map(|at| if marked(at) { mark } else { ' ' }).collect();
    let _ = write!(out, "\x1b[{};{ink}m{text}\x1b[0m", background(fill, colour));
}

fn background(Rgb(r, g, b): Rgb, colour: Colour) -> String {
    match colour {
        Colour::Full => format!("48;2;{r};{g};{b}"),
        // The palette's 6 x 6 x 6 cube has levels 0, 95, 135, .. 255.
        Colour::Palette | Colour::Never => {
            let step = |v: u8| if v < 48 { 0 } else { u16::from(v.saturating_sub(35)) / 40 };
            format!("48;5;{}", 16 + 36 * step(r) + 6 * step(g) + step(b))
        }
    }
}

/// The scale from its negative to its positive end, with the values' name and what the signs mean.
fn push_scale(out: &mut String, map: &Heatmap, end: f64, colour: Colour, width: usize) {
    let steps = [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0];
    // Two texts of at most 12 and brackets leave 40 columns room for one character a step.
    let step_width = if colour == Colour::Never || width < 48 { 1 } else { 2 };
    let mut bar = String::new();
    for step in steps {
        push_cell(&mut bar, Cell::of(step), 1.0, step_width, colour);
    }
    let end = scale::significant(end, 3);
    let low = if end == "0" { String::new() } else { "−".to_owned() };
    let _ = writeln!(out, "{low}{end} [{bar}] {end}");
    let any = |test: fn(&Cell) -> bool| map.any(test);
    let null = if colour == Colour::Never { EXACT_NULL } else { '·' };
    let notes = [
        (!map.value_label.is_empty(), label::one_line(&map.value_label)),
        (
            map.columns.iter().any(|c| c.marked),
            format!(
                "* {}",
                label::one_line(if map.mark_label.is_empty() { "marked" } else { &map.mark_label })
            ),
        ),
        (any(|c| c.exact_null), format!("{null} zero by construction")),
        (any(|c| c.trivial), format!("{TRIVIAL} trivial")),
        (any(|c| c.finite().is_none() && c.not_finite), format!("{NOT_FINITE} not finite")),
        (any(|c| c.finite().is_none() && !c.not_finite), format!("{MISSING} not measured")),
    ];
    push_wrapped(out, notes.into_iter().filter(|(shown, _)| *shown).map(|(_, text)| text), "; ", width);
}

/// Pieces in lines at most `width` wide; a piece wider than that is cut.
fn push_wrapped(out: &mut String, pieces: impl Iterator<Item = String>, between: &str, width: usize) {
    let mut used = 0;
    for piece in pieces {
        let piece = fit(&piece, width);
        if used > 0 && used + between.len() + piece.width() > width {
            out.push('\n');
            used = 0;
        }
        if used > 0 {
            out.push_str(between);
            used += between.len();
        }
        used += piece.width();
        out.push_str(&piece);
    }
    if used > 0 {
        out.push('\n');
    }
}

/// Cuts to `max` terminal columns, with `…`.
pub(crate) fn fit(text: &str, max: usize) -> String {
    if text.width() <= max {
        return text.to_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        out.push(c);
        if out.width() >= max {
            out.pop();
            break;
        }
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use mediant::draw::heatmap::{Column, Reference};
    use proptest::prelude::*;

    use super::*;

    /// Two layers, two tokens, of which the second is marked.
    fn map(cells: [[Cell; 2]; 2]) -> Heatmap {
        let column = |text: &str, marked| Column { text: text.to_owned(), marked };
        Heatmap {
            rows: vec!["0".into(), "1".into()],
            columns: vec![column("a", false), column(" b", true)],
            cells: cells.map(|row| row.to_vec()).to_vec(),
            title: "of a test".into(),
            y_label: "layer".into(),
            value_label: "effect".into(),
            ..Heatmap::default()
        }
    }

    fn plain(map: &Heatmap) -> String {
        render(map, Options { width: 40, colour: Colour::Never })
    }

    #[test]
    fn plain_text_shows_sign_and_strength_with_layer_zero_at_the_bottom() {
        let null = Cell { exact_null: true, ..Cell::of(0.0) };
        let text = plain(&map([[Cell::of(-1.0), null], [Cell::of(0.5), Cell::default()]]));
        assert!(
            text.contains("\n1 |++++????\n0 |iiii 0  \n".trim_end())
                || text.contains("\n1 |++++????\n0 |iiii 0\n"),
            "{text}"
        );
        assert!(text.contains("0 a  1 ·b*"), "{text}");
        assert!(text.contains("−1 [igeb :+#@] 1"), "{text}");
    }

    #[test]
    fn what_is_no_number_and_what_was_not_measured_have_signs_of_their_own() {
        let not_finite = Cell { not_finite: true, trivial: true, ..Cell::default() };
        let map = map([[Cell::of(-1.0), not_finite], [Cell::of(0.5), Cell::default()]]);
        let text = plain(&map);
        assert!(text.contains("\n1 |++++????\n0 |iiii////\n"), "{text}");
        assert!(text.contains("/ not finite") && text.contains("? not measured"), "{text}");
        assert!(render(&map, Options { width: 40, colour: Colour::Full }).contains("m////\x1b[0m"));
    }

    #[test]
    fn a_grid_with_too_few_cells_is_filled_up() {
        let mut map = map([[Cell::of(1.0); 2]; 2]);
        map.cells[1].pop();
        assert!(plain(&map).contains("\n1 |@@@@????\n0 |@@@@@@@@\n"), "{}", plain(&map));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_heatmap_panics_and_every_line_fits(
            texts in prop::collection::vec(any::<String>(), 0..40),
            rows in 0usize..20,
            values in prop::collection::vec(prop::option::of(any::<f64>()), 1..50),
            flags in any::<u64>(),
            width in 0usize..120,
        ) {
            let cell = |i: usize| Cell {
                value: values[i % values.len()],
                not_finite: flags >> (i % 41) & 1 == 1,
                exact_null: flags >> (i % 61) & 1 == 1,
                trivial: flags >> (i % 37) & 1 == 1,
            };
            let pick = |i: usize| texts.get(i).cloned().unwrap_or_default();
            let column = |(i, text): (usize, &String)| Column { text: text.clone(), marked: flags >> (i % 13) & 1 == 1 };
            let map = Heatmap {
                title: pick(0),
                subtitle: pick(1),
                y_label: pick(2),
                x_label: pick(3),
                value_label: pick(4),
                mark_label: pick(5),
                references: vec![Reference { label: pick(6), value: values[0].unwrap_or(f64::NAN) }],
                texts: Vec::new(),
                rows: (0..rows).map(pick).collect(),
                columns: texts.iter().enumerate().map(column).collect(),
                cells: (0..rows).map(|r| (0..texts.len()).map(|c| cell(r * texts.len() + c)).collect()).collect(),
            };
            for colour in [Colour::Never, Colour::Palette, Colour::Full] {
                let text = render(&map, Options { width, colour });
                if colour == Colour::Never {
                    for line in text.lines() {
                        prop_assert!(line.width() <= width.max(40), "{:?}", line);
                    }
                }
            }
        }
    }
}
