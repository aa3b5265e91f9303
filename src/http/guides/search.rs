//! Search in the guides, section by section.

use std::fmt::Write as _;
use std::sync::Arc;

use super::render::{Page, Section, escaped};

/// Sections shown.
const MOST: usize = 30;
/// Characters shown before and after the first word that was found.
const AROUND: usize = 90;

/// What was found, as HTML.
pub(super) fn found(pages: &[Arc<Page>], wanted: &str) -> String {
    let words: Vec<String> = wanted.split_whitespace().map(str::to_lowercase).collect();
    let mut hits: Vec<(usize, &Page, &Section)> = pages
        .iter()
        .map(AsRef::as_ref)
        .flat_map(|page| page.sections.iter().map(move |section| (page, section)))
        .filter_map(|(page, section)| Some((score(&words, page, section)?, page, section)))
        .collect();
    // Equal ones in the order of the book.
    hits.sort_by_key(|(score, ..)| std::cmp::Reverse(*score));
    let count = hits.len();
    hits.truncate(MOST);
    let mut out = format!("<h1>Search: {}</h1>", escaped(wanted));
    let _ = match count {
        0 => write!(out, "<p>No section has all these words. Try fewer, or the beginning of a word.</p>"),
        1 => write!(out, "<p>1 section.</p>"),
        n => write!(out, "<p>{n} sections{}.</p>", if n > MOST { ", the best of them" } else { "" }),
    };
    for (_, page, section) in hits {
        let title = if section.heading == page.title {
            String::new()
        } else {
            format!(" · {}", escaped(&page.title))
        };
        let _ = write!(
            out,
            "<section><h2><a href=\"/docs/{}#{}\">{}</a>{title}</h2><p>{}</p></section>",
            page.slug,
            section.anchor,
            escaped(&section.heading),
            excerpt(&section.text, &words)
        );
    }
    out
}

/// How well a section fits; `None` unless it has every word, or the title of its page does.
fn score(words: &[String], page: &Page, section: &Section) -> Option<usize> {
    let (title, heading) = (page.title.to_lowercase(), section.heading.to_lowercase());
    let text = section.text.to_lowercase();
    let mut score = 0;
    for word in words {
        let of_word = 8 * usize::from(heading.contains(word)) + text.matches(word.as_str()).count().min(3);
        if of_word == 0 {
            return None;
        }
        score += of_word + 2 * usize::from(title.contains(word));
    }
    (score > 0).then_some(score)
}

/// The text around the first word that is in it, all words marked.
fn excerpt(text: &str, words: &[String]) -> String {
    let text: Vec<char> = text.chars().collect();
    let lower: Vec<char> = text.iter().map(|c| c.to_lowercase().next().unwrap_or(*c)).collect();
    let words: Vec<Vec<char>> = words.iter().map(|word| word.chars().collect()).collect();
    let at = |i: usize| words.iter().filter(|word| lower[i..].starts_with(word)).map(Vec::len).max();
    let first = (0..lower.len()).find(|i| at(*i).is_some()).unwrap_or(0);
    let (begin, end) = (first.saturating_sub(AROUND), (first + AROUND).min(text.len()));
    let mut out = String::from(if begin > 0 { "…" } else { "" });
    let mut i = begin;
    while i < end {
        let length = at(i);
        let piece: String = text[i..i + length.unwrap_or(1)].iter().collect();
        let piece = escaped(&piece);
        i += length.unwrap_or(1);
        if length.is_some() {
            let _ = write!(out, "<mark>{piece}</mark>");
        } else {
            out.push_str(&piece);
        }
    }
    out + if end < text.len() { "…" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_with_all_words_are_found_the_best_first() {
        let text =
            "# Noise\nGaussian <noise> on words.\n## Steps\nNo draws.\n## Draws of noise\nMany draws.\n";
        let pages = [Arc::new(Page::render("a", "docs/A.md", text, &[]))];
        let all = found(&pages, "NOISE draw");
        assert!(all.contains("1 section.") && all.contains("#draws-of-noise"), "{all}");
        let one = found(&pages, "noise");
        assert!(one.find("#draws-of-noise") > one.find("#noise\""), "{one}");
        let marked = found(&pages, "words");
        assert!(marked.contains("on <mark>words</mark>."), "{marked}");
        let none = found(&pages, "\"><script>");
        assert!(none.contains("No section") && !none.contains("<script>"), "{none}");
        assert!(found(&pages, "  ").contains("No section"));
    }
}
