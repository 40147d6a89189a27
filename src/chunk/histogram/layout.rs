//! What all histograms of a chunk have in common: resolution, zero bucket, which buckets there are.
//!
//! ```text
//! zero threshold   0: is 0 | 1-254: 2^(byte - 244) | 255, then 64 bits
//! spans            varbit how many | (varbit length, varbit offset)*
//! custom bounds    varbit how many | each: varbit of 1 + bound × 1000, or a 0 bit and 64 bits
//! ```

use crate::chunk::varbit;
use crate::codec::{BitReader, BitWriter};
use crate::model::{CUSTOM_BUCKETS_SCHEMA, Span, bucket_count};

/// The largest bound × 1000 that is stored as a number.
const MILLI_MAX: f64 = 33_554_430.0;

#[derive(Debug, Clone, Default)]
pub struct Layout {
    pub(super) schema: i32,
    pub(super) zero_threshold: f64,
    pub(super) positive: Vec<Span>,
    pub(super) negative: Vec<Span>,
    pub(super) custom_values: Vec<f64>,
}

impl Layout {
    pub(super) fn write(&self, writer: &mut BitWriter) {
        write_threshold(writer, self.zero_threshold);
        varbit::write_int(writer, i64::from(self.schema));
        for spans in [&self.positive, &self.negative] {
            varbit::write_uint(writer, spans.len() as u64);
            for span in spans {
                varbit::write_uint(writer, u64::from(span.length));
                varbit::write_int(writer, i64::from(span.offset));
            }
        }
        if self.schema == CUSTOM_BUCKETS_SCHEMA {
            varbit::write_uint(writer, self.custom_values.len() as u64);
            for &bound in &self.custom_values {
                write_bound(writer, bound);
            }
        }
    }

    /// Reads a layout. The number of buckets is bounded by the bits behind it, as each bucket of the first sample takes
    /// one at least, so a few hostile bytes cannot ask for gigabytes.
    pub(super) fn read(reader: &mut BitReader<'_>) -> Result<Self, &'static str> {
        let zero_threshold = read_threshold(reader);
        let schema = i32::try_from(varbit::read_int(reader)).ok().filter(|&schema| is_known(schema));
        let schema = schema.ok_or("an unknown histogram schema")?;
        let positive = read_spans(reader)?;
        let negative = read_spans(reader)?;
        let mut custom_values = Vec::new();
        if schema == CUSTOM_BUCKETS_SCHEMA {
            for _ in 0..read_len(reader)? {
                custom_values.push(read_bound(reader));
            }
        }
        let layout = Self { schema, zero_threshold, positive, negative, custom_values };
        if bucket_count(&layout.positive) + bucket_count(&layout.negative) > reader.bits_left() as u64 {
            return Err("more buckets than bits");
        }
        Ok(layout)
    }
}

/// Schemas that Prometheus reads: those beyond [`crate::model::EXPONENTIAL_SCHEMA_MAX`] are for later versions of it, and
/// are reduced when read.
fn is_known(schema: i32) -> bool {
    schema == CUSTOM_BUCKETS_SCHEMA || (-9..=52).contains(&schema)
}

/// A number of things that follow, each of which takes a bit at least.
fn read_len(reader: &mut BitReader<'_>) -> Result<u64, &'static str> {
    let len = varbit::read_uint(reader);
    if len <= reader.bits_left() as u64 { Ok(len) } else { Err("more spans or bounds than bits") }
}

fn read_spans(reader: &mut BitReader<'_>) -> Result<Vec<Span>, &'static str> {
    let mut spans = Vec::new();
    for _ in 0..read_len(reader)? {
        let (length, offset) = (varbit::read_uint(reader), varbit::read_int(reader));
        let (Ok(length), Ok(offset)) = (length.try_into(), offset.try_into()) else {
            return Err("a span of more than 32 bits");
        };
        spans.push(Span { offset, length });
    }
    Ok(spans)
}

fn write_threshold(writer: &mut BitWriter, threshold: f64) {
    // A power of two has no fraction bits. Its exponent, biased by 1023, is one less than that of 0.5 × 2^e.
    let bits = threshold.to_bits();
    let exponent = (bits >> 52) as i64 - 1022;
    if threshold == 0.0 {
        writer.bits(0, 8);
    } else if bits << 12 == 0 && (-242..=11).contains(&exponent) {
        writer.bits((exponent + 243).cast_unsigned(), 8);
    } else {
        writer.bits(255, 8);
        writer.bits(bits, 64);
    }
}

fn read_threshold(reader: &mut BitReader<'_>) -> f64 {
    match reader.bits(8) {
        0 => 0.0,
        255 => f64::from_bits(reader.bits(64)),
        byte => f64::from_bits((byte + 1022 - 243) << 52),
    }
}

fn write_bound(writer: &mut BitWriter, bound: f64) {
    let milli = bound * 1000.0;
    let whole = milli.round();
    // NaN is in no range.
    if (0.0..=MILLI_MAX).contains(&milli) && whole / 1000.0 == bound {
        varbit::write_uint(writer, whole as u64 + 1);
    } else {
        writer.bit(false);
        writer.bits(bound.to_bits(), 64);
    }
}

fn read_bound(reader: &mut BitReader<'_>) -> f64 {
    match varbit::read_uint(reader) {
        0 => f64::from_bits(reader.bits(64)),
        milli => (milli - 1) as f64 / 1000.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut BitWriter)) -> Vec<u8> {
        let mut writer = BitWriter::default();
        write(&mut writer);
        writer.into_bytes()
    }

    #[test]
    fn powers_of_two_are_thresholds_of_one_byte() {
        // 2^-128 is Prometheus's default; the ends of the range are 2^-243 and 2^10.
        for (threshold, byte) in [
            (0.0, 0),
            (2_f64.powi(-128), 116),
            (2_f64.powi(-243), 1),
            (2_f64.powi(10), 254),
            (2_f64.powi(11), 255),
            (2_f64.powi(-244), 255),
            (3.0, 255),
            (-1.0, 255),
            (f64::INFINITY, 255),
            (f64::from_bits(1), 255),
        ] {
            let bytes = written(|writer| write_threshold(writer, threshold));
            assert_eq!(bytes[0], byte, "{threshold}");
            assert_eq!(read_threshold(&mut BitReader::new(&bytes, 0)).to_bits(), threshold.to_bits());
        }
    }

    #[test]
    fn bounds_in_thousandths_are_short() {
        for (bound, len) in [
            (0.0, 1),
            (0.005, 1),
            (2.5, 3),
            (33_554.43, 4),
            (33_554.431, 9),
            (-1.0, 9),
            (0.0001, 9),
            (f64::INFINITY, 9),
            (f64::NAN, 9),
        ] {
            let bytes = written(|writer| write_bound(writer, bound));
            assert_eq!(bytes.len(), len, "{bound}");
            assert_eq!(read_bound(&mut BitReader::new(&bytes, 0)).to_bits(), bound.to_bits());
        }
    }

    #[test]
    fn a_layout_cannot_ask_for_more_than_its_bits_hold() {
        let layout = Layout { positive: vec![Span { offset: 0, length: u32::MAX }; 3], ..Layout::default() };
        let bytes = written(|writer| layout.write(writer));
        assert_eq!(Layout::read(&mut BitReader::new(&bytes, 0)).err(), Some("more buckets than bits"));
    }
}
