#![allow(clippy::panic, reason = "a test fails loudly")]

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::activations::block::{Origin, TokenAt};
use crate::spec::dtype::Dtype;
use crate::spec::site::Site;

const QUOTA: Quota = Quota { total_bytes: 20_000, owner_bytes: 10_000, ttl_default_s: 60, ttl_max_s: 600 };

/// A store whose clock stands where it is put, in seconds.
struct Bench {
    folder: tempfile::TempDir,
    time: Arc<AtomicU64>,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), time: Arc::new(AtomicU64::new(1_000_000)) }
    }

    fn open(&self) -> Arc<Store> {
        let time = Arc::clone(&self.time);
        let clock = move || Timestamp(time.load(Ordering::SeqCst) * 1000);
        Store::open(&self.folder.path().join("activations"), QUOTA, Arc::new(clock)).unwrap()
    }

    fn pass(&self, seconds: u64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
    }

    fn files(&self) -> Vec<String> {
        let folder = self.folder.path().join("activations");
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn draft(layers: usize, positions: usize, width: usize, dtype: Dtype) -> Draft {
    let n = layers * positions * width;
    Draft {
        name: Some("ünïcode \"name\"".to_owned()),
        model: "fake".to_owned(),
        model_sha: "00".to_owned(),
        site: Site::ResidPost,
        layers: Some((0..layers as u32).map(|l| 3 * l).collect()),
        positions: Some((0..positions as u32).collect()),
        tokens: Some((0..positions as u32).map(|id| TokenAt { id, text: format!(" {id}") }).collect()),
        prompt_tokens: Some(positions as u32),
        heads: None,
        shape: [layers, positions, width],
        dtype,
        ttl_s: None,
        origin: Origin::Uploaded,
        values: (0..n).map(|i| (i as f32).sin() / 3.0).collect(),
    }
}

fn small() -> Draft {
    draft(1, 1, 4, Dtype::F32)
}

fn numbers(set: &ActivationSet) -> Vec<f32> {
    let mut reader = set.open().unwrap();
    (0..set.meta.shape[0]).flat_map(|slot| reader.layer(slot).unwrap()).collect()
}

#[test]
fn numbers_come_back_to_the_bit_and_rounded_once_in_half_formats() {
    let bench = Bench::new();
    let store = bench.open();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let draft = draft(2, 3, 5, dtype);
        let id = store.put("a", &draft, None).unwrap().id.to_string();
        let rounded = |x: &f32| match dtype {
            Dtype::F32 => *x,
            Dtype::F16 => half::f16::from_f32(*x).to_f32(),
            Dtype::Bf16 => half::bf16::from_f32(*x).to_f32(),
        };
        let expected: Vec<u32> = draft.values.iter().map(|x| rounded(x).to_bits()).collect();
        // Also by a server that starts later.
        for store in [Arc::clone(&store), bench.open()] {
            let set = store.find("a", &id).unwrap();
            let found: Vec<u32> = numbers(&set).iter().map(|x| x.to_bits()).collect();
            assert_eq!(found, expected, "{dtype:?}");
            assert_eq!(
                (set.meta.shape, set.meta.dtype, set.meta.bytes),
                ([2, 3, 5], dtype, 30 * dtype.bytes())
            );
            assert_eq!(set.meta.tokens.as_ref().unwrap()[2].text, " 2");
            assert_eq!(set.meta.expires, Timestamp(1_000_060_000));
        }
    }
}

#[test]
fn files_are_safetensors_that_the_reference_reader_reads() {
    let bench = Bench::new();
    let meta = bench.open().put("a", &draft(2, 3, 5, Dtype::F16), None).unwrap();
    let bytes = fs::read(bench.folder.path().join(format!("activations/{}.safetensors", meta.id))).unwrap();
    let file = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = file.tensor("values").unwrap();
    assert_eq!((values.dtype(), values.shape()), (::safetensors::Dtype::F16, &[2, 3, 5][..]));
}

