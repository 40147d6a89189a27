//! What a request asks for: the parameters of its query string and of its form, and how they are read.

use std::time::Duration;

use narthex::promql::parse_duration;

/// The parameters of a request. Those of the body come first, as in Go: they win where one value is wanted.
#[derive(Debug, Default, Clone)]
pub struct Form {
    pairs: Vec<(String, String)>,
}

impl Form {
    /// Reads a body (empty for GET) and a query string.
    ///
    /// # Errors
    /// A text like Go's if either has a damaged escape.
    pub fn parse(body: &[u8], query: Option<&str>) -> Result<Self, String> {
        let mut pairs = Vec::new();
        let body = String::from_utf8_lossy(body);
        for part in body.split('&').chain(query.unwrap_or_default().split('&')).filter(|part| !part.is_empty()) {
            if part.contains(';') {
                return Err("invalid semicolon separator in query".to_owned());
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((unescape(name)?, unescape(value)?));
        }
        Ok(Self { pairs })
    }

    /// The first value of `name`, or "".
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    /// All values of `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Undoes `%xx` and `+`.
fn unescape(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = tail.first_chunk::<2>().and_then(|digits| std::str::from_utf8(digits).ok());
                let value = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                let Some(value) = value.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
                    let shown: String =
                        std::iter::once('%').chain(tail.iter().take(2).map(|&b| char::from(b))).collect();
                    return Err(format!("invalid URL escape {shown:?}"));
                };
                bytes.push(value);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => bytes.push(byte),
        }
    }
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// The earliest time that a request can name, milliseconds: what an absent `start` means where it is optional.
pub const MIN_TIME_MS: i64 = i64::MIN / 1000 * 1000 + 62_135_596_801_000;
/// The latest.
pub const MAX_TIME_MS: i64 = i64::MAX / 1000 * 1000 - 62_135_596_801_000 + 999;

/// A time: seconds since the epoch with a fraction, or RFC 3339. In milliseconds.
///
/// # Errors
/// In Prometheus's words.
pub fn parse_time(text: &str) -> Result<i64, String> {
    let wrong = || format!("cannot parse {} to a valid timestamp", quoted(text));
    if let Some(seconds) = go_float(text) {
        let whole = seconds.trunc();
        let millis = ((seconds - whole) * 1000.0).round();
        if !seconds.is_finite() || whole.abs() >= (i64::MAX / 1000) as f64 {
            // The original overflows here and answers for a time of its own making.
            return Err(wrong());
        }
        return Ok(whole as i64 * 1000 + millis as i64);
    }
    match text {
        "-292273086-05-16T16:47:06Z" => return Ok(MIN_TIME_MS),
        "292277025-08-18T07:12:54.999999999Z" => return Ok(MAX_TIME_MS),
        _ => {}
    }
    rfc3339(text).ok_or_else(wrong)
}

/// As Go's `strconv.ParseFloat` reads a number, except for hexadecimal ones.
fn go_float(text: &str) -> Option<f64> {
    // Underscores and a bare "." are refused by both; Rust's parser alone takes "1." and "infinity" as Go does.
    text.parse().ok()
}

/// `2006-01-02T15:04:05.999999999Z`, or with an offset `+01:00`, in milliseconds.
fn rfc3339(text: &str) -> Option<i64> {
    fn number(text: &str, from: usize, len: usize) -> Option<i64> {
        let digits = text.get(from..from + len)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    }
    fn separator(text: &str, at: usize, wanted: u8) -> Option<()> {
        (text.as_bytes().get(at) == Some(&wanted)).then_some(())
    }
    let (year, month, day) = (number(text, 0, 4)?, number(text, 5, 2)?, number(text, 8, 2)?);
    let (hour, minute, second) = (number(text, 11, 2)?, number(text, 14, 2)?, number(text, 17, 2)?);
    for (at, wanted) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        separator(text, at, wanted)?;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut millis = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let shown = fraction.get(..digits).filter(|digits| !digits.is_empty())?;
        millis = format!("{shown:0<3}").get(..3)?.parse().ok()?;
        rest = fraction.get(digits..)?;
    }
    let offset_minutes = match rest {
        "Z" => 0,
        _ => {
            let sign = match rest.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            separator(rest, 3, b':')?;
            let (hours, minutes) = (number(rest, 1, 2)?, number(rest, 4, 2)?);
            if rest.len() != 6 || hours > 24 || minutes > 60 {
                return None;
            }
            sign * (hours * 60 + minutes)
        }
    };
    // Days since the epoch of a civil date, years counted from March so that the leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute - offset_minutes) * 60_000 + second * 1000 + millis)
}

