//! Crashes of a database that takes samples out of order: full buffers, markers, cuts, deletions, a log that is shortened.

use std::time::Duration;

use narthex::db::Options;
use narthex::testkit::OpKind;
use narthex::wal::Durability;

use crate::db::{Key, Script, at, labels, options, recover, value};

/// Commits samples of these series at these seconds, all at once; they are out of order from the second one on.
fn commit(script: &mut Script, series: &[usize], seconds: impl Iterator<Item = i64> + Clone) {
    let keys: Vec<Key> = series.iter().flat_map(|series| seconds.clone().map(|second| (*series, at(second)))).collect();
    let mut appender = script.db.appender();
    for &key in &keys {
        script.history.begin(key, value(key).to_bits());
        appender.append(None, &labels(key.0), key.1, value(key)).unwrap();
    }
    let committed = appender.commit().unwrap();
    assert_eq!(committed.appended, keys.len() as u64);
    script.history.acknowledge(&keys);
    if script.options.durability == Durability::Sync {
        script.history.synced();
    }
}

fn life(durability: Durability) -> Script {
    let mut script = Script::new(Options { out_of_order_window: 120_000, ..options(durability) });
    script.commit(0..3, 100);
    commit(&mut script, &[0, 1], 50..70);
    // Both are full on the way.
    commit(&mut script, &[0, 1], (10..30).rev());
    // A series that has nothing in order, and some of two that have.
    commit(&mut script, &[2, 3], 40..43);
    script.restart();
    commit(&mut script, &[1], (70..99).step_by(2));
    if durability == Durability::Sync {
        // Else a power cut may bring it back.
        script.delete(1, 60, 80);
    }
    commit(&mut script, &[1], 91..92);
    script.commit(0..3, 155);
    // The head is cut, then what came late.
    script.db.maintain().unwrap();
    commit(&mut script, &[0, 3], 100..103);
    script.db.flush().unwrap();
    commit(&mut script, &[0], 104..106);
    script.restart();
    script.db.close().unwrap();
    let writes = |name: &str| {
        script.machine.log().iter().filter(|op| op.kind == OpKind::Append && op.path.contains(name)).count()
    };
    assert!(writes("chunks_head") >= 2, "the script is to fill buffers");
    let removed =
        script.machine.log().iter().filter(|op| op.kind == OpKind::RemoveFile && op.path.contains("wbl")).count();
    assert!(removed >= 2, "the script is to shorten the log");
    script
}

#[test]
fn what_came_late_survives_a_power_cut_if_commits_are_synced() {
    let script = life(Durability::Sync);
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}

#[test]
fn what_came_late_survives_a_killed_process_in_any_case() {
    let script = life(Durability::Interval(Duration::from_secs(1)));
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}
