//! The pages: a query field with a graph and a table, what the head and the blocks hold, what the program is.
//!
//! Plain HTML, CSS and JavaScript out of `ui/`, in the binary, and plotly.js out of the crate `plotly`: nothing is built
//! before and nothing is fetched from elsewhere. A page is small and asked for anew each time; what it loads lies under a
//! path that names its contents, so that a browser keeps it for good. The pages know no more than the API tells everyone.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{LazyLock, OnceLock};

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{Router, get};
use bytes::Bytes;
use flate2::{Compression, Crc, write::GzEncoder};
use narthex::promql::ast::AggregateOp;
use narthex::promql::functions::FUNCTIONS;

use crate::api::accepts_gzip;
use crate::app::App;

/// Scripts and connections to here alone. Plotly makes style sheets as it goes, so styles cannot be held to files.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; \
                      connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const SHELL: &str = include_str!("../ui/shell.html");

/// A page: what its address is below the root, and what is in it.
struct Page {
    /// How to get from its address to the root's.
    root: &'static str,
    name: &'static str,
    title: &'static str,
    script: &'static str,
    main: &'static str,
}

const QUERY: Page =
    Page { root: "./", name: "query", title: "Query", script: "query.js", main: include_str!("../ui/query.html") };
const TSDB: Page =
    Page { root: "../", name: "tsdb", title: "TSDB", script: "tsdb.js", main: include_str!("../ui/tsdb.html") };
const BLOCKS: Page =
    Page { root: "../", name: "blocks", title: "Blocks", script: "blocks.js", main: include_str!("../ui/blocks.html") };
const STATUS: Page =
    Page { root: "./", name: "status", title: "Status", script: "status.js", main: include_str!("../ui/status.html") };

pub(crate) fn router() -> Router<App> {
    let page = |page: &'static Page| get(move |State(app): State<App>| async move { show(&app, page) });
    Router::new()
        .route("/", page(&QUERY))
        .route("/status", page(&STATUS))
        .route("/status/tsdb", page(&TSDB))
        .route("/status/blocks", page(&BLOCKS))
        // Where Prometheus has its pages: links in alerts and dashboards point there.
        .route("/graph", moved("./"))
        .route("/query", moved("./"))
        .route("/tsdb-status", moved("./status/tsdb"))
        .route("/flags", moved("./status"))
        .route("/status/flags", moved("../status"))
        .route("/status/build", moved("../status"))
        .route("/ui/{version}/{name}", get(asset))
}

/// Sends to a page, with the query that was asked for.
fn moved(to: &'static str) -> axum::routing::MethodRouter<App> {
    get(move |RawQuery(query): RawQuery| async move {
        let location = query.map_or_else(|| to.to_owned(), |query| format!("{to}?{query}"));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::FOUND;
        if let Ok(location) = HeaderValue::try_from(location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    })
}

fn show(app: &App, page: &Page) -> Response {
    let assets = format!("{}ui/{}/", page.root, ASSETS.version);
    let mut text = SHELL
        .replace("{{title}}", page.title)
        .replace("{{program}}", app.about().program)
        .replace("{{assets}}", &assets)
        .replace("{{root}}", page.root)
        .replace("{{script}}", page.script)
        .replace("{{main}}", page.main);
    for name in [QUERY.name, TSDB.name, BLOCKS.name, STATUS.name] {
        let current = if name == page.name { "aria-current=\"page\"" } else { "" };
        text = text.replace(&format!("{{{{current-{name}}}}}"), current);
    }
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // A query's text is nobody else's business.
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What a page loads.
struct Asset {
    name: &'static str,
    content_type: &'static str,
    text: Text,
    compressed: OnceLock<Bytes>,
}

enum Text {
    Fixed(&'static str),
    Made(fn() -> String),
}

impl Asset {
    fn text(&self) -> Bytes {
        match self.text {
            Text::Fixed(text) => Bytes::from_static(text.as_bytes()),
            Text::Made(make) => Bytes::from(make()),
        }
    }

    /// Compressed by the first who asks, for all.
    fn compressed(&self) -> Bytes {
        let compressed = self.compressed.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::new(7));
            // Writing to a vector cannot fail.
            let _ = encoder.write_all(&self.text());
            encoder.finish().unwrap_or_default().into()
        });
        compressed.clone()
    }
}

struct Assets {
    /// Names all their contents.
    version: String,
    all: Vec<Asset>,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let asset = |name, content_type, text| Asset { name, content_type, text, compressed: OnceLock::new() };
    let all = vec![
        asset("style.css", "text/css; charset=utf-8", Text::Fixed(include_str!("../ui/style.css"))),
        asset("icon.svg", "image/svg+xml", Text::Fixed(include_str!("../ui/icon.svg"))),
        asset("theme.js", SCRIPT, Text::Fixed(include_str!("../ui/theme.js"))),
        asset("common.js", SCRIPT, Text::Fixed(include_str!("../ui/common.js"))),
        asset("editor.js", SCRIPT, Text::Fixed(include_str!("../ui/editor.js"))),
        asset("graph.js", SCRIPT, Text::Fixed(include_str!("../ui/graph.js"))),
        asset("query.js", SCRIPT, Text::Fixed(include_str!("../ui/query.js"))),
        asset("table.js", SCRIPT, Text::Fixed(include_str!("../ui/table.js"))),
        asset("tsdb.js", SCRIPT, Text::Fixed(include_str!("../ui/tsdb.js"))),
        asset("blocks.js", SCRIPT, Text::Fixed(include_str!("../ui/blocks.js"))),
        asset("status.js", SCRIPT, Text::Fixed(include_str!("../ui/status.js"))),
        asset("language.js", SCRIPT, Text::Made(language)),
        asset("plotly.js", SCRIPT, Text::Made(plotly_script)),
    ];
    let mut sum = Crc::new();
    for asset in &all {
        sum.update(&asset.text());
    }
    Assets { version: format!("{:08x}", sum.sum()), all }
});

