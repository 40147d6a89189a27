//! Prometheus's HTTP API for queries: `/api/v1/…`.
//!
//! An endpoint is a synchronous function from a `Call` to an `Answer`. `endpoint` is what stands between it and
//! HTTP: it reads the form, waits for a turn, runs the function on a thread for blocking work, counts it, and writes the
//! answer with Prometheus's status codes, CORS headers and compression. When the client goes away, the query is
//! cancelled.

mod blocks;
mod metadata;
mod query;
mod series;
mod status;

use std::io::Write;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, Router, on};
use http_body_util::{BodyExt, Limited};
use narthex::budget::Budget;
use narthex::error::{Error, ErrorKind};
use parking_lot::Mutex;

use crate::app::{App, NotReady};
use crate::form::Form;
use crate::json::{put_list, put_text};
use crate::storage::Storage;

/// Forms may be this long: a query of megabytes is no query.
const MAX_FORM_BYTES: usize = 10 << 20;

/// All endpoints of the query API, at paths below `/api/v1`.
pub(crate) fn router() -> Router<App> {
    Router::new()
        .route("/query", get_post("/api/v1/query", Turn::Query, query::instant))
        .route("/query_range", get_post("/api/v1/query_range", Turn::Query, query::range))
        .route("/query_exemplars", get_post("/api/v1/query_exemplars", Turn::Query, query::exemplars))
        .route("/format_query", get_post("/api/v1/format_query", Turn::None, query::format))
        .route("/parse_query", get_post("/api/v1/parse_query", Turn::None, query::parse))
        .route("/series", get_post("/api/v1/series", Turn::Query, series::series))
        .route("/labels", get_post("/api/v1/labels", Turn::Query, series::label_names))
        .route("/label/{name}/values", get("/api/v1/label/:name/values", Turn::Query, series::label_values))
        .route("/metadata", get("/api/v1/metadata", Turn::None, metadata::metadata))
        .route("/rules", get("/api/v1/rules", Turn::None, metadata::rules))
        .route("/alerts", get("/api/v1/alerts", Turn::None, metadata::alerts))
        .route("/targets", get("/api/v1/targets", Turn::None, metadata::targets))
        .route("/alertmanagers", get("/api/v1/alertmanagers", Turn::None, metadata::alertmanagers))
        .route("/status/buildinfo", get("/api/v1/status/buildinfo", Turn::None, status::buildinfo))
        .route("/status/runtimeinfo", get("/api/v1/status/runtimeinfo", Turn::None, status::runtimeinfo))
        .route("/status/flags", get("/api/v1/status/flags", Turn::None, status::flags))
        .route("/status/tsdb", get("/api/v1/status/tsdb", Turn::Query, status::tsdb))
        .route("/status/tsdb/blocks", get("/api/v1/status/tsdb/blocks", Turn::None, blocks::tsdb_blocks))
        .route("/status/blocks", get("/api/v1/status/blocks", Turn::None, blocks::blocks))
}

/// Whether an endpoint waits for its turn among the queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    None,
    Query,
}

type Endpoint = fn(&Call) -> Result<Answer, ApiError>;

fn get(name: &'static str, turn: Turn, endpoint: Endpoint) -> MethodRouter<App> {
    methods(MethodFilter::GET, name, turn, endpoint)
}

fn get_post(name: &'static str, turn: Turn, endpoint: Endpoint) -> MethodRouter<App> {
    methods(MethodFilter::GET.or(MethodFilter::POST), name, turn, endpoint)
}

fn methods(filter: MethodFilter, name: &'static str, turn: Turn, endpoint: Endpoint) -> MethodRouter<App> {
    let handler = move |State(app): State<App>, path: RawPathParams, request: Request| async move {
        let name_in_path = path.iter().find(|(key, _)| *key == "name").map(|(_, value)| value.to_owned());
        let begin = app.env().clock.monotonic();
        let response = answer(&app, turn, endpoint, name_in_path, request).await;
        let taken = app.env().clock.monotonic().saturating_sub(begin);
        app.metrics().answered(name, response.status().as_u16(), taken.as_secs_f64());
        response
    };
    on(filter, handler).options(options)
}

