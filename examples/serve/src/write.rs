//! Remote write in: `/api/v1/write`, and `push` and `receive`, as others call it.
//!
//! The order is the specification's: content type, then content encoding, then the body. What is wrong with a request is
//! said with 4xx, which senders drop; what is wrong here with 503 and `Retry-After`, which they send again. 429 is not
//! used: by default senders drop on it. A request answered 2xx is committed, all of it; one answered 400 for some of its
//! samples has its other samples committed.
//!
//! A body is read by the runtime, within what all bodies together may hold, and decoded, appended and committed on one of
//! a small number of threads, into memory that is used again.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::{Router, any};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use narthex::error::{Error, ErrorKind};
use narthex::wire::remote_write::{Limits, WireError, WriteRequest, decompress};

use crate::api::unready;
use crate::app::{App, Reserved};
use crate::storage::{Storage, Written};

pub(crate) fn router() -> Router<App> {
    Router::new()
        .route("/write", any(|app, request| handle(app, request, "/api/v1/write")))
        .route("/push", any(|app, request| handle(app, request, "/api/v1/push")))
        .route("/receive", any(|app, request| handle(app, request, "/api/v1/receive")))
}

/// Which message a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    V1,
    V2,
}

/// Why a request is not (all) written: the status decides whether the sender tries again.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    fn later(text: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

async fn handle(State(app): State<App>, request: Request, name: &'static str) -> Response {
    let begin = app.env().clock.monotonic();
    let response = respond(&app, request).await;
    let taken = app.env().clock.monotonic().saturating_sub(begin);
    app.metrics().answered(name, response.status().as_u16(), taken.as_secs_f64());
    response
}

async fn respond(app: &App, request: Request) -> Response {
    let storage = match app.storage() {
        Ok(storage) => storage,
        Err(not_ready) => return unready(not_ready),
    };
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed\n".to_owned());
    }
    let protocol = match protocol(&parts.headers) {
        Ok(protocol) => protocol,
        Err(refusal) => return refused(app, refusal, None),
    };
    // From here a 2.0 sender reads from the headers what was written, success or not.
    let counted = (protocol == Protocol::V2).then(Written::default);
    let outcome = match content_encoding(&parts.headers) {
        Ok(()) => receive(app, storage, protocol, &parts.headers, body).await,
        Err(refusal) => Err(refusal),
    };
    let written = match outcome {
        Ok(written) => written,
        Err(refusal) => return refused(app, refusal, counted.as_ref()),
    };
    let metrics = app.metrics();
    metrics.wrote("appended", written.samples + written.histograms);
    for reason in &written.reasons {
        metrics.wrote(reason.kind, reason.count);
    }
    let mut response = if written.refused == 0 {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    } else {
        tracing::debug!(refused = written.refused, reasons = ?written.reasons, "some samples of a request are refused");
        plain(StatusCode::BAD_REQUEST, explain(&written))
    };
    if protocol == Protocol::V2 {
        say_written(response.headers_mut(), &written);
    }
    response
}

/// `3 of 10 samples refused: 2 out of order (first: …); 1 duplicate (first: …)`.
fn explain(written: &Written) -> String {
    let kept = written.samples + written.histograms;
    let reasons: Vec<String> = written
        .reasons
        .iter()
        .map(|reason| format!("{} {} (first: {})", reason.count, reason.kind, reason.first))
        .collect();
    format!("{} of {} samples refused: {}\n", written.refused, kept + written.refused, reasons.join("; "))
}

/// As the original reads the header: `application/x-protobuf` is version 1 unless its parameter `proto` says otherwise.
fn protocol(headers: &HeaderMap) -> Result<Protocol, Refusal> {
    let unsupported = |text: String| Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    let given = headers.get(header::CONTENT_TYPE).map_or(Ok("application/x-protobuf"), HeaderValue::to_str);
    let given = given.map_err(|error| unsupported(format!("content-type: {error}")))?.trim();
    let mut parts = given.split(';');
    let media = parts.next().unwrap_or_default().trim();
    if media != "application/x-protobuf" {
        return Err(unsupported(format!(
            "expected application/x-protobuf as the first (media) part, got {given} content-type"
        )));
    }
    for part in parts {
        let Some((key, value)) = part.split_once('=') else {
            return Err(unsupported(format!(
                "expected parameters to be key-values, got {part} in {given} content-type"
            )));
        };
        if key.trim() != "proto" {
            continue;
        }
        return match value.trim() {
            "prometheus.WriteRequest" => Ok(Protocol::V1),
            "io.prometheus.write.v2.Request" => Ok(Protocol::V2),
            other => Err(unsupported(format!(
                "got {given} content type; unknown type for remote write protobuf message {other}"
            ))),
        };
    }
    Ok(Protocol::V1)
}

fn content_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        // The original takes a missing header for snappy, since version 1 knows nothing else.
        None | Some(b"" | b"snappy") => Ok(()),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            let text =
                format!("{other} encoding (compression) is not accepted by this server; only snappy is acceptable");
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
        }
    }
}

