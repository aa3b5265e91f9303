//! Token classes around a subject (Meng et al. 2022): the axis on which prompts of different lengths compare.

use std::ops::Range;

use crate::spec::select::TokenClass;

/// The class of a position in a prompt of `len` tokens whose subject covers `subject`; see [`TokenClass`] for what
/// belongs to which. `None` before the subject and past the end.
pub fn class_of(position: u32, subject: Range<u32>, len: u32) -> Option<TokenClass> {
    if position < subject.start || position >= len || subject.is_empty() {
        return None;
    }
    // Most specific first: what is both a subject's first and last token is its last, and likewise after it.
    Some(if position + 1 == subject.end {
        TokenClass::LastSubject
    } else if position == subject.start {
        TokenClass::FirstSubject
    } else if position < subject.end {
        TokenClass::MiddleSubject
    } else if position + 1 == len {
        TokenClass::Last
    } else if position == subject.end {
        TokenClass::FirstSubsequent
    } else {
        TokenClass::Further
    })
}

/// Positions of a class, ascending.
pub fn positions(class: TokenClass, subject: &Range<u32>, len: u32) -> Vec<u32> {
    (subject.start..len).filter(|position| class_of(*position, subject.clone(), len) == Some(class)).collect()
}

/// Why a prompt has no position of a class, and what to name instead.
pub(super) fn absent(class: TokenClass, span: &str, range: &Range<u32>, len: u32) -> (String, &'static str) {
    let (first, end) = (range.start, range.end);
    let place = format!("its {span:?} covers [{first}, {end}) of {len} tokens");
    let fix = match class {
        TokenClass::FirstSubject => "a span of one token is `last_subject`",
        TokenClass::MiddleSubject => {
            "name `first_subject` or `last_subject`: only spans of three tokens have a middle"
        }
        TokenClass::LastSubject => "name a span that holds tokens",
        TokenClass::FirstSubsequent => "a single token after the span is `last`; name another class",
        TokenClass::Further => "name `first_subsequent` or `last`",
        TokenClass::Last => "the span ends the prompt: name `last_subject`",
    };
    (format!("the run has no {} token: {place}", class.name()), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(subject: Range<u32>, len: u32) -> Vec<&'static str> {
        (0..len).map(|p| class_of(p, subject.clone(), len).map_or("-", TokenClass::name)).collect()
    }

    #[test]
    fn classes_partition_the_positions_from_the_subject_on() {
        let expected = [
            "-",
            "first_subject",
            "middle_subject",
            "middle_subject",
            "last_subject",
            "first_subsequent",
            "further",
            "further",
            "last",
        ];
        assert_eq!(names(1..5, 9), expected);
        for (subject, len) in [(0..1, 1), (0..1, 2), (2..3, 5), (1..3, 3), (0..4, 6), (3..6, 20)] {
            let mut all: Vec<u32> =
                TokenClass::ALL.iter().flat_map(|(_, class)| positions(*class, &subject, len)).collect();
            all.sort_unstable();
            assert_eq!(all, (subject.start..len).collect::<Vec<_>>(), "{subject:?} of {len}");
        }
    }

    #[test]
    fn a_subject_of_one_token_is_its_last_and_one_token_after_it_is_the_last() {
        assert_eq!(names(1..2, 5), ["-", "last_subject", "first_subsequent", "further", "last"]);
        assert_eq!(names(1..3, 4), ["-", "first_subject", "last_subject", "last"]);
        assert_eq!(names(1..3, 3), ["-", "first_subject", "last_subject"]);
        assert_eq!(class_of(3, 1..3, 3), None);
        assert_eq!(class_of(1, 1..1, 3), None);
    }

    #[test]
    fn every_class_knows_its_own_name() {
        for (name, class) in TokenClass::ALL {
            assert_eq!(class.name(), name);
            assert_eq!(serde_json::to_value(class).unwrap(), name);
        }
    }
}
