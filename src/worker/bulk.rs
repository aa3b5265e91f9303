//! Bytes and numbers in a message as one piece each: left to itself, `serde` takes them one by one.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, SerializeSeq, Serializer};
use std::fmt;

/// Bytes.
pub mod bytes {
    use super::{Bytes, Deserializer, Serializer};

    /// As one piece.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_bytes(bytes)
    }

    /// From one piece.
    ///
    /// # Errors
    /// It is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_byte_buf(Bytes)
    }
}

/// Numbers.
pub mod numbers {
    use super::{Deserialize, Deserializer, Numbers, Piece, Serialize, Serializer};

    /// As one piece.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn serialize<S: Serializer>(numbers: &[f32], out: S) -> Result<S::Ok, S::Error> {
        Piece(numbers).serialize(out)
    }

    /// From one piece.
    ///
    /// # Errors
    /// It is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
        Ok(Numbers::deserialize(from)?.0)
    }
}

/// Lists of numbers.
pub mod lists {
    use super::{Deserialize, Deserializer, Numbers, Piece, SerializeSeq, Serializer};

    /// As one piece.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn serialize<S: Serializer>(lists: &[Vec<f32>], out: S) -> Result<S::Ok, S::Error> {
        let mut sequence = out.serialize_seq(Some(lists.len()))?;
        lists.iter().try_for_each(|numbers| sequence.serialize_element(&Piece(numbers)))?;
        sequence.end()
    }

    /// From one piece.
    ///
    /// # Errors
    /// It is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<f32>>, D::Error> {
        Ok(Vec::<Numbers>::deserialize(from)?.into_iter().map(|numbers| numbers.0).collect())
    }
}

/// Numbers, each of them under a key.
pub mod keyed {
    use super::{Deserialize, Deserializer, Numbers, Piece, SerializeSeq, Serializer};

    /// As one piece.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn serialize<S: Serializer>(all: &[(usize, Vec<f32>)], out: S) -> Result<S::Ok, S::Error> {
        let mut sequence = out.serialize_seq(Some(all.len()))?;
        all.iter().try_for_each(|(key, numbers)| sequence.serialize_element(&(key, Piece(numbers))))?;
        sequence.end()
    }

    /// From one piece.
    ///
    /// # Errors
    /// It is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(usize, Vec<f32>)>, D::Error> {
        let all = Vec::<(usize, Numbers)>::deserialize(from)?;
        Ok(all.into_iter().map(|(key, numbers)| (key, numbers.0)).collect())
    }
}

struct Piece<'n>(&'n [f32]);

impl Serialize for Piece<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        // Both sides are processes of one machine: the order of a number's bytes is its own.
        out.serialize_bytes(bytemuck::cast_slice(self.0))
    }
}

struct Numbers(Vec<f32>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_bytes(Numbers(Vec::new()))
    }
}

impl Visitor<'_> for Numbers {
    type Value = Numbers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers of four bytes each")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Numbers, E> {
        let (four, rest) = bytes.as_chunks();
        if !rest.is_empty() {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        Ok(Numbers(four.iter().copied().map(f32::from_ne_bytes).collect()))
    }
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use crate::message::{Outcome, ToServer, ToWorker, decode, encode};
    use crate::program::{Op, Place, Program, Write};

    #[test]
    fn what_is_sent_arrives_bit_by_bit() {
        let numbers =
            vec![0.0, -0.0, 1.5, f32::INFINITY, f32::from_bits(0x7fc0_0001), f32::MIN_POSITIVE / 2.0];
        let sent = ToWorker::Values(vec![numbers.clone(), Vec::new()]);
        let framed = encode(&sent).unwrap();
        assert!(framed.len() < 4 * numbers.len() + 16);
        let ToWorker::Values(got) = decode(&framed[4..]).unwrap() else { panic!("values") };
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!((bits(&got[0]), got[1].len()), (bits(&numbers), 0));
        let place = Place { site: "embed".into(), layer: None };
        let op = Op::Add(vec![1.0, 2.0]);
        let write = Write { run: 0, place, positions: vec![3], columns: Some(1..3), op };
        let program = ToServer::Forward(Program { writes: vec![write], ..Program::default() });
        assert_eq!(decode::<ToServer>(&encode(&program).unwrap()[4..]).unwrap(), program);
        let done = ToServer::Done(Outcome { bytes: vec![0, 7, 255], operations: 3 });
        assert_eq!(decode::<ToServer>(&encode(&done).unwrap()[4..]).unwrap(), done);
    }

    #[test]
    fn numbers_that_are_cut_are_refused() {
        // `Values` of one list, which is said to have five bytes.
        let sent = encode(&ToWorker::Values(vec![vec![1.0]])).unwrap();
        let mut cut = sent[4..].to_vec();
        let at = cut.len() - 5;
        assert_eq!(cut[at], 4);
        cut[at] = 5;
        cut.push(0);
        assert!(decode::<ToWorker>(&cut).is_err());
        cut[at] = 200;
        assert!(decode::<ToWorker>(&cut).is_err());
    }
}
