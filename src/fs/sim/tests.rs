use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::fs::{File, Fs};

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn write(env: &Env, name: &str, bytes: &[u8]) -> Box<dyn File> {
    let mut file = env.fs.create(path(name)).unwrap();
    file.append(bytes).unwrap();
    file
}

/// What a reader finds at `name` in each image of a power cut now; `None` where there is nothing.
fn outcomes(machine: &SimHandle, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    let point = machine.crash_points().last().unwrap();
    point.power_cut(&PowerCut::default()).map(|image| image.boot(0).0.fs.read(path(name)).ok()).collect()
}

#[test]
fn a_file_survives_if_it_and_its_name_were_synced() {
    let (env, machine) = Env::simulated(1);
    write(&env, "/a", b"content").sync().unwrap();
    env.fs.sync_dir(path("/")).unwrap();
    assert_eq!(outcomes(&machine, "/a"), BTreeSet::from([Some(b"content".to_vec())]));
}

#[test]
fn a_synced_file_can_be_lost_by_its_name() {
    let (env, machine) = Env::simulated(1);
    write(&env, "/a", b"content").sync().unwrap();
    assert_eq!(outcomes(&machine, "/a"), BTreeSet::from([None, Some(b"content".to_vec())]));
}

#[test]
fn an_unsynced_write_may_be_there_whole_in_part_as_zeros_or_not_at_all() {
    let (env, machine) = Env::simulated(1);
    let mut file = env.fs.create(path("/a")).unwrap();
    env.fs.sync_dir(path("/")).unwrap();
    file.append(&[7; 600]).unwrap();
    let mut sector_missing = [7; 600];
    sector_missing[..512].fill(0);
    let mut tail_missing = [7; 600];
    tail_missing[512..].fill(0);
    let expected =
        [&[][..], &[7], &[7; 300], &[7; 599], &[7; 600], &[7; 512], &[0; 600], &tail_missing, &sector_missing];
    assert_eq!(outcomes(&machine, "/a"), expected.iter().map(|bytes| Some(bytes.to_vec())).collect());
}

#[test]
fn a_later_write_can_be_there_without_an_earlier_one() {
    let (env, machine) = Env::simulated(1);
    let mut file = write(&env, "/a", b"x");
    env.fs.sync_dir(path("/")).unwrap();
    file.append(b"y").unwrap();
    let found = outcomes(&machine, "/a");
    let expected = ["", "x", "\0", "xy", "\0y", "x\0", "\0\0"].map(|text| Some(text.as_bytes().to_vec()));
    assert!(found.is_subset(&BTreeSet::from(expected)), "{found:?}");
    assert!(found.contains(&Some(b"\0y".to_vec())));
}

