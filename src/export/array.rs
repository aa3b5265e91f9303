//! Named n-dimensional arrays: what the binary encodings carry.

use serde::{Deserialize, Serialize};

/// An array with a name. Data is in C order: the last axis varies fastest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedArray {
    /// Its name in the file. Not empty, unique in the file.
    pub name: String,
    /// Axis lengths; their product is the number of elements. `[]` is a scalar.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: ArrayData,
}

/// Elements and their type. A missing float is NaN. Half precision is handed out and not kept; formats that number variants do
/// not count those left out, so they stand last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ArrayData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit floats.
    F64(Vec<f64>),
    /// Unsigned 32-bit integers, e.g. token ids.
    U32(Vec<u32>),
    /// Signed 64-bit integers.
    I64(Vec<i64>),
    /// Truth values, e.g. masks.
    Bool(Vec<bool>),
    /// Texts, e.g. tokens. npz only.
    Text(Vec<String>),
    /// 16-bit IEEE floats.
    #[serde(skip)]
    F16(Vec<half::f16>),
    /// bfloat16. safetensors only.
    #[serde(skip)]
    Bf16(Vec<half::bf16>),
}

impl ArrayData {
    /// Appends the bytes, little-endian; of texts their code points, each text filled up with zeros to `longest`.
    pub(super) fn append_to(&self, out: &mut Vec<u8>, longest: usize) {
        match self {
            Self::F32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::F16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::Bf16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::F64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::U32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::I64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::Bool(v) => out.extend(v.iter().map(|x| u8::from(*x))),
            Self::Text(texts) => {
                for text in texts {
                    let padded = text.chars().map(u32::from).chain(std::iter::repeat(0)).take(longest);
                    out.extend(padded.flat_map(u32::to_le_bytes));
                }
            }
        }
    }
}

/// Why arrays or columns could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Shape and number of elements disagree.
    #[error("array `{name}` has shape {shape:?}, but {elements} elements")]
    Shape {
        /// The array's name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Number of its elements.
        elements: usize,
    },
    /// A name that is empty or that the format reserves.
    #[error("`{name}` cannot name an array here")]
    Name {
        /// The name.
        name: String,
    },
    /// Two arrays or columns of one name.
    #[error("`{name}` names two arrays")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// Text has no place in safetensors; put it in the metadata.
    #[error("array `{name}` holds text, which safetensors cannot carry")]
    Text {
        /// The array's name.
        name: String,
    },
    /// `NumPy` has no bfloat16.
    #[error("array `{name}` holds bfloat16, which npz cannot carry")]
    Bf16 {
        /// The array's name.
        name: String,
    },
    /// Columns of a table differ in length.
    #[error("column `{name}` has {got} rows, but the first column has {expected}")]
    RaggedColumn {
        /// The column's name.
        name: String,
        /// Length of the first column.
        expected: usize,
        /// Its own length.
        got: usize,
    },
    /// Writing failed.
    #[error("cannot write: {0}")]
    Write(#[from] std::io::Error),
    /// Writing Parquet failed.
    #[error("cannot write Parquet: {0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
}

impl NamedArray {
    /// A float array where `None` becomes NaN.
    pub fn from_options(name: impl Into<String>, shape: Vec<usize>, values: &[Option<f64>]) -> Self {
        let data = ArrayData::F64(values.iter().map(|v| v.unwrap_or(f64::NAN)).collect());
        Self { name: name.into(), shape, data }
    }
}

impl ArrayData {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::Bf16(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Text(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Every array's name is usable and unique, and its shape fits its data.
pub(super) fn check(arrays: &[NamedArray], reserved: &str) -> Result<(), EncodeError> {
    let mut seen = std::collections::HashSet::new();
    for array in arrays {
        let name = || array.name.clone();
        if array.name.is_empty() || array.name == reserved || array.name.contains('\0') {
            return Err(EncodeError::Name { name: name() });
        }
        if !seen.insert(array.name.as_str()) {
            return Err(EncodeError::Duplicate { name: name() });
        }
        let product = array.shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
        if product != Some(array.data.len()) {
            let (shape, elements) = (array.shape.clone(), array.data.len());
            return Err(EncodeError::Shape { name: name(), shape, elements });
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "equality to the bit is what is promised")]
mod tests {
    use super::*;

    fn array(name: &str, shape: &[usize], elements: usize) -> NamedArray {
        NamedArray { name: name.into(), shape: shape.to_vec(), data: ArrayData::Bool(vec![true; elements]) }
    }

    #[test]
    fn only_well_formed_arrays_pass() {
        assert!(check(&[array("a", &[2, 3], 6), array("b", &[], 1), array("c", &[0, 9], 0)], "x").is_ok());
        assert!(matches!(check(&[array("a", &[2, 3], 5)], "x"), Err(EncodeError::Shape { .. })));
        assert!(matches!(check(&[array("a", &[usize::MAX, 2], 5)], "x"), Err(EncodeError::Shape { .. })));
        assert!(matches!(
            check(&[array("a", &[], 1), array("a", &[], 1)], "x"),
            Err(EncodeError::Duplicate { .. })
        ));
        for bad in ["", "x", "a\0b"] {
            assert!(matches!(check(&[array(bad, &[], 1)], "x"), Err(EncodeError::Name { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_missing_value_is_nan() {
        let array = NamedArray::from_options("v", vec![2], &[Some(1.5), None]);
        let ArrayData::F64(values) = array.data else { unreachable!("floats were asked for") };
        assert_eq!(values[0], 1.5);
        assert!(values[1].is_nan());
    }
}
