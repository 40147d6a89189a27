//! What the pages, and those who look closer, ask for: blocks, exemplars, the query's tree and its text in order.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::Path;

use axum::http::StatusCode;
use common::{Served, served, served_from};
use narthex::db::Options;
use narthex::fs::Env;
use narthex::model::{Exemplar, Labels};
use serde_json::{Value, json};
use serve::Limits;

const T: i64 = 1_795_268_000_000;

async fn data(served: &Served, path: &str) -> Value {
    let answered = served.get(&format!("/api/v1/{path}")).await;
    assert_eq!(answered.status, StatusCode::OK, "{}", answered.text());
    let mut answer: Value = serde_json::from_str(answered.text()).unwrap();
    assert_eq!(answer["status"], "success");
    answer["data"].take()
}

/// A server over a head and two blocks of ten minutes, of one series.
fn with_blocks() -> (Served, Env) {
    let (env, _machine) = Env::simulated(11);
    let options = Options { future_bound: None, min_block_duration: 600_000, ..Options::default() };
    let served = served_from(&env, Limits::default(), options);
    let start = T / 600_000 * 600_000;
    let mut appender = served.db.appender();
    for step in 0..140 {
        let labels = Labels::from_pairs([("__name__", "up")]);
        appender.append(None, &labels, start + step * 15_000, 1.0).unwrap();
    }
    appender.commit().unwrap();
    served.db.maintain().unwrap();
    (served, env)
}

#[tokio::test]
async fn blocks_are_listed_as_prometheus_lists_them() {
    let (served, _) = with_blocks();
    let answered = data(&served, "status/tsdb/blocks").await;
    let blocks = answered["blocks"].as_array().unwrap();
    assert_eq!(blocks.len(), 2);
    let ulid = blocks[0]["ulid"].as_str().unwrap();
    assert_eq!(
        blocks[0],
        json!({
            "ulid": ulid,
            "minTime": 1_795_267_800_000_i64,
            "maxTime": 1_795_268_400_000_i64,
            "stats": {"numSamples": 40, "numFloatSamples": 40, "numSeries": 1, "numChunks": 1},
            "compaction": {"level": 1, "sources": [ulid]},
            "version": 1
        })
    );
}

#[tokio::test]
async fn an_empty_directory_has_an_empty_list_of_blocks() {
    let served = served(Limits::default());
    assert_eq!(data(&served, "status/tsdb/blocks").await, json!({"blocks": []}));
    assert_eq!(data(&served, "status/blocks").await, json!({"bucket": null, "blocks": []}));
}

#[tokio::test]
async fn a_block_says_where_it_lies_and_what_is_in_it() {
    let (served, _) = with_blocks();
    let answered = data(&served, "status/blocks").await;
    let block = &answered["blocks"][1];
    assert_eq!(block["places"], json!(["local"]));
    assert_eq!((&block["series"], &block["samples"], &block["level"]), (&json!(1), &json!(40), &json!(1)));
    assert_eq!((&block["resolution"], &block["source"], &block["labels"]), (&json!(0), &json!("head"), &json!({})));
    assert!(block["bytes"].as_u64().unwrap() > 100);
    assert_eq!(block["problem"], Value::Null);
}

#[tokio::test]
async fn a_block_that_cannot_be_read_is_listed_with_the_reason() {
    let (served, env) = with_blocks();
    let ulid = data(&served, "status/blocks").await["blocks"][0]["ulid"].as_str().unwrap().to_owned();
    served.db.close().unwrap();
    env.fs.remove_file(&Path::new("/data").join(&ulid).join("index")).unwrap();
    let served = served_from(&env, Limits::default(), Options { future_bound: None, ..Options::default() });
    let answered = data(&served, "status/blocks").await;
    let block = &answered["blocks"][0];
    assert_eq!((&block["ulid"], &block["places"]), (&json!(ulid), &json!(["local"])));
    assert!(block["problem"].as_str().unwrap().contains("index"), "{block}");
    assert_eq!(data(&served, "status/tsdb/blocks").await["blocks"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn exemplars_are_answered_for_the_series_that_any_selector_finds() {
    let served = served(Limits::default());
    let mut appender = served.db.appender();
    for (job, trace) in [("a", "t1"), ("b", "t2"), ("c", "t3")] {
        let labels = Labels::from_pairs([("__name__", "seconds_bucket"), ("job", job)]);
        appender.append(None, &labels, T, 1.0).unwrap();
        let exemplar = Exemplar { labels: Labels::from_pairs([("trace_id", trace)]), value: 0.25, t: T + 500 };
        appender.append_exemplar(None, &labels, exemplar).unwrap();
    }
    appender.commit().unwrap();
    let query = "rate(seconds_bucket%7Bjob=%22a%22%7D[5m])/seconds_bucket%7Bjob=~%22b%22%7D";
    let path = format!("query_exemplars?query={query}&start=1795267000&end=1795269000");
    let one = |job: &str, trace: &str| {
        json!({
            "seriesLabels": {"__name__": "seconds_bucket", "job": job},
            "exemplars": [{"labels": {"trace_id": trace}, "value": "0.25", "timestamp": 1_795_268_000.5}]
        })
    };
    assert_eq!(data(&served, &path).await, json!([one("a", "t1"), one("b", "t2")]));
    let early = format!("query_exemplars?query={query}&start=1795267000&end=1795268000");
    assert_eq!(data(&served, &early).await, json!([]));
    assert_eq!(data(&served, "query_exemplars?query=vector(1)").await, json!([]));
}

#[tokio::test]
async fn exemplars_may_be_asked_for_in_milliseconds_as_grafana_does() {
    let served = served(Limits::default());
    assert_eq!(data(&served, "query_exemplars?query=up&start=1795268000000&end=1795268000001").await, json!([]));
    let backwards = served.get("/api/v1/query_exemplars?query=up&start=2&end=1").await;
    assert_eq!(backwards.status, StatusCode::BAD_REQUEST);
    assert!(backwards.text().contains("end timestamp must not be before start timestamp"));
}

#[tokio::test]
async fn a_query_is_parsed_into_its_tree() {
    let served = served(Limits::default());
    let tree = data(&served, "parse_query?query=sum+by+(job)+(rate(up[5m]))").await;
    assert_eq!(
        (&tree["type"], &tree["op"], &tree["grouping"]),
        (&json!("aggregation"), &json!("sum"), &json!(["job"]))
    );
    assert_eq!(tree["expr"]["func"]["name"], "rate");
    assert_eq!(tree["expr"]["args"][0]["range"], 300_000);
    let broken = served.get("/api/v1/parse_query?query=sum(").await;
    assert_eq!(broken.status, StatusCode::BAD_REQUEST);
    assert!(broken.text().contains("invalid parameter \\\"query\\\": 1:5: parse error"), "{}", broken.text());
}

#[tokio::test]
async fn a_query_is_formatted() {
    let served = served(Limits::default());
    assert_eq!(data(&served, "format_query?query=sum(up)by(job)").await, json!("sum by (job) (up)"));
}
