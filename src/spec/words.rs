//! Words and pointers: how they are written, shortened and compared.

use strsim::levenshtein;

/// One step of an RFC 6901 pointer.
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A text for a message: its first 48 characters.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(48) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `"; did you mean …?"` if one of `names` is close.
pub fn did_you_mean(word: &str, names: &[&str]) -> String {
    nearest(word, names.iter().copied(), likely)
        .map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// The name nearest to a word, if it is no further away than `within` says of it: so many letters changed, put in or left out.
pub fn nearest<'n>(
    word: &str,
    names: impl IntoIterator<Item = &'n str>,
    within: impl Fn(&str) -> usize,
) -> Option<&'n str> {
    // Longer words can't be near a name of ours, and the distance costs their product.
    if word.len() > 64 {
        return None;
    }
    let near = names.into_iter().map(|name| (levenshtein(word, name), name)).min()?;
    (near.0 <= within(near.1)).then_some(near.1)
}

/// As far from a name as a slip may be.
pub fn likely(name: &str) -> usize {
    1 + name.len() / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word_and_a_stranger_finds_none() {
        let words = ["http.listen", "http.max_body_bytes", "queue.depth"];
        let near = |word| nearest(word, words, likely);
        assert_eq!(near("http.lisen"), Some("http.listen"));
        assert_eq!(near("http.max_body_byte"), Some("http.max_body_bytes"));
        assert_eq!(near("colour"), None);
        assert_eq!(nearest("http.lisen", words, |_| 0), None);
        assert_eq!(near(&"http.listen".repeat(9)), None);
        assert_eq!(did_you_mean("depht", &["depth"]), "; did you mean `depth`?");
    }
}
