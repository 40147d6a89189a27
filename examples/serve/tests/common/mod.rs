//! A router over a database on the simulated machine, called in process.

#![expect(dead_code, reason = "each test file uses what it needs")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use narthex::db::{Db, Options};
use narthex::fs::Env;
use serve::app::{About, App, Limits};
use serve::directory::Owned;
use serve::routes::router;
use tower::ServiceExt;

/// A server.
pub(crate) struct Served {
    pub(crate) app: App,
    pub(crate) router: Router,
    pub(crate) db: Db,
}

/// What it answered.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answered {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A server over an empty database that takes samples of any time.
pub(crate) fn served(limits: Limits) -> Served {
    let (env, _machine) = Env::simulated(7);
    let options = Options { future_bound: None, ..Options::default() };
    served_from(&env, limits, options)
}

pub(crate) fn served_from(env: &Env, limits: Limits, options: Options) -> Served {
    let db = Db::open_with(env, Path::new("/data"), options).unwrap();
    let app = App::new(env.clone(), limits, About { program: "test", ..About::default() });
    app.open(Arc::new(Owned::new(db.clone())));
    Served { router: router(app.clone(), true), app, db }
}

impl Served {
    pub(crate) async fn call(&self, request: Request<Body>) -> Answered {
        call(&self.router, request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answered {
        self.call(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn form(&self, path: &str, form: &str) -> Answered {
        let request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
        self.call(request.body(Body::from(form.to_owned())).unwrap()).await
    }

    pub(crate) async fn write(&self, body: impl Into<Body>) -> Answered {
        self.call(write_request(body)).await
    }
}

pub(crate) async fn call(router: &Router, request: Request<Body>) -> Answered {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Answered { status: parts.status, headers: parts.headers, body }
}

/// A remote-write 1.0 request as Prometheus sends it.
pub(crate) fn write_request(body: impl Into<Body>) -> Request<Body> {
    Request::post("/api/v1/write")
        .header("content-type", "application/x-protobuf")
        .header("content-encoding", "snappy")
        .header("x-prometheus-remote-write-version", "0.1.0")
        .body(body.into())
        .unwrap()
}

pub(crate) fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(path)
}

/// The bodies of the requests with a name like `rw1-` in a directory, sorted by name.
pub(crate) fn bodies(dir: &Path, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(prefix) && name.ends_with(".body"))
        .collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), std::fs::read(dir.join(name)).unwrap())).collect()
}

/// The seeded numbers that variants are made with.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Protobuf by hand, for requests that no honest sender makes.
pub(crate) mod proto {
    pub(crate) fn varint(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    pub(crate) fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
        [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
    }

    pub(crate) fn integer(field: u64, value: i64) -> Vec<u8> {
        [varint(field << 3), varint(value.cast_unsigned())].concat()
    }

    pub(crate) fn double(field: u64, value: f64) -> Vec<u8> {
        [varint(field << 3 | 1), value.to_le_bytes().to_vec()].concat()
    }

    /// A `TimeSeries` of a `WriteRequest`, as its field.
    pub(crate) fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in labels {
            out.extend(bytes(1, &[bytes(1, name.as_bytes()), bytes(2, value.as_bytes())].concat()));
        }
        for (t, value) in samples {
            out.extend(bytes(2, &[double(1, *value), integer(2, *t)].concat()));
        }
        bytes(1, &out)
    }

    pub(crate) fn compress(message: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(message).unwrap()
    }
}
