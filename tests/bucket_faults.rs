//! Uploads whose store, disk or process fails: at whichever operation, the bucket is never wrong, and the next attempt
//! makes it whole.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use narthex::block::{Block, BlockMeta, BlockRead, Ulid};
use narthex::bucket::{Bucket, SHIPPER_FILE, ShipOptions, Shipper, ThanosMeta, UploadOptions};
use narthex::db::{BlockGuard, Db, Options};
use narthex::fs::Env;
use narthex::model::{Labels, MatchOp, Matcher, TimeRange};
use narthex::testkit::{FaultyStore, START_MS, SimHandle, StoreFault};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

const HOUR: i64 = 3_600_000;
/// So small that every file goes in several parts.
const PART_SIZE: u64 = 300;

/// What a bucket holds.
type Objects = BTreeMap<String, Bytes>;
type LookInto = Arc<dyn Fn() -> Objects + Send + Sync>;

fn data() -> &'static Path {
    Path::new("/data")
}

fn series(number: i64) -> Labels {
    Labels::from_pairs([("__name__", "up".to_owned()), ("i", number.to_string())])
}

/// A machine with a data directory of two blocks.
fn machine() -> (Env, SimHandle) {
    let (env, machine) = Env::simulated(1);
    let db = Db::open_with(&env, data(), Options { future_bound: None, ..Options::default() }).unwrap();
    for hour in 0..3 {
        let mut appender = db.appender();
        for number in 0..3 {
            for minute in 0..60 {
                let t = START_MS + hour * HOUR + minute * 60_000;
                appender.append(None, &series(number), t, (minute * number) as f64 / 7.0).unwrap();
            }
        }
        appender.commit().unwrap();
    }
    assert_eq!(db.flush().unwrap().written.len(), 2);
    db.close().unwrap();
    (env, machine)
}

fn delete_a_series(env: &Env) {
    let db = Db::open_with(env, data(), Options { future_bound: None, ..Options::default() }).unwrap();
    let matcher = Matcher::new(MatchOp::Equal, "i", "1").unwrap();
    assert_eq!(db.delete(TimeRange::ALL, &[matcher]).unwrap(), 2);
    db.close().unwrap();
}

/// The blocks of the data directory.
fn local(env: &Env) -> Vec<BlockMeta> {
    let names = env.fs.list(data()).unwrap().into_iter().map(|entry| entry.name);
    let blocks = names.filter(|name| Ulid::from_string(name).is_ok());
    blocks.map(|name| BlockMeta::read(env.fs.as_ref(), &data().join(name)).unwrap()).collect()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
}

