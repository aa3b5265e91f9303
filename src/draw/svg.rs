//! A small SVG writer: elements in, text out, the same bytes for the same calls.
//!
//! No scripts, no style sheets, no external references: what it writes is safe to put into a page.

use std::fmt::Write as _;

use super::font::{FAMILY, Weight};

/// An attribute's value.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// A number in user units.
    Number(f64),
    /// Text, escaped when written.
    Text(&'a str),
}

impl From<f64> for Value<'_> {
    fn from(number: f64) -> Self {
        Value::Number(number)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Text(text)
    }
}

/// Which point of a text its coordinates name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// The left end of the baseline.
    Start,
    /// Its middle.
    Middle,
    /// Its right end.
    End,
}

/// How a text is set.
#[derive(Debug, Clone, Copy)]
pub struct TextStyle<'a> {
    /// Font size in user units.
    pub size: f64,
    /// Stroke weight.
    pub weight: Weight,
    /// Fill colour.
    pub fill: &'a str,
    /// Point named by the coordinates.
    pub anchor: Anchor,
    /// Rotation about that point in degrees, clockwise.
    pub rotate: f64,
}

impl Default for TextStyle<'_> {
    fn default() -> Self {
        Self { size: 10.0, weight: Weight::Regular, fill: "#222", anchor: Anchor::Start, rotate: 0.0 }
    }
}

/// An SVG document under construction.
#[derive(Debug, Default)]
pub struct Svg {
    body: String,
}

impl Svg {
    /// An empty document.
    pub fn new() -> Self {
        Self::default()
    }

    /// `<name attributes/>`.
    pub fn leaf(&mut self, name: &str, attributes: &[(&str, Value<'_>)]) {
        self.start(name, attributes);
        self.body.push_str("/>\n");
    }

    /// `<name attributes><title>tooltip</title></name>`: browsers show the title on hover.
    pub fn leaf_with_tooltip(&mut self, name: &str, attributes: &[(&str, Value<'_>)], tooltip: &str) {
        self.start(name, attributes);
        let _ = writeln!(self.body, "><title>{}</title></{name}>", escape(tooltip));
    }

    /// `<name attributes>`; close with [`Self::close`].
    pub fn open(&mut self, name: &str, attributes: &[(&str, Value<'_>)]) {
        self.start(name, attributes);
        self.body.push_str(">\n");
    }

    /// `</name>`.
    pub fn close(&mut self, name: &str) {
        let _ = writeln!(self.body, "</{name}>");
    }

    /// A line of text with its baseline at `y`.
    pub fn text(&mut self, x: f64, y: f64, text: &str, style: TextStyle<'_>) {
        let rotation = format!("rotate({} {} {})", number(style.rotate), number(x), number(y));
        let mut attributes: Vec<(&str, Value<'_>)> = vec![
            ("x", x.into()),
            ("y", y.into()),
            ("font-size", style.size.into()),
            ("fill", style.fill.into()),
        ];
        match style.anchor {
            Anchor::Start => {}
            Anchor::Middle => attributes.push(("text-anchor", "middle".into())),
            Anchor::End => attributes.push(("text-anchor", "end".into())),
        }
        if style.weight == Weight::Bold {
            attributes.push(("font-weight", "bold".into()));
        }
        if style.rotate != 0.0 {
            attributes.push(("transform", rotation.as_str().into()));
        }
        self.start("text", &attributes);
        let _ = writeln!(self.body, ">{}</text>", escape(text));
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) {
        self.leaf(
            "line",
            &[
                ("x1", from.0.into()),
                ("y1", from.1.into()),
                ("x2", to.0.into()),
                ("y2", to.1.into()),
                ("stroke", stroke.into()),
                ("stroke-width", width.into()),
            ],
        );
    }

    /// Lines without a fill, which the mouse passes through; nothing if there are none.
    pub fn path(&mut self, d: &str, stroke: &str, width: f64) {
        if !d.is_empty() {
            self.leaf(
                "path",
                &[
                    ("d", d.into()),
                    ("fill", "none".into()),
                    ("stroke", stroke.into()),
                    ("stroke-width", width.into()),
                    ("stroke-linecap", "round".into()),
                    ("pointer-events", "none".into()),
                ],
            );
        }
    }

    /// The document, `width` x `height` user units (CSS pixels) on white. `label` is what a screen reader says.
    pub fn finish(self, width: f64, height: f64, label: &str) -> String {
        let (width, height) = (number(width.ceil()), number(height.ceil()));
        let label = escape(label);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\" font-family=\"{FAMILY}\">\n\
             <title>{label}</title>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n{}</svg>\n",
            self.body
        )
    }

    fn start(&mut self, name: &str, attributes: &[(&str, Value<'_>)]) {
        let _ = write!(self.body, "<{name}");
        for (key, value) in attributes {
            let _ = match value {
                Value::Number(n) => write!(self.body, " {key}=\"{}\"", number(*n)),
                Value::Text(t) => write!(self.body, " {key}=\"{}\"", escape(t)),
            };
        }
    }
}

/// Appends formatted text.
pub(super) fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let _ = out.write_fmt(text);
}

/// A coordinate with at most two decimals and no superfluous zeros; 0 where it is not finite.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "0".to_owned();
    }
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// `text` for XML content and attributes; characters that XML 1.0 forbids become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_minus_zero() {
        for (value, expected) in [
            (1.0, "1"),
            (0.126, "0.13"),
            (-0.001, "0"),
            (100.0, "100"),
            (f64::NAN, "0"),
            (f64::INFINITY, "0"),
        ] {
            assert_eq!(number(value), expected);
        }
    }

    #[test]
    fn no_text_can_leave_its_place() {
        let mut svg = Svg::new();
        let evil = "\"/><script>alert('&')</script>\u{0}\u{ffff}\n";
        svg.leaf_with_tooltip("rect", &[("fill", evil.into())], evil);
        svg.text(0.0, 0.0, evil, TextStyle::default());
        let text = svg.finish(10.0, 10.0, evil);
        assert!(!text.contains("<script"));
        let document = resvg::usvg::roxmltree::Document::parse(&text).expect("well-formed");
        let label = document.root_element().attribute("aria-label");
        assert_eq!(label, Some("\"/><script>alert('&')</script>\u{fffd}\u{fffd}\n"));
    }
}
