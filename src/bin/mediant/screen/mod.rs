//! Printing: headings, paragraphs, requests, tables, lints, heatmaps. Nothing is wider than the terminal.

pub(crate) mod map;
pub(crate) mod numbers;
mod terminal;

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use self::terminal::Colour;
use mediant::draw::heatmap::Heatmap;

/// Columns where standard output is no terminal.
const PIPE_WIDTH: usize = 100;
/// Wider lines are hard to read.
const MAX_WIDTH: usize = 110;
const INDENT: &str = "  ";

/// Where text goes and what it may look like.
pub(crate) struct Screen {
    out: Box<dyn Write + Send>,
    width: usize,
    colour: Colour,
    /// Whether the last line was empty, or nothing has been printed yet.
    at_gap: bool,
}

/// Which colours are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// Those of the terminal; none in a pipe, or where `NO_COLOR` is set
    #[default]
    Auto,
    /// 24-bit colours
    Truecolor,
    /// The palette of 256 colours
    #[value(name = "256")]
    Palette,
    /// No colours
    None,
}

/// Columns of a table, left- or right-aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Text attributes as ANSI codes.
#[derive(Clone, Copy)]
enum Ink {
    Bold,
    Dim,
    Yellow,
    Red,
    Cyan,
}

impl Screen {
    /// Standard output: its width, and its colours unless `NO_COLOR` or a pipe forbids them.
    pub(crate) fn stdout() -> Self {
        Self::of(&console::Term::stdout(), Box::new(io::stdout()), When::Auto)
    }

    /// The same, with the colours that were asked for.
    pub(crate) fn coloured(when: When) -> Self {
        Self::of(&console::Term::stdout(), Box::new(io::stdout()), when)
    }

    /// Standard error.
    pub(crate) fn stderr(when: When) -> Self {
        Self::of(&console::Term::stderr(), Box::new(io::stderr()), when)
    }

    fn of(terminal: &console::Term, out: Box<dyn Write + Send>, when: When) -> Self {
        let colours = terminal.features().colors_supported()
            && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let full = std::env::var("COLORTERM").is_ok_and(|v| v == "truecolor" || v == "24bit");
        let colour = match (when, colours, full) {
            (When::None, ..) | (When::Auto, false, _) => Colour::Never,
            (When::Palette, ..) | (When::Auto, true, false) => Colour::Palette,
            (When::Truecolor, ..) | (When::Auto, true, true) => Colour::Full,
        };
        let width = terminal.size_checked().map_or(PIPE_WIDTH, |(_, columns)| usize::from(columns));
        Self::new(out, width, colour)
    }

    pub(crate) fn new(out: Box<dyn Write + Send>, width: usize, colour: Colour) -> Self {
        Self { out, width: width.clamp(40, MAX_WIDTH), colour, at_gap: false }
    }