#[test]
fn a_start_finds_what_is_whole_and_removes_what_a_crash_left() {
    let bench = Bench::new();
    let kept = bench.open().put("a", &small(), None).unwrap();
    let folder = bench.folder.path().join("activations");
    fs::write(folder.join("act_0.partial"), b"half").unwrap();
    // Written by somebody who lives.
    let busy = File::create(folder.join("act_1.partial")).unwrap();
    busy.lock().unwrap();
    // A whole file cut short by a failing disk, one under another's name, one that is something else.
    let whole = fs::read(folder.join(format!("{}.safetensors", kept.id))).unwrap();
    let other = |digit: &str| folder.join(format!("act_{}.safetensors", digit.repeat(32)));
    fs::write(other("1"), &whole[..whole.len() - 1]).unwrap();
    fs::write(other("2"), &whole).unwrap();
    fs::write(other("3"), [255; 100]).unwrap();
    let store = bench.open();
    let page = store.list("a", None, 10);
    assert_eq!(page.sets.iter().map(|set| &set.id).collect::<Vec<_>>(), [&kept.id]);
    assert!(!bench.files().contains(&"act_0.partial".to_owned()));
    assert!(bench.files().contains(&"act_1.partial".to_owned()));
    assert_eq!(store.usage("a").used_bytes, whole.len() as u64);
    assert!(matches!(store.find("a", &format!("act_{}", "1".repeat(32))), Err(StoreError::Unknown { .. })));
}

#[test]
fn a_set_that_another_process_wrote_is_found() {
    let bench = Bench::new();
    let (one, two) = (bench.open(), bench.open());
    let id = one.put("a", &small(), None).unwrap().id.to_string();
    assert_eq!(numbers(&two.find("a", &id).unwrap()), small().values);
    one.delete("a", &id).unwrap();
    assert!(matches!(two.find("a", &id), Err(StoreError::Unknown { .. })));
    assert_eq!(two.usage("a").used_bytes, 0);
}

#[test]
fn quotas_bound_each_owner_and_all_together_and_deleting_makes_room() {
    let bench = Bench::new();
    let store = bench.open();
    let large = draft(1, 1, 2000, Dtype::F32);
    let first = store.put("a", &large, None).unwrap();
    let Err(StoreError::Quota { needed, used, limit }) = store.put("a", &large, None) else { panic!() };
    assert!(needed > 8000 && used == needed && limit == 10_000);
    let too_large = draft(1, 1, 3000, Dtype::F32);
    assert!(matches!(store.put("b", &too_large, None), Err(StoreError::Quota { limit: 10_000, .. })));
    store.put("b", &large, None).unwrap();
    assert!(matches!(store.put("c", &large, None), Err(StoreError::Quota { limit: 20_000, .. })));
    // A start counts the same.
    let again = bench.open();
    assert!(matches!(again.put("a", &large, None), Err(StoreError::Quota { limit: 10_000, .. })));
    store.delete("a", first.id.as_str()).unwrap();
    store.put("c", &large, None).unwrap();
    assert_eq!(bench.files().len(), 2, "{:?}", bench.files());
}

#[test]
fn space_that_is_promised_is_nobody_elses_until_it_is_given_back() {
    let bench = Bench::new();
    let store = bench.open();
    let mut promised = store.reserve("a", 9000).unwrap();
    assert!(matches!(store.put("a", &draft(1, 1, 500, Dtype::F32), None), Err(StoreError::Quota { .. })));
    let stored = store.put("a", &draft(1, 1, 2000, Dtype::F32), Some(&mut promised)).unwrap();
    let on_disk = fs::metadata(store.path(&stored.id)).unwrap().len();
    assert_eq!(store.usage("a").used_bytes, 9000, "{on_disk} stored, the rest promised still");
    drop(promised);
    assert_eq!(store.usage("a").used_bytes, on_disk);
    assert!(store.reserve("a", 10_001 - on_disk).is_err());
    assert!(store.reserve("a", 10_000 - on_disk).is_ok());
}

