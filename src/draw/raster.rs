//! SVG to PNG.

use std::sync::{Arc, OnceLock};

use resvg::usvg::fontdb;
use resvg::{tiny_skia, usvg};

use super::font;

/// The most pixels of one PNG (256 MiB of RGBA while drawing).
pub const MAX_PIXELS: u64 = 1 << 26;

/// Why there is no PNG.
#[derive(Debug, thiserror::Error)]
pub enum RasterError {
    /// The picture times the scale is too large, or the scale is not a positive number.
    #[error(
        "a picture of {width} x {height} at scale {scale} is not between 1 and {MAX_PIXELS} pixels; ask for SVG or a smaller scale"
    )]
    Size {
        /// Width of the SVG in user units.
        width: f32,
        /// Height of the SVG in user units.
        height: f32,
        /// Pixels asked for per user unit.
        scale: f32,
    },
    /// Not an SVG that can be drawn.
    #[error("the SVG cannot be drawn")]
    Parse(#[from] usvg::Error),
    /// The PNG encoder failed.
    #[error("the PNG cannot be written: {reason}")]
    Encode {
        /// What the encoder said.
        reason: String,
    },
}

/// Draws `svg` with `scale` pixels per user unit (2 is sharp on most screens, 4 in print).
///
/// Text is set in the embedded font, so the same SVG gives the same bytes everywhere. Only where a text has characters
/// beyond it are the machine's own fonts searched (once per process).
///
/// # Errors
/// [`RasterError::Size`] above [`MAX_PIXELS`] or for a scale that isn't a positive number, [`RasterError::Parse`] for
/// text that isn't SVG.
pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>, RasterError> {
    // Large pictures repeat few characters millions of times, so each is looked up once.
    let unusual: std::collections::BTreeSet<char> = svg.chars().filter(|c| !c.is_ascii()).collect();
    let fontdb = if unusual.into_iter().all(font::covers) { embedded() } else { with_system() };
    let options = usvg::Options { fontdb, font_family: "DejaVu Sans".to_owned(), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg, &options)?;
    let size = tree.size();
    let error = || RasterError::Size { width: size.width(), height: size.height(), scale };
    let pixels = |length: f32| {
        let pixels = f64::from(length) * f64::from(scale);
        (pixels.is_finite() && pixels > 0.0 && pixels < 1e9).then(|| pixels.ceil() as u32)
    };
    let (width, height) = pixels(size.width()).zip(pixels(size.height())).ok_or_else(error)?;
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(error());
    }
    let mut pixmap = tiny_skia::Pixmap::new(width, height).ok_or_else(error)?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    pixmap.encode_png().map_err(|source| RasterError::Encode { reason: source.to_string() })
}

fn embedded() -> Arc<fontdb::Database> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    FONTS.get_or_init(|| Arc::new(load_embedded())).clone()
}

fn with_system() -> Arc<fontdb::Database> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    FONTS
        .get_or_init(|| {
            let mut fonts = load_embedded();
            fonts.load_system_fonts();
            Arc::new(fonts)
        })
        .clone()
}

fn load_embedded() -> fontdb::Database {
    let mut fonts = fontdb::Database::new();
    for data in [font::REGULAR, font::BOLD] {
        fonts.load_font_source(fontdb::Source::Binary(Arc::new(data)));
    }
    fonts.set_sans_serif_family("DejaVu Sans");
    fonts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::svg::{Svg, TextStyle};

    fn decode(png: &[u8]) -> tiny_skia::Pixmap {
        tiny_skia::Pixmap::decode_png(png).expect("a PNG")
    }

    #[test]
    fn text_becomes_dark_pixels_in_the_embedded_font() {
        let mut svg = Svg::new();
        svg.text(5.0, 20.0, "Wasser", TextStyle { size: 20.0, fill: "#000", ..TextStyle::default() });
        let svg = svg.finish(100.0, 30.0, "x");
        let png = png(&svg, 2.0).expect("drawn");
        let image = decode(&png);
        assert_eq!((image.width(), image.height()), (200, 60));
        let dark = |range: std::ops::Range<u32>| {
            range
                .flat_map(|x| (0..60).map(move |y| (x, y)))
                .filter(|(x, y)| image.pixel(*x, *y).is_some_and(|p| p.red() < 60))
                .count()
        };
        let end = (5.0 + font::width("Wasser", 20.0, font::Weight::Regular)) * 2.0;
        assert!(dark(0..200) > 500);
        // The text ends where its measured width says, give or take side bearings.
        assert!(dark(end as u32 + 4..200) == 0);
        assert!(dark(end as u32 - 10..end as u32 + 4) > 0);
    }

    #[test]
    fn a_png_repeats_to_the_byte() {
        let svg = Svg::new().finish(10.0, 10.0, "x");
        assert_eq!(png(&svg, 1.5).expect("drawn"), png(&svg, 1.5).expect("drawn"));
    }

    #[test]
    fn absurd_sizes_and_texts_are_refused() {
        let svg = Svg::new().finish(1000.0, 1000.0, "x");
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e9, 9.0] {
            assert!(matches!(png(&svg, scale), Err(RasterError::Size { .. })), "{scale}");
        }
        assert!(matches!(png("<svg", 1.0), Err(RasterError::Parse(_))));
        assert!(matches!(png("", 1.0), Err(RasterError::Parse(_))));
    }
}