/// What browsers ask before they ask.
async fn options(headers: HeaderMap) -> Response {
    finish(StatusCode::NO_CONTENT, None, Vec::new(), &headers)
}

/// What an endpoint is called with.
pub(crate) struct Call {
    pub(crate) app: App,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) form: Form,
    /// The `NAME` of `/label/NAME/values`.
    pub(crate) name_in_path: Option<String>,
    alive: Arc<Alive>,
}

impl Call {
    /// Ties `budget` to the client: when it goes away, the budget is cancelled.
    pub(crate) fn watch(&self, budget: &Arc<Budget>) {
        self.alive.watch(budget);
    }
}

/// Whether the client is still there, and what to stop when it is not.
#[derive(Default)]
struct Alive {
    state: Mutex<(bool, Option<Arc<Budget>>)>,
}

impl Alive {
    fn watch(&self, budget: &Arc<Budget>) {
        let mut state = self.state.lock();
        if state.0 {
            budget.cancel();
        }
        state.1 = Some(Arc::clone(budget));
    }
}

/// Dropped with the future that answers: when it is done, or when the connection is gone.
struct Hold(Arc<Alive>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.0 = true;
        if let Some(budget) = &state.1 {
            budget.cancel();
        }
    }
}

/// What an endpoint answers: `data` as JSON, and what is to be said beside it.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) data: Vec<u8>,
    pub(crate) warnings: Vec<String>,
    pub(crate) infos: Vec<String>,
}

impl Answer {
    pub(crate) fn new(data: Vec<u8>) -> Self {
        Self { data, ..Self::default() }
    }
}

/// An answer of which nothing is to the byte.
fn value(value: &serde_json::Value) -> Result<Answer, ApiError> {
    let data = serde_json::to_vec(value);
    data.map(Answer::new).map_err(|error| ApiError { kind: ApiErrorKind::Internal, text: error.to_string() })
}

/// Why a call fails: the type decides the status code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) kind: ApiErrorKind,
    pub(crate) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApiErrorKind {
    BadData,
    Execution,
    Canceled,
    Timeout,
    Internal,
    Unavailable,
}

