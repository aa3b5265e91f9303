//! A job of a client: its block, unread, and who waits for it.

use std::net::IpAddr;
use std::time::Instant;

use axum::body::Bytes;
use mediant_worker::message::Profile;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::capacity::Share;
use crate::owner::Owner;

/// Who takes turns with whom: owners of keys, or addresses while there are none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Party {
    /// Whoever has a key of this owner.
    Owner(Owner),
    /// Whoever comes from this address.
    Address(IpAddr),
}

/// What is sent to a client that waits.
#[derive(Debug, Clone)]
pub enum Told {
    /// A status.
    Status(Value),
    /// A status with its result, as `torch.save` has it.
    Result(Bytes),
}

/// Bytes that a client fetches, and the memory that they hold.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What `torch.load` reads, packed where the client asked for that.
    pub bytes: Bytes,
    /// None where the bytes are read from a file as they are asked for.
    pub share: Option<Share>,
}

/// A job.
#[derive(Debug, Clone)]
pub struct Job {
    /// By which it is asked after: as good as a password.
    pub id: String,
    /// Whose it is.
    pub owner: Owner,
    /// Whose turn is taken.
    pub party: Party,
    /// How the model shows itself.
    pub profile: Profile,
    /// Whether the block is packed, and the answer is to be.
    pub packed: bool,
    /// When it was handed in.
    pub came: Instant,
    /// Whether attention shows its weights.
    pub eager: bool,
    /// Whether the client is beside this server, so that an answer need not be packed well.
    pub near: bool,
    /// The block.
    pub payload: Bytes,
    /// This server's address as the client has it.
    pub base: String,
    /// Who waits; none of a job that is asked after.
    pub client: Option<mpsc::UnboundedSender<Told>>,
    /// The memory that it holds.
    pub share: Share,
}

impl Job {
    /// Whether nobody waits, and its client asks for it later.
    pub fn is_polled(&self) -> bool {
        self.client.is_none()
    }
}

/// A name that cannot be guessed: 128 bits of chance in hex.
///
/// # Panics
/// The system has no chance to give.
pub fn secret() -> String {
    use std::fmt::Write as _;
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system's random numbers");
    bytes.iter().fold(String::with_capacity(32), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
