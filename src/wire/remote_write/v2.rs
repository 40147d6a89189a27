//! `io.prometheus.write.v2.Request`, the message of remote write 2.0: texts stand once, in a table of symbols.

use super::v1::{range, text};
use super::{FloatSample, HistogramSample, SeriesFault, WireError, WriteRequest, histogram};
use crate::model::{Metadata, MetricType};
use crate::wire::ProtoReader;

pub(super) fn request(out: &mut WriteRequest, message: &[u8]) -> Result<(), WireError> {
    // Writers put the symbols first, but a message's fields may come in any order: one pass for the table alone.
    out.scratch.symbols.clear();
    let mut reader = ProtoReader::new(message);
    let mut ascii = true;
    while let Some((number, wire)) = reader.field("Request")? {
        if number == 4 {
            let symbol = range(&mut reader, "symbols", wire)?;
            ascii &= message.get(symbol.clone()).is_none_or(<[u8]>::is_ascii);
            out.charge(size_of_val(&symbol))?;
            out.scratch.symbols.push(symbol);
        } else {
            reader.skip("Request", number, wire)?;
        }
    }
    let mut reader = ProtoReader::new(message);
    while let Some((number, wire)) = reader.field("Request")? {
        match number {
            5 => {
                if out.scratch.symbols.first().is_none_or(|first| !first.is_empty()) {
                    return Err(WireError::FirstSymbol);
                }
                series(out, message, reader.message("timeseries", wire)?, ascii)?;
            }
            _ => reader.skip("Request", number, wire)?,
        }
    }
    Ok(())
}

fn series(out: &mut WriteRequest, message: &[u8], mut reader: ProtoReader<'_>, ascii: bool) -> Result<(), WireError> {
    let start = out.begin_series();
    let (first_sample, first_histogram) = (out.samples.len(), out.histograms.len());
    let mut references = std::mem::take(&mut out.scratch.references);
    references.clear();
    let mut described = None;
    while let Some((number, wire)) = reader.field("timeseries")? {
        match number {
            1 => {
                let before = references.len();
                reader.uint32s("timeseries.labels_refs", wire, &mut references)?;
                out.charge((references.len() - before) * size_of::<u32>())?;
            }
            2 => sample(out, reader.message("samples", wire)?)?,
            3 => {
                let decoded = histogram::decode(reader.message("histograms", wire)?)?;
                out.charge(size_of::<HistogramSample>() + histogram::heap_bytes(&decoded.value))?;
                out.histograms.push(decoded);
            }
            4 => exemplar(out, message, reader.message("exemplars", wire)?)?,
            5 => described = metadata(out, message, reader.message("metadata", wire)?)?,
            _ => reader.skip("timeseries", number, wire)?,
        }
    }
    out.scratch.labels.clear();
    let resolved = resolve(out, &references);
    out.scratch.references = references;
    let fault = match (out.samples.len() > first_sample, out.histograms.len() > first_histogram) {
        _ if resolved.is_err() => resolved.err(),
        (false, false) => Some(SeriesFault::Empty),
        (true, true) => Some(SeriesFault::Mixed),
        _ => None,
    };
    out.end_series(message, start, ascii, described, fault)
}

/// Puts the labels that `references` name into the scratch.
fn resolve(out: &mut WriteRequest, references: &[u32]) -> Result<(), SeriesFault> {
    let (pairs, odd) = references.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(SeriesFault::OddReferences);
    }
    let scratch = &mut out.scratch;
    for &[name, value] in pairs {
        let symbol = |reference: u32| {
            scratch.symbols.get(reference as usize).cloned().ok_or(SeriesFault::NoSuchSymbol(reference))
        };
        let label = (symbol(name)?, symbol(value)?);
        scratch.labels.push(label);
    }
    Ok(())
}

fn sample(out: &mut WriteRequest, mut reader: ProtoReader<'_>) -> Result<(), WireError> {
    let mut sample = FloatSample::default();
    while let Some((number, wire)) = reader.field("samples")? {
        match number {
            1 => sample.value = reader.double("samples.value", wire)?,
            2 => sample.t = reader.integer("samples.timestamp", wire)?.cast_signed(),
            3 => sample.st = reader.integer("samples.start_timestamp", wire)?.cast_signed(),
            _ => reader.skip("samples", number, wire)?,
        }
    }
    out.charge(size_of::<FloatSample>())?;
    out.samples.push(sample);
    Ok(())
}

fn exemplar(out: &mut WriteRequest, message: &[u8], mut reader: ProtoReader<'_>) -> Result<(), WireError> {
    let (mut t, mut value, mut references) = (0, 0.0, Vec::new());
    while let Some((number, wire)) = reader.field("exemplars")? {
        match number {
            1 => reader.uint32s("exemplars.labels_refs", wire, &mut references)?,
            2 => value = reader.double("exemplars.value", wire)?,
            3 => t = reader.integer("exemplars.timestamp", wire)?.cast_signed(),
            _ => reader.skip("exemplars", number, wire)?,
        }
    }
    out.scratch.labels.clear();
    // Without a time an exemplar says nothing; as with every other fault, it alone is dropped.
    if t == 0 || resolve(out, &references).is_err() {
        return Ok(());
    }
    out.push_exemplar(message, t, value)
}

/// The index of the series' metadata, if it says anything.
fn metadata(out: &mut WriteRequest, message: &[u8], mut reader: ProtoReader<'_>) -> Result<Option<u32>, WireError> {
    let (mut metadata, mut help, mut unit) = (Metadata::default(), 0, 0);
    while let Some((number, wire)) = reader.field("timeseries.metadata")? {
        match number {
            1 => metadata.metric_type = MetricType::of_number(reader.integer("metadata.type", wire)?),
            3 => help = reader.integer("metadata.help_ref", wire)? as u32,
            4 => unit = reader.integer("metadata.unit_ref", wire)? as u32,
            _ => reader.skip("timeseries.metadata", number, wire)?,
        }
    }
    let symbol = |reference: u32| {
        let symbol = out.scratch.symbols.get(reference as usize).cloned();
        symbol.and_then(|symbol| message.get(symbol)).map(text).unwrap_or_default()
    };
    metadata.help = symbol(help);
    metadata.unit = symbol(unit);
    if metadata == Metadata::default() {
        return Ok(None);
    }
    // Series of one family follow each other and say the same: one copy serves them all.
    if out.metadata.last().is_none_or(|(_, last)| *last != metadata) {
        out.charge(size_of::<(String, Metadata)>() + metadata.help.len() + metadata.unit.len())?;
        out.metadata.push((String::new(), metadata));
    }
    Ok(u32::try_from(out.metadata.len() - 1).ok())
}