/// A span of time: seconds with a fraction, or `5m`. In nanoseconds, as it may be less than nothing.
///
/// # Errors
/// In Prometheus's words.
pub fn parse_span_ns(text: &str) -> Result<i64, String> {
    if let Some(seconds) = go_float(text) {
        let nanos = seconds * 1e9;
        if nanos.is_nan() || nanos > i64::MAX as f64 || nanos < i64::MIN as f64 {
            return Err(format!("cannot parse {} to a valid duration. It overflows int64", quoted(text)));
        }
        return Ok(nanos as i64);
    }
    // Durations are whole milliseconds; seconds as a float hold them to the nanosecond for a hundred days, and rounding
    // makes them exact again.
    let seconds = parse_duration(text).map_err(|_| format!("cannot parse {} to a valid duration", quoted(text)))?;
    Ok((seconds * 1e3).round() as i64 * 1_000_000)
}

/// As [`parse_span_ns`], for a limit: nothing below zero.
///
/// # Errors
/// As [`parse_span_ns`].
pub fn parse_limit_span(text: &str) -> Result<Duration, String> {
    Ok(Duration::from_nanos(u64::try_from(parse_span_ns(text)?).unwrap_or(0)))
}

/// The parameter `limit`; 0 is no limit.
///
/// # Errors
/// In Go's words.
pub fn parse_limit(text: &str) -> Result<usize, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let limit = go_int(text)?;
    usize::try_from(limit).map_err(|_| "limit must be non-negative".to_owned())
}

/// As Go's `strconv.Atoi`.
///
/// # Errors
/// In Go's words.
pub fn go_int(text: &str) -> Result<i64, String> {
    text.parse::<i64>().map_err(|error| {
        let range = matches!(error.kind(), std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow);
        let reason = if range { "value out of range" } else { "invalid syntax" };
        format!("strconv.Atoi: parsing {}: {reason}", quoted(text))
    })
}

/// A text in quotes, as Go's `%q`.
#[must_use]
pub fn quoted(text: &str) -> String {
    narthex::model::quoted(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_from_body_and_query_and_the_body_wins() {
        let form = Form::parse(b"query=a%20b%2Bc+d&match[]=x", Some("query=other&match%5B%5D=y&empty")).unwrap();
        assert_eq!(form.get("query"), "a b+c d");
        assert_eq!(form.all("match[]").collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!((form.get("empty"), form.get("absent")), ("", ""));
    }

    #[test]
    fn a_damaged_escape_is_refused() {
        assert_eq!(Form::parse(b"", Some("a=%zz")).unwrap_err(), "invalid URL escape \"%zz\"");
        assert_eq!(Form::parse(b"", Some("a=%+1")).unwrap_err(), "invalid URL escape \"%+1\"");
    }

    #[test]
    fn a_time_is_seconds_or_a_date() {
        for (text, millis) in [
            ("0", 0),
            ("1435781451.781", 1_435_781_451_781),
            ("-1.5", -1_500),
            ("1e3", 1_000_000),
            ("2015-07-01T20:10:51.781Z", 1_435_781_451_781),
            ("2015-07-01T22:10:51.7816+02:00", 1_435_781_451_781),
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T23:59:59-01:00", 1_709_254_799_000),
        ] {
            assert_eq!(parse_time(text), Ok(millis), "{text}");
        }
        for text in ["", "now", "2015-13-01T00:00:00Z", "2015-02-29T00:00:00Z", "2015-07-01 20:10:51Z", "NaN", "1e300"]
        {
            assert_eq!(parse_time(text), Err(format!("cannot parse {text:?} to a valid timestamp")));
        }
    }

    #[test]
    fn a_span_is_seconds_or_units() {
        assert_eq!(parse_span_ns("1.5"), Ok(1_500_000_000));
        assert_eq!(parse_span_ns("1h30m"), Ok(5_400_000_000_000));
        assert_eq!(parse_span_ns("-3"), Ok(-3_000_000_000));
        assert_eq!(parse_span_ns("x"), Err("cannot parse \"x\" to a valid duration".to_owned()));
        assert!(parse_span_ns("1e300").unwrap_err().ends_with("It overflows int64"));
    }

    #[test]
    fn a_limit_is_a_number_that_is_not_negative() {
        assert_eq!(parse_limit(""), Ok(0));
        assert_eq!(parse_limit("7"), Ok(7));
        assert_eq!(parse_limit("-1"), Err("limit must be non-negative".to_owned()));
        assert_eq!(parse_limit("x"), Err("strconv.Atoi: parsing \"x\": invalid syntax".to_owned()));
    }
}
