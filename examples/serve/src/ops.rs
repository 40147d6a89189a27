//! What every monitored program has: `/metrics`, `/-/healthy`, `/-/ready`, `/-/reload`.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{Router, get, post};

use crate::api::unready;
use crate::app::App;

pub(crate) fn router() -> Router<App> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready))
        .route("/-/reload", post(reload).put(reload))
}

fn text(body: impl Into<Body>, content_type: &'static str) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

const PLAIN: &str = "text/plain; charset=utf-8";

async fn metrics(State(app): State<App>) -> Response {
    let begin = app.env().clock.monotonic();
    let gauges = match app.storage() {
        // What a storage counts may take a lock: not on the threads that carry all connections.
        Ok(storage) => tokio::task::spawn_blocking(move || storage.gauges()).await.ok(),
        Err(_) => None,
    };
    let body = app.metrics().text(gauges, env!("CARGO_PKG_VERSION"));
    let taken = app.env().clock.monotonic().saturating_sub(begin);
    app.metrics().answered("/metrics", 200, taken.as_secs_f64());
    text(body, "application/openmetrics-text; version=1.0.0; charset=utf-8")
}

async fn healthy(State(app): State<App>) -> Response {
    text(format!("{} is Healthy.\n", app.about().program), PLAIN)
}

async fn ready(State(app): State<App>) -> Response {
    match app.storage() {
        Ok(_) => text(format!("{} is Ready.\n", app.about().program), PLAIN),
        Err(not_ready) => unready(not_ready),
    }
}

/// There is no configuration to read again yet; those who ask are told that all is well.
async fn reload() -> StatusCode {
    StatusCode::OK
}