fn shipper(env: &Env, store: &FaultyStore, runtime: &Runtime) -> Shipper {
    let bucket = Bucket::new("faulty", Arc::new(store.clone()), runtime.handle().clone()).with_part_size(PART_SIZE);
    let upload = UploadOptions::new(Labels::from_pairs([("cluster", "a")]));
    Shipper::new(env, &bucket, data(), ShipOptions { upload, compacted: false }, None).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// What must hold at every moment: a meta that can be seen names files that are there, whole.
fn check_metas(objects: &Objects) {
    for (key, content) in objects.iter().filter(|(key, _)| key.ends_with("/meta.json")) {
        let meta = BlockMeta::parse(Path::new(key), content).unwrap();
        let thanos = ThanosMeta::of(&meta).unwrap().unwrap();
        let named: Vec<_> = thanos.files.iter().map(|file| file.rel_path.as_str()).collect();
        assert_eq!(named, ["chunks/000001", "index", "meta.json"]);
        for file in thanos.files.iter().filter(|file| file.rel_path != "meta.json") {
            let content = objects.get(&format!("{}/{}", meta.ulid, file.rel_path)).expect(&file.rel_path);
            assert_eq!(content.len() as u64, file.size_bytes);
            assert_eq!(sha256(content), file.hash.as_ref().unwrap().value);
        }
    }
}

/// Looks into the bucket after every operation.
fn watch(store: &FaultyStore, look: &LookInto) {
    let (look, before) = (Arc::clone(look), Mutex::new(Objects::new()));
    store.watch(move |operation| {
        let objects = look();
        check_metas(&objects);
        let mut before = before.lock().unwrap();
        for (key, content) in before.iter().filter(|(key, _)| key.ends_with("/meta.json")) {
            assert_eq!(objects.get(key), Some(content), "{operation} changed {key}");
        }
        *before = objects;
    });
}

/// The end: each block is in the bucket once and whole, and says what the local one says.
fn check_bucket(env: &Env, objects: &Objects) {
    check_metas(objects);
    let metas = local(env);
    let keys: Vec<_> = metas
        .iter()
        .flat_map(|meta| ["chunks/000001", "index", "meta.json"].map(|file| format!("{}/{file}", meta.ulid)))
        .collect();
    assert!(objects.keys().eq(&keys), "{:?} is not {keys:?}", objects.keys());
    let (copy, _) = Env::simulated(2);
    for (key, content) in objects {
        let path = Path::new("/").join(key);
        copy.fs.create_dir_all(path.parent().unwrap()).unwrap();
        copy.fs.create(&path).unwrap().append(content).unwrap();
    }
    for meta in metas {
        let there = Block::open(copy.fs.as_ref(), &Path::new("/").join(meta.ulid.to_string())).unwrap();
        there.verify().unwrap();
        let here = Block::open(env.fs.as_ref(), &data().join(meta.ulid.to_string())).unwrap();
        assert_eq!(content(&there), content(&here));
        assert_eq!(there.meta().compaction, meta.compaction);
    }
}

/// Chunks with their first and last time.
type Chunks = Vec<(i64, i64, Bytes)>;

/// All series and chunks of a block, but for what is deleted.
fn content(block: &Block) -> Vec<(Labels, Chunks)> {
    let (mut labels, mut chunks, mut content) = (Labels::empty(), Vec::new(), Vec::new());
    for id in block.select(&[]).unwrap() {
        if !block.tombstones(id).is_empty() {
            continue;
        }
        block.series(id, &mut labels, &mut chunks).unwrap();
        let chunks = chunks.iter().map(|chunk| (chunk.min_time, chunk.max_time, block.chunk(chunk).unwrap().data));
        content.push((labels.clone(), chunks.collect()));
    }
    content
}

/// What the guard lets go is in the bucket.
fn check_guard(env: &Env, shipper: &Shipper, objects: &Objects) {
    for meta in local(env) {
        let there = objects.contains_key(&format!("{}/meta.json", meta.ulid));
        let may_drop = shipper.may_drop(&meta, &data().join(meta.ulid.to_string()));
        assert!(there || !may_drop, "{} may be dropped, and is not in the bucket", meta.ulid);
    }
}

/// Fails each operation in turn, in each way, and ships again afterwards. `fresh` makes an empty store.
fn each_operation_fails(runtime: &Runtime, fresh: impl Fn() -> (Arc<dyn ObjectStore>, LookInto)) {
    let mut tried = BTreeMap::<String, usize>::new();
    for fault in StoreFault::ALL {
        for number in 0.. {
            let (env, _) = machine();
            let (inner, look) = fresh();
            let store = FaultyStore::new(inner);
            watch(&store, &look);
            let mut first = shipper(&env, &store, runtime);
            check_guard(&env, &first, &look());
            store.fail(number, fault);
            let shipped = first.ship(&()).unwrap();
            check_guard(&env, &first, &look());
            let operations = store.operations();
            if operations.len() <= number {
                assert_eq!(shipped.uploaded.len(), 2);
                break;
            }
            let kind = operations[number].split(' ').next().unwrap().to_owned();
            *tried.entry(kind).or_default() += 1;
            if matches!(fault, StoreFault::Kill | StoreFault::KillAfter) {
                first = shipper(&env, &store, runtime);
            }
            store.heal();
            let shipped = first.ship(&()).unwrap();
            assert!(shipped.is_complete(), "{fault:?} at {number} {:?}: {shipped:?}", operations[number]);
            check_bucket(&env, &look());
            check_guard(&env, &first, &look());
            // Nothing is left to do, and the note tells the next process so.
            store.fail(usize::MAX, fault);
            assert_eq!(shipper(&env, &store, runtime).ship(&()).unwrap().uploaded, []);
            assert_eq!(store.operations(), [] as [&str; 0]);
        }
    }
    for kind in ["list", "begin", "part", "complete", "put"] {
        assert!(tried.get(kind).is_some_and(|tried| *tried >= 8), "{kind} hardly failed: {tried:?}");
    }
}

#[test]
fn whichever_operation_of_the_store_fails_the_next_attempt_makes_the_bucket_whole() {
    each_operation_fails(&runtime(), || {
        let store = Arc::new(InMemory::new());
        (Arc::clone(&store) as _, Arc::new(move || objects_in_memory(&store)))
    });
}

/// What is in a store that answers at once.
fn objects_in_memory(store: &InMemory) -> Objects {
    let listed: Vec<_> = store.list(None).collect().now_or_never().unwrap();
    let get = |key: &object_store::path::Path| {
        let found = store.get(key).now_or_never().unwrap().unwrap();
        found.bytes().now_or_never().unwrap().unwrap()
    };
    let locations = listed.into_iter().map(|meta| meta.unwrap().location);
    locations.map(|key| (key.to_string(), get(&key))).collect()
}

/// A directory that goes with the value.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("narthex-{name}-{}", std::process::id()));
        let own = Self(dir);
        own.clear();
        own
    }

    fn clear(&self) {
        let fs = Env::real().fs;
        if fs.stat(&self.0).unwrap().is_some() {
            fs.remove_dir_all(&self.0).unwrap();
        }
        fs.create_dir_all(&self.0).unwrap();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = Env::real().fs.remove_dir_all(&self.0);
    }
}

