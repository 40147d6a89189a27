//! The files: what was put there is there, whatever happens to the process and the bytes.

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;

use super::open::Opened;
use super::*;
use crate::chunk::XorAppender;
use crate::fs::Env;

const DIR: &str = "/data/chunks_head";

/// A chunk that is told from all others by its values.
fn chunk(n: u64, samples: i64) -> (TimeRange, EncodedChunk) {
    let mut appender = XorAppender::new();
    let first = n as i64 * 1000;
    for t in 0..samples {
        appender.append(first + t, n as f64 + 0.1 * t as f64).unwrap();
    }
    (TimeRange::new(first, first + samples - 1), appender.take())
}

fn open(env: &Env, limit: u64) -> Opened {
    MappedChunks::open_sized(env, Path::new(DIR), limit, || Ok(())).unwrap()
}

#[test]
fn a_chunk_can_be_read_before_it_is_written_while_the_file_grows_and_when_it_is_finished() {
    let (env, _) = Env::simulated(1);
    let opened = open(&env, 2000);
    assert!(opened.loaded.is_empty() && opened.damage.is_empty());
    let chunks = opened.chunks;
    let mut places = Vec::new();
    for n in 1..60 {
        let (range, chunk) = chunk(n, 20);
        places.push((n, chunks.append(n, range, &chunk, n % 5 == 0).unwrap()));
        if n % 7 == 0 {
            chunks.flush().unwrap();
        }
        for (n, place) in &places {
            assert_eq!(chunks.read(*place).unwrap(), self::chunk(*n, 20).1);
        }
    }
    assert!(places.is_sorted_by_key(|(_, place)| *place));
    assert!(places.last().unwrap().1.file() > 3);
    assert!(env.fs.list(Path::new(DIR)).unwrap().iter().all(|it| it.name.len() == 6));
}

#[test]
fn a_place_where_no_chunk_is_is_an_error_that_names_file_and_offset() {
    let (env, _) = Env::simulated(1);
    let chunks = open(&env, 300).chunks;
    for n in 1..10 {
        let (range, chunk) = chunk(n, 20);
        chunks.append(n, range, &chunk, false).unwrap();
    }
    chunks.flush().unwrap();
    for place in [0, 1 << 32, 1 << 32 | 9, 1 << 32 | 4000, 3 << 32 | 9, 3 << 32 | 4000, u64::MAX] {
        let text = chunks.read(ChunkPlace(place)).unwrap_err().to_string();
        assert!(text.contains("chunks_head/") && text.contains("offset"), "{place}: {text}");
    }
}

#[test]
fn files_before_a_number_are_deleted_and_whoever_has_one_reads_on() {
    let (env, _) = Env::simulated(1);
    let chunks = open(&env, 300).chunks;
    let places: Vec<_> = (1..20)
        .map(|n| {
            let (range, chunk) = chunk(n, 20);
            chunks.append(n, range, &chunk, false).unwrap()
        })
        .collect();
    let held = chunks.file(places[0]).unwrap();
    let kept = places[10].file();
    chunks.truncate_before(kept).unwrap();
    let names: Vec<_> = env.fs.list(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names.first().unwrap(), &file_name(kept));
    assert_eq!(held.read(places[0]).unwrap(), chunk(1, 20).1);
    assert!(chunks.read(places[0]).is_err());
    assert_eq!(chunks.read(places[10]).unwrap(), chunk(11, 20).1);
    // The last one was ended: it goes too when nobody needs it, and numbers go on.
    let next = chunks.next_file();
    chunks.truncate_before(next).unwrap();
    assert_eq!(env.fs.list(Path::new(DIR)).unwrap(), []);
    let (range, chunk) = chunk(30, 20);
    assert_eq!(chunks.append(30, range, &chunk, false).unwrap().file(), next);
}

#[test]
fn a_full_disk_loses_no_chunk_that_was_taken() {
    let (env, machine) = Env::simulated(1);
    let chunks = open(&env, FILE_SIZE).chunks;
    let append = |n| {
        let (range, chunk) = chunk(n, 20);
        chunks.append(n, range, &chunk, false).unwrap()
    };
    let first: Vec<_> = (1..5).map(append).collect();
    chunks.flush().unwrap();
    machine.set_capacity(Some(machine.used() + 100));
    let second: Vec<_> = (5..9).map(append).collect();
    assert_eq!(chunks.flush().unwrap_err().kind(), ErrorKind::Full);
    let check = |chunks: &MappedChunks| {
        for (n, place) in (1..).zip(first.iter().chain(&second)) {
            assert_eq!(chunks.read(*place).unwrap(), chunk(n, 20).1);
        }
    };
    check(&chunks);
    machine.set_capacity(None);
    chunks.flush().unwrap();
    check(&chunks);
    drop(chunks);
    let opened = open(&env, FILE_SIZE);
    assert_eq!((opened.loaded.len(), opened.damage), (8, vec![]));
    check(&opened.chunks);
}

