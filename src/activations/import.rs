//! Numbers out of an uploaded safetensors file.

use ::safetensors::{Dtype as Stored, SafeTensors};
use half::{bf16, f16};

use crate::spec::activation::Values;
use crate::spec::dtype::Dtype;
use crate::spec::problem::{Problems, code};

/// Longest header of a file: room for thousands of tensors, of which one is wanted.
const MOST_HEADER: u64 = 1 << 20;

/// Reads one tensor: the one named, else `values`, else the only one of floats. Pointers are those of an upload with
/// query parameters: the empty one is the body.
pub fn import(bytes: &[u8], tensor: Option<&str>, out: &mut Problems) -> Option<(Values, Dtype)> {
    let header = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    if (MOST_HEADER..=bytes.len() as u64).contains(&header) {
        let detail = format!("the file's header has {header} bytes, the limit is {MOST_HEADER}");
        out.push("", code::LIMIT, detail, "send the one tensor that is to be stored, or a few");
        return None;
    }
    let file = match SafeTensors::deserialize(bytes) {
        Ok(file) => file,
        Err(error) => {
            let detail = format!("the body is not safetensors: {error}");
            out.push("", code::WRONG_TYPE, detail, "send a file as `safetensors.torch.save_file` writes it");
            return None;
        }
    };
    let mut names = file.names();
    names.sort_unstable();
    let floats = |name: &str| {
        let dtype = file.tensor(name).map(|view| view.dtype());
        matches!(dtype, Ok(Stored::F32 | Stored::F16 | Stored::BF16))
    };
    let candidates: Vec<&str> = names.iter().copied().filter(|name| floats(name)).collect();
    let chosen = match (tensor, &candidates[..]) {
        (Some(name), _) => name,
        (None, list) if list.contains(&"values") => "values",
        (None, [only]) => only,
        (None, _) => {
            let detail = format!("{} tensors of f32, f16 or bf16 in the file", candidates.len());
            out.push("?tensor", code::MISSING, detail, format!("name one of {}", shown(&candidates)));
            return None;
        }
    };
    let Ok(view) = file.tensor(chosen) else {
        let detail = format!("the file has no tensor {chosen:?}");
        out.push("?tensor", code::UNKNOWN_NAME, detail, format!("it has {}", shown(&candidates)));
        return None;
    };
    let shape = view.shape().to_vec();
    if !(1..=3).contains(&shape.len()) || shape.contains(&0) {
        let detail = format!("the tensor has the shape {shape:?}");
        let fix = "send [width], [layers, width] or [layers, positions, width]";
        out.push("", code::LENGTH_MISMATCH, detail, fix);
        return None;
    }
    let data = view.data();
    let pairs = || data.as_chunks::<2>().0.iter();
    let (data, dtype) = match view.dtype() {
        Stored::F32 => (data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(), Dtype::F32),
        Stored::F16 => (pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect(), Dtype::F16),
        Stored::BF16 => (pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(), Dtype::Bf16),
        other => {
            let detail = format!("the tensor holds {other:?}");
            out.push("", code::WRONG_TYPE, detail, "send f32, f16 or bf16");
            return None;
        }
    };
    Some((Values { shape, data }, dtype))
}

/// Names for a message.
fn shown(names: &[&str]) -> String {
    const SHOWN: usize = 20;
    let short = |name: &&str| name.chars().take(64).collect::<String>();
    let mut text = names.iter().take(SHOWN).map(short).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(", …");
    }
    text
}
