//! Which series there are: `/series`, `/labels`, `/label/NAME/values`.

use std::sync::Arc;

use narthex::budget::{Budget, BudgetLimits};
use narthex::model::{Labels, Matcher, TimeRange};
use narthex::promql::parse_selector;
use narthex::query::{SelectRequest, merge_sorted_strings};

use super::{Answer, ApiError, Call};
use crate::form::{MAX_TIME_MS, MIN_TIME_MS, parse_limit, parse_time, quoted};
use crate::json::{put_labels, put_list, put_text};

const TRUNCATED: &str = "results truncated due to limit";

/// `start` and `end`, where they are optional.
fn time_range(call: &Call) -> Result<TimeRange, ApiError> {
    let time = |name: &str, default| match call.form.get(name) {
        "" => Ok(default),
        text => parse_time(text)
            .map_err(|error| ApiError::parameter(name, format!("invalid time value for '{name}': {error}"))),
    };
    Ok(TimeRange::new(time("start", MIN_TIME_MS)?, time("end", MAX_TIME_MS)?))
}

fn limit(call: &Call) -> Result<usize, ApiError> {
    parse_limit(call.form.get("limit")).map_err(|error| ApiError::parameter("limit", error))
}

/// The selectors of `match[]`. None may select everything: that is nearly always a mistake, and a costly one.
fn selectors(call: &Call) -> Result<Vec<Vec<Matcher>>, ApiError> {
    let mut all = Vec::new();
    for text in call.form.all("match[]") {
        all.push(parse_selector(text).map_err(|error| ApiError::bad_data(error.to_string()))?);
    }
    if all.iter().any(|matchers| matchers.iter().all(|matcher| matcher.matches(""))) {
        return Err(ApiError::bad_data("match[] must contain at least one non-empty matcher"));
    }
    Ok(all)
}

/// What `ask` finds for each selector (or once for everything), united.
fn texts(
    call: &Call,
    mut ask: impl FnMut(&SelectRequest<'_>) -> narthex::error::Result<Vec<String>>,
) -> Result<Answer, ApiError> {
    let (limit, range) = (limit(call)?, time_range(call)?);
    let mut selectors = selectors(call)?;
    if selectors.is_empty() {
        selectors.push(Vec::new());
    }
    let budget = budget(call);
    let mut lists = Vec::with_capacity(selectors.len());
    for matchers in &selectors {
        let mut request = SelectRequest::labels_only(range, matchers, &budget);
        request.hints.limit = one_more(limit);
        lists.push(ask(&request)?);
    }
    let mut texts = merge_sorted_strings(lists);
    let mut answer = Answer::default();
    if limit > 0 && texts.len() > limit {
        texts.truncate(limit);
        answer.warnings.push(TRUNCATED.to_owned());
    }
    put_list(&mut answer.data, &texts, |out, text| put_text(out, text));
    Ok(answer)
}

/// One more than asked for tells whether there are more; 0 is no limit.
fn one_more(limit: usize) -> usize {
    if limit == 0 { 0 } else { limit.saturating_add(1) }
}

/// The call's account: it ends with the query timeout, and when the caller leaves.
fn budget(call: &Call) -> Arc<Budget> {
    let limits = BudgetLimits { timeout: Some(call.app.limits().query_timeout), ..BudgetLimits::default() };
    let budget = Arc::new(Budget::new(limits, &call.app.env().clock));
    call.watch(&budget);
    budget
}

pub(super) fn label_names(call: &Call) -> Result<Answer, ApiError> {
    let source = call.storage.source()?;
    texts(call, |request| source.label_names(request))
}

pub(super) fn label_values(call: &Call) -> Result<Answer, ApiError> {
    let path = call.name_in_path.as_deref().unwrap_or_default();
    let name = if path.starts_with("U__") { unescape_name(path) } else { path.to_owned() };
    if name.is_empty() {
        return Err(ApiError::bad_data(format!("invalid label name: {}", quoted(&name))));
    }
    let source = call.storage.source()?;
    texts(call, |request| source.label_values(&name, request))
}

/// Undoes the escaping of names that a path cannot hold: `U__` in front, `_HEX_` for a character, `__` for `_`. What is
/// not escaped rightly stays as it is.
fn unescape_name(name: &str) -> String {
    let Some(escaped) = name.strip_prefix("U__") else { return name.to_owned() };
    let mut out = String::new();
    let mut rest = escaped;
    while let Some(at) = rest.find('_') {
        let (plain, tail) = rest.split_at(at);
        out.push_str(plain);
        let tail = tail.get(1..).unwrap_or_default();
        if let Some(after) = tail.strip_prefix('_') {
            out.push('_');
            rest = after;
            continue;
        }
        let character = tail.split_once('_').and_then(|(hex, after)| {
            let digits = !hex.is_empty() && hex.len() <= 5 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
            let code = digits.then(|| u32::from_str_radix(hex, 16).ok())??;
            Some((char::from_u32(code)?, after))
        });
        let Some((character, after)) = character else { return name.to_owned() };
        out.push(character);
        rest = after;
    }
    out.push_str(rest);
    out
}

pub(super) fn series(call: &Call) -> Result<Answer, ApiError> {
    if call.form.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let limit = limit(call)?;
    let range = time_range(call)?;
    let selectors = selectors(call).map_err(|error| ApiError::parameter("match[]", error.text))?;
    let source = call.storage.source()?;
    let budget = budget(call);
    let mut answer = Answer::default();
    let mut all: Vec<Labels> = Vec::new();
    for matchers in &selectors {
        let mut request = SelectRequest::labels_only(range, matchers, &budget);
        request.hints.function = Some("series");
        request.hints.limit = one_more(limit);
        let mut set = source.select(&request)?;
        let first = all.len();
        while let Some(series) = set.next()? {
            all.push(series.labels);
            if all.len().is_multiple_of(1024) {
                budget.check()?;
            }
            if limit > 0 && all.len() - first > limit {
                break;
            }
        }
        answer.warnings.extend(set.warnings());
    }
    if selectors.len() > 1 {
        all.sort_unstable();
        all.dedup();
    }
    if limit > 0 && all.len() > limit {
        all.truncate(limit);
        answer.warnings.push(TRUNCATED.to_owned());
    }
    put_list(&mut answer.data, &all, put_labels);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::unescape_name;

    #[test]
    fn names_are_unescaped_and_what_is_escaped_wrongly_stays() {
        for (escaped, name) in [
            ("U__http_2e_method", "http.method"),
            ("U__a__b", "a_b"),
            ("U__no_special", "U__no_special"),
            ("U___263a_", "☺"),
            ("U__x_zz_", "U__x_zz_"),
            ("U__open_2e", "U__open_2e"),
        ] {
            assert_eq!(unescape_name(escaped), name);
        }
    }
}
