//! Others' formats in: what a sender puts on the wire, taken apart without trusting it.
//!
//! That is Prometheus's remote write, 1.0 and 2.0 ([`remote_write`]): a snappy-compressed protobuf message, read
//! by a flat reader of our own ([`ProtoReader`]) into an arena that is used again for the next request. And for backfill
//! OpenMetrics text, a line at a time ([`parse_openmetrics_line`]). Nothing here
//! opens a socket or knows a status code; a server on top does. What stands in a body decides neither how much memory is
//! taken (every growth is charged) nor whether the process lives (no reader panics), and every error names the field and
//! the offset.

#![warn(clippy::indexing_slicing)]

mod openmetrics;
mod proto;
pub mod remote_write;

pub use openmetrics::{OpenMetricsError, OpenMetricsLine, OpenMetricsSample, parse_openmetrics_line};
pub use proto::{ProtoError, ProtoReader, WireType};