async fn asset(Path((version, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.all.iter().find(|asset| asset.name == name) else {
        let mut response = Response::new(Body::from("404 page not found\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    let gzip = accepts_gzip(&headers);
    // Megabytes of script: not on the threads that carry all connections.
    let body = tokio::task::spawn_blocking(move || if gzip { asset.compressed() } else { asset.text() }).await;
    let mut response = Response::new(Body::from(body.unwrap_or_default()));
    let headers = response.headers_mut();
    // A page that an older binary served may ask late: it gets what there is, and does not keep it.
    let current = version == ASSETS.version;
    let kept = if current { "public, max-age=31536000, immutable" } else { "no-cache" };
    for (name, value) in [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CACHE_CONTROL, kept),
        (header::VARY, "Accept-Encoding"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// plotly.js, out of the tags that the crate hands it out in. `MathJax` is the second script there.
fn plotly_script() -> String {
    const OPEN: &str = "<script type=\"text/javascript\">";
    let mut text = plotly::Plot::offline_js_sources();
    if let Some(second) = text.rfind(OPEN) {
        text.truncate(second);
    }
    if let Some(end) = text.rfind("</script>") {
        text.truncate(end);
    }
    let begin = text.find(OPEN).map_or(0, |at| at + OPEN.len());
    text.split_off(begin)
}

const AGGREGATIONS: [AggregateOp; 14] = [
    AggregateOp::Sum,
    AggregateOp::Avg,
    AggregateOp::Count,
    AggregateOp::Min,
    AggregateOp::Max,
    AggregateOp::Group,
    AggregateOp::Stddev,
    AggregateOp::Stdvar,
    AggregateOp::Topk,
    AggregateOp::Bottomk,
    AggregateOp::CountValues,
    AggregateOp::Quantile,
    AggregateOp::Limitk,
    AggregateOp::LimitRatio,
];

/// The names that the query field completes, as a script: those that the engine knows, whatever it learns.
fn language() -> String {
    let mut out = "export const functions = {\n".to_owned();
    for function in FUNCTIONS {
        let mut args: Vec<_> = function.args.iter().map(|kind| kind.documented()).collect();
        if function.max_args > args.len() {
            args.push("…");
        }
        let args = args.join(", ");
        let note = if function.experimental { ", experimental" } else { "" };
        let _ = writeln!(out, "  {}: \"({args}) → {}{note}\",", function.name, function.returns.documented());
    }
    out.push_str("};\nexport const aggregations = [");
    for aggregation in AGGREGATIONS {
        let _ = write!(out, "\"{aggregation}\", ");
    }
    out.push_str("];\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plotly_comes_out_of_its_tags_alone() {
        let script = plotly_script();
        assert!(script.starts_with("/**\n* plotly.js v"), "{:?}", script.get(..40));
        assert!(script.len() > 3 << 20);
        assert!(!script.contains("MathJax.loader"));
        assert!(script.trim_end().ends_with(['}', ')', ';']), "{:?}", script.get(script.len() - 40..));
    }

    #[test]
    fn everything_that_the_pages_name_is_there() {
        let names: Vec<_> = ASSETS.all.iter().map(|asset| asset.name).collect();
        for page in [QUERY, TSDB, BLOCKS, STATUS] {
            assert!(names.contains(&page.script), "{}", page.script);
        }
        for asset in &ASSETS.all {
            let Text::Fixed(text) = asset.text else { continue };
            for import in text.split("from \"./").skip(1) {
                let (name, _) = import.split_once('"').unwrap();
                assert!(names.contains(&name), "{} imports {name}", asset.name);
            }
        }
    }

    #[test]
    fn the_language_has_every_function_and_aggregation() {
        let script = language();
        for function in FUNCTIONS {
            assert!(script.contains(&format!("  {}: \"(", function.name)));
        }
        assert!(script.contains("rate: \"(range vector) → instant vector\""));
        assert!(script.contains("\"limit_ratio\""));
    }

    #[test]
    fn nothing_in_the_pages_points_elsewhere() {
        for text in ASSETS.all.iter().filter_map(|asset| match asset.text {
            Text::Fixed(text) => Some(text),
            Text::Made(_) => None,
        }) {
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("://"), "{:?}", elsewhere.split_once("://").map(|(before, _)| before.len()));
        }
        assert!(!SHELL.contains("://"));
    }
}
