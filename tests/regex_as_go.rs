//! Regular expressions mean what they mean in Prometheus: 1,481 of them, good and bad, against what Go made of them.

use std::path::Path;

use narthex::fs::Env;
use narthex::model::{MatchOp, Matcher};
use serde_json::Value;

#[test]
fn every_expression_matches_what_it_matches_in_go_or_fails_with_go_s_error() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/regex/go.jsonl");
    let text = String::from_utf8(Env::real().fs.read(&path).unwrap()).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let header = lines.next().unwrap();
    let values: Vec<&str> = header["values"].as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect();
    let mut wrong = Vec::new();
    for line in lines {
        let pattern = line["pattern"].as_str().unwrap();
        let ours = Matcher::new(MatchOp::Regex, "l", pattern);
        match (ours, line["error"].as_str()) {
            (Err(ours), Some(theirs)) if ours.to_string() == theirs => {}
            (Err(ours), theirs) => wrong.push(format!("{pattern:?}: ours {ours}, theirs {theirs:?}")),
            (Ok(_), Some(theirs)) => wrong.push(format!("{pattern:?}: no error; theirs {theirs}")),
            (Ok(ours), None) => {
                let hits: Vec<usize> =
                    line["matches"].as_array().unwrap().iter().map(|hit| hit.as_u64().unwrap() as usize).collect();
                for (number, value) in values.iter().enumerate() {
                    if ours.matches(value) != hits.contains(&number) {
                        wrong.push(format!("{pattern:?} on {value:?}: theirs {}", hits.contains(&number)));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}
