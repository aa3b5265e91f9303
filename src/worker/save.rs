//! The answer's bytes: what `torch.load` reads, also with `weights_only=True`.

use crate::message::Profile;
use crate::tensor::{Array, Data, Dtype, Heap, Id, Kind, Stop, TorchError, Value, View};
use half::{bf16, f16};
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Lists in lists in lists: how many.
const DEPTH: usize = 200;

/// How hard zstd tries for a client behind a network: a gigabyte a second, three quarters of the size.
const FAR: i32 = 1;

/// And for one beside it: six times as fast, and hardly smaller than it was.
const NEAR: i32 = -1;

/// Packs an answer. The frame says how long it is unpacked, which the client needs.
pub fn pack(bytes: &[u8], near: bool) -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, if near { NEAR } else { FAR })
}

/// A value as a file of `torch.save`: a zip of a pickle and of each tensor's numbers.
///
/// Of a tensor that shows part of its storage only that part is written. In [`Profile::Legacy`] each tensor has itself as
/// its attribute `value`.
pub fn torch_save(heap: &Heap, value: &Value, profile: Profile) -> Result<Vec<u8>, Stop> {
    let mut pickle =
        Pickle { heap, profile, bytes: vec![0x80, 2], keys: HashMap::new(), storages: Vec::new() };
    pickle.value(value, 0)?;
    pickle.bytes.push(b'.');
    let (bytes, storages) = (pickle.bytes, pickle.storages);
    zipped(&bytes, &storages).map_err(|error| {
        let message = format!("the answer cannot be written: {error}");
        TorchError { kind: Kind::Runtime, message }.into()
    })
}

fn zipped(pickle: &[u8], storages: &[Array]) -> Result<Vec<u8>, zip::result::ZipError> {
    let size: usize = storages.iter().map(|array| array.len() * array.dtype.bytes()).sum();
    let mut zip = ZipWriter::new(Cursor::new(Vec::with_capacity(size + pickle.len() + 4096)));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut file = |name: &str, bytes: &[u8]| -> Result<(), zip::result::ZipError> {
        zip.start_file(format!("a/{name}"), options.large_file(bytes.len() >= 1 << 32))?;
        Ok(zip.write_all(bytes)?)
    };
    file("data.pkl", pickle)?;
    file("byteorder", b"little")?;
    for (key, array) in storages.iter().enumerate() {
        file(&format!("data/{key}"), &bytes_of(array))?;
    }
    file("version", b"3\n")?;
    Ok(zip.finish()?.into_inner())
}

/// The numbers as torch holds them.
fn bytes_of(array: &Array) -> Cow<'_, [u8]> {
    match &array.data {
        Data::F32(numbers) => match array.dtype {
            Dtype::BFloat16 => numbers.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            Dtype::Float16 => numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            // One by one they take longer than all else that is done for the answer.
            _ if cfg!(target_endian = "little") => Cow::Borrowed(bytemuck::cast_slice(numbers)),
            _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        },
        Data::F64(numbers) => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I64(numbers) => {
            let width = array.dtype.bytes();
            numbers.iter().flat_map(|x| x.to_le_bytes().into_iter().take(width)).collect()
        }
    }
}

/// The class of a storage in torch.
fn storage_class(dtype: Dtype) -> String {
    format!("{}Storage", dtype.scalar_name())
}

/// A pickle of protocol 2 as it grows.
struct Pickle<'a> {
    heap: &'a Heap,
    profile: Profile,
    bytes: Vec<u8>,
    /// Views that were written already, and their storage.
    keys: HashMap<(u32, usize, Vec<usize>, Vec<usize>), usize>,
    storages: Vec<Array>,
}

