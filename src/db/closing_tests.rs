//! Closing on a disk that takes nothing more.

use super::tests::{START, content, dir, expected, fill, machine, open, series};
use super::*;
use crate::fs::sim::PowerCut;

#[test]
fn closing_on_a_full_disk_ends_the_log_and_makes_durable_what_was_acknowledged() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..1);
    let mut appender = db.appender();
    appender.append(None, &series(0), START + 2 * tests::HOUR, 1.0).unwrap();
    machine.set_capacity(Some(machine.used()));
    assert_eq!(db.close().unwrap_err().kind(), ErrorKind::Full);
    for image in machine.now().power_cut(&PowerCut::default()) {
        let db = open(&image.boot(2).0);
        assert_eq!(content(&db.source()), expected(0..1), "{}", image.story());
    }
    machine.set_capacity(None);
    let next = open(&env);
    assert_eq!(appender.commit().unwrap_err().kind(), ErrorKind::NotReady);
    assert_eq!(content(&next.source()), expected(0..1));
}

#[test]
fn closing_with_series_that_are_owed_and_cannot_be_written_ends_the_log_too() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..1);
    let mut appender = db.appender();
    appender.append(None, &series(0), START + 2 * tests::HOUR, 1.0).unwrap();
    machine.set_capacity(Some(machine.used()));
    let mut refused = db.appender();
    refused.append(None, &series(7), START + 2 * tests::HOUR, 1.0).unwrap();
    assert_eq!(refused.commit().unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(db.close().unwrap_err().kind(), ErrorKind::Full);
    machine.set_capacity(None);
    assert_eq!(appender.commit().unwrap_err().kind(), ErrorKind::NotReady);
    for image in machine.now().power_cut(&PowerCut::default()) {
        let db = Db::open_with(&image.boot(2).0, dir(), tests::options()).unwrap();
        assert_eq!(content(&db.source()), expected(0..1), "{}", image.story());
    }
}
