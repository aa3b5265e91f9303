//! Tensors inside of a client's payload: files of `torch.save` in its older form, and raw numbers of NumPy arrays.
//!
//! A storage inside of a pickle is such a file; what reads the pickle hands the bytes on. Only the form that torch itself
//! writes is read: a handful of pickles of numbers and texts, then raw numbers. Nothing is ever called.

use crate::message::AHEAD;
use crate::tensor::{Array, Dtype, Heap, Kind, TorchError, Value, count};
use half::{bf16, f16};
use std::io::Read;

/// The first number of a file.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The version of the form.
const VERSION: i64 = 1001;

/// Unpacks zstd, up to so many bytes.
pub fn unpack(bytes: &[u8], most: u64) -> Result<Vec<u8>, String> {
    // As much as it says, in bounds; beyond them it grows with what comes.
    let said = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten().unwrap_or_default();
    let mut unpacked = Vec::with_capacity(said.min(AHEAD as u64) as usize);
    let decoder = zstd::stream::read::Decoder::new(bytes)
        .map_err(|error| format!("the payload is not zstd: {error}"))?;
    decoder
        .take(most.saturating_add(1))
        .read_to_end(&mut unpacked)
        .map_err(|error| format!("the payload is not zstd: {error}"))?;
    if unpacked.len() as u64 > most {
        return Err(format!(
            "the payload is more than {most} bytes unpacked: send less, as by reading tensors in the block"
        ));
    }
    Ok(unpacked)
}

/// The storage of a `torch.save` file in its older form, as a tensor of one dimension.
pub fn tensor_bytes(heap: &mut Heap, bytes: &[u8]) -> Result<Value, TorchError> {
    let mut reader = Reader { bytes };
    if reader.pickle()? != Item::Long(MAGIC.to_vec()) {
        return Err(wrong("it does not begin as one"));
    }
    if reader.pickle()? != Item::Int(VERSION) {
        return Err(wrong("it is of another version"));
    }
    let system = reader.pickle()?;
    if let Item::Dict(members) = &system
        && members.contains(&(Item::Text("little_endian".into()), Item::Bool(false)))
    {
        return Err(wrong("it was written on a big-endian machine"));
    }
    let Item::Persistent(id) = reader.pickle()? else { return Err(wrong("it holds no storage")) };
    let Item::Tuple(id) = *id else { return Err(wrong("its storage has no description")) };
    let [Item::Text(kind), Item::Global(module, class), Item::Text(key), Item::Text(_), Item::Int(len), ..] =
        &id[..]
    else {
        return Err(wrong("its storage has another description"));
    };
    if kind != "storage" || module != "torch" || !matches!(id.get(5), None | Some(Item::None)) {
        return Err(wrong("its storage is of another kind"));
    }
    let dtype = storage_dtype(class).ok_or_else(|| wrong(&format!("numbers of a {class} are not served")))?;
    if reader.pickle()? != Item::List(vec![Item::Text(key.clone())]) {
        return Err(wrong("it lists other storages"));
    }
    let len = usize::try_from(*len).map_err(|_| wrong("its storage has a negative size"))?;
    if reader.take(8)? != (len as u64).to_le_bytes() {
        return Err(wrong("its storage has two sizes"));
    }
    raw(heap, reader.bytes, dtype, &[len])
}

/// Numbers as torch and NumPy hold them, lowest byte first, as a tensor.
pub fn raw(heap: &mut Heap, bytes: &[u8], dtype: Dtype, shape: &[usize]) -> Result<Value, TorchError> {
    let len = count(shape)?;
    if Some(bytes.len()) != len.checked_mul(dtype.bytes()) {
        return Err(wrong(&format!("{} bytes for {len} numbers of {}", bytes.len(), dtype.name())));
    }
    heap.check_room(dtype, len)?;
    let shape = shape.to_vec();
    let array = match dtype {
        Dtype::Float32 => Array::of_f32s(dtype, shape, numbers(bytes, f32::from_le_bytes)),
        Dtype::Float64 => Array::of_f64s(dtype, shape, numbers(bytes, f64::from_le_bytes)),
        Dtype::BFloat16 => Array::of_f32s(dtype, shape, numbers(bytes, |x| bf16::from_le_bytes(x).to_f32())),
        Dtype::Float16 => Array::of_f32s(dtype, shape, numbers(bytes, |x| f16::from_le_bytes(x).to_f32())),
        Dtype::Int64 => Array::of_i64s(dtype, shape, numbers(bytes, i64::from_le_bytes)),
        Dtype::Int32 => Array::of_i64s(dtype, shape, numbers(bytes, |x| i64::from(i32::from_le_bytes(x)))),
        Dtype::Int16 => Array::of_i64s(dtype, shape, numbers(bytes, |x| i64::from(i16::from_le_bytes(x)))),
        Dtype::Int8 => Array::of_i64s(dtype, shape, numbers(bytes, |x| i64::from(i8::from_le_bytes(x)))),
        Dtype::Uint8 | Dtype::Bool => {
            Array::of_i64s(dtype, shape, numbers(bytes, |x: [u8; 1]| i64::from(x[0])))
        }
    };
    Ok(Value::Tensor(heap.put(array)?))
}

