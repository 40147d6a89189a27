//! Embedded time-series storage whose directories, blocks and wire formats are those of Prometheus and Thanos.
//!
//! A [`Db`] owns a directory. An [`Appender`] collects samples and commits them: what was acknowledged survives a killed
//! process, and with [`Durability::Sync`] a power cut. A [`Source`] answers with series, and an [`Engine`] answers PromQL
//! over any source.
//!
//! ```
//! # #[cfg(all(feature = "promql", feature = "testkit"))]
//! # fn main() -> narthex::Result<()> {
//! use narthex::promql::{SampleValue, Value};
//! use narthex::{Budget, Db, Engine, Labels, Options};
//!
//! # let (env, _machine) = narthex::fs::Env::simulated(1);
//! # let dir = std::path::Path::new("data");
//! # let db = Db::open_with(&env, dir, Options::default())?;
//! # #[cfg(any())]
//! let db = Db::open("data", Options::default())?;
//!
//! // A commit is all or nothing, for crashes and for readers.
//! let now = db.env().clock.now_ms();
//! let labels = Labels::from_pairs([("__name__", "steps_total"), ("room", "kitchen")]);
//! let mut appender = db.appender();
//! let series = appender.append(None, &labels, now - 15_000, 40.0)?;
//! appender.append(Some(series), &labels, now, 43.0)?; // by reference: no look-up
//! appender.commit()?;
//!
//! // A source is a view of one moment.
//! let answer = Engine::default().instant(&db.source(), "sum(increase(steps_total[1m])) > 0", now, &Budget::unlimited())?;
//! let Value::Vector(samples) = answer.value else { unreachable!() };
//! assert!(matches!(samples[0].value, SampleValue::Float(rise) if rise > 3.0));
//! db.close()
//! # }
//! # #[cfg(not(all(feature = "promql", feature = "testkit")))]
//! # fn main() {}
//! ```
//!
//! It opens no socket and starts no thread that its caller did not ask for, and it needs no async runtime. Everything
//! that touches the disk, the clock, randomness or threads goes through [`fs::Env`], so that a program built on it can be
//! tested against crashes as it is itself (feature `testkit`).
//!
//! # The rooms
//!
//! A room uses only those above it. Each opens with a paragraph on what lives there and what it promises.
//!
//! | room | what lives there |
//! |---|---|
//! | [`error`] | the one error, and what a caller can do about it |
//! | [`fs`] | the seams to the disk, the clock, randomness and threads |
//! | [`budget`] | what a query may use |
//! | [`codec`], [`model`] | bytes and bits; labels, matchers, samples, histograms |
//! | [`chunk`], [`index`], [`block`] | what lies on the disk and never changes |
//! | [`wal`], [`head`] | what is being written |
//! | [`query`] | select, merge, decode over any source |
//! | [`compact`], [`db`] | blocks out of blocks and heads; one directory, opened |
//! | `bucket` | blocks in object storage, in Thanos's layout (feature) |
//! | `promql`, `wire` | the query language; others' formats (features) |

pub mod block;
#[cfg(feature = "bucket")]
pub mod bucket;
pub mod budget;
pub mod chunk;
pub mod codec;
pub mod compact;
pub mod db;
pub mod error;
pub mod fs;
pub mod head;
pub mod index;
pub mod model;
#[cfg(feature = "promql")]
pub mod promql;
pub mod query;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod wal;
#[cfg(feature = "wire")]
pub mod wire;

pub use budget::{Budget, BudgetLimits};
pub use db::{Db, DbSource, Options, ReadOnlyDb, Retention, Status};
pub use error::{Error, ErrorKind, Result};
pub use head::{Appender, SeriesRef};
pub use model::{
    Exemplar, FloatHistogram, Histogram, Labels, LabelsBuilder, MatchOp, Matcher, Metadata, MetricType, Sample,
    TimeRange,
};
#[cfg(feature = "promql")]
pub use promql::{Engine, EngineOptions, QueryResult};
pub use query::{Columns, SelectRequest, Series, SeriesDecoder, SeriesSet, Source};
pub use wal::Durability;