#[test]
fn a_reader_beside_the_owner_sees_what_was_written_and_writes_nothing() {
    let (env, machine) = Env::simulated(1);
    let owner = open(&env, 1000).chunks;
    let append = |n| {
        let (range, chunk) = chunk(n, 20);
        owner.append(n, range, &chunk, false).unwrap()
    };
    let places: Vec<_> = (1..20).map(append).collect();
    owner.flush().unwrap();
    let before = machine.image().files();
    let reader = MappedChunks::open_read_only(&env, Path::new(DIR)).unwrap();
    assert_eq!((reader.loaded.len(), &reader.damage), (19, &vec![]));
    let (range, more) = chunk(20, 20);
    assert_eq!(reader.chunks.append(20, range, &more, false).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(machine.image().files(), before);
    // The owner goes on and deletes; the reader still has all.
    append(20);
    owner.flush().unwrap();
    owner.truncate_before(u32::MAX).unwrap();
    for (n, place) in (1..).zip(places) {
        assert_eq!(reader.chunks.read(place).unwrap(), chunk(n, 20).1);
    }
}

/// Everything that is in the files, by place.
fn content(opened: &Opened) -> Vec<(u64, TimeRange, bool, Bytes)> {
    let read = |it: &Loaded| (it.series, it.range, it.out_of_order, opened.chunks.read(it.place).unwrap().data);
    opened.loaded.iter().map(read).collect()
}

proptest! {
    #[test]
    fn what_was_written_is_there_after_each_opening(
        lives in prop::collection::vec(prop::collection::vec((1..9_u64, 1..60_i64, any::<bool>(), 0..4_u8), 0..30), 1..5),
    ) {
        let (env, machine) = Env::simulated(1);
        let mut expected = Vec::new();
        for life in lives {
            let opened = open(&machine.kill(), 1500);
            prop_assert_eq!(&opened.damage, &vec![]);
            prop_assert_eq!(content(&opened), expected.clone());
            let mut waiting = Vec::new();
            for (series, samples, out_of_order, then) in life {
                let (range, chunk) = chunk(series, samples);
                let place = opened.chunks.append(series, range, &chunk, out_of_order).unwrap();
                prop_assert_eq!(opened.chunks.read(place).unwrap(), chunk.clone());
                waiting.push((series, range, out_of_order, chunk.data));
                if then == 0 {
                    opened.chunks.flush().unwrap();
                }
            }
            opened.chunks.flush().unwrap();
            expected.append(&mut waiting);
        }
        drop(env);
    }

    #[test]
    fn damage_costs_what_lies_behind_it_and_opening_mends_it(
        count in 1..40_u64,
        file in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let (env, machine) = Env::simulated(1);
        let opened = open(&env, 700);
        for n in 1..=count {
            let (range, chunk) = chunk(n, 10);
            opened.chunks.append(n, range, &chunk, false).unwrap();
        }
        opened.chunks.flush().unwrap();
        drop(opened);
        let env = machine.kill();
        let whole = content(&open(&env, 700));
        let env = machine.kill();
        let names: Vec<_> = env.fs.list(Path::new(DIR)).unwrap();
        // Files are synced before the next one is begun: none but the last is ever cut.
        let file = if cut { names.len() - 1 } else { file.index(names.len()) };
        let path = Path::new(DIR).join(&names[file].name);
        let mut bytes = env.fs.read(&path).unwrap();
        let place = at.index(bytes.len());
        if cut {
            bytes.truncate(place);
        } else {
            bytes[place] ^= 0x41;
        }
        env.fs.remove_file(&path).unwrap();
        env.fs.create(&path).unwrap().append(&bytes).unwrap();

        let reader = MappedChunks::open_read_only(&env, Path::new(DIR)).unwrap();
        let read = content(&reader);
        prop_assert_eq!(&read[..], &whole[..read.len()]);
        let owner = open(&env, 700);
        prop_assert_eq!(content(&owner), read);
        // Three bytes of the header mean nothing, and a cut between two chunks of the last file is none that can be seen.
        prop_assert!(owner.damage.len() == 1 || (5..8).contains(&place) || cut);
        drop(owner);
        let again = open(&machine.kill(), 700);
        prop_assert_eq!(&again.damage, &vec![]);
    }
}

#[test]
fn a_directory_whose_numbers_are_used_up_is_not_opened_for_writing() {
    let (env, _) = Env::simulated(1);
    let opened = open(&env, 2000);
    let (range, chunk) = chunk(1, 20);
    opened.chunks.append(1, range, &chunk, false).unwrap();
    opened.chunks.sync().unwrap();
    drop(opened);
    let dir = Path::new(DIR);
    env.fs.rename(&dir.join(file_name(1)), &dir.join(file_name(u32::MAX))).unwrap();
    let error = MappedChunks::open_sized(&env, dir, 2000, || Ok(())).unwrap_err();
    assert!(error.to_string().contains("no number is left"), "{error}");
}
