//! Whether the weights fit into memory, asked before any is read.

use std::path::{Path, PathBuf};

use super::LoadError;
use super::tensors::expected;
use crate::model::config::ModelConfig;

/// Bytes of all weights, norms and biases included, at `bytes_per_weight` (4 for f32, 2 for bf16 and f16).
pub fn required_bytes(config: &ModelConfig, bytes_per_weight: u64) -> u64 {
    expected(config)
        .iter()
        .map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>() * bytes_per_weight)
        .fold(0, u64::saturating_add)
}

/// Bytes of memory this process can still take: what the system has available, or what its control groups leave if that is less.
/// `None` where the system does not tell (not Linux).
pub fn available_bytes() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    system.into_iter().chain(group_room(&groups, Path::new("/sys/fs/cgroup"))).min()
}

/// An error if so many bytes do not fit.
pub fn check_fits(needed: u64) -> Result<(), LoadError> {
    fits(needed, available_bytes())
}

fn fits(needed: u64, available: Option<u64>) -> Result<(), LoadError> {
    match available {
        Some(available) if needed > available => Err(LoadError::DoesNotFit { needed, available }),
        _ => Ok(()),
    }
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The least room in the memory control groups of this process and their parents, version 2 or 1. Page cache counts as room.
/// `groups`: `/proc/self/cgroup`; `root`: where the groups are mounted.
fn group_room(groups: &str, root: &Path) -> Option<u64> {
    let places = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let v1 = controllers.split(',').any(|c| c == "memory");
        (controllers.is_empty() || v1)
            .then(|| (if v1 { root.join("memory") } else { root.to_owned() }, path.to_owned(), v1))
    });
    let rooms = places.flat_map(|(base, path, v1)| {
        let full: PathBuf = base.join(path.trim_start_matches('/'));
        let up: Vec<PathBuf> =
            full.ancestors().take_while(|p| p.starts_with(&base)).map(Path::to_owned).collect();
        up.into_iter().filter_map(move |group| room_of(&group, v1))
    });
    rooms.min()
}

fn room_of(group: &Path, v1: bool) -> Option<u64> {
    let (limit, usage, cache) = if v1 {
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    } else {
        ("memory.max", "memory.current", "inactive_file")
    };
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    // No limit is written as "max", or in version 1 as a number near 2^63, which leaves more room than there is.
    let limit: u64 = read(limit)?.trim().parse().ok()?;
    let usage: u64 = read(usage)?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let cached =
        stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(usage.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Preset, dummy};

    #[test]
    fn what_the_presets_need_is_what_is_known_of_them() {
        assert_eq!(required_bytes(&dummy::config(Preset::Llama3_8b), 2), 8_030_261_248 * 2);
        assert_eq!(required_bytes(&dummy::config(Preset::Llama3_70b), 2), 70_553_706_496 * 2);
    }

    #[test]
    fn a_model_that_does_not_fit_says_how_much_is_missing() {
        let error = fits(141_000_000_000, Some(24_000_000_000)).unwrap_err();
        assert!(error.to_string().contains("need 141.0 GB but only 24.0 GB"), "{error}");
        assert!(fits(5, Some(5)).is_ok() && fits(5, None).is_ok());
    }

    #[test]
    fn the_tightest_control_group_decides_and_page_cache_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/memory.max", "1000\n");
        write("a/memory.current", "700\n");
        write("a/memory.stat", "anon 5\ninactive_file 200\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "1\n");
        assert_eq!(group_room("0::/a/b\n", dir.path()), Some(500));
        write("memory/c/memory.limit_in_bytes", "90");
        write("memory/c/memory.usage_in_bytes", "100");
        assert_eq!(group_room("4:cpu,memory:/c\n", dir.path()), Some(0));
        assert_eq!(group_room("0::/elsewhere\n", dir.path()), None);
    }

    #[test]
    fn meminfo_is_in_kibibytes() {
        assert_eq!(mem_available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2048 * 1024));
        assert_eq!(mem_available("MemTotal: 9 kB\n"), None);
    }
}
