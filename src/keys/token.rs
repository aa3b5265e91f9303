//! What a client shows: `mdt_`, 43 letters and digits by chance (256 bits), `_`, and the CRC-32 of all before it.
//!
//! The checksum is no secret. It tells a mistyped token from a revoked one, lets scanners of secrets find tokens in files,
//! and ends the search for a token made up by chance before it begins.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};

const PREFIX: &str = "mdt_";
const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 62^43 is a little more than 2^256.
const SECRET: usize = 43;
const CHECKSUM: usize = 8;
const LENGTH: usize = PREFIX.len() + SECRET + 1 + CHECKSUM;

/// A token as a client shows it. It is never displayed; [`Token::expose`] is for whoever it is made for.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut secret = String::with_capacity(LENGTH);
        secret.push_str(PREFIX);
        let mut bytes = [0; 64];
        while secret.len() < PREFIX.len() + SECRET {
            getrandom::fill(&mut bytes)?;
            // Bytes above the last multiple of 62 would make some letters more likely than others.
            let fair = bytes.iter().filter(|byte| usize::from(**byte) < 4 * LETTERS.len());
            let left = PREFIX.len() + SECRET - secret.len();
            secret
                .extend(fair.take(left).map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])));
        }
        let checksum = crc32fast::hash(secret.as_bytes());
        Ok(Self(format!("{secret}_{checksum:08x}")))
    }

    /// A token, if the text has its form and its checksum.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        let (secret, checksum) = rest.split_once('_')?;
        let is_whole = secret.len() == SECRET && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let (body, _) = text.split_at_checked(PREFIX.len() + SECRET)?;
        let sums = is_whole && checksum == format!("{:08x}", crc32fast::hash(body.as_bytes()));
        sums.then(|| Self(text.to_owned()))
    }

    /// The token itself: for whoever it was made for, and never for showing.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored of it. It has 256 bits of chance, so there is nothing to guess and no need of a slow hash.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

/// A text without the tokens that are in it: for what is logged or answered of what a client wrote.
pub fn redacted(text: &str) -> Cow<'_, str> {
    if !text.contains(PREFIX) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut pieces = text.split(PREFIX);
    shown.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        shown.push_str(PREFIX);
        // Also what was mistyped: most of a token is as bad as all of it.
        let is_of_token = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = piece.find(|c| !is_of_token(c)).unwrap_or(piece.len());
        if end >= SECRET / 2 {
            shown.push_str("...");
            shown.push_str(&piece[end..]);
        } else {
            shown.push_str(piece);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_one_form_and_none_is_made_twice() {
        let mut seen = std::collections::HashSet::new();
        let mut letters = [0_u32; 256];
        for _ in 0..2000 {
            let token = Token::new().unwrap();
            assert_eq!(token.expose().len(), LENGTH);
            assert_eq!(Token::parse(token.expose()), Some(token.clone()));
            token.expose()[PREFIX.len()..][..SECRET].bytes().for_each(|b| letters[usize::from(b)] += 1);
            assert!(seen.insert(token.sha256()));
        }
        // 1387 each; the standard deviation is 37.
        for letter in LETTERS {
            assert!((1150..1620).contains(&letters[usize::from(*letter)]), "{}", char::from(*letter));
        }
    }

    #[test]
    fn one_wrong_character_is_no_token() {
        let token = Token::new().unwrap();
        let text = token.expose();
        for at in 0..text.len() {
            for other in ["a", "Z", "0", "_", " ", "é"] {
                let wrong = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                assert!(wrong == *text || Token::parse(&wrong).is_none(), "{at} {other}");
            }
            assert_eq!(Token::parse(&text[..at]), None);
            assert_eq!(Token::parse(&text[at + 1..]), None);
        }
        for wrong in ["", "mdt_", "mdt__", &format!("{text}0"), &format!(" {text}"), &text.to_uppercase()] {
            assert_eq!(Token::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn tokens_are_not_shown() {
        let token = Token::new().unwrap();
        let text = token.expose();
        assert_eq!(format!("{token:?}"), "Token(...)");
        assert_eq!(redacted(&format!("/v1/jobs/{text}/result {text}")), "/v1/jobs/mdt_.../result mdt_...");
        assert_eq!(redacted(&text[..text.len() - 9]), "mdt_...", "without its checksum, too");
        for plain in ["", "no token", "mdt_", "mdt_short and mdt_more", "cmdt_"] {
            assert_eq!(redacted(plain), plain);
        }
    }
}
