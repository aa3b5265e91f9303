//! What every picture promises, over the pictures of the gallery and over random ones.

use proptest::prelude::*;
use resvg::usvg::roxmltree::{Document, Node};

use super::bars::{Bar, Bars, Series};
use super::font::{self, Weight};
use super::gallery::{PUN, charts, figures, heatmap};
use super::heatmap::{Arrangement, Cell, Column, Figure, Heatmap, Reference};
use super::{PictureError, scale};

fn number(node: &Node<'_, '_>, name: &str) -> f64 {
    node.attribute(name).and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// Centre line and extents of every text: along the reading direction and half the height across it, in the plane.
fn corners(node: &Node<'_, '_>) -> [(f64, f64); 4] {
    let bold = node.attribute("font-weight").is_some();
    let size = number(node, "font-size");
    let wide =
        font::width(node.text().unwrap_or(""), size, if bold { Weight::Bold } else { Weight::Regular });
    let from = match node.attribute("text-anchor") {
        Some("middle") => -wide / 2.0,
        Some("end") => -wide,
        _ => 0.0,
    };
    let rotate =
        node.attribute("transform").and_then(|t| t.strip_prefix("rotate(")?.split(' ').next()?.parse().ok());
    let (sin, cos) = f64::to_radians(rotate.unwrap_or(0.0)).sin_cos();
    let (x, y) = (number(node, "x"), number(node, "y"));
    // From the baseline, an x-height of half an em and a little more: what the eye sees as overlapping.
    [(from, 0.0), (from + wide, 0.0), (from + wide, -0.6 * size), (from, -0.6 * size)]
        .map(|(dx, dy)| (x + dx * cos - dy * sin, y + dx * sin + dy * cos))
}

/// Whether two rectangles at any angle overlap (separating axes).
fn overlap(a: &[(f64, f64); 4], b: &[(f64, f64); 4]) -> bool {
    [a, b].into_iter().all(|shape| {
        (0..2).all(|side| {
            let (p, q) = (shape[side], shape[side + 1]);
            let axis = (q.0 - p.0, q.1 - p.1);
            let span = |r: &[(f64, f64); 4]| {
                let dots = r.map(|c| c.0 * axis.0 + c.1 * axis.1);
                (dots.into_iter().fold(f64::MAX, f64::min), dots.into_iter().fold(f64::MIN, f64::max))
            };
            let ((a0, a1), (b0, b1)) = (span(a), span(b));
            a0 < b1 && b0 < a1
        })
    })
}

#[test]
fn no_text_overlaps_another_or_leaves_the_picture() {
    let pictures = figures().into_iter().map(|(name, f)| (name, f.to_svg().expect("drawn")));
    let charts = charts().into_iter().map(|(name, b)| (name, b.to_svg().expect("drawn")));
    for (name, svg) in pictures.chain(charts) {
        let document = Document::parse(&svg).expect("well-formed");
        let root = document.root_element();
        let texts: Vec<_> = document.descendants().filter(|n| n.has_tag_name("text")).collect();
        let boxes: Vec<_> = texts.iter().map(corners).collect();
        for (i, a) in boxes.iter().enumerate() {
            for (x, y) in a {
                let inside =
                    *x >= 0.0 && *y >= 0.0 && *x <= number(&root, "width") && *y <= number(&root, "height");
                assert!(inside, "{name}: {:?} leaves the picture", texts[i].text());
            }
            for (j, b) in boxes.iter().enumerate().skip(i + 1) {
                assert!(!overlap(a, b), "{name}: {:?} overlaps {:?}", texts[i].text(), texts[j].text());
            }
        }
    }
}

fn fills(svg: &str) -> Vec<(String, String)> {
    let document = Document::parse(svg).expect("well-formed");
    let cells = document.descendants().filter(|n| n.has_tag_name("rect") && n.has_children());
    let text = |n: &Node<'_, '_>| n.first_element_child().and_then(|t| t.text().map(str::to_owned));
    cells.map(|n| (n.attribute("fill").unwrap_or("").to_owned(), text(&n).unwrap_or_default())).collect()
}

#[test]
fn cells_have_the_colour_of_their_value_and_layer_zero_is_at_the_bottom() {
    let mut map = heatmap(2, &[" a", "b"], 0..1);
    map.cells = vec![vec![Cell::of(-0.5), Cell::of(0.25)], vec![Cell::default(), Cell::of(0.0)]];
    let svg = Figure::from(map).to_svg().expect("drawn");
    let expected = [
        (scale::diverging(-1.0), "layer 0, ·a (0): -0.5"),
        (scale::diverging(0.5), "layer 0, b (1): 0.25"),
        (scale::MISSING, "layer 1, ·a (0): not measured"),
        (scale::NEUTRAL, "layer 1, b (1): 0.0"),
    ];
    let expected: Vec<_> = expected.into_iter().map(|(c, t)| (c.to_string(), t.to_owned())).collect();
    assert_eq!(fills(&svg), expected);
    let document = Document::parse(&svg).expect("well-formed");
    let y: Vec<f64> = document
        .descendants()
        .filter(|n| n.has_tag_name("rect") && n.has_children())
        .map(|n| number(&n, "y"))
        .collect();
    assert!(y[0] > y[2]);
    for tick in ["−0.500", "−0.250", "0.250", "0.500"] {
        assert!(svg.contains(&format!(">{tick}</text>")), "{tick}");
    }
}

#[test]
fn a_shared_scale_makes_equal_values_equal_colours() {
    let panel = |value| Heatmap {
        cells: vec![vec![Cell::of(value), Cell::of(0.5)]],
        ..heatmap(1, &["a", "b"], 0..0)
    };
    let figure =
        |shared_scale| Figure { panels: vec![panel(1.0), panel(0.5)], shared_scale, ..Figure::default() };
    let colours = |shared| {
        fills(&figure(shared).to_svg().expect("drawn")).into_iter().map(|(c, _)| c).collect::<Vec<_>>()
    };
    let shared = colours(true);
    assert!(shared[1] == shared[3] && shared[2] == shared[3] && shared[0] != shared[2]);
    let own = colours(false);
    assert!(own[0] == own[2] && own[1] != own[3]);
}

#[test]
fn a_given_end_of_the_scale_makes_pictures_comparable_and_one_from_zero_has_no_blue() {
    let figure = |value, scale_end, from_zero| Figure {
        panels: vec![Heatmap { cells: vec![vec![Cell::of(value)]], ..heatmap(1, &["a"], 0..0) }],
        scale_end,
        from_zero,
        ..Figure::default()
    };
    let colour =
        |value, end, from_zero| fills(&figure(value, end, from_zero).to_svg().expect("drawn"))[0].0.clone();
    assert_eq!(colour(0.25, Some(1.0), false), scale::diverging(0.25).to_string());
    assert_eq!(colour(0.25, None, false), scale::diverging(1.0).to_string());
    assert_eq!(colour(3.0, Some(1.0), false), scale::diverging(1.0).to_string());
    assert_eq!(colour(-3.0, Some(1.0), true), scale::diverging(0.0).to_string());
    let svg = figure(0.25, Some(1.0), true).to_svg().expect("drawn");
    assert!(svg.contains(">0.50</text>") && !svg.contains("−"), "{svg}");
}

#[test]
fn texts_stand_in_their_cells_with_what_is_invisible_shown() {
    let mut map = heatmap(2, &["a", "b"], 0..0);
    map.cells = vec![vec![Cell::of(1.0), Cell::of(0.1)], vec![Cell::of(0.5), Cell::default()]];
    map.texts = vec![vec![" Paris".into(), "\n".into()], vec!["<E6>".into(), String::new()]];
    let svg = Figure::from(map.clone()).to_svg().expect("drawn");
    let document = Document::parse(&svg).expect("well-formed");
    let find = |text: &str| document.descendants().find(|n| n.has_tag_name("text") && n.text() == Some(text));
    let place = |text: &str| find(text).map(|n| (number(&n, "x"), number(&n, "y"))).expect("drawn");
    let (paris, feed, east) = (place("·Paris"), place("⏎"), place("<E6>"));
    assert!(paris.0 < feed.0 && (paris.1 - feed.1).abs() < 0.1, "one row: {paris:?} {feed:?}");
    assert!((paris.0 - east.0).abs() < 0.1 && east.1 < paris.1, "layer 1 above layer 0");
    assert_eq!(find("·Paris").and_then(|n| n.attribute("fill")), Some("#fff"), "white on the dark end");
    assert!(svg.contains("0, a (0): ·Paris, 1.0"), "the tooltip has both");
    map.texts[0].pop();
    assert!(matches!(Figure::from(map).to_svg(), Err(PictureError::RaggedRow { .. })));
}

#[test]
fn a_grid_of_panels_fills_its_lines() {
    let panels = vec![heatmap(2, &["a", "b"], 0..0); 5];
    let figure =
        |arrangement| Figure { panels: panels.clone(), shared_scale: true, arrangement, ..Figure::default() };
    let places = |arrangement| {
        let svg = figure(arrangement).to_svg().expect("drawn");
        let document = Document::parse(&svg).expect("well-formed");
        let cells = document.descendants().filter(|n| n.has_tag_name("rect") && n.has_children());
        let all: Vec<_> = cells.map(|n| (number(&n, "x"), number(&n, "y"))).collect();
        all.chunks(4).map(|panel| panel[0]).collect::<Vec<_>>()
    };
    let grid = places(Arrangement::Grid(2));
    assert!(grid[0].0 < grid[1].0 && (grid[0].1 - grid[1].1).abs() < 0.1);
    assert!((grid[0].0 - grid[2].0).abs() < 0.1 && grid[2].1 > grid[0].1 && grid[4].1 > grid[2].1);
    assert_eq!(places(Arrangement::Grid(9)), places(Arrangement::Row));
    assert!(places(Arrangement::Grid(0)).windows(2).all(|two| two[0].1 < two[1].1));
}

#[test]
fn a_grid_that_is_not_rows_by_columns_is_an_error() {
    let mut map = heatmap(3, &PUN, 1..3);
    map.cells[1].pop();
    let ragged = PictureError::RaggedRow { panel: 0, row: 1, expected: 12, got: 11 };
    assert_eq!(Figure::from(map.clone()).to_svg(), Err(ragged));
    map.cells.pop();
    assert_eq!(Figure::from(map).to_svg(), Err(PictureError::RowCount { panel: 0, expected: 3, got: 2 }));
    let rows = vec![String::new(); super::MAX_MARKS + 1];
    let huge = Heatmap { cells: vec![vec![]; rows.len()], rows, ..Heatmap::default() };
    assert!(matches!(Figure::from(huge).to_svg(), Err(PictureError::TooMany { .. })));
}

#[test]
fn what_is_no_number_is_hatched_and_what_was_not_measured_is_grey() {
    let not_finite = Cell { not_finite: true, trivial: true, ..Cell::default() };
    let mut map = heatmap(2, &["a", " b"], 1..2);
    map.cells = vec![vec![Cell::of(-1.0), not_finite], vec![Cell::of(0.5), Cell::default()]];
    let svg = Figure::from(map.clone()).to_svg().expect("drawn");
    assert!(svg.contains("b (1): not finite") && svg.contains("b (1): not measured"), "{svg}");
    assert_eq!(svg.matches("stroke=\"#7a7a7a\"").count(), 2, "the cells' hatching, and the legend's");
    map.cells[0][1] = Cell::default();
    let svg = Figure::from(map).to_svg().expect("drawn");
    assert!(!svg.contains("#7a7a7a") && !svg.contains("not finite"));
}

#[test]
fn the_place_of_a_bar_that_is_no_number_is_hatched() {
    let bars = |not_finite| Bars {
        labels: vec!["0".into(), "1".into()],
        series: vec![Series {
            name: String::new(),
            bars: vec![Bar::of(0.5), Bar { not_finite, ..Bar::default() }],
        }],
        ..Bars::default()
    };
    let svg = bars(true).to_svg().expect("drawn");
    assert!(Document::parse(&svg).is_ok());
    assert!(svg.contains("1: not finite") && svg.matches("#7a7a7a").count() == 2, "{svg}");
    assert!(!bars(false).to_svg().expect("drawn").contains("#7a7a7a"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_heatmap_panics_and_all_are_well_formed(
        texts in prop::collection::vec(any::<String>(), 0..40),
        rows in 0usize..20,
        values in prop::collection::vec(prop::option::of(any::<f64>()), 1..50),
        flags in any::<u64>(),
    ) {
        let cell = |i: usize| Cell {
            value: values[i % values.len()],
            not_finite: flags >> (i % 41) & 1 == 1,
            exact_null: flags >> (i % 61) & 1 == 1,
            trivial: flags >> (i % 37) & 1 == 1,
        };
        let pick = |i: usize| texts.get(i).cloned().unwrap_or_default();
        let map = Heatmap {
            title: pick(0), subtitle: pick(1), y_label: pick(2), x_label: pick(3), value_label: pick(4), mark_label: pick(5),
            references: vec![Reference { label: pick(6), value: values[0].unwrap_or(f64::NAN) }],
            rows: (0..rows).map(pick).collect(),
            columns: texts.iter().enumerate().map(|(i, t)| Column { text: t.clone(), marked: flags >> (i % 13) & 1 == 1 }).collect(),
            cells: (0..rows).map(|r| (0..texts.len()).map(|c| cell(r * texts.len() + c)).collect()).collect(),
            texts: if flags & 2 == 2 { (0..rows).map(|r| (0..texts.len()).map(|c| pick(r + c)).collect()).collect() } else { Vec::new() },
        };
        let figure = Figure { panels: vec![map.clone(), map], shared_scale: flags & 1 == 1, ..Figure::default() };
        let svg = figure.to_svg().expect("a full grid");
        prop_assert!(Document::parse(&svg).is_ok());
        prop_assert_eq!(&svg, &figure.to_svg().expect("again"));
    }
}
