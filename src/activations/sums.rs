//! Checksums of a set's file. They follow the numbers, as a tensor of their own: SHA-256 of the header, then of every
//! [`CHUNK`] bytes of the numbers. A part is verified by the chunks that it lies in, without reading the others, and the
//! bytes that are verified are those that are used.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};

use sha2::{Digest as _, Sha256};

/// Numbers that share a checksum. A row of 4,096 numbers costs at most so much more to read; the sums are 1/2,000 of a file.
pub(super) const CHUNK: u64 = 1 << 16;
/// Bytes of one checksum.
pub(super) const SUM: u64 = 32;

pub(super) type Sum = [u8; SUM as usize];

pub(super) fn sum(bytes: &[u8]) -> Sum {
    Sha256::digest(bytes).into()
}

/// How many checksums a file of so many bytes of numbers has.
pub(super) fn count(bytes: u64) -> u64 {
    1 + bytes.div_ceil(CHUNK)
}

/// Bytes of the checksums of so many bytes of numbers.
pub fn checksum_bytes(bytes: u64) -> u64 {
    count(bytes).saturating_mul(SUM)
}

/// Makes the checksums of numbers as they are written.
#[derive(Debug)]
pub(super) struct Summing {
    sums: Vec<u8>,
    chunk: Sha256,
    filled: u64,
}

impl Summing {
    pub(super) fn new(header: &[u8]) -> Self {
        Self { sums: sum(header).to_vec(), chunk: Sha256::new(), filled: 0 }
    }

    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min((CHUNK - self.filled) as usize));
            self.chunk.update(now);
            self.filled += now.len() as u64;
            bytes = rest;
            if self.filled == CHUNK {
                self.end_chunk();
            }
        }
    }

    fn end_chunk(&mut self) {
        self.sums.extend_from_slice(&std::mem::take(&mut self.chunk).finalize());
        self.filled = 0;
    }

    /// The checksums one after the other.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.end_chunk();
        }
        self.sums
    }
}

/// A failure that is the file's, not the disk's.
pub(super) fn damaged(why: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.into())
}

/// The numbers of an open file.
#[derive(Debug)]
pub(super) struct Verified {
    file: File,
    /// Where they begin.
    data_at: u64,
    /// How many bytes they are.
    bytes: u64,
    /// Whether there are checksums.
    has_sums: bool,
    /// The chunk that was read last, which small parts read one after the other share.
    last: Option<(u64, Vec<u8>)>,
}

impl Verified {
    pub(super) fn new(file: File, data_at: u64, bytes: u64, has_sums: bool) -> Self {
        Self { file, data_at, bytes, has_sums, last: None }
    }

    /// `length` bytes from `from` on.
    pub(super) fn read(&mut self, from: u64, length: u64) -> io::Result<Vec<u8>> {
        if !self.has_sums {
            return self.raw(self.data_at + from, length);
        }
        let (first, after) = (from / CHUNK, (from + length).div_ceil(CHUNK));
        let sums = self.raw(self.data_at + self.bytes + (1 + first) * SUM, (after - first) * SUM)?;
        let mut found = Vec::with_capacity(length as usize);
        for (index, expected) in (first..after).zip(sums.chunks_exact(SUM as usize)) {
            let start = index * CHUNK;
            if self.last.as_ref().is_none_or(|(last, _)| *last != index) {
                let chunk = self.raw(self.data_at + start, CHUNK.min(self.bytes - start))?;
                if sum(&chunk)[..] != *expected {
                    return Err(damaged(format!(
                        "the checksum of bytes {start} to {} of its numbers is another",
                        start + chunk.len() as u64
                    )));
                }
                self.last = Some((index, chunk));
            }
            let Some((_, chunk)) = &self.last else { continue };
            let within = from.max(start) - start..(from + length - start).min(chunk.len() as u64);
            found.extend_from_slice(&chunk[within.start as usize..within.end as usize]);
        }
        Ok(found)
    }

    fn raw(&mut self, at: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => damaged("it is shorter than it was"),
            _ => error,
        })?;
        Ok(bytes)
    }
}
