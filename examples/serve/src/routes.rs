//! Which paths there are.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::app::App;
use crate::{api, ops, ui, write};

/// The routes of a program that is queried and, if `writable`, written to. Everything also answers below `/prometheus`,
/// where clients of multi-tenant servers look for it.
pub fn router(app: App, writable: bool) -> Router {
    let mut v1 = api::router();
    if writable {
        v1 = v1.merge(write::router());
    }
    Router::new()
        .nest("/api/v1", v1.clone())
        .nest("/prometheus/api/v1", v1)
        .merge(ops::router())
        .merge(ui::router())
        .fallback(not_found)
        .with_state(app)
}

async fn not_found() -> Response {
    let mut response = Response::new(Body::from("404 page not found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
