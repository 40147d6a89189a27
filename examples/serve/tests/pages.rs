//! The pages as they are served: from memory, with the headers that hold them in. What they do is tested in a browser
//! (`tests/ui`).

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::Read;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use common::{Answered, Served, served};
use serve::Limits;

fn header<'a>(answered: &'a Answered, name: &str) -> &'a str {
    answered.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// The path below which the page's scripts lie.
async fn assets(served: &Served) -> String {
    let page = served.get("/").await;
    let (_, rest) = page.text().split_once("href=\"./ui/").unwrap();
    format!("/ui/{}/", rest.split('/').next().unwrap())
}

#[tokio::test]
async fn every_page_is_html_that_may_run_its_own_scripts_alone() {
    let served = served(Limits::default());
    for path in ["/", "/status", "/status/tsdb", "/status/blocks"] {
        let page = served.get(path).await;
        assert_eq!(
            (page.status, header(&page, "content-type")),
            (StatusCode::OK, "text/html; charset=utf-8"),
            "{path}"
        );
        let policy = header(&page, "content-security-policy");
        assert!(policy.contains("script-src 'self';") && policy.contains("default-src 'none'"), "{policy}");
        assert_eq!(header(&page, "x-content-type-options"), "nosniff");
        assert_eq!(header(&page, "cache-control"), "no-cache");
        assert!(!page.text().contains("{{"), "{path}: a placeholder is left");
        assert_eq!(page.text().matches("aria-current=\"page\"").count(), 1, "{path}");
        for inline in ["<script>", "onclick=", "javascript:"] {
            assert!(!page.text().contains(inline), "{path}: {inline}");
        }
    }
}

#[tokio::test]
async fn what_a_page_loads_is_there_below_its_own_address() {
    let served = served(Limits::default());
    for path in ["/", "/status", "/status/tsdb", "/status/blocks"] {
        let page = served.get(path).await;
        let mut loaded = 0;
        for piece in page.text().split(['"']).filter(|piece| piece.contains("ui/")) {
            let address = format!("/{}", piece.trim_start_matches("../").trim_start_matches("./"));
            let asset = served.get(&address).await;
            assert_eq!(asset.status, StatusCode::OK, "{path} loads {piece}");
            loaded += 1;
        }
        assert_eq!(loaded, 4, "{path}");
    }
}

#[tokio::test]
async fn a_script_is_kept_for_good_under_the_version_that_it_has_and_not_under_another() {
    let served = served(Limits::default());
    let assets = assets(&served).await;
    let script = served.get(&format!("{assets}common.js")).await;
    assert_eq!(header(&script, "content-type"), "text/javascript; charset=utf-8");
    assert_eq!(header(&script, "cache-control"), "public, max-age=31536000, immutable");
    let old = served.get("/ui/00000000/common.js").await;
    assert_eq!((old.status, header(&old, "cache-control")), (StatusCode::OK, "no-cache"));
    assert_eq!(old.body, script.body);
    assert_eq!(served.get(&format!("{assets}../secret")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn plotly_is_served_compressed_to_those_who_take_it_and_plain_to_others() {
    let served = served(Limits::default());
    let path = format!("{}plotly.js", assets(&served).await);
    let request = Request::get(&path).header("accept-encoding", "gzip, deflate, br").body(Body::empty()).unwrap();
    let compressed = served.call(request).await;
    assert_eq!((header(&compressed, "content-encoding"), header(&compressed, "vary")), ("gzip", "Accept-Encoding"));
    let plain = served.get(&path).await;
    assert_eq!(header(&plain, "content-encoding"), "");
    assert!(compressed.body.len() * 2 < plain.body.len());
    let mut text = String::new();
    flate2::read::GzDecoder::new(compressed.body.as_slice()).read_to_string(&mut text).unwrap();
    assert_eq!(text, plain.text());
    assert!(text.starts_with("/**\n* plotly.js v"));
}

#[tokio::test]
async fn the_addresses_of_prometheus_lead_to_the_pages_with_the_query_that_they_carry() {
    let served = served(Limits::default());
    for (path, to) in [
        ("/graph?g0.expr=up&g0.tab=1", "./?g0.expr=up&g0.tab=1"),
        ("/query?g0.expr=up", "./?g0.expr=up"),
        ("/graph", "./"),
        ("/tsdb-status", "./status/tsdb"),
        ("/status/flags", "../status"),
    ] {
        let answered = served.get(path).await;
        assert_eq!((answered.status, header(&answered, "location")), (StatusCode::FOUND, to), "{path}");
    }
}
