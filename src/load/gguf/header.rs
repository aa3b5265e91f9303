//! Reads a header whose tensors have types that the library has no name for.
//!
//! The library stops at the first such type. So the header is walked before it: where the type is one of
//! [`Blocks`], the library is shown f32 in its place. It reads only the header there; these tensors are read here.

use std::collections::HashMap;
use std::io::{self, BufReader, Cursor, Read, Seek};

use candle_core::quantized::gguf_file::Content;

use super::blocks::Blocks;

/// Deepest nesting of arrays, as in the library.
const MOST_DEPTH: usize = 64;

/// The header, and the types of tensors that the library does not know.
pub(super) fn read<R: Read + Seek>(reader: R) -> candle_core::Result<(Content, HashMap<String, Blocks>)> {
    let mut walk = Walk { reader: BufReader::new(reader), wide: true };
    // A header that cannot be walked is the library's to explain.
    let found = walk.tensors().unwrap_or_default();
    let end = walk.reader.stream_position()?;
    walk.reader.rewind()?;
    if found.is_empty() {
        return Ok((Content::read(&mut walk.reader)?, HashMap::new()));
    }
    let mut header = Vec::new();
    walk.reader.take(end).read_to_end(&mut header)?;
    for found in &found {
        header[found.at..found.at + 4].fill(0);
    }
    let content = Content::read(&mut Cursor::new(header))?;
    Ok((content, found.into_iter().map(|found| (found.tensor, found.blocks)).collect()))
}

/// A tensor of such a type, and where in the file its type stands.
struct Found {
    tensor: String,
    blocks: Blocks,
    at: usize,
}

struct Walk<R> {
    reader: BufReader<R>,
    /// Whether lengths have eight bytes.
    wide: bool,
}

impl<R: Read + Seek> Walk<R> {
    fn tensors(&mut self) -> io::Result<Vec<Found>> {
        self.skip(4)?;
        self.wide = self.number()? > 1;
        let (tensors, entries) = (self.length()?, self.length()?);
        for _ in 0..entries {
            self.skip_string()?;
            let kind = self.number()?;
            self.skip_values(kind, 1, 0)?;
        }
        let mut found = Vec::new();
        for _ in 0..tensors {
            let length = self.length()?;
            let mut name = Vec::new();
            self.reader.by_ref().take(length).read_to_end(&mut name)?;
            let dimensions = self.number()?;
            self.skip(u64::from(dimensions) * if self.wide { 8 } else { 4 })?;
            let at = self.reader.stream_position()? as usize;
            if let (Some(blocks), Ok(tensor)) = (Blocks::numbered(self.number()?), String::from_utf8(name)) {
                found.push(Found { tensor, blocks, at });
            }
            self.skip(8)?;
        }
        Ok(found)
    }

    fn number(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.reader.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn length(&mut self) -> io::Result<u64> {
        if !self.wide {
            return self.number().map(u64::from);
        }
        let mut bytes = [0; 8];
        self.reader.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let bytes = i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
        self.reader.seek_relative(bytes)
    }

    fn skip_string(&mut self) -> io::Result<()> {
        let bytes = self.length()?;
        self.skip(bytes)
    }

    fn skip_values(&mut self, kind: u32, count: u64, depth: usize) -> io::Result<()> {
        let size: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => return (0..count).try_for_each(|_| self.skip_string()),
            9 if depth < MOST_DEPTH => {
                return (0..count).try_for_each(|_| {
                    let (kind, count) = (self.number()?, self.length()?);
                    self.skip_values(kind, count, depth + 1)
                });
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        self.skip(count.checked_mul(size).ok_or(io::ErrorKind::InvalidData)?)
    }
}