    fn paint(&self, ink: Ink, text: &str) -> String {
        if self.colour == Colour::Never {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Bold => 1,
            Ink::Dim => 2,
            Ink::Yellow => 33,
            Ink::Red => 31,
            Ink::Cyan => 36,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A line as it is.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.at_gap = text.is_empty();
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// One empty line, however often it is asked for.
    pub(crate) fn gap(&mut self) -> io::Result<()> {
        if self.at_gap { Ok(()) } else { self.line("") }
    }

    pub(crate) fn heading(&mut self, text: &str) -> io::Result<()> {
        let rule = "─".repeat(self.width.saturating_sub(text.width() + 4));
        let line = format!("── {} {}", self.paint(Ink::Bold, text), self.paint(Ink::Dim, &rule));
        self.gap()?;
        self.line(&line)
    }

    /// A paragraph, wrapped.
    pub(crate) fn say(&mut self, text: &str) -> io::Result<()> {
        for line in wrap(text.split(' '), " ", self.width - 2) {
            self.line(&format!("{INDENT}{line}"))?;
        }
        Ok(())
    }

    /// A request, as it is sent.
    pub(crate) fn request(&mut self, path: &str, body: &Value) -> io::Result<()> {
        self.gap()?;
        let line = format!("{INDENT}{}", self.paint(Ink::Cyan, &format!("POST {path}")));
        self.line(&line)?;
        let body = body.to_string();
        for line in wrap(body.split_inclusive(','), "", self.width - 4) {
            let line = format!("{INDENT}{INDENT}{}", self.paint(Ink::Dim, &line));
            self.line(&line)?;
        }
        self.gap()
    }

    /// A table; the last column is cut where the terminal ends.
    pub(crate) fn table(&mut self, head: &[(&str, Align)], rows: &[Vec<String>]) -> io::Result<()> {
        let widths: Vec<usize> = (0..head.len())
            .map(|i| rows.iter().map(|row| row[i].width()).chain([head[i].0.width()]).max().unwrap_or(0))
            .collect();
        let line = |cells: Vec<&str>| {
            let mut line = INDENT.to_owned();
            for ((cell, width), (_, align)) in cells.iter().zip(&widths).zip(head) {
                let pad = " ".repeat(width.saturating_sub(cell.width()));
                match align {
                    Align::Left => line.extend([*cell, &pad]),
                    Align::Right => line.extend([&pad, *cell]),
                }
                line.push_str(INDENT);
            }
            terminal::fit(line.trim_end(), self.width)
        };
        let title = self.paint(Ink::Dim, &line(head.iter().map(|(name, _)| *name).collect()));
        let lines: Vec<String> =
            rows.iter().map(|row| line(row.iter().map(String::as_str).collect())).collect();
        self.line(&title)?;
        lines.iter().try_for_each(|line| self.line(line))
    }

    /// The lints of responses; what several of them say alike is said once.
    pub(crate) fn lints(&mut self, responses: &[&Value]) -> io::Result<()> {
        let all: Vec<&Value> = responses.iter().filter_map(|r| r["lints"].as_array()).flatten().collect();
        let mut seen: Vec<(&Value, Vec<&str>, usize)> = Vec::new();
        for lint in all {
            let detail = lint["detail"].as_str().unwrap_or_default();
            match seen.iter_mut().find(|(first, _, _)| {
                first["code"] == lint["code"]
                    && first["where"] == lint["where"]
                    && first["fix"] == lint["fix"]
            }) {
                Some((_, details, count)) => {
                    *count += 1;
                    if !details.contains(&detail) {
                        details.push(detail);
                    }
                }
                None => seen.push((lint, vec![detail], 1)),
            }
        }
        if !seen.is_empty() {
            self.gap()?;
        }
        for (lint, details, count) in seen {
            let (mark, ink) = match lint["severity"].as_str() {
                Some("error") => ("×", Ink::Red),
                Some("warning") => ("!", Ink::Yellow),
                _ => ("i", Ink::Cyan),
            };
            let code = lint["code"].as_str().unwrap_or_default();
            let of = match (responses.len(), count) {
                (1, _) => String::new(),
                (n, count) => format!("  ({count} of {n} requests)"),
            };
            let at = format!("at {}{of}", lint["where"].as_str().unwrap_or_default());
            let head = format!(
                "{INDENT}{} {}",
                self.paint(ink, &format!("{mark} {code}")),
                self.paint(Ink::Dim, &at)
            );
            self.line(&head)?;
            for detail in details {
                self.under(detail)?;
            }
            self.under(&format!("→ {}", lint["fix"].as_str().unwrap_or_default()))?;
        }
        Ok(())
    }

    fn under(&mut self, text: &str) -> io::Result<()> {
        for line in wrap(text.split(' '), " ", self.width - 4) {
            self.line(&format!("{INDENT}{INDENT}{line}"))?;
        }
        Ok(())
    }

    pub(crate) fn heatmap(&mut self, map: &Heatmap) -> io::Result<()> {
        let options = terminal::Options { width: self.width - 2, colour: self.colour };
        self.gap()?;
        for line in terminal::render(map, options).lines() {
            self.line(&format!("{INDENT}{line}"))?;
        }
        Ok(())
    }

    /// Files that were written.
    pub(crate) fn wrote(&mut self, files: &[String]) -> io::Result<()> {
        self.gap()?;
        let pieces = std::iter::once("wrote").chain(files.iter().map(String::as_str));
        for line in wrap(pieces, " ", self.width - 2) {
            let line = format!("{INDENT}{}", self.paint(Ink::Dim, &line));
            self.line(&line)?;
        }
        Ok(())
    }
}

/// Joins pieces into lines of at most `width` columns; a longer piece has a line of its own.
fn wrap<'a>(pieces: impl Iterator<Item = &'a str>, between: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.width() + between.len() + piece.width() <= width => {
                line.push_str(between);
                line.push_str(piece);
            }
            _ => lines.push(piece.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(width: usize, colour: Colour, show: impl FnOnce(&mut Screen) -> io::Result<()>) -> String {
        let sink = Sink::default();
        show(&mut Screen::new(Box::new(sink.clone()), width, colour)).unwrap();
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    fn everything(screen: &mut Screen) -> io::Result<()> {
        screen.heading("Part 1 · Two clean runs")?;
        screen.say("words and ".repeat(30).trim_end())?;
        screen.request("/v1/run", &json!({"layers": (0..60).collect::<Vec<_>>()}))?;
        let row = vec!["12".to_owned(), "a cell that is wider than the screen has columns, by far".repeat(3)];
        screen.table(&[("layer", Align::Right), ("text", Align::Left)], &[row])?;
        screen.wrote(&(0..9).map(|i| format!("folder/file-{i}.svg")).collect::<Vec<_>>())
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [40, 57, 100] {
            let text = shown(width, Colour::Never, everything);
            assert!(text.lines().all(|line| line.width() <= width), "{text}");
        }
    }

    #[test]
    fn escape_codes_come_with_colour_only() {
        assert!(!shown(80, Colour::Never, everything).contains('\x1b'));
        assert!(shown(80, Colour::Palette, everything).contains("\x1b[1mPart 1"));
    }

    #[test]
    fn what_several_answers_say_alike_is_said_once() {
        let lint = |detail: &str| json!({"lints": [{"code": "WEAK", "severity": "warning", "where": "/corrupt", "detail": detail, "fix": "more"}]});
        let (a, b, none) = (lint("0.5"), lint("0.6"), json!({"lints": []}));
        let text = shown(80, Colour::Never, |screen| screen.lints(&[&a, &b, &a, &none]));
        let expected = "  ! WEAK at /corrupt  (3 of 4 requests)\n    0.5\n    0.6\n    → more\n";
        assert_eq!(text.trim_start_matches('\n'), expected);
    }
}
