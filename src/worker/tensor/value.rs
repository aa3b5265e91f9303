//! What goes into an operation and what comes out of it.

use super::dtype::Dtype;
use std::fmt;

/// A tensor of the job, as the block's stand-ins name it.
pub type Id = u32;

/// An argument or a result of an operation: a Python value without Python.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// `start:stop:step`.
    Slice(Box<[Value; 3]>),
    /// `...`.
    Ellipsis,
    /// A tensor.
    Tensor(Id),
    /// A list.
    List(Vec<Value>),
    /// A tuple, or a `torch.Size`.
    Tuple(Vec<Value>),
    /// A tuple whose members have names too, such as `torch.return_types.topk`: the type's name, then the members.
    Named(&'static str, Vec<(&'static str, Value)>),
    /// A dict.
    Dict(Vec<(Value, Value)>),
    /// A `torch.dtype`.
    Dtype(Dtype),
    /// A `torch.device`, by its text. All tensors are on the host, whatever it says.
    Device(String),
}

impl Value {
    /// The sizes of a shape as a tuple.
    pub fn sizes(shape: &[usize]) -> Value {
        Value::Tuple(shape.iter().map(|&n| Value::Int(n as i64)).collect())
    }

    /// The Python type's name, for errors.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Bytes(_) => "bytes",
            Value::Slice(_) => "slice",
            Value::Ellipsis => "ellipsis",
            Value::Tensor(_) => "Tensor",
            Value::List(_) => "list",
            Value::Tuple(_) | Value::Named(..) => "tuple",
            Value::Dict(_) => "dict",
            Value::Dtype(_) => "torch.dtype",
            Value::Device(_) => "torch.device",
        }
    }
}

/// The Python exception of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `RuntimeError`.
    Runtime,
    /// `TypeError`.
    Type,
    /// `ValueError`.
    Value,
    /// `IndexError`.
    Index,
    /// `AttributeError`: an operation that is not served.
    Attribute,
    /// `NotImplementedError`: a dtype that an operation does not take.
    NotImplemented,
    /// `MemoryError`: a budget of the job is used up.
    Memory,
}

impl Kind {
    /// The exception's name in Python.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Runtime => "RuntimeError",
            Kind::Type => "TypeError",
            Kind::Value => "ValueError",
            Kind::Index => "IndexError",
            Kind::Attribute => "AttributeError",
            Kind::NotImplemented => "NotImplementedError",
            Kind::Memory => "MemoryError",
        }
    }
}

/// An error in torch's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorchError {
    /// The exception.
    pub kind: Kind,
    /// Its message.
    pub message: String,
}

impl fmt::Display for TorchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}

/// Why an operation gave no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It failed.
    Error(TorchError),
    /// It needs the numbers of this storage, which are not known yet. Nothing has changed: after
    /// [`Heap::fill`](super::Heap::fill) the same call can be made again.
    Unread(u32),
}

impl From<TorchError> for Stop {
    fn from(error: TorchError) -> Stop {
        Stop::Error(error)
    }
}

/// A `RuntimeError`.
pub(crate) fn runtime(message: impl Into<String>) -> TorchError {
    TorchError { kind: Kind::Runtime, message: message.into() }
}

/// A `TypeError`.
pub(crate) fn type_error(message: impl Into<String>) -> TorchError {
    TorchError { kind: Kind::Type, message: message.into() }
}

/// A `ValueError`.
pub(crate) fn value_error(message: impl Into<String>) -> TorchError {
    TorchError { kind: Kind::Value, message: message.into() }
}

/// An `IndexError`.
pub(crate) fn index_error(message: impl Into<String>) -> TorchError {
    TorchError { kind: Kind::Index, message: message.into() }
}

/// A `NotImplementedError`.
pub(crate) fn not_implemented(message: impl Into<String>) -> TorchError {
    TorchError { kind: Kind::NotImplemented, message: message.into() }
}

/// A `MemoryError`.
pub(crate) fn memory(message: impl Into<String>) -> TorchError {
    TorchError { kind: Kind::Memory, message: message.into() }
}
