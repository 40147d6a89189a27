//! What is known about metrics, and the lists that dashboards ask every Prometheus for, which are empty here: rules,
//! alerts and targets are somebody else's.

use std::collections::BTreeMap;

use narthex::model::Metadata;

use super::{Answer, ApiError, Call};
use crate::form::go_int;
use crate::json::put_text;

pub(super) fn metadata(call: &Call) -> Result<Answer, ApiError> {
    let number = |name: &str| match call.form.get(name) {
        "" => Ok(-1),
        text => go_int(text).map_err(|_| ApiError::bad_data(format!("{name} must be a number"))),
    };
    let (limit, per_metric) = (number("limit")?, number("limit_per_metric")?);
    let metric = Some(call.form.get("metric")).filter(|metric| !metric.is_empty());
    let mut metrics: BTreeMap<String, Vec<Metadata>> = BTreeMap::new();
    for (name, metadata) in call.storage.source()?.metadata(metric)? {
        let all = metrics.entry(name).or_default();
        let full = usize::try_from(per_metric).is_ok_and(|limit| limit > 0 && all.len() >= limit);
        if !full && !all.contains(&metadata) {
            all.push(metadata);
        }
    }
    let shown = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut answer = Answer::new(vec![b'{']);
    let out = &mut answer.data;
    for (index, (name, all)) in metrics.iter().take(shown).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_text(out, name);
        out.push(b':');
        crate::json::put_list(out, all, |out, metadata| {
            out.extend_from_slice(b"{\"type\":");
            put_text(out, metadata.metric_type.as_str());
            out.extend_from_slice(b",\"help\":");
            put_text(out, &metadata.help);
            out.extend_from_slice(b",\"unit\":");
            put_text(out, &metadata.unit);
            out.push(b'}');
        });
    }
    out.push(b'}');
    Ok(answer)
}

fn fixed(data: &str) -> Result<Answer, ApiError> {
    Ok(Answer::new(data.into()))
}

pub(super) fn rules(_: &Call) -> Result<Answer, ApiError> {
    fixed("{\"groups\":[]}")
}

pub(super) fn alerts(_: &Call) -> Result<Answer, ApiError> {
    fixed("{\"alerts\":[]}")
}

pub(super) fn targets(_: &Call) -> Result<Answer, ApiError> {
    fixed("{\"activeTargets\":[],\"droppedTargets\":[],\"droppedTargetCounts\":{}}")
}

pub(super) fn alertmanagers(_: &Call) -> Result<Answer, ApiError> {
    fixed("{\"activeAlertmanagers\":[],\"droppedAlertmanagers\":[]}")
}