fn objects_in_dir(dir: &Path, below: &str, objects: &mut Objects) {
    let fs = Env::real().fs;
    for entry in fs.list(&dir.join(below)).unwrap() {
        let path = if below.is_empty() { entry.name } else { format!("{below}/{}", entry.name) };
        // What a cut upload left is under a name with a number sign, and is no object.
        match entry.is_dir {
            true => objects_in_dir(dir, &path, objects),
            false if path.contains('#') => {}
            false => {
                objects.insert(path.clone(), fs.read(&dir.join(&path)).unwrap().into());
            }
        }
    }
}

#[test]
fn whichever_operation_of_a_store_on_a_disk_fails_the_next_attempt_makes_the_bucket_whole() {
    let dir = TempDir::new("faults");
    each_operation_fails(&runtime(), || {
        dir.clear();
        let path = dir.0.clone();
        let look = move || {
            let mut objects = Objects::new();
            objects_in_dir(&path, "", &mut objects);
            objects
        };
        (Arc::new(LocalFileSystem::new_with_prefix(&dir.0).unwrap()), Arc::new(look))
    });
}

/// Fails the local disk at each operation of shipping, once or from there on, with and without deletions.
#[test]
fn whichever_operation_of_the_local_disk_fails_the_next_attempt_makes_the_bucket_whole() {
    let runtime = runtime();
    for (with_deletions, killed) in [(false, false), (false, true), (true, false), (true, true)] {
        for number in 0.. {
            let (env, machine) = machine();
            if with_deletions {
                delete_a_series(&env);
            }
            let memory = Arc::new(InMemory::new());
            let look: LookInto = Arc::new({
                let memory = Arc::clone(&memory);
                move || objects_in_memory(&memory)
            });
            let store = FaultyStore::new(memory);
            watch(&store, &look);
            let mut first = shipper(&env, &store, &runtime);
            let at = machine.ops() + number;
            machine.fail_when(move |op| {
                let fails = if killed { op.number >= at } else { op.number == at };
                fails.then_some(io::ErrorKind::Other)
            });
            let _ = first.ship(&());
            let was_reached = machine.ops() > at;
            machine.heal();
            check_guard(&env, &first, &look());
            let mut env = env;
            if killed {
                env = machine.kill();
                first = shipper(&env, &store, &runtime);
            }
            let shipped = first.ship(&()).unwrap();
            assert!(shipped.is_complete(), "operation {number}: {shipped:?}");
            check_bucket(&env, &look());
            if !was_reached {
                assert!(number > 20, "{number} operations");
                break;
            }
        }
    }
}

