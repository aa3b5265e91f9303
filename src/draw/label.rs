//! Any string as a label: one line, nothing invisible, not too long.

/// Shows `text` on one line with nothing invisible in it.
///
/// Line feed becomes `⏎`, tab `⇥`, leading and trailing spaces `·` (`␣` where there is nothing else), and characters
/// without a shape of their own (controls, no-break space, bidirectional and zero-width formatting, non-characters)
/// `\u{..}`. A leading combining mark gets a dotted circle to stand on; the empty string is `∅`.
/// What comes out is safe in XML and in a terminal.
pub fn visible(text: &str) -> String {
    if text.is_empty() {
        return "∅".to_owned();
    }
    let body_start = text.len() - text.trim_start_matches(' ').len();
    let body_end = text.trim_end_matches(' ').len().max(body_start);
    let space = if body_start == text.len() { '␣' } else { '·' };
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        if at == 0 && is_combining(c) {
            out.push('◌');
        }
        if c == ' ' && (at < body_start || at >= body_end) {
            out.push(space);
        } else if c == '\u{a0}' {
            out.push_str("\\u{a0}");
        } else {
            push_visible(&mut out, c);
        }
    }
    out
}

/// As [`visible`], but for running text such as a title: spaces stay spaces, also no-break ones, line breaks become spaces.
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\n' | '\r' | '\t') {
            out.push(' ');
        } else {
            push_visible(&mut out, c);
        }
    }
    out
}

fn push_visible(out: &mut String, c: char) {
    use std::fmt::Write as _;
    match c {
        '\n' => out.push('⏎'),
        '\t' => out.push('⇥'),
        _ if is_shapeless(c) => {
            // Writing to a `String` cannot fail.
            let _ = write!(out, "\\u{{{:x}}}", c as u32);
        }
        _ => out.push(c),
    }
}

/// Controls and format characters that would be invisible or would reorder the text around them.
const fn is_shapeless(c: char) -> bool {
    matches!(c as u32,
        0x0..=0x1f | 0x7f..=0x9f | 0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfe00..=0xfe0f
        | 0xfeff | 0xfff0..=0xfffb | 0xfffe | 0xffff | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

#[rustfmt::skip]
const fn is_combining(c: char) -> bool {
    matches!(c as u32, 0x300..=0x36f | 0x483..=0x489 | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff | 0x20d0..=0x20f0 | 0xfe20..=0xfe2f)
}

/// The first `max` characters, the last of them `…` where something was left out. `max` counts at least 1.
pub fn shorten(text: &str, max: usize) -> String {
    let max = max.max(1);
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_shown() {
        for (input, expected) in [
            (" current", "·current"),
            ("a b ", "a b·"),
            ("   ", "␣␣␣"),
            ("\u{a0}", "\\u{a0}"),
            ("\n\n", "⏎⏎"),
            ("\t\u{1b}[31m", "⇥\\u{1b}[31m"),
            ("", "∅"),
            ("\u{301}", "◌\u{301}"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("\u{ffff}\u{85}", "\\u{ffff}\\u{85}"),
            ("née", "née"),
        ] {
            assert_eq!(visible(input), expected, "{input:?}");
        }
    }

    #[test]
    fn a_title_keeps_its_spaces_and_loses_its_line_breaks() {
        assert_eq!(one_line(" a\nb\r\u{0}"), " a b \\u{0}");
    }

    #[test]
    fn shortening_never_exceeds_the_limit_and_marks_what_is_missing() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("abcdef", 5), "abcd…");
        assert_eq!(shorten("日本語日本語", 3), "日本…");
        assert_eq!(shorten("abc", 0), "…");
    }
}
