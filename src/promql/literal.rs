//! The values of numbers, durations and strings as a query writes them: Go's notations, since the language is Go's.

/// Nanoseconds in a day, by which weeks and years are counted too: 7 and 365 of them.
const DAY: u64 = 24 * 3_600_000_000_000;

/// Units from the longest, in the order in which a duration may use them.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * DAY),
    ("w", 7 * DAY),
    ("d", DAY),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// Seconds of a duration such as `1h30m`.
///
/// # Errors
/// Prometheus's words for what is wrong.
pub fn parse_duration(text: &str) -> Result<f64, String> {
    let invalid = || format!("not a valid duration string: {}", super::lexer::quote(text));
    match text {
        "0" => return Ok(0.0),
        "" => return Err("empty duration string".into()),
        _ => {}
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if unit.is_empty() {
            return Err(invalid());
        }
        if !UNITS.iter().any(|(name, _)| *name == unit) {
            return Err(format!(
                "unknown unit {} in duration {}",
                super::lexer::quote(unit),
                super::lexer::quote(text)
            ));
        }
        let (_, factor) = units.by_ref().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        if number > (1 << 63) / factor {
            return Err("duration out of range".into());
        }
        total += number * factor;
        if total > i64::MAX as u64 {
            return Err("duration out of range".into());
        }
        rest = tail;
    }
    let (seconds, nanoseconds) = (total / 1_000_000_000, total % 1_000_000_000);
    Ok(seconds as f64 + nanoseconds as f64 / 1e9)
}

/// A duration's text, e.g. `1h30m`: years and weeks only where nothing is left over.
#[must_use]
pub fn format_duration(milliseconds: i64) -> String {
    if milliseconds == 0 {
        return "0s".into();
    }
    let mut out = String::from(if milliseconds < 0 { "-" } else { "" });
    let mut left = milliseconds.unsigned_abs();
    for (index, (unit, nanoseconds)) in UNITS.iter().enumerate() {
        let length = nanoseconds / 1_000_000;
        let exact_only = index < 2;
        if left < length || exact_only && !left.is_multiple_of(length) {
            continue;
        }
        out.push_str(&format!("{}{unit}", left / length));
        left %= length;
    }
    out
}

/// A number's value: decimal, hexadecimal, octal with a leading 0, underscores between digits, `Inf`, `NaN`.
///
/// # Errors
/// Prometheus's words for what is wrong.
pub(super) fn parse_number(text: &str) -> Result<f64, String> {
    let failed = |why: &str| {
        Err(format!("error parsing number: strconv.ParseFloat: parsing {}: {why}", super::lexer::quote(text)))
    };
    if !underscores_separate_digits(text) {
        return failed("invalid syntax");
    }
    let plain = text.replace('_', "");
    let integer = match plain.as_bytes() {
        [b'0', b'x' | b'X', ..] => i64::from_str_radix(plain.get(2..).unwrap_or_default(), 16),
        [b'0', _, ..] => i64::from_str_radix(&plain, 8),
        _ => plain.parse(),
    };
    if let Ok(integer) = integer {
        return Ok(integer as f64);
    }
    match plain.parse::<f64>() {
        Ok(number) if number.is_infinite() && plain.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
            failed("value out of range")
        }
        Ok(number) => Ok(number),
        Err(_) => failed("invalid syntax"),
    }
}

fn underscores_separate_digits(text: &str) -> bool {
    let bytes = text.as_bytes();
    let hexadecimal = matches!(bytes, [b'0', b'x' | b'X', ..]);
    let digit = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_digit() || hexadecimal && b.is_ascii_hexdigit());
    bytes.iter().enumerate().filter(|&(_, &byte)| byte == b'_').all(|(at, _)| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        let after_prefix = hexadecimal && at == 2;
        (after_prefix || digit(before)) && digit(bytes.get(at + 1))
    })
}