#[test]
fn what_cannot_be_written_is_told_and_leaves_nothing_behind() {
    let bench = Bench::new();
    let store = bench.open();
    // A file where the folder should be.
    fs::write(bench.folder.path().join("activations"), b"").unwrap();
    assert!(matches!(store.put("a", &small(), None), Err(StoreError::Io { .. } | StoreError::DiskFull)));
    assert_eq!(store.usage("a").used_bytes, 0);
    assert!(store.list("a", None, 10).sets.is_empty());
    fs::remove_file(bench.folder.path().join("activations")).unwrap();
    store.put("a", &small(), None).unwrap();
}

#[test]
fn a_full_disk_is_told_apart_from_other_failures() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            let n = bytes.len().min(self.0);
            self.0 -= n;
            Ok(n)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = file::write(&mut Full(100), &[0; 64], &draft(1, 1, 2000, Dtype::F32)).unwrap_err();
    assert!(matches!(StoreError::io("write", Path::new("x"), error), StoreError::DiskFull));
    let other = StoreError::io("write", Path::new("x"), ErrorKind::PermissionDenied.into());
    assert!(matches!(other, StoreError::Io { .. }));
}

#[test]
fn a_set_is_served_until_the_second_it_expires_and_then_gone() {
    let bench = Bench::new();
    let store = bench.open();
    let by_default = store.put("a", &small(), None).unwrap();
    let longest = store.put("a", &Draft { ttl_s: Some(1 << 40), ..small() }, None).unwrap();
    assert_eq!(longest.expires, Timestamp(1_000_600_000));
    bench.pass(59);
    assert!(store.find("a", by_default.id.as_str()).is_ok());
    bench.pass(1);
    // Before the janitor came.
    assert_eq!(store.list("a", None, 10).sets.len(), 1);
    let Err(StoreError::Expired { at, .. }) = store.find("a", by_default.id.as_str()) else { panic!() };
    assert_eq!(at, by_default.expires);
    assert!(matches!(store.find("b", by_default.id.as_str()), Err(StoreError::Unknown { .. })));
    assert!(matches!(store.delete("a", by_default.id.as_str()), Err(StoreError::Expired { .. })));
    assert_eq!(bench.files().len(), 1);
    bench.pass(600);
    assert_eq!(store.sweep(), 1);
    assert_eq!(store.sweep(), 0);
    assert_eq!((bench.files().len(), store.usage("a").used_bytes), (0, 0));
    // A start deletes what expired while nobody was there.
    let late = store.put("a", &small(), None).unwrap();
    bench.pass(100);
    let store = bench.open();
    assert_eq!(bench.files().len(), 0);
    assert!(matches!(store.find("a", late.id.as_str()), Err(StoreError::Expired { .. })));
}

