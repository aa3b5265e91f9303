//! What a rank of the model computes on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A device: `cpu`, or `cuda:0` for the first GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The processor. Named several times, it holds as many ranks, which share its cores.
    Cpu,
    /// The GPU of this number.
    Cuda(u32),
}

/// A name that is no device's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no device; use \"cpu\", or \"cuda:0\" for the first GPU")]
pub struct UnknownDevice {
    /// What was given.
    pub given: String,
}

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(given: &str) -> Result<Device, UnknownDevice> {
        let number = given.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match (given, number) {
            ("cpu", _) => Ok(Device::Cpu),
            (_, Some(number)) => Ok(Device::Cuda(number)),
            _ => Err(UnknownDevice { given: given.to_owned() }),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = UnknownDevice;

    fn try_from(given: String) -> Result<Device, UnknownDevice> {
        given.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.to_string()
    }
}
