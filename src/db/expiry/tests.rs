use crate::db::tests::{Content, content, dir, expected, fill, machine, options};
use crate::db::*;
use crate::model::MatchOp;

const HOUR: i64 = 3_600_000;

fn rule(op: MatchOp, n: &str, hours: i64) -> RetentionRule {
    RetentionRule { matchers: vec![Matcher::new(op, "n", n).unwrap()], keep: hours * HOUR }
}

fn open(env: &Env, retention_rules: Vec<RetentionRule>) -> Db {
    Db::open_with(env, dir(), Options { retention_rules, ..options() }).unwrap()
}

/// How many samples each of the three series has.
fn lengths(content: &Content) -> Vec<usize> {
    content.iter().map(|(_, samples)| samples.len()).collect()
}

#[test]
fn what_a_rule_lets_expire_goes_from_blocks_once_and_the_rest_stays() {
    let (env, machine) = machine();
    let rules = vec![rule(MatchOp::Equal, "0", 4)];
    let db = open(&env, rules.clone());
    fill(&db, 0..12);
    let before = db.source();
    db.maintain().unwrap();
    let done = db.maintain().unwrap();
    assert!(done.merged.is_empty(), "what expired is gone after one round: {done:?}");
    let after = content(&db.source());
    let all = expected(0..12);
    assert_eq!(after[1..], all[1..]);
    let (first, kept) = (&all[0].1, &after[0].1);
    assert!(kept.len() < first.len() && *kept == first[first.len() - kept.len()..], "{:?}", lengths(&after));
    assert!(kept.len() >= 4 * 60, "no sample goes before its time");
    assert_eq!(content(&before), all, "a source is of one moment");
    let env = machine.kill();
    assert_eq!(content(&open(&env, rules).source()), after);
}

#[test]
fn a_series_is_the_first_rule_s_that_it_passes() {
    let (env, _machine) = machine();
    let db = open(&env, vec![rule(MatchOp::Regex, "0|1", 1000), rule(MatchOp::Regex, ".*", 4)]);
    fill(&db, 0..12);
    db.maintain().unwrap();
    let lengths = lengths(&content(&db.source()));
    assert_eq!(lengths[..2], [720, 720]);
    assert!(lengths[2] < 720, "{lengths:?}");
}

#[test]
fn rules_wait_while_the_head_is_to_be_cut() {
    let (env, _machine) = machine();
    let db = open(&env, vec![rule(MatchOp::Equal, "0", 4)]);
    fill(&db, 0..12);
    db.inner.tend_head(&mut Maintenance::default()).unwrap();
    fill(&db, 12..16);
    let mut done = Maintenance::default();
    db.inner.tend_blocks(&mut done, true).unwrap();
    assert_eq!(done, Maintenance::default());
    db.inner.tend_blocks(&mut done, false).unwrap();
    assert!(!done.merged.is_empty(), "{done:?}");
}

#[test]
fn a_block_of_which_nothing_is_left_goes() {
    let (env, _machine) = machine();
    let db = open(&env, vec![rule(MatchOp::Regex, ".*", 4)]);
    fill(&db, 0..12);
    let cut = db.maintain().unwrap().written.len();
    let left = db.status().blocks.len();
    assert!(left < cut, "{left} of {cut}");
    assert!(lengths(&content(&db.source())).iter().all(|len| *len < 720));
    assert_eq!(db.maintain().unwrap(), Maintenance::default());
}

#[test]
fn a_rule_of_which_no_series_knows_rewrites_nothing() {
    let (env, _machine) = machine();
    let db = open(&env, vec![rule(MatchOp::Equal, "7", 1)]);
    fill(&db, 0..12);
    let done = db.maintain().unwrap();
    assert!(done.merged.is_empty() && done.dropped.is_empty(), "{done:?}");
    assert_eq!(content(&db.source()), expected(0..12));
}
