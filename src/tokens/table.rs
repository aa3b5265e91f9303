//! What each token id stands for, in bytes.

use std::collections::BTreeSet;

use tokenizers::AddedToken;

use super::build::BuildError;

/// Ids that a table may have: the largest vocabularies have a few hundred thousand. A file is free to name any, and a table as long as
/// the largest would take what memory there is.
const MOST_IDS: usize = 1 << 22;

/// How a vocabulary writes bytes as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's alphabet: one printable character per byte.
    ByteLevel,
    /// `SentencePiece`: `▁` for a space, `<0xAB>` for a byte that no piece covers.
    SentencePiece,
}

/// Bytes of every token id, in one allocation.
#[derive(Debug)]
pub(super) struct TokenTable {
    bytes: Vec<u8>,
    /// `ends[id]` is one past the last byte of `id` in `bytes`.
    ends: Vec<u32>,
    /// Whether the id names a token at all (vocabularies may have gaps).
    known: Vec<bool>,
    /// Ids of tokens that were added to the vocabulary of the model's training.
    added: BTreeSet<u32>,
    /// Whether words have tokens that begin with the space before them.
    joins_spaces: bool,
    /// Whether bytes without a token are left out of the tokens of a text.
    drops_bytes: bool,
}

impl TokenTable {
    pub(super) fn new(tokenizer: &tokenizers::Tokenizer, spelling: Spelling) -> Result<Self, BuildError> {
        let alphabet = byte_level_alphabet();
        let added = tokenizer.get_added_tokens_decoder();
        let vocab = tokenizer.get_vocab(true);
        let largest = vocab.iter().max_by_key(|(_, id)| **id);
        let ids = largest.map_or(0, |(_, &id)| id as usize + 1);
        if let Some((token, id)) = largest.filter(|_| ids > MOST_IDS) {
            return Err(BuildError::NotUnderstood {
                what: "id of a token",
                got: format!("{id} of {token}"),
                understood: "ids below 4194304",
            });
        }
        let mut pieces: Vec<Option<&str>> = vec![None; ids];
        for (piece, &id) in &vocab {
            pieces[id as usize] = Some(piece);
        }
        let alone = |c: &char| vocab.contains_key(c.encode_utf8(&mut [0; 4]) as &str);
        let mut table = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(ids),
            known: Vec::with_capacity(ids),
            added: added.keys().copied().collect(),
            joins_spaces: false,
            drops_bytes: spelling == Spelling::ByteLevel && !byte_characters().iter().all(alone),
        };
        for (id, piece) in (0u32..).zip(pieces) {
            match (added.get(&id), piece) {
                (Some(AddedToken { content, .. }), _) => table.bytes.extend(content.as_bytes()),
                (None, Some(piece)) => {
                    let start = table.bytes.len();
                    spell(&mut table.bytes, piece, spelling, &alphabet);
                    let joins =
                        matches!(table.bytes[start..], [b' ', second, ..] if second.is_ascii_alphanumeric());
                    table.joins_spaces |= joins;
                }
                (None, None) => {}
            }
            table.known.push(piece.is_some() || added.contains_key(&id));
            table.ends.push(table.bytes.len() as u32);
        }
        Ok(table)
    }

    /// Ids from `first` on that name a token.
    pub(super) fn ids_from(&self, first: usize) -> impl Iterator<Item = u32> {
        let known = self.known.iter().enumerate().skip(first);
        known.filter(|(_, known)| **known).map(|(id, _)| id as u32)
    }

    /// Whether a token was added to the vocabulary of the model's training.
    pub(super) fn is_added(&self, id: u32) -> bool {
        self.added.contains(&id)
    }

    /// Number of ids, gaps included.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether words have tokens that begin with the space before them, so that no word follows a space of its own.
    pub(super) fn joins_spaces(&self) -> bool {
        self.joins_spaces
    }

    /// Whether bytes without a token are left out of the tokens of a text.
    pub(super) fn drops_bytes(&self) -> bool {
        self.drops_bytes
    }

    /// Bytes of a token; `None` where the id names none.
    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let i = id as usize;
        if !*self.known.get(i)? {
            return None;
        }
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        Some(&self.bytes[start..self.ends[i] as usize])
    }
}

fn spell(out: &mut Vec<u8>, piece: &str, spelling: Spelling, alphabet: &[Option<u8>; 512]) {
    match spelling {
        Spelling::ByteLevel => {
            let start = out.len();
            for c in piece.chars() {
                let Some(byte) = alphabet.get(c as usize).copied().flatten() else {
                    // Not spelled in the alphabet: the piece stands for itself.
                    out.truncate(start);
                    out.extend(piece.as_bytes());
                    return;
                };
                out.push(byte);
            }
        }
        Spelling::SentencePiece => {
            let byte = piece
                .strip_prefix("<0x")
                .and_then(|p| p.strip_suffix('>'))
                .filter(|hex| hex.len() == 2)
                .and_then(|hex| u8::from_str_radix(hex, 16).ok());
            match byte {
                Some(byte) => out.push(byte),
                None => out.extend(piece.replace('▁', " ").as_bytes()),
            }
        }
    }
}

/// The character that stands for each byte in byte-level vocabularies.
///
/// Source: GPT-2's `bytes_to_unicode`: printable Latin-1 stands for itself, the other 68 bytes follow from U+0100 on.
pub(super) fn byte_characters() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|b| {
        let printable = matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable {
            b as u32
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).expect("BUG: below the surrogates")
    })
}

fn byte_level_alphabet() -> [Option<u8>; 512] {
    let mut alphabet = [None; 512];
    for (byte, c) in (0u8..=255).zip(byte_characters()) {
        alphabet[c as usize] = Some(byte);
    }
    alphabet
}
