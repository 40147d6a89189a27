//! What the program says of itself: `/status/…`.

use serde_json::json;

use super::{Answer, ApiError, Call, value};
use crate::form::go_int;

/// No `features`: clients that see that key take the server for another product.
pub(super) fn buildinfo(call: &Call) -> Result<Answer, ApiError> {
    // Clients decide by the version what they may ask for. It is that of the Prometheus whose API this is; our own is
    // the revision.
    value(&json!({
        "version": "3.14.0",
        "revision": concat!("narthex-", env!("CARGO_PKG_VERSION")),
        "branch": call.app.about().program,
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
    }))
}

pub(super) fn runtimeinfo(call: &Call) -> Result<Answer, ApiError> {
    let now = call.app.env().clock.now_ms();
    let directory = std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    value(&json!({
        "startTime": rfc3339(call.app.started_ms()),
        "CWD": directory,
        "hostname": hostname.trim(),
        "serverTime": rfc3339(now),
        "reloadConfigSuccess": true,
        "lastConfigTime": rfc3339(call.app.started_ms()),
        "corruptionCount": 0,
        "goroutineCount": 0,
        "GOMAXPROCS": call.app.env().executor.parallelism(),
        "GOMEMLIMIT": 0,
        "GOGC": "",
        "GODEBUG": "",
        "storageRetention": call.app.about().retention,
    }))
}

pub(super) fn flags(call: &Call) -> Result<Answer, ApiError> {
    let flags = call.app.about().flags.iter().map(|(name, text)| (name.clone(), json!(text)));
    value(&serde_json::Value::Object(flags.collect()))
}

const MAX_TSDB_LIMIT: i64 = 10_000;

pub(super) fn tsdb(call: &Call) -> Result<Answer, ApiError> {
    let limit = match call.form.get("limit") {
        "" => 10,
        text => match go_int(text) {
            Ok(limit) if limit > MAX_TSDB_LIMIT => {
                return Err(ApiError::bad_data(format!("limit must not exceed {MAX_TSDB_LIMIT}")));
            }
            Ok(limit) if limit >= 1 => limit,
            _ => return Err(ApiError::bad_data("limit must be a positive number")),
        },
    };
    let status = call.storage.status(usize::try_from(limit).unwrap_or(10))?;
    let list = |list: &[(String, u64)]| -> serde_json::Value {
        list.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
    };
    value(&json!({
        "headStats": {
            "numSeries": status.gauges.head_series,
            "numLabelPairs": status.label_pairs,
            "chunkCount": status.gauges.head_chunks,
            "minTime": status.gauges.head_min_time.unwrap_or(i64::MAX),
            "maxTime": status.gauges.head_max_time.unwrap_or(i64::MIN),
        },
        "seriesCountByMetricName": list(&status.series_by_metric),
        "labelValueCountByLabelName": list(&status.values_by_label),
        "memoryInBytesByLabelName": list(&status.bytes_by_label),
        "seriesCountByLabelValuePair": list(&status.series_by_pair),
    }))
}

/// Milliseconds as `2006-01-02T15:04:05.999Z`, as Go writes a time: without zeros at the fraction's end.
fn rfc3339(t: i64) -> String {
    let (days, millis) = (t.div_euclid(86_400_000), t.rem_euclid(86_400_000));
    // Eras of 400 years that begin on March 1st: the leap day is then a year's last.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, fraction) = (millis / 1000, millis % 1000);
    let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:03}") };
    let fraction = fraction.trim_end_matches('0');
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn a_time_is_written_as_it_is_read() {
        for text in ["1970-01-01T00:00:00Z", "2024-02-29T23:59:59.25Z", "1969-12-31T23:59:59.999Z"] {
            assert_eq!(rfc3339(crate::form::parse_time(text).unwrap()), text);
        }
    }
}