/// A string's value, its quotes removed and its escapes replaced. Escapes can spell bytes that are no UTF-8; no label
/// can hold such a value, so they become U+FFFD.
///
/// # Errors
/// If the quotes are not a pair or an escape is none. The lexer lets no such string through.
pub(super) fn unquote(text: &str) -> Result<String, String> {
    let invalid = || format!("error unquoting string {}: invalid syntax", super::lexer::quote(text));
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\'' | '`')).ok_or_else(invalid)?;
    let inner = text.get(1..).and_then(|rest| rest.strip_suffix(quote)).ok_or_else(invalid)?;
    if quote == '`' {
        return if inner.contains('`') { Err(invalid()) } else { Ok(inner.into()) };
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        if c == quote || c == '\n' {
            return Err(invalid());
        }
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = rest.next().ok_or_else(invalid)?;
        let mut number = |first: u32, digits: usize, base: u32| {
            (0..digits)
                .try_fold(first, |value, _| Some(value * base + rest.next()?.to_digit(base)?))
                .ok_or_else(invalid)
        };
        match escape {
            'a' => out.push(0x07),
            'b' => out.push(0x08),
            'f' => out.push(0x0c),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(0x0b),
            '\\' => out.push(b'\\'),
            'x' => out.push(number(0, 2, 16)? as u8),
            'u' | 'U' => {
                let value = number(0, if escape == 'u' { 4 } else { 8 }, 16)?;
                let c = char::from_u32(value).ok_or_else(invalid)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            '0'..='7' => {
                let value = number(escape.to_digit(8).unwrap_or_default(), 2, 8)?;
                out.push(u8::try_from(value).map_err(|_| invalid())?);
            }
            c if c == quote => out.push(c as u8),
            _ => return Err(invalid()),
        }
    }
    Ok(match String::from_utf8(out) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_sum_of_units_from_the_longest() {
        assert_eq!(parse_duration("1y2w3d4h5m6s7ms"), Ok(33_019_506.007));
        assert_eq!(parse_duration("0"), Ok(0.0));
        assert_eq!(parse_duration("5s1h"), Err("not a valid duration string: \"5s1h\"".into()));
        assert_eq!(parse_duration("1h1h"), Err("not a valid duration string: \"1h1h\"".into()));
        assert_eq!(parse_duration("1hs"), Err("unknown unit \"hs\" in duration \"1hs\"".into()));
        assert_eq!(parse_duration("300y"), Err("duration out of range".into()));
    }

    #[test]
    fn a_duration_is_written_in_years_and_weeks_only_if_whole() {
        for (milliseconds, text) in [
            (0, "0s"),
            (5_400_000, "1h30m"),
            (7 * 86_400_000, "1w"),
            (8 * 86_400_000, "8d"),
            (365 * 86_400_000, "1y"),
            (-1_001, "-1s1ms"),
        ] {
            assert_eq!(format_duration(milliseconds), text);
        }
    }

    #[test]
    fn numbers_are_gos() {
        assert_eq!(parse_number("0x1F"), Ok(31.0));
        assert_eq!(parse_number("0755"), Ok(493.0));
        assert_eq!(parse_number("089"), Ok(89.0));
        assert_eq!(parse_number("1_000.5"), Ok(1000.5));
        assert_eq!(parse_number("0x_ff"), Ok(255.0));
        assert_eq!(parse_number("iNf"), Ok(f64::INFINITY));
        assert!(parse_number("nan").unwrap().is_nan());
        assert!(parse_number("1_").is_err());
        assert!(parse_number("1e999").unwrap_err().ends_with("value out of range"));
    }

    #[test]
    fn strings_are_gos() {
        assert_eq!(unquote(r#""a\tb\x41\101\u00e9\U0001F525\"""#), Ok("a\tbAA\u{e9}\u{1f525}\"".into()));
        assert_eq!(unquote(r#"'it\'s "it"'"#), Ok("it's \"it\"".into()));
        assert_eq!(unquote(r"`a\n`"), Ok("a\\n".into()));
        assert_eq!(unquote(r#""\xc3\xa9""#), Ok("\u{e9}".into()));
        assert_eq!(unquote(r#""\xff""#), Ok("\u{fffd}".into()));
        assert!(unquote(r#""\'""#).is_err());
        assert!(unquote("\"").is_err());
    }
}
