//! Words and pointers: how they are written, shortened and compared.

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
    // Longer words can't be near a field's name, and the distance costs their product.
    if word.len() > 64 {
        return String::new();
    }
    let near = names.iter().map(|name| (distance(word, name), name)).min();
    match near {
        Some((d, name)) if d <= 1 + name.len() / 4 => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}

/// Levenshtein distance.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let changed = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