async fn receive(
    app: &App,
    storage: std::sync::Arc<dyn Storage>,
    protocol: Protocol,
    headers: &HeaderMap,
    body: Body,
) -> Result<Written, Refusal> {
    let limits = app.limits().write_request;
    let read = read_body(app, headers, body, limits.decoded_bytes);
    let (body, mut reserved) = tokio::time::timeout(app.limits().write_body_timeout, read)
        .await
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))??;
    // Decoding needs room for the decompressed body too; what its header says is checked before memory is taken.
    let claimed = snappy_size(&body);
    if claimed <= limits.decoded_bytes && !reserved.grow(claimed) {
        return Err(no_room());
    }
    let turn = app.write_turn().await.ok_or_else(|| Refusal::later("closing"))?;
    let app = app.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut arena = app.take_arena();
        let written = decode(&mut arena, protocol, &body, limits).and_then(|()| write(storage.as_ref(), &arena));
        app.give_arena(arena);
        drop((reserved, turn));
        written
    });
    work.await.unwrap_or_else(|error| {
        // A defect. The sender tries again; what was committed is recognised then as being there already.
        tracing::error!(%error, "a write panicked");
        Err(Refusal::later("an internal error; the log says more"))
    })
}

fn no_room() -> Refusal {
    Refusal::later("too many bytes in flight")
}

/// What the header of a snappy body says, or 0 if it says nothing that can be read.
fn snappy_size(body: &[u8]) -> usize {
    narthex::codec::Reader::new(body).uvarint().map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX))
}

async fn read_body(app: &App, headers: &HeaderMap, mut body: Body, limit: usize) -> Result<(Bytes, Reserved), Refusal> {
    let too_large =
        || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("request body exceeds the {limit} bytes limit"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut reserved = app.reserve(announced.unwrap_or(0)).ok_or_else(no_room)?;
    let mut room = announced.unwrap_or(0);
    let mut whole = BytesMut::with_capacity(room);
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("reading the body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(too_large());
        }
        if let Some(more) = (whole.len() + data.len()).checked_sub(room).filter(|more| *more > 0) {
            if !reserved.grow(more) {
                return Err(no_room());
            }
            room += more;
        }
        whole.extend_from_slice(&data);
    }
    Ok((whole.freeze(), reserved))
}

fn decode(arena: &mut WriteRequest, protocol: Protocol, body: &[u8], limits: Limits) -> Result<(), Refusal> {
    thread_local! {
        /// The decompressed body of the request that this thread decodes.
        static MESSAGE: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    /// A body larger than this gives its memory back.
    const KEPT_BYTES: usize = 4 << 20;
    MESSAGE.with_borrow_mut(|message| {
        let decoded = decompress(body, message, limits.decoded_bytes).and_then(|()| match protocol {
            Protocol::V1 => arena.decode_v1(message, limits),
            Protocol::V2 => arena.decode_v2(message, limits),
        });
        if message.capacity() > KEPT_BYTES {
            *message = Vec::new();
        }
        decoded.map_err(Refusal::from)
    })
}

fn write(storage: &dyn Storage, arena: &WriteRequest) -> Result<Written, Refusal> {
    let mut written = storage.write(arena).map_err(|error| not_written(&error))?;
    let refused = arena.refused();
    if refused.series > 0 {
        let count = refused.samples + refused.histograms;
        let mut reasons = refused.reasons.iter();
        written.refuse("invalid labels", count, || {
            reasons.next().map(|(labels, fault)| format!("{labels}: {fault}")).unwrap_or_default()
        });
        // A series without samples is refused all the same: the sender must hear of it.
        written.refused = written.refused.max(1);
    }
    Ok(written)
}

/// Nothing of the request was written.
fn not_written(error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::Unsupported => Refusal::new(StatusCode::BAD_REQUEST, error.to_string()),
        _ => {
            tracing::error!(%error, "a request could not be written");
            Refusal::later(error.to_string())
        }
    }
}

fn refused(app: &App, refusal: Refusal, counted: Option<&Written>) -> Response {
    tracing::debug!(status = refusal.status.as_u16(), text = %refusal.text, "a write request is refused");
    app.metrics().wrote(if refusal.status.is_server_error() { "later" } else { "malformed request" }, 1);
    let mut response = plain(refusal.status, refusal.text + "\n");
    if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if let Some(written) = counted {
        say_written(response.headers_mut(), written);
    }
    response
}

fn say_written(headers: &mut HeaderMap, written: &Written) {
    for (name, count) in [
        ("x-prometheus-remote-write-samples-written", written.samples),
        ("x-prometheus-remote-write-histograms-written", written.histograms),
        ("x-prometheus-remote-write-exemplars-written", written.exemplars),
    ] {
        headers.insert(name, HeaderValue::from(count));
    }
}

fn plain(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