fn numbers<const N: usize, T>(bytes: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&chunk| of(chunk)).collect()
}

/// The dtype of a class of storages.
fn storage_dtype(class: &str) -> Option<Dtype> {
    let name = class.strip_suffix("Storage")?;
    Dtype::all().into_iter().find(|dtype| dtype.scalar_name() == name)
}

fn wrong(what: &str) -> TorchError {
    TorchError {
        kind: Kind::Value,
        message: format!("a tensor of the payload is no torch.save file that can be read: {what}"),
    }
}

/// What a pickle of torch's own holds.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    None,
    Bool(bool),
    Int(i64),
    /// A longer number, lowest byte first.
    Long(Vec<u8>),
    Text(String),
    Global(String, String),
    List(Vec<Item>),
    Tuple(Vec<Item>),
    Dict(Vec<(Item, Item)>),
    Persistent(Box<Item>),
    Mark,
}

/// What has not been read yet.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], TorchError> {
        let (taken, rest) = self.bytes.split_at_checked(n).ok_or_else(|| wrong("it ends too early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, TorchError> {
        Ok(self.take(1)?[0])
    }

    fn short(&mut self) -> Result<usize, TorchError> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |all, &byte| all << 8 | usize::from(byte)))
    }

    fn line(&mut self) -> Result<String, TorchError> {
        let end =
            self.bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| wrong("it ends too early"))?;
        let line = self.take(end)?;
        self.take(1)?;
        text(line)
    }

    /// One pickle: its end is marked, and what follows it stays unread.
    fn pickle(&mut self) -> Result<Item, TorchError> {
        let mut stack: Vec<Item> = Vec::new();
        // the header of a file has a few dozen steps
        for _ in 0..1000 {
            let item = match self.byte()? {
                // the version; and what is remembered for later, which these pickles never use again
                0x80 | b'q' => {
                    self.byte()?;
                    continue;
                }
                b'r' => {
                    self.take(4)?;
                    continue;
                }
                b'.' => {
                    return stack
                        .pop()
                        .filter(|_| stack.is_empty())
                        .ok_or_else(|| wrong("its pickle is not whole"));
                }
                b'N' => Item::None,
                0x88 => Item::Bool(true),
                0x89 => Item::Bool(false),
                b'K' => Item::Int(i64::from(self.byte()?)),
                b'M' => {
                    let bytes = self.take(2)?;
                    Item::Int(i64::from(bytes[0]) | i64::from(bytes[1]) << 8)
                }
                b'J' => Item::Int(i64::from(self.short()? as u32 as i32)),
                0x8a => {
                    let n = usize::from(self.byte()?);
                    let bytes = self.take(n)?;
                    match i64_of(bytes) {
                        Some(whole) => Item::Int(whole),
                        None => Item::Long(bytes.to_vec()),
                    }
                }
                b'X' => {
                    let n = self.short()?;
                    Item::Text(text(self.take(n)?)?)
                }
                b'c' => Item::Global(self.line()?, self.line()?),
                b']' => Item::List(vec![]),
                b'}' => Item::Dict(vec![]),
                b')' => Item::Tuple(vec![]),
                b'(' => Item::Mark,
                b't' => Item::Tuple(since_mark(&mut stack)?),
                code @ 0x85..=0x87 => {
                    let n = usize::from(code - 0x84);
                    let start = stack.len().checked_sub(n).ok_or_else(|| wrong("its pickle is not whole"))?;
                    Item::Tuple(stack.split_off(start))
                }
                b'a' => {
                    let last = stack.pop().ok_or_else(|| wrong("its pickle is not whole"))?;
                    append(&mut stack, vec![last])?;
                    continue;
                }
                b'e' => {
                    let items = since_mark(&mut stack)?;
                    append(&mut stack, items)?;
                    continue;
                }
                b'u' => {
                    let items = since_mark(&mut stack)?;
                    let Some(Item::Dict(members)) = stack.last_mut() else {
                        return Err(wrong("its pickle is not whole"));
                    };
                    members.extend(items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())));
                    continue;
                }
                b'Q' => {
                    Item::Persistent(Box::new(stack.pop().ok_or_else(|| wrong("its pickle is not whole"))?))
                }
                code => {
                    return Err(wrong(&format!("its pickle has a step {code:#x} that torch does not write")));
                }
            };
            stack.push(item);
        }
        Err(wrong("its pickle is too long"))
    }
}

fn text(bytes: &[u8]) -> Result<String, TorchError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| wrong("a text is not UTF-8"))
}

/// A number of up to eight bytes, the last of which has the sign.
fn i64_of(bytes: &[u8]) -> Option<i64> {
    let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut all = [fill; 8];
    all.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(all))
}

fn since_mark(stack: &mut Vec<Item>) -> Result<Vec<Item>, TorchError> {
    let mark =
        stack.iter().rposition(|item| *item == Item::Mark).ok_or_else(|| wrong("its pickle is not whole"))?;
    let items = stack.split_off(mark + 1);
    stack.pop();
    Ok(items)
}

fn append(stack: &mut [Item], items: Vec<Item>) -> Result<(), TorchError> {
    let Some(Item::List(list)) = stack.last_mut() else { return Err(wrong("its pickle is not whole")) };
    list.extend(items);
    Ok(())
}