impl Pickle<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Stop> {
        if depth > DEPTH {
            return Err(refused(Kind::Value, "the answer nests lists too deeply"));
        }
        match value {
            Value::None => self.bytes.push(b'N'),
            Value::Bool(flag) => self.bytes.push(if *flag { 0x88 } else { 0x89 }),
            Value::Int(whole) => self.int(*whole),
            Value::Float(number) => {
                self.bytes.push(b'G');
                self.bytes.extend(number.to_be_bytes());
            }
            Value::Str(text) => self.text(text),
            Value::Bytes(bytes) => {
                // protocol 2 has no bytes: Python writes them as text of as many letters
                self.global("_codecs", "encode");
                self.bytes.push(b'(');
                self.text(&bytes.iter().map(|&byte| char::from(byte)).collect::<String>());
                self.text("latin1");
                self.bytes.extend(b"tR");
            }
            Value::Tensor(id) => self.tensor(*id)?,
            Value::List(items) => {
                self.bytes.extend(b"](");
                for item in items {
                    self.value(item, depth + 1)?;
                }
                self.bytes.push(b'e');
            }
            Value::Tuple(items) => {
                self.bytes.push(b'(');
                for item in items {
                    self.value(item, depth + 1)?;
                }
                self.bytes.push(b't');
            }
            Value::Named(class, members) => {
                let (module, name) = class.rsplit_once('.').unwrap_or(("torch.return_types", class));
                self.global(module, name);
                self.bytes.extend(b"((");
                for (_, member) in members {
                    self.value(member, depth + 1)?;
                }
                self.bytes.extend(b"t}tR");
            }
            Value::Dict(members) => {
                self.bytes.extend(b"}(");
                for (key, member) in members {
                    self.value(key, depth + 1)?;
                    self.value(member, depth + 1)?;
                }
                self.bytes.push(b'u');
            }
            Value::Dtype(dtype) => self.global("torch", dtype.name()),
            Value::Device(_) => {
                self.global("torch", "device");
                self.bytes.push(b'(');
                self.text("cpu");
                self.bytes.extend(b"tR");
            }
            Value::Slice(_) | Value::Ellipsis => {
                return Err(refused(
                    Kind::Type,
                    &format!("a {} cannot be part of the answer", value.type_name()),
                ));
            }
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) {
        self.bytes.extend(format!("c{module}\n{name}\n").bytes());
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.bytes());
    }

    fn int(&mut self, whole: i64) {
        if let Ok(short) = i32::try_from(whole) {
            self.bytes.push(b'J');
            self.bytes.extend(short.to_le_bytes());
        } else {
            self.bytes.extend([0x8a, 8]);
            self.bytes.extend(whole.to_le_bytes());
        }
    }

    fn ints(&mut self, wholes: &[usize]) {
        self.bytes.push(b'(');
        for &whole in wholes {
            self.int(whole as i64);
        }
        self.bytes.push(b't');
    }

    fn tensor(&mut self, id: Id) -> Result<(), Stop> {
        if self.profile == Profile::Plain {
            self.global("torch._utils", "_rebuild_tensor_v2");
            self.arguments(id)?;
            self.bytes.push(b'R');
            return Ok(());
        }
        self.global("torch._tensor", "_rebuild_from_type_v2");
        self.bytes.push(b'(');
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.global("torch", "Tensor");
        self.arguments(id)?;
        self.bytes.extend(b"}(");
        self.text("value");
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.arguments(id)?;
        self.bytes.extend(b"RutR");
        Ok(())
    }

    /// Arguments of `_rebuild_tensor_v2`: storage, offset, sizes, strides, gradient, hooks.
    fn arguments(&mut self, id: Id) -> Result<(), Stop> {
        let view = self.heap.view(id)?.clone();
        let dtype = self.heap.dtype(id)?;
        let sizes = (view.len(), view.shape.clone());
        let key = (view.storage, view.offset, view.shape, view.strides);
        let storage = if let Some(storage) = self.keys.get(&key) {
            *storage
        } else {
            self.storages.push(self.heap.array(id)?);
            self.keys.insert(key, self.storages.len() - 1);
            self.storages.len() - 1
        };
        self.bytes.extend(b"((");
        self.text("storage");
        self.global("torch", &storage_class(dtype));
        self.text(&storage.to_string());
        self.text("cpu");
        self.int(sizes.0 as i64);
        self.bytes.extend(b"tQ");
        self.int(0);
        self.ints(&sizes.1);
        self.ints(&View::whole(0, sizes.1.clone()).strides);
        self.bytes.push(0x89);
        self.global("collections", "OrderedDict");
        self.bytes.extend(b")Rt");
        Ok(())
    }
}

fn refused(kind: Kind, message: &str) -> Stop {
    TorchError { kind, message: message.to_owned() }.into()
}
