//! Writing a block on a machine that crashes and on a disk that fails: at every moment there is no block, or all of it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;

use narthex::block::{Block, BlockMeta, BlockRead, BlockWriter, TimedChunk, Ulid};
use narthex::chunk::XorAppender;
use narthex::error::Result;
use narthex::fs::Env;
use narthex::model::Labels;
use narthex::testkit::PowerCut;

const SERIES: usize = 6;

fn ulid() -> Ulid {
    Ulid::from_parts(1_700_000_000_000, 7)
}

/// A block whose chunks take several segments.
fn write(env: &Env) -> Result<BlockMeta> {
    let chunk = |series: usize| {
        let mut appender = XorAppender::new();
        for t in 0..20 {
            appender.append(t, (series * 100) as f64 + t as f64).unwrap();
        }
        TimedChunk { min_time: 0, max_time: 19, chunk: appender.take() }
    };
    let mut writer = BlockWriter::with_segment_size(&env.fs, Path::new("/data"), BlockMeta::new(ulid(), 0, 20), 200)?;
    let names: Vec<_> = (0..SERIES).map(|series| format!("s{series}")).collect();
    std::iter::once("name").chain(names.iter().map(String::as_str)).try_for_each(|symbol| writer.add_symbol(symbol))?;
    for (number, name) in names.iter().enumerate() {
        writer.add_series(&Labels::from_pairs([("name", name)]), &[chunk(number)])?;
    }
    Ok(writer.finish()?.unwrap())
}

/// Whether the block is there; if it is, it is whole.
fn is_there(env: &Env) -> bool {
    let dir = Path::new("/data").join(ulid().to_string());
    if env.fs.stat(&dir).unwrap().is_none() {
        return false;
    }
    let block = Block::open(&*env.fs, &dir).unwrap();
    block.verify().unwrap();
    assert_eq!(block.select(&[]).unwrap().len(), SERIES);
    true
}

#[test]
fn a_crash_leaves_no_block_or_all_of_it_and_once_it_is_finished_all_of_it() {
    let (env, machine) = Env::simulated(1);
    env.fs.create_dir_all(Path::new("/data")).unwrap();
    machine.settle();
    let before = machine.ops();
    write(&env).unwrap();
    let finished = machine.ops();
    let (mut images, mut there) = (0, 0);
    for point in machine.crash_points().filter(|point| point.ops >= before) {
        let options = PowerCut { samples: 100, ..PowerCut::default() };
        for image in point.killed().into_iter().chain(point.power_cut(&options)) {
            images += 1;
            there += usize::from(is_there(&image.boot(2).0));
        }
        if point.ops >= finished {
            assert!(is_there(&point.least().boot(2).0), "a finished block went away");
        }
    }
    assert!(images > 500 && there > 0 && there < images, "{images} images, {there} with the block");
}

#[test]
fn a_disk_that_fails_at_any_operation_leaves_no_half_block_and_the_next_try_succeeds() {
    let count = {
        let (env, machine) = Env::simulated(1);
        env.fs.create_dir_all(Path::new("/data")).unwrap();
        write(&env).unwrap();
        machine.ops()
    };
    for number in 1..count {
        let (env, machine) = Env::simulated(1);
        env.fs.create_dir_all(Path::new("/data")).unwrap();
        machine.fail_op(number, std::io::ErrorKind::Other);
        let outcome = write(&env);
        machine.heal();
        let there = is_there(&env);
        // Only the very last operation, which makes the new name durable, can fail with the block in place.
        assert!(there || outcome.is_err(), "operation {number}: a success without a block");
        if there {
            let dir = Path::new("/data").join(ulid().to_string());
            env.fs.remove_dir_all(&dir).unwrap();
        }
        write(&env).unwrap();
        assert!(is_there(&env), "operation {number}");
        let names: Vec<_> = env.fs.list(Path::new("/data")).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, [ulid().to_string()], "operation {number} left something behind");
    }
}

#[test]
fn a_full_disk_is_said_to_be_full_and_keeps_nothing_of_the_block() {
    let (env, machine) = Env::simulated(1);
    env.fs.create_dir_all(Path::new("/data")).unwrap();
    machine.set_capacity(Some(500));
    let error = write(&env).unwrap_err();
    assert_eq!(error.kind(), narthex::error::ErrorKind::Full, "{error}");
    assert_eq!(machine.used(), 0);
    machine.set_capacity(None);
    write(&env).unwrap();
    assert!(is_there(&env));
}