#[test]
fn writes_to_two_files_reach_the_disk_in_any_order() {
    let (env, machine) = Env::simulated(1);
    write(&env, "/a", b"1");
    write(&env, "/b", b"1");
    let point = machine.crash_points().last().unwrap();
    let mut seen = BTreeSet::new();
    for image in point.power_cut(&PowerCut::default()) {
        let fs = image.boot(0).0.fs;
        let whole = |name| fs.read(path(name)).is_ok_and(|bytes| bytes == b"1");
        seen.insert((whole("/a"), whole("/b")));
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_rename_over_a_file_leaves_the_one_or_the_other() {
    let (env, machine) = Env::simulated(1);
    write(&env, "/a", b"old");
    machine.settle();
    write(&env, "/new", b"new").sync().unwrap();
    env.fs.rename(path("/new"), path("/a")).unwrap();
    let both = BTreeSet::from([Some(b"old".to_vec()), Some(b"new".to_vec())]);
    assert_eq!(outcomes(&machine, "/a"), both);
    env.fs.sync_dir(path("/")).unwrap();
    assert_eq!(outcomes(&machine, "/a"), BTreeSet::from([Some(b"new".to_vec())]));
}

#[test]
fn a_rename_before_the_sync_of_what_it_names_can_leave_an_empty_file() {
    let (env, machine) = Env::simulated(1);
    write(&env, "/new", b"new");
    env.fs.rename(path("/new"), path("/a")).unwrap();
    env.fs.sync_dir(path("/")).unwrap();
    assert!(outcomes(&machine, "/a").contains(&Some(Vec::new())));
}

#[test]
fn a_removed_file_can_come_back_until_its_directory_is_synced() {
    let (env, machine) = Env::simulated(1);
    write(&env, "/a", b"x");
    machine.settle();
    env.fs.remove_file(path("/a")).unwrap();
    assert_eq!(outcomes(&machine, "/a"), BTreeSet::from([None, Some(b"x".to_vec())]));
    env.fs.sync_dir(path("/")).unwrap();
    assert_eq!(outcomes(&machine, "/a"), BTreeSet::from([None]));
}

#[test]
fn a_failed_sync_loses_what_a_later_one_seems_to_save() {
    let (env, machine) = Env::simulated(1);
    let mut file = write(&env, "/a", b"x");
    env.fs.sync_dir(path("/")).unwrap();
    machine.fail_op(machine.ops(), io::ErrorKind::Other);
    file.sync().unwrap_err();
    file.sync().unwrap();
    assert!(outcomes(&machine, "/a").contains(&Some(Vec::new())));
}

#[test]
fn a_killed_process_leaves_what_it_wrote_and_part_of_what_it_was_writing() {
    let (env, machine) = Env::simulated(1);
    let mut file = write(&env, "/a", b"one");
    file.append(b"two").unwrap();
    let point = machine.crash_points().find(|point| point.ops == machine.ops()).unwrap();
    let found: BTreeSet<_> = point.killed().iter().map(|image| image.boot(0).0.fs.read(path("/a")).unwrap()).collect();
    assert_eq!(found, BTreeSet::from([b"onet".to_vec(), b"onetw".to_vec(), b"onetwo".to_vec()]));
}

#[test]
fn a_killed_process_cannot_write_and_does_not_hold_its_lock() {
    let (env, machine) = Env::simulated(1);
    let mut file = write(&env, "/a", b"one");
    let lock = env.fs.lock(path("/lock")).unwrap();
    assert_eq!(env.fs.lock(path("/lock")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let next = machine.kill();
    file.append(b"two").unwrap_err();
    env.fs.remove_file(path("/a")).unwrap_err();
    let _held = next.fs.lock(path("/lock")).unwrap();
    drop(lock);
    assert_eq!(next.fs.lock(path("/lock")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(next.fs.read(path("/a")).unwrap(), b"one");
}

#[test]
fn a_full_disk_takes_what_fits_and_goes_on_when_there_is_room() {
    let (env, machine) = Env::simulated(1);
    machine.set_capacity(Some(5));
    let mut file = write(&env, "/a", b"abc");
    assert_eq!(env.fs.available(path("/")).unwrap(), 2);
    assert_eq!(file.append(b"defg").unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(env.fs.read(path("/a")).unwrap(), b"abcde");
    file.set_len(3).unwrap();
    file.append(b"de").unwrap();
    machine.set_capacity(None);
    file.append(b"fg").unwrap();
    assert_eq!(env.fs.read(path("/a")).unwrap(), b"abcdefg");
}

#[test]
#[should_panic(expected = "memory-mapped")]
fn changing_a_mapped_file_is_caught() {
    let (env, _machine) = Env::simulated(1);
    let mut file = write(&env, "/a", b"abc");
    let _bytes = env.fs.map(path("/a")).unwrap();
    file.set_len(1).unwrap();
}

#[test]
fn a_mapping_that_is_gone_hinders_nobody() {
    let (env, _machine) = Env::simulated(1);
    let mut file = write(&env, "/a", b"abc");
    drop(env.fs.map(path("/a")).unwrap());
    file.append(b"d").unwrap();
    assert_eq!(&env.fs.map(path("/a")).unwrap()[..], b"abcd");
}

#[test]
fn removing_a_directory_is_many_operations_and_can_stop_at_each() {
    let (env, machine) = Env::simulated(1);
    env.fs.create_dir_all(path("/d/e")).unwrap();
    for name in ["/d/1", "/d/2", "/d/e/3"] {
        write(&env, name, b"x");
    }
    let began = machine.ops();
    machine.fail_when(move |op| (op.kind == OpKind::RemoveFile && op.path == "/d/2").then_some(io::ErrorKind::Other));
    env.fs.remove_dir_all(path("/d")).unwrap_err();
    assert_eq!(env.fs.list(path("/d")).unwrap().len(), 2);
    machine.heal();
    env.fs.remove_dir_all(path("/d")).unwrap();
    assert_eq!(env.fs.stat(path("/d")).unwrap(), None);
    let points = machine.crash_points().filter(|point| point.ops > began).count();
    assert_eq!(points, 5 + 1);
}

#[test]
fn waiting_passes_simulated_time_and_a_ring_saves_the_wait() {
    let (env, machine) = Env::simulated(1);
    let bell = env.executor.waiter();
    bell.wait(Duration::from_secs(30));
    assert_eq!(env.clock.now_ms(), START_MS + 30_000);
    bell.ring();
    bell.wait(Duration::from_secs(30));
    assert_eq!(env.clock.monotonic(), Duration::from_secs(30));
    machine.set_now_ms(7);
    machine.advance(Duration::from_millis(5));
    assert_eq!(env.clock.now_ms(), 12);
}

#[test]
fn work_can_be_slipped_into_a_reading_of_a_clock() {
    let (env, machine) = Env::simulated(1);
    let other = machine.clone();
    machine.at_clock_reading(1, move || other.advance(Duration::from_secs(1)));
    assert_eq!(env.clock.monotonic(), Duration::ZERO);
    assert_eq!(env.clock.monotonic(), Duration::from_secs(1));
    assert_eq!(env.clock.monotonic(), Duration::from_secs(1));
}

#[test]
fn tasks_run_in_an_order_that_the_seed_alone_decides() {
    let order = |seed| {
        let (env, machine) = Env::simulated(seed);
        let ran = Arc::new(Mutex::new(Vec::new()));
        let task = |index| {
            let ran = Arc::clone(&ran);
            Box::new(move || ran.lock().push(index)) as Work
        };
        env.executor.join_all((0..8).map(task).collect());
        let first = env.executor.spawn("first", task(8)).unwrap();
        drop(env.executor.spawn("second", task(9)).unwrap());
        assert_eq!(ran.lock().len(), 8);
        first.join();
        machine.run_spawned();
        let ran = ran.lock().clone();
        assert_eq!(ran[8..], [8, 9]);
        ran
    };
    assert_eq!(order(1), order(1));
    assert!((2..10).any(|seed| order(seed) != order(1)));
}

/// What a test does to the disk. Names are few, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Append(usize, Vec<u8>),
    Cut(usize, usize),
    Sync(usize),
    SyncDir(usize),
    Rename(usize, usize),
    Remove(usize),
}

const NAMES: [&str; 4] = ["/a", "/b", "/d/a", "/d/b"];
const DIRS: [&str; 2] = ["/", "/d"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || 0..NAMES.len();
    let step = prop_oneof![
        4 => (name(), prop::collection::vec(1_u8.., 1..700)).prop_map(|(name, bytes)| Step::Append(name, bytes)),
        1 => (name(), 0..600_usize).prop_map(|(name, len)| Step::Cut(name, len)),
        2 => name().prop_map(Step::Sync),
        1 => (0..DIRS.len()).prop_map(Step::SyncDir),
        1 => (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => name().prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 1..24)
}

/// The obvious model: a map of names, without any notion of a crash.
type Model = BTreeMap<&'static str, Vec<u8>>;

fn take(fs: &dyn Fs, model: &mut Model, step: &Step) {
    match step {
        Step::Append(name, bytes) => {
            let name = NAMES[*name];
            let mut file = fs.open_append(path(name)).or_else(|_| fs.create(path(name))).unwrap();
            file.append(bytes).unwrap();
            model.entry(name).or_default().extend(bytes);
        }
        Step::Cut(name, len) => {
            if let Ok(mut file) = fs.open_append(path(NAMES[*name])) {
                file.set_len(*len as u64).unwrap();
                model.get_mut(NAMES[*name]).unwrap().resize(*len, 0);
            }
        }
        Step::Sync(name) => {
            if let Ok(mut file) = fs.open_append(path(NAMES[*name])) {
                file.sync().unwrap();
            }
        }
        Step::SyncDir(dir) => fs.sync_dir(path(DIRS[*dir])).unwrap(),
        Step::Rename(from, to) => {
            let renamed = fs.rename(path(NAMES[*from]), path(NAMES[*to]));
            assert_eq!(renamed.is_ok(), model.contains_key(NAMES[*from]));
            if let Some(bytes) = model.remove(NAMES[*from]) {
                model.insert(NAMES[*to], bytes);
            }
        }
        Step::Remove(name) => {
            let removed = fs.remove_file(path(NAMES[*name]));
            assert_eq!(removed.is_ok(), model.remove(NAMES[*name]).is_some());
        }
    }
}

fn files(image: &Image) -> BTreeMap<String, Vec<u8>> {
    image.files().into_iter().filter_map(|(path, content)| Some((path, content?))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_disk_that_never_crashes_is_a_map_of_names(steps in steps()) {
        let (env, machine) = Env::simulated(1);
        env.fs.create_dir_all(path("/d")).unwrap();
        let mut model = Model::new();
        for step in &steps {
            take(&*env.fs, &mut model, step);
        }
        let expected: BTreeMap<String, Vec<u8>> =
            model.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        prop_assert_eq!(&files(&machine.image()), &expected);
        // And the journal tells the same story as the disk.
        if let Some(point) = machine.crash_points().last() {
            prop_assert_eq!(&files(&point.killed()[0]), &expected);
        }
    }

    /// What is promised for a name: once its directory and the file behind it are synced, and neither was changed
    /// since, the content is there; and no byte stands anywhere that was never written there.
    #[test]
    fn a_power_cut_keeps_what_was_synced_and_invents_nothing(steps in steps(), seed: u64) {
        let (env, machine) = Env::simulated(1);
        env.fs.create_dir_all(path("/d")).unwrap();
        machine.settle();
        let mut model = Model::new();
        // Names whose entry is not durable; and all contents that files had, whole.
        let mut unsure: BTreeSet<&str> = BTreeSet::new();
        let mut unsynced: BTreeSet<&str> = BTreeSet::new();
        let mut written: BTreeSet<(usize, u8)> = BTreeSet::new();
        for step in &steps {
            take(&*env.fs, &mut model, step);
            match step {
                Step::Append(name, _) => {
                    let name = NAMES[*name];
                    unsure.insert(name);
                    unsynced.insert(name);
                    written.extend(model[name].iter().copied().enumerate());
                }
                Step::Cut(name, _) => {
                    unsynced.insert(NAMES[*name]);
                }
                Step::Sync(name) => {
                    unsynced.remove(NAMES[*name]);
                }
                // A file may have been renamed away and the name made anew: only a sync of all settles that.
                Step::SyncDir(dir) => unsure.retain(|name| name.starts_with("/d/") != (*dir == 1)),
                Step::Rename(from, to) => {
                    unsure.extend([NAMES[*from], NAMES[*to]]);
                    unsynced.extend([NAMES[*from], NAMES[*to]]);
                }
                Step::Remove(name) => {
                    unsure.insert(NAMES[*name]);
                }
            }
        }
        let Some(point) = machine.crash_points().last() else { return Ok(()) };
        for image in point.power_cut(&PowerCut { exhaustive: 4, samples: 50, seed }) {
            let found = files(&image);
            for (name, bytes) in &model {
                if !unsure.contains(name) && !unsynced.contains(name) {
                    prop_assert_eq!(found.get(*name), Some(bytes), "{}: {}", name, image.story());
                }
            }
            for (name, bytes) in &found {
                let invented = bytes.iter().enumerate().find(|(at, byte)| **byte != 0 && !written.contains(&(*at, **byte)));
                prop_assert_eq!(invented, None, "{}: {}", name, image.story());
            }
        }
        let least = files(&point.least());
        let all = files(&point.killed()[0]);
        let images: Vec<_> = point.power_cut(&PowerCut { exhaustive: 0, samples: 0, seed }).map(|image| files(&image)).collect();
        if point.pending() > 0 {
            prop_assert_eq!(images, [least, all]);
        }
    }
}
