//! The embedded font: how wide a text is, and which characters it has.
//!
//! Pictures name `DejaVu Sans`; a subset of it (Latin, Greek, Cyrillic, punctuation, arrows, mathematics) travels in
//! the binary so that a PNG looks the same on every machine. Its licence lies beside it in `fonts/`.

use std::sync::OnceLock;

use skrifa::instance::{LocationRef, Size};
use skrifa::metrics::GlyphMetrics;
use skrifa::{FontRef, MetadataProvider as _};

/// `DejaVu Sans`, subset.
pub const REGULAR: &[u8] = include_bytes!("fonts/DejaVuSans.subset.ttf");
/// `DejaVu Sans` bold, subset.
pub const BOLD: &[u8] = include_bytes!("fonts/DejaVuSans-Bold.subset.ttf");
/// Value of `font-family` in every picture.
pub const FAMILY: &str = "DejaVu Sans, sans-serif";

/// Stroke weight of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Normal text.
    Regular,
    /// Titles and marked labels.
    Bold,
}

struct Face {
    font: FontRef<'static>,
    metrics: GlyphMetrics<'static>,
}

fn face(weight: Weight) -> &'static Face {
    static FACES: OnceLock<[Face; 2]> = OnceLock::new();
    let faces = FACES.get_or_init(|| {
        [REGULAR, BOLD].map(|data| {
            let font = FontRef::new(data).expect("BUG: the embedded font is a valid TrueType file");
            // One em is one unit wide, so widths scale by the font size.
            let metrics = font.glyph_metrics(Size::new(1.0), LocationRef::default());
            Face { font, metrics }
        })
    });
    &faces[usize::from(weight == Weight::Bold)]
}

/// Whether the embedded font (regular) has `c`.
pub fn covers(c: char) -> bool {
    face(Weight::Regular).font.charmap().map(c).is_some()
}

/// Width of `text` set in `size` user units, without kerning. Characters beyond the embedded font count as a full em,
/// the width of an ideograph.
pub fn width(text: &str, size: f64, weight: Weight) -> f64 {
    let face = face(weight);
    let charmap = face.font.charmap();
    let ems: f64 = text
        .chars()
        .map(|c| {
            let advance = charmap.map(c).and_then(|glyph| face.metrics.advance_width(glyph));
            advance.map_or(1.0, f64::from)
        })
        .sum();
    ems * size
}

/// Cuts `text` with `…` until it is at most `max` wide. A single character is never cut.
pub fn fit(text: &str, size: f64, weight: Weight, max: f64) -> String {
    if width(text, size, weight) <= max {
        return text.to_owned();
    }
    let mut room = max - width("…", size, weight);
    let mut out = String::new();
    for c in text.chars() {
        room -= width(c.encode_utf8(&mut [0; 4]), size, weight);
        if room < 0.0 && !out.is_empty() {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// Breaks `text` at spaces into lines at most `max` wide. What doesn't fit in `lines` lines, or a word wider than a
/// line, ends in `…`. An empty text has no lines.
pub fn wrap(text: &str, size: f64, weight: Weight, max: f64, lines: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut words = text.split(' ').filter(|word| !word.is_empty()).peekable();
    while words.peek().is_some() && out.len() < lines {
        let mut line = String::new();
        let last = out.len() + 1 == lines;
        while let Some(word) = words.peek() {
            let longer = if line.is_empty() { (*word).to_owned() } else { format!("{line} {word}") };
            if !line.is_empty() && !last && width(&longer, size, weight) > max {
                break;
            }
            line = longer;
            words.next();
            // A very long text is not measured to its end.
            if last && width(&line, size, weight) > max {
                break;
            }
        }
        out.push(fit(&line, size, weight, max));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_dejavu() {
        // Advance of "M" in DejaVu Sans: 1767 of 2048 units; bold 2038.
        assert!((width("M", 2048.0, Weight::Regular) - 1767.0).abs() < 0.5);
        assert!((width("M", 2048.0, Weight::Bold) - 2038.0).abs() < 0.5);
        assert!((width("MM", 10.0, Weight::Regular) - 2.0 * width("M", 10.0, Weight::Regular)).abs() < 1e-6);
    }

    #[test]
    fn the_font_has_every_character_that_labels_make() {
        for c in "·␣⏎⇥∅◌…−×⁻⁰¹²³⁴⁵⁶⁷⁸⁹éßŁЖΩ→≤\u{fffd}".chars() {
            assert!(covers(c), "{c:?}");
        }
        assert!(!covers('日'));
    }

    #[test]
    fn wrapped_lines_are_never_too_wide_and_lose_no_word_when_there_is_room() {
        let text = "The Eiffel Tower is in the city of Paris";
        let lines = wrap(text, 11.0, Weight::Regular, 90.0, 9);
        assert_eq!(lines.join(" "), text);
        assert!(lines.len() > 2);
        assert!(lines.iter().all(|line| width(line, 11.0, Weight::Regular) <= 90.0));
        let cut = wrap(text, 11.0, Weight::Regular, 90.0, 2);
        assert_eq!(cut.len(), 2);
        assert!(cut[1].ends_with('…'), "{cut:?}");
        assert!(wrap(" ", 11.0, Weight::Bold, 90.0, 2).is_empty());
        assert!(wrap("a", 11.0, Weight::Bold, 90.0, 0).is_empty());
    }
}
