//! What a client is told of its job: statuses as JSON, a small result as one binary frame that `torch.load` reads.

#![allow(clippy::needless_for_each, reason = "one line for each")]

use std::io::{Cursor, Write};

use serde_json::{Value, json};
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It was taken on.
    Received,
    /// It waits for its turn.
    Queued,
    /// Its block runs.
    Running,
    /// It printed a line.
    Log,
    /// Its result is there.
    Completed,
    /// It failed.
    Error,
}

impl Status {
    /// nnsight's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "RECEIVED",
            Self::Queued => "QUEUED",
            Self::Running => "RUNNING",
            Self::Log => "LOG",
            Self::Completed => "COMPLETED",
            Self::Error => "ERROR",
        }
    }
}

/// A status as JSON. `meta`: what the job cost so far.
pub fn status(id: &str, status: Status, description: &str, meta: Option<&Value>) -> Value {
    let mut told = json!({"id": id, "status": status.name(), "description": description});
    if let Some(meta) = meta {
        told["meta"] = meta.clone();
    }
    told
}

/// A status with the result in it: `torch.save` of the same members and `data`.
///
/// # Errors
/// It is larger than a file in an archive may be.
pub fn with_data(status: &Value, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut pickle = vec![0x80, 4, b'}', b'('];
    for (name, value) in status.as_object().into_iter().flatten() {
        write_text(name, &mut pickle);
        write_value(value, &mut pickle);
    }
    write_text("data", &mut pickle);
    pickle.push(0x8e);
    pickle.extend((data.len() as u64).to_le_bytes());
    pickle.extend(data);
    pickle.extend(b"u.");
    let mut archive = ZipWriter::new(Cursor::new(Vec::with_capacity(pickle.len() + 512)));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("status/data.pkl", &pickle[..]), ("status/version", b"3\n")] {
        archive.start_file(name, options)?;
        archive.write_all(bytes)?;
    }
    Ok(archive.finish()?.into_inner())
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Appends the opcodes of a value. Numbers are floats where they are no small integers.
fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(b'N'),
        Value::Bool(true) => out.push(0x88),
        Value::Bool(false) => out.push(0x89),
        Value::String(text) => write_text(text, out),
        Value::Number(number) => {
            if let Some(whole) = number.as_i64() {
                out.extend([0x8a, 8]);
                out.extend(whole.to_le_bytes());
            } else {
                out.push(b'G');
                out.extend(number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
            }
        }
        Value::Array(list) => {
            out.extend(b"](");
            list.iter().for_each(|value| write_value(value, out));
            out.push(b'e');
        }
        Value::Object(map) => {
            out.extend(b"}(");
            for (name, value) in map {
                write_text(name, out);
                write_value(value, out);
            }
            out.push(b'u');
        }
    }
}
