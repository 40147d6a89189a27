//! `prometheus.WriteRequest`, the message of remote write 1.0.

use super::{ExemplarMark, FloatSample, HistogramSample, WireError, WriteRequest, histogram};
use crate::model::{Metadata, MetricType};
use crate::wire::{ProtoError, ProtoReader, WireType};

pub(super) fn request(out: &mut WriteRequest, message: &[u8]) -> Result<(), WireError> {
    let mut reader = ProtoReader::new(message);
    while let Some((number, wire)) = reader.field("WriteRequest")? {
        match number {
            1 => series(out, message, reader.message("timeseries", wire)?)?,
            3 => metadata(out, reader.message("metadata", wire)?)?,
            _ => reader.skip("WriteRequest", number, wire)?,
        }
    }
    Ok(())
}

fn series(out: &mut WriteRequest, message: &[u8], mut reader: ProtoReader<'_>) -> Result<(), WireError> {
    let start = out.begin_series();
    // Labels stand together, so one look over that part of the message tells whether all of it is ASCII: tags and
    // lengths below 128 are. Only where it is not, each text is checked by itself.
    let (mut first, mut last) = (usize::MAX, 0);
    while let Some((number, wire)) = reader.field("timeseries")? {
        match number {
            1 => {
                first = first.min(reader.offset());
                label(out, reader.message("labels", wire)?)?;
                last = reader.offset();
            }
            2 => sample(out, reader.message("samples", wire)?)?,
            3 => {
                // The labels of the exemplar use the scratch of the series: keep the series' own.
                let own = std::mem::take(&mut out.scratch.labels);
                let done = exemplar(out, message, reader.message("exemplars", wire)?);
                out.scratch.labels = own;
                done?;
            }
            4 => {
                let decoded = histogram::decode(reader.message("histograms", wire)?)?;
                out.charge(size_of::<HistogramSample>() + histogram::heap_bytes(&decoded.value))?;
                out.histograms.push(decoded);
            }
            _ => reader.skip("timeseries", number, wire)?,
        }
    }
    let ascii = message.get(first..last).is_none_or(<[u8]>::is_ascii);
    out.end_series(message, start, ascii, None, None)
}

#[inline]
fn label(out: &mut WriteRequest, mut reader: ProtoReader<'_>) -> Result<(), WireError> {
    let (mut name, mut value) = (0..0, 0..0);
    while let Some((number, wire)) = reader.field("labels")? {
        match number {
            1 => name = range(&mut reader, "labels.name", wire)?,
            2 => value = range(&mut reader, "labels.value", wire)?,
            _ => reader.skip("labels", number, wire)?,
        }
    }
    if out.scratch.labels.len() == out.scratch.labels.capacity() {
        out.charge(size_of_val(&(&name, &value)) * out.scratch.labels.len())?;
    }
    out.scratch.labels.push((name, value));
    Ok(())
}

/// A text's place in the message.
#[inline]
pub(super) fn range(
    reader: &mut ProtoReader<'_>,
    field: &'static str,
    wire: WireType,
) -> Result<std::ops::Range<usize>, ProtoError> {
    let text = reader.bytes(field, wire)?;
    let end = reader.offset();
    Ok(end - text.len()..end)
}

#[inline]
fn sample(out: &mut WriteRequest, mut reader: ProtoReader<'_>) -> Result<(), WireError> {
    let mut sample = FloatSample::default();
    while let Some((number, wire)) = reader.field("samples")? {
        match number {
            1 => sample.value = reader.double("samples.value", wire)?,
            2 => sample.t = reader.integer("samples.timestamp", wire)?.cast_signed(),
            _ => reader.skip("samples", number, wire)?,
        }
    }
    out.charge(size_of::<FloatSample>())?;
    out.samples.push(sample);
    Ok(())
}

fn exemplar(out: &mut WriteRequest, message: &[u8], mut reader: ProtoReader<'_>) -> Result<(), WireError> {
    let (mut t, mut value) = (0, 0.0);
    while let Some((number, wire)) = reader.field("exemplars")? {
        match number {
            1 => label(out, reader.message("exemplars.labels", wire)?)?,
            2 => value = reader.double("exemplars.value", wire)?,
            3 => t = reader.integer("exemplars.timestamp", wire)?.cast_signed(),
            _ => reader.skip("exemplars", number, wire)?,
        }
    }
    out.push_exemplar(message, t, value)
}

impl WriteRequest {
    /// Ends an exemplar whose labels lie in `scratch`. An invalid one is dropped: exemplars are an extra, and no sender
    /// sends a request again for one.
    pub(super) fn push_exemplar(&mut self, message: &[u8], t: i64, value: f64) -> Result<(), WireError> {
        let begin = self.packed.len();
        if self.pack_labels(message, false, false).is_err() {
            self.packed.truncate(begin);
            return Ok(());
        }
        let labels = begin..self.packed.len();
        self.charge(size_of::<ExemplarMark>() + labels.len())?;
        self.exemplars.push(ExemplarMark { labels, t, value });
        Ok(())
    }
}

fn metadata(out: &mut WriteRequest, mut reader: ProtoReader<'_>) -> Result<(), WireError> {
    let (mut family, mut metadata) = (&[][..], Metadata::default());
    while let Some((number, wire)) = reader.field("metadata")? {
        match number {
            1 => metadata.metric_type = MetricType::of_number(reader.integer("metadata.type", wire)?),
            2 => family = reader.bytes("metadata.metric_family_name", wire)?,
            4 => metadata.help = text(reader.bytes("metadata.help", wire)?),
            5 => metadata.unit = text(reader.bytes("metadata.unit", wire)?),
            _ => reader.skip("metadata", number, wire)?,
        }
    }
    let family = text(family);
    out.charge(size_of::<(String, Metadata)>() + family.len() + metadata.help.len() + metadata.unit.len())?;
    out.metadata.push((family, metadata));
    Ok(())
}

/// Text for people, where a wrong byte is no reason to refuse anything.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