#[test]
fn without_its_note_a_shipper_asks_the_bucket_and_sends_nothing() {
    let runtime = runtime();
    let (env, _) = machine();
    let store = FaultyStore::new(Arc::new(InMemory::new()));
    assert_eq!(shipper(&env, &store, &runtime).ship(&()).unwrap().uploaded.len(), 2);
    for note in [None, Some("{"), Some(r#"{"version":2,"uploaded":[]}"#)] {
        env.fs.remove_file(&data().join(SHIPPER_FILE)).unwrap();
        if let Some(note) = note {
            env.fs.create(&data().join(SHIPPER_FILE)).unwrap().append(note.as_bytes()).unwrap();
        }
        store.fail(usize::MAX, StoreFault::Before);
        let shipped = shipper(&env, &store, &runtime).ship(&()).unwrap();
        assert_eq!((shipped.uploaded.len(), shipped.found.len()), (0, 2));
        let operations = store.operations();
        assert!(operations.iter().all(|operation| !operation.starts_with("put")), "{operations:?}");
        assert_eq!(operations.len(), 4, "a list and a meta each: {operations:?}");
    }
}

#[test]
fn a_meta_that_appears_during_an_upload_is_not_overwritten() {
    for (ours, conditions) in [(true, true), (true, false), (false, true), (false, false)] {
        let runtime = runtime();
        let (env, _) = machine();
        let whole = FaultyStore::new(Arc::new(InMemory::new()));
        shipper(&env, &whole, &runtime).ship(&()).unwrap();
        let memory = Arc::new(InMemory::new());
        let store = FaultyStore::new(Arc::clone(&memory) as _);
        if !conditions {
            store.refuse_conditions();
        }
        // Another process is quicker: it finishes the same block, or one that is not the same, when our index is there.
        let other = Arc::clone(&memory);
        let meta = local(&env).remove(0);
        let key = object_store::path::Path::from(format!("{}/meta.json", meta.ulid));
        let mut there = whole_meta(&whole, &key);
        if !ours {
            there = String::from_utf8_lossy(&there)
                .replace("\"rel_path\": \"index\"", "\"rel_path\": \"chunks/000001\"")
                .into();
        }
        let (content, finish) = (there.clone(), format!("complete {}/index", meta.ulid));
        let put_at = key.clone();
        store.watch(move |operation| {
            if operation == finish {
                other.put(&put_at, content.clone().into()).now_or_never().unwrap().unwrap();
            }
        });
        env.fs.remove_file(&data().join(SHIPPER_FILE)).unwrap();
        let shipped = shipper(&env, &store, &runtime).ship(&()).unwrap();
        assert_eq!((shipped.found.len(), shipped.failed.len()), if ours { (1, 0) } else { (0, 1) });
        assert_eq!(shipped.uploaded.len(), 1);
        assert_eq!(objects_in_memory(&memory).get(key.as_ref()), Some(&there));
    }
}

fn whole_meta(store: &FaultyStore, key: &object_store::path::Path) -> Bytes {
    store.get(key).now_or_never().unwrap().unwrap().bytes().now_or_never().unwrap().unwrap()
}

#[test]
fn what_goes_away_during_an_upload_is_not_named_by_a_meta() {
    let runtime = runtime();
    let (env, _) = machine();
    let memory = Arc::new(InMemory::new());
    let store = FaultyStore::new(Arc::clone(&memory) as _);
    let meta = local(&env).remove(0);
    let (other, finish) = (Arc::clone(&memory), format!("complete {}/index", meta.ulid));
    let chunks = object_store::path::Path::from(format!("{}/chunks/000001", meta.ulid));
    store.watch(move |operation| {
        if operation == finish {
            other.delete(&chunks).now_or_never().unwrap().unwrap();
        }
    });
    let shipper = shipper(&env, &store, &runtime);
    let shipped = shipper.ship(&()).unwrap();
    assert_eq!((shipped.uploaded.len(), shipped.failed.len()), (1, 1));
    check_metas(&objects_in_memory(&memory));
    store.watch(|_| ());
    assert!(shipper.ship(&()).unwrap().is_complete());
    check_bucket(&env, &objects_in_memory(&memory));
}