#[test]
fn the_janitor_deletes_unasked_and_ends_with_the_store() {
    let bench = Bench::new();
    let store = bench.open();
    watch(&store, Duration::from_millis(5)).unwrap();
    store.put("a", &small(), None).unwrap();
    bench.pass(60);
    let started = std::time::Instant::now();
    while !bench.files().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", bench.files());
        std::thread::sleep(Duration::from_millis(5));
    }
    let weak = Arc::downgrade(&store);
    drop(store);
    while weak.upgrade().is_some() {
        assert!(started.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn owners_see_their_own_sets_page_by_page() {
    let bench = Bench::new();
    let store = bench.open();
    let ids: Vec<ActivationId> = (0..5).map(|_| store.put("a", &small(), None).unwrap().id.clone()).collect();
    store.put("b", &small(), None).unwrap();
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.list("a", after.as_ref(), 2);
        found.extend(page.sets.iter().map(|set| set.id.clone()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut expected = ids.clone();
    expected.sort();
    assert_eq!(found, expected);
    assert!(matches!(store.find("b", ids[0].as_str()), Err(StoreError::Unknown { .. })));
    assert!(matches!(store.delete("b", ids[0].as_str()), Err(StoreError::Unknown { .. })));
    for bad in ["", "act_", "../../etc/passwd", "act_../../../../../../../etc/passwd0", "ACT_00"] {
        assert!(matches!(store.find("a", bad), Err(StoreError::Unknown { .. })), "{bad}");
    }
}

#[test]
fn who_reads_reads_to_the_end_while_others_delete_and_only_one_deletes() {
    let bench = Bench::new();
    let store = bench.open();
    for _ in 0..200 {
        let draft = draft(4, 2, 100, Dtype::F32);
        let id = store.put("a", &draft, None).unwrap().id.to_string();
        let set = store.find("a", &id).unwrap();
        let mut reader = set.open().unwrap();
        let deleted: usize = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| usize::from(store.delete("a", &id).is_ok()))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(deleted, 1);
        let read: Vec<f32> = (0..4).flat_map(|slot| reader.layer(slot).unwrap()).collect();
        assert_eq!(read, draft.values);
        assert!(matches!(set.open(), Err(StoreError::Unknown { .. })));
    }
    assert!(bench.files().is_empty());
    assert_eq!(store.usage("a").used_bytes, 0);
}

/// Everything a server says of a file: its metadata and numbers as bits, or that it gives none out.
fn told(store: &Arc<Store>, id: &str) -> Result<(Activation, Vec<u32>), StoreError> {
    let set = store.find("a", id)?;
    let mut reader = set.open()?;
    let mut bits = Vec::new();
    for slot in 0..set.meta.shape[0] {
        bits.extend(reader.layer(slot)?.into_iter().map(f32::to_bits));
    }
    Ok(((*set.meta).clone(), bits))
}

#[test]
fn no_byte_of_a_file_can_change_unnoticed() {
    let bench = Bench::new();
    let id = bench.open().put("a", &draft(2, 1, 4, Dtype::F32), None).unwrap().id.to_string();
    let path = bench.folder.path().join(format!("activations/{id}.safetensors"));
    let sound = fs::read(&path).unwrap();
    let truth = told(&bench.open(), &id).unwrap();
    let mut noticed = [0, 0];
    for byte in 0..sound.len() {
        let mut flipped = sound.clone();
        flipped[byte] ^= 1 << (5 * byte % 8);
        fs::write(&path, &flipped).unwrap();
        match told(&bench.open(), &id) {
            Err(StoreError::Unknown { .. }) => noticed[0] += 1,
            Err(StoreError::Damaged { .. }) => noticed[1] += 1,
            other => panic!("byte {byte}: {other:?} of {truth:?}"),
        }
    }
    // Of the numbers and of their checksum, which are one chunk; all else is the header's.
    assert_eq!(noticed[1], 32 + 32, "{noticed:?}");
    // A file that gets shorter while it is known.
    fs::write(&path, &sound).unwrap();
    let store = bench.open();
    fs::write(&path, &sound[..sound.len() - 40]).unwrap();
    assert!(matches!(told(&store, &id), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_part_is_verified_by_itself() {
    let bench = Bench::new();
    let quota = Quota { total_bytes: 1 << 30, owner_bytes: 1 << 30, ..QUOTA };
    let store =
        Store::open(&bench.folder.path().join("activations"), quota, Arc::new(|| Timestamp(0))).unwrap();
    // Layers of 40,000 bytes in chunks of 65,536.
    let draft = draft(10, 10, 1000, Dtype::F32);
    let id = store.put("a", &draft, None).unwrap().id.to_string();
    let path = bench.folder.path().join(format!("activations/{id}.safetensors"));
    let sound = fs::read(&path).unwrap();
    let set = store.find("a", &id).unwrap();
    let layer = |slot: usize| set.open().unwrap().layer(slot);
    let expected = |slot: usize| draft.values[slot * 10_000..(slot + 1) * 10_000].to_vec();
    for slot in (0..10).rev() {
        assert_eq!(layer(slot).unwrap(), expected(slot));
    }
    let mut flipped = sound;
    // In the third chunk, which layers 3 and 4 reach into.
    flipped[set.data_at as usize + 2 * 65_536 + 1] ^= 0x80;
    fs::write(&path, &flipped).unwrap();
    let damaged: Vec<usize> = (0..10)
        .filter(|slot| layer(*slot).map(|found| assert_eq!(found, expected(*slot))).is_err())
        .collect();
    assert_eq!(damaged, [3, 4]);
    // One after the other on one open file, too.
    let mut reader = set.open().unwrap();
    let damaged: Vec<usize> = (0..10).filter(|slot| reader.layer(*slot).is_err()).collect();
    assert_eq!(damaged, [3, 4]);
}

#[test]
fn a_set_from_before_there_were_checksums_is_read_and_says_so() {
    let bench = Bench::new();
    let draft = draft(2, 1, 4, Dtype::F32);
    let meta = bench.open().put("a", &draft, None).unwrap();
    let path = bench.folder.path().join(format!("activations/{}.safetensors", meta.id));
    let bytes = fs::read(&path).unwrap();
    let data_at = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..data_at]).unwrap();
    let mut described = serde_json::to_value(&*meta).unwrap();
    described.as_object_mut().unwrap().remove("verified");
    header["__metadata__"] =
        serde_json::json!({"format": "mediant.activation.1", "activation": described.to_string()});
    header.as_object_mut().unwrap().remove("sha256");
    let text = header.to_string();
    let mut old = (text.len() as u64).to_le_bytes().to_vec();
    old.extend_from_slice(text.as_bytes());
    old.extend_from_slice(&bytes[data_at..data_at + 32]);
    fs::write(&path, &old).unwrap();
    let set = bench.open().find("a", meta.id.as_str()).unwrap();
    assert!(!set.meta.verified && meta.verified);
    assert_eq!(numbers(&set), draft.values);
}

#[test]
fn what_is_no_file_is_passed_over() {
    let bench = Bench::new();
    let kept = bench.open().put("a", &small(), None).unwrap();
    let folder = bench.folder.path().join("activations");
    for name in [format!("act_{}.safetensors", "4".repeat(32)), "act_5.partial".to_owned()] {
        // Opening a pipe that nobody writes to would wait for ever.
        let made = std::process::Command::new("mkfifo").arg(folder.join(name)).status().unwrap();
        assert!(made.success());
    }
    fs::create_dir(folder.join(format!("act_{}.safetensors", "6".repeat(32)))).unwrap();
    let store = bench.open();
    assert_eq!(store.list("a", None, 10).sets.len(), 1);
    assert_eq!(numbers(&store.find("a", kept.id.as_str()).unwrap()), small().values);
}

#[test]
fn files_are_private_also_those_that_were_not() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    let kept = bench.open().put("a", &small(), None).unwrap();
    let folder = bench.folder.path().join("activations");
    let path = folder.join(format!("{}.safetensors", kept.id));
    let modes = || [&folder, &path].map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777);
    assert_eq!(modes(), [0o700, 0o600]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    bench.open();
    assert_eq!(modes(), [0o700, 0o600]);
}

#[test]
fn nothing_is_stored_into_a_folder_that_is_not_the_one_that_was_opened() {
    let bench = Bench::new();
    let store = bench.open();
    let kept = store.put("a", &small(), None).unwrap();
    assert!(store.trouble().is_none());
    let (folder, aside) = (bench.folder.path().join("activations"), bench.folder.path().join("aside"));
    fs::rename(&folder, &aside).unwrap();
    assert!(matches!(store.put("a", &small(), None), Err(StoreError::Displaced(_))));
    assert!(matches!(store.trouble(), Some(StoreError::Displaced(_))) && !folder.exists());
    fs::create_dir(&folder).unwrap();
    assert!(matches!(store.put("a", &small(), None), Err(StoreError::Displaced(_))));
    assert_eq!(bench.files(), Vec::<String>::new());
    fs::remove_dir(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    assert!(store.trouble().is_none());
    store.put("a", &small(), None).unwrap();
    store.find("a", kept.id.as_str()).unwrap();
}
