//! No files, no ports, no signals to others: Landlock, where the kernel has it.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetError, Scope,
};
use std::io;
use std::thread;

/// The newest version whose rights are refused; an older kernel refuses those that it knows.
const NEWEST: ABI = ABI::V6;

/// Takes all rights from this thread and from those that it starts.
pub(super) fn restrict() -> io::Result<()> {
    rules().map(|_| ()).map_err(io::Error::other)
}

/// A ruleset without a rule.
fn rules() -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()
}

/// The version that this kernel has. The only safe way to learn it is to restrict a thread, so one is started for that.
fn version() -> Option<ABI> {
    match thread::spawn(rules).join().ok()?.ok()?.landlock {
        LandlockStatus::Available { effective_abi, .. } => Some(effective_abi),
        _ => None,
    }
}

/// Whether the kernel has it.
pub(super) fn is_there() -> bool {
    version().is_some()
}

/// The `landlock_ruleset_attr` of the same ruleset for this kernel; empty if it has no Landlock.
pub(super) fn attributes() -> Vec<u8> {
    let Some(version) = version() else { return Vec::new() };
    let files: BitFlags<AccessFs> = AccessFs::from_all(version.min(NEWEST));
    let ports: BitFlags<AccessNet> = AccessNet::from_all(version.min(NEWEST));
    let scopes: BitFlags<Scope> = Scope::from_all(version.min(NEWEST));
    // a kernel of the time before ports or scopes takes a shorter one
    let fields = [files.bits(), ports.bits(), scopes.bits()];
    let known = match version {
        ABI::V1 | ABI::V2 | ABI::V3 => 1,
        ABI::V4 | ABI::V5 => 2,
        _ => 3,
    };
    fields.iter().take(known).flat_map(|field| field.to_le_bytes()).collect()
}