impl ApiErrorKind {
    fn name(self) -> &'static str {
        match self {
            Self::BadData => "bad_data",
            Self::Execution => "execution",
            Self::Canceled => "canceled",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BadData => StatusCode::BAD_REQUEST,
            Self::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            // Nobody is there to read it; 499 is what proxies log for that.
            Self::Canceled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::Timeout | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl ApiError {
    pub(crate) fn bad_data(text: impl Into<String>) -> Self {
        Self { kind: ApiErrorKind::BadData, text: text.into() }
    }

    /// A parameter that cannot be read.
    pub(crate) fn parameter(name: &str, text: impl std::fmt::Display) -> Self {
        Self::bad_data(format!("invalid parameter {name:?}: {text}"))
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Timeout => ApiErrorKind::Timeout,
            ErrorKind::Cancelled => ApiErrorKind::Canceled,
            ErrorKind::NotReady => ApiErrorKind::Unavailable,
            ErrorKind::Corrupt | ErrorKind::Io => ApiErrorKind::Internal,
            _ => ApiErrorKind::Execution,
        };
        Self { kind, text: error.to_string() }
    }
}

async fn answer(app: &App, turn: Turn, endpoint: Endpoint, name_in_path: Option<String>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let storage = match app.storage() {
        Ok(storage) => storage,
        Err(not_ready) => return unready(not_ready),
    };
    let form = match read_form(&parts.headers, parts.uri.query(), body).await {
        Ok(form) => form,
        Err(text) => return failed(&ApiError::bad_data(text), &parts.headers),
    };
    let alive = Arc::new(Alive::default());
    let hold = Hold(Arc::clone(&alive));
    let _running = (turn == Turn::Query).then(|| app.metrics().query());
    let permit = if turn == Turn::Query {
        match tokio::time::timeout(app.limits().query_timeout, app.query_turn()).await {
            Ok(permit) => permit,
            Err(_) => {
                let text = "query timed out in query queue".to_owned();
                return failed(&ApiError { kind: ApiErrorKind::Timeout, text }, &parts.headers);
            }
        }
    } else {
        None
    };
    let call = Call { app: app.clone(), storage, form, name_in_path, alive };
    let gzip = accepts_gzip(&parts.headers);
    let work = tokio::task::spawn_blocking(move || {
        let answered = endpoint(&call);
        drop((call, permit));
        answered.map(|answer| encode(&answer, gzip))
    });
    let outcome = work.await;
    drop(hold);
    match outcome {
        Ok(Ok(body)) => finish(StatusCode::OK, gzip.then_some("gzip"), body, &parts.headers),
        Ok(Err(error)) => failed(&error, &parts.headers),
        // A defect: the query is lost, the program is not.
        Err(error) => {
            tracing::error!(%error, "an endpoint panicked");
            let text = "an internal error; the log says more".to_owned();
            failed(&ApiError { kind: ApiErrorKind::Internal, text }, &parts.headers)
        }
    }
}

/// The parameters of a request, as Go's `ParseForm` finds them.
async fn read_form(headers: &HeaderMap, query: Option<&str>, body: Body) -> Result<Form, String> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let is_form = content_type
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    let body = if is_form {
        let body = Limited::new(body, MAX_FORM_BYTES).collect().await;
        body.map_err(|error| format!("error parsing form values: {error}"))?.to_bytes()
    } else {
        bytes::Bytes::new()
    };
    Form::parse(&body, query).map_err(|error| format!("error parsing form values: {error}"))
}

/// The gate is closed.
pub(crate) fn unready(not_ready: NotReady) -> Response {
    let mut response = Response::new(Body::from("Service Unavailable"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let stopping = HeaderValue::from_static(if not_ready.closing { "true" } else { "false" });
    response.headers_mut().insert("x-prometheus-stopping", stopping);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// At most so many warnings, and so many infos, are said; of others, their number.
const REMARKS_SHOWN: usize = 10;

fn put_remarks(out: &mut Vec<u8>, name: &str, what: &str, remarks: &[String]) {
    if remarks.is_empty() {
        return;
    }
    out.extend_from_slice(format!(",\"{name}\":").as_bytes());
    let left_out = remarks.len().saturating_sub(REMARKS_SHOWN);
    let more = (left_out > 0).then(|| format!("{left_out} more {what} annotations omitted"));
    put_list(out, remarks.iter().take(REMARKS_SHOWN).chain(&more), |out, text| put_text(out, text));
}

fn encode(answer: &Answer, gzip: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(answer.data.len() + 64);
    out.extend_from_slice(b"{\"status\":\"success\",\"data\":");
    out.extend_from_slice(&answer.data);
    put_remarks(&mut out, "warnings", "warning", &answer.warnings);
    put_remarks(&mut out, "infos", "info", &answer.infos);
    out.push(b'}');
    if !gzip {
        return out;
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(out.len() / 8), flate2::Compression::fast());
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(&out);
    encoder.finish().unwrap_or_default()
}

fn failed(error: &ApiError, headers: &HeaderMap) -> Response {
    let mut out = Vec::new();
    out.extend_from_slice(b"{\"status\":\"error\",\"errorType\":\"");
    out.extend_from_slice(error.kind.name().as_bytes());
    out.extend_from_slice(b"\",\"error\":");
    put_text(&mut out, &error.text);
    out.push(b'}');
    finish(error.kind.status(), None, out, headers)
}

pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| coding.trim() == "gzip")
}

fn finish(status: StatusCode, encoding: Option<&'static str>, body: Vec<u8>, request: &HeaderMap) -> Response {
    let empty = body.is_empty();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if !empty {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if request.contains_key(header::ORIGIN) {
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "Accept, Authorization, Content-Type, Origin"),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}
