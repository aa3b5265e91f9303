//! Types of a tensor's numbers, and which type a result has.

use half::{bf16, f16};

/// Type of a tensor's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// `torch.bool`.
    Bool,
    /// `torch.uint8`.
    Uint8,
    /// `torch.int8`.
    Int8,
    /// `torch.int16`.
    Int16,
    /// `torch.int32`.
    Int32,
    /// `torch.int64`.
    Int64,
    /// `torch.float16`, held as f32 and rounded after each operation.
    Float16,
    /// `torch.bfloat16`, held as f32 and rounded after each operation.
    BFloat16,
    /// `torch.float32`.
    Float32,
    /// `torch.float64`.
    Float64,
}

const ALL: [Dtype; 10] = [
    Dtype::Bool,
    Dtype::Uint8,
    Dtype::Int8,
    Dtype::Int16,
    Dtype::Int32,
    Dtype::Int64,
    Dtype::Float16,
    Dtype::BFloat16,
    Dtype::Float32,
    Dtype::Float64,
];

impl Dtype {
    /// All of them.
    pub fn all() -> [Dtype; 10] {
        ALL
    }

    /// torch's name: `float32`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Bool => "bool",
            Dtype::Uint8 => "uint8",
            Dtype::Int8 => "int8",
            Dtype::Int16 => "int16",
            Dtype::Int32 => "int32",
            Dtype::Int64 => "int64",
            Dtype::Float16 => "float16",
            Dtype::BFloat16 => "bfloat16",
            Dtype::Float32 => "float32",
            Dtype::Float64 => "float64",
        }
    }

    /// The dtype of torch's name or of one of its other names (`float`, `long`, `torch.half`).
    pub fn from_name(name: &str) -> Option<Dtype> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        let name = match name {
            "float" => "float32",
            "double" => "float64",
            "half" => "float16",
            "long" => "int64",
            "int" => "int32",
            "short" => "int16",
            other => other,
        };
        ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The name in torch's errors: `Float`, `Long`.
    pub fn scalar_name(self) -> &'static str {
        match self {
            Dtype::Bool => "Bool",
            Dtype::Uint8 => "Byte",
            Dtype::Int8 => "Char",
            Dtype::Int16 => "Short",
            Dtype::Int32 => "Int",
            Dtype::Int64 => "Long",
            Dtype::Float16 => "Half",
            Dtype::BFloat16 => "BFloat16",
            Dtype::Float32 => "Float",
            Dtype::Float64 => "Double",
        }
    }

    /// The name of the C++ type, which some of torch's errors have.
    pub(crate) fn cpp_name(self) -> String {
        match self {
            Dtype::Float32 => "float".into(),
            Dtype::Float64 => "double".into(),
            Dtype::Int64 => "long int".into(),
            Dtype::Bool => "bool".into(),
            other => format!("c10::{}", other.scalar_name()),
        }
    }

    /// Whether numbers have a fraction.
    pub fn is_float(self) -> bool {
        self >= Dtype::Float16
    }

    /// Bytes of one number in torch.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
            Dtype::Int16 | Dtype::Float16 | Dtype::BFloat16 => 2,
            Dtype::Int32 | Dtype::Float32 => 4,
            Dtype::Int64 | Dtype::Float64 => 8,
        }
    }

    /// Bytes of one number here.
    pub(crate) fn held_bytes(self) -> usize {
        match self {
            Dtype::Float16 | Dtype::BFloat16 | Dtype::Float32 => 4,
            _ => 8,
        }
    }

    /// A number as this dtype holds it; whole numbers wrap around.
    pub(crate) fn wrap(self, number: i64) -> i64 {
        match self {
            Dtype::Bool => i64::from(number != 0),
            Dtype::Uint8 => i64::from(number as u8),
            Dtype::Int8 => i64::from(number as i8),
            Dtype::Int16 => i64::from(number as i16),
            Dtype::Int32 => i64::from(number as i32),
            _ => number,
        }
    }

    /// A number rounded to one of the dtypes held as f32.
    pub(crate) fn round(self, number: f32) -> f32 {
        match self {
            Dtype::BFloat16 => bf16::from_f32(number).to_f32(),
            Dtype::Float16 => f16::from_f32(number).to_f32(),
            _ => number,
        }
    }

    /// The dtype that holds both.
    #[must_use]
    pub fn promote(self, other: Dtype) -> Dtype {
        let (low, high) = if self <= other { (self, other) } else { (other, self) };
        match (low, high) {
            (Dtype::Uint8, Dtype::Int8) => Dtype::Int16,
            (Dtype::Float16, Dtype::BFloat16) => Dtype::Float32,
            _ => high,
        }
    }

    /// Whether a result of this dtype may be written into one of `other`.
    pub fn can_cast(self, other: Dtype) -> bool {
        !((self.is_float() && !other.is_float()) || (self != Dtype::Bool && other == Dtype::Bool))
    }
}

/// What an operand is to the dtype of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A tensor with dimensions.
    Tensor,
    /// A tensor without dimensions.
    Zero,
    /// A Python number.
    Number,
}

/// The dtype of a result: tensors with dimensions count before those without, those before Python numbers, unless the later
/// ones are of a higher kind (bool, whole, float).
pub fn result_type(operands: impl IntoIterator<Item = (Dtype, Weight)>) -> Dtype {
    let mut of: [Option<Dtype>; 3] = [None; 3];
    for (dtype, weight) in operands {
        let place = &mut of[weight as usize];
        *place = Some(place.map_or(dtype, |before| before.promote(dtype)));
    }
    let kind = |dtype: Dtype| if dtype.is_float() { 2 } else { u8::from(dtype != Dtype::Bool) };
    // a Python number alone has torch's default dtype
    let of = [of[0], of[1], of[2].map(|dtype| if dtype.is_float() { Dtype::Float32 } else { dtype })];
    of.into_iter()
        .flatten()
        .reduce(|high, low| if kind(low) > kind(high) { low } else { high })
        .unwrap_or(Dtype::Float32)
}
