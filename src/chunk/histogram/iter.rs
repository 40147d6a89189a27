//! Reading a chunk of histograms.

use super::kind::Kind;
use super::layout::Layout;
use super::{HEADER, counter_reset};
use crate::chunk::progress::Progress;
use crate::chunk::start_time::StartTime;
use crate::chunk::xor::VARINT;
use crate::chunk::{ChunkError, sample_count, varbit};
use crate::codec::BitReader;
use crate::model::{CounterResetHint, Sample, bucket_count};

/// What is known between two samples of a chunk, by its writer as by its reader.
#[derive(Debug, Clone, Default)]
pub(super) struct State<K> {
    pub(super) layout: Layout,
    pub(super) t: i64,
    pub(super) t_delta: i64,
    pub(super) counts: K,
    /// With the encodings that have one.
    pub(super) start: Option<StartTime>,
}

/// The samples of a chunk of histograms one by one.
#[derive(Debug, Clone)]
pub struct HistogramIter<'a, K> {
    pub(super) reader: BitReader<'a>,
    pub(super) state: State<K>,
    reset: CounterResetHint,
    progress: Progress,
}

impl<'a, K: Kind> HistogramIter<'a, K> {
    /// Starts before the first sample. `with_st` says which of the two encodings it is. A missing header is reported by
    /// the first `next`.
    #[must_use]
    pub fn new(data: &'a [u8], with_st: bool) -> Self {
        let encoding = if with_st { K::ENCODING_ST } else { K::ENCODING };
        let header = data.first_chunk::<HEADER>().copied();
        let start = header.filter(|_| with_st).map(|[_, _, byte]| StartTime::from_header(byte));
        let count = header.and_then(|header| sample_count(encoding, &header).ok()).map(|count| count as u16);
        Self {
            reader: BitReader::new(data, HEADER),
            state: State { start, ..State::default() },
            reset: counter_reset(encoding, data).unwrap_or_default(),
            progress: Progress::new(encoding, count, data.len()),
        }
    }

    /// Samples that the header promises.
    pub(super) fn promised(&self) -> u16 {
        self.progress.count
    }

    /// Reads the next sample into the state, and nothing more.
    pub(super) fn advance(&mut self) -> Option<Result<(), ChunkError>> {
        if let Err(error) = self.progress.begin()? {
            return Some(Err(error));
        }
        let step = self.step();
        Some(self.progress.end(&self.reader, step))
    }

    fn step(&mut self) -> Result<(), &'static str> {
        let State { layout, t, t_delta, counts, start } = &mut self.state;
        let reader = &mut self.reader;
        let t_before = *t;
        if self.progress.read == 0 {
            *layout = Layout::read(reader)?;
            *t = varbit::read_int(reader);
            let [positive, negative] = [&layout.positive, &layout.negative].map(|spans| bucket_count(spans) as usize);
            counts.read_first(reader, positive, negative);
        } else {
            *t_delta = t_delta.wrapping_add(varbit::read_int(reader));
            *t = t.wrapping_add(*t_delta);
            counts.read_next(reader)?;
        }
        match start {
            Some(start) => start.read(reader, usize::from(self.progress.read), t_before, *t).ok_or(VARINT),
            None => Ok(()),
        }
    }

    /// The hint of the sample just read. The chunk's header tells of the chunk before, which may be gone or another by
    /// now, so the first sample says "unknown" rather than what the header does.
    fn hint(&self) -> CounterResetHint {
        match self.reset {
            CounterResetHint::Gauge => CounterResetHint::Gauge,
            _ if self.progress.read > 1 => CounterResetHint::NotCounterReset,
            _ => CounterResetHint::Unknown,
        }
    }

    /// The sample just read: start timestamp, time, histogram.
    pub(super) fn current(&self) -> Result<(i64, i64, K::Histogram), ChunkError> {
        let histogram = self.state.counts.histogram(&self.state.layout, self.hint());
        let st = self.state.start.map_or(0, |start| start.st);
        histogram.map(|histogram| (st, self.state.t, histogram)).map_err(|what| ChunkError::Invalid {
            encoding: self.progress.encoding,
            sample: usize::from(self.progress.read) - 1,
            bit_offset: self.reader.position(),
            what,
        })
    }

    /// The next sample as any other.
    pub(crate) fn next_sample(&mut self) -> Option<Result<Sample, ChunkError>> {
        self.next().map(|sample| sample.map(|(st, t, histogram)| Sample { t, st, value: K::value(histogram) }))
    }
}

impl<K: Kind> Iterator for HistogramIter<'_, K> {
    type Item = Result<(i64, i64, K::Histogram), ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance()? {
            Ok(()) => Some(self.current().inspect_err(|_| self.progress.stop())),
            Err(error) => Some(Err(error)),
        }
    }
}
