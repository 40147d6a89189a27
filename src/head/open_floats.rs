//! An open chunk of floats, as one lives in nearly each series: what it must know to go on. Its bytes are in its page's
//! [`Blocks`].

use super::blocks::{Block, Blocks, WORDS};
use crate::chunk::{ChunkError, EncodedChunk, Encoding, XOR_HEADER, XorState};
use crate::codec::{PutBits, push_bits};

/// The largest chunk that is taken up again. Those that Prometheus and this program write have little more than a kilobyte.
const MAX_RESUMED: usize = 4096;

/// The chunk but its bytes, and but the time of its last sample, which is the newest of the series.
#[derive(Debug)]
pub(super) struct OpenFloats {
    state: XorState,
    tail: Tail,
}

/// Where bits go. Only whole words go to the blocks: with many chunks open, their ends are in no cache, and memory is what
/// an append would wait for.
#[derive(Debug, Default)]
struct Tail {
    /// The bits that are in no word yet, leftmost; the others are 0.
    pending: u64,
    /// Words in the blocks.
    words: u16,
    /// The first block and the last, if there are words.
    first: Block,
    last: Block,
    pending_bits: u8,
    #[expect(dead_code, reason = "it is there for what it can never be")]
    niche: Niche,
}

/// A byte that always has the same value: what it could be otherwise tells the other kinds of an open chunk from this one,
/// without a word of their own.
#[derive(Debug, Clone, Copy, Default)]
#[repr(u8)]
enum Niche {
    #[default]
    Floats,
}

/// Appends to a chunk.
struct Writer<'a> {
    tail: &'a mut Tail,
    blocks: &'a mut Blocks,
}

impl PutBits for Writer<'_> {
    #[inline]
    fn bits(&mut self, value: u64, count: u32) {
        if let Some(word) = push_bits(&mut self.tail.pending, &mut self.tail.pending_bits, value, count) {
            self.word(word);
        }
    }
}

impl Writer<'_> {
    #[inline]
    fn word(&mut self, word: u64) {
        let index = usize::from(self.tail.words) % WORDS;
        if index == 0 {
            self.take();
        }
        self.blocks.put(self.tail.last, index, word);
        self.tail.words += 1;
    }

    fn take(&mut self) {
        let behind = (self.tail.words > 0).then_some(self.tail.last);
        // There are more blocks than all chunks of a page can fill: they are cut at a kilobyte.
        let block = self.blocks.take(behind).unwrap_or(Block::NONE);
        if behind.is_none() {
            self.tail.first = block;
        }
        self.tail.last = block;
    }
}

impl OpenFloats {
    /// An empty chunk.
    pub(super) fn new() -> Self {
        Self { state: XorState::NEW, tail: Tail::default() }
    }

    /// Goes on with a chunk that was written before, the time of whose last sample is given, too.
    ///
    /// # Errors
    /// As reading it; or if it is far larger than such chunks are.
    pub(super) fn resume(data: &[u8], blocks: &mut Blocks) -> Result<(Self, i64), ChunkError> {
        let (state, t, bits) = XorState::resume(data)?;
        if data.len() > MAX_RESUMED {
            return Err(ChunkError::Inconsistent);
        }
        let mut resumed = Self { state, tail: Tail::default() };
        let mut writer = Writer { tail: &mut resumed.tail, blocks };
        let bytes = data.get(XOR_HEADER..bits / 8).unwrap_or_default();
        bytes.iter().for_each(|byte| writer.bits(u64::from(*byte), 8));
        let rest = bits % 8;
        if let Some(last) = data.get(bits / 8).filter(|_| rest > 0) {
            writer.bits(u64::from(last >> (8 - rest)), rest as u32);
        }
        Ok((resumed, t))
    }

    /// Appends a sample; the last one's time was `before`.
    ///
    /// # Errors
    /// [`ChunkError::Full`] at 65,535 samples.
    #[inline]
    pub(super) fn append(&mut self, blocks: &mut Blocks, before: i64, t: i64, value: f64) -> Result<(), ChunkError> {
        self.state.append(before, t, value, &mut Writer { tail: &mut self.tail, blocks })
    }

    /// Samples so far.
    #[inline]
    pub(super) fn sample_count(&self) -> usize {
        usize::from(self.state.sample_count())
    }

    /// Bytes of the chunk so far.
    #[inline]
    pub(super) fn len_bytes(&self) -> usize {
        XOR_HEADER + usize::from(self.tail.words) * 8 + usize::from(self.tail.pending_bits).div_ceil(8)
    }

    /// The last sample's value, if there is one.
    pub(super) fn last_value(&self) -> Option<f64> {
        self.state.last_value()
    }

    /// A copy of the chunk as it is now, in exactly as much memory as it needs.
    pub(super) fn to_chunk(&self, blocks: &Blocks) -> EncodedChunk {
        let mut data = Vec::with_capacity(self.len_bytes());
        data.extend_from_slice(&self.state.sample_count().to_be_bytes());
        for words in blocks.words(self.tail.first, usize::from(self.tail.words)) {
            let mut bytes = [0; WORDS * 8];
            for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
                *bytes = word.to_be_bytes();
            }
            data.extend_from_slice(bytes.get(..words.len() * 8).unwrap_or_default());
        }
        data.extend(self.tail.pending.to_be_bytes().iter().take(usize::from(self.tail.pending_bits).div_ceil(8)));
        EncodedChunk { encoding: Encoding::Xor, data: data.into() }
    }

    /// Takes the chunk out, and frees its blocks.
    pub(super) fn take(self, blocks: &mut Blocks) -> EncodedChunk {
        let chunk = self.to_chunk(blocks);
        self.free(blocks);
        chunk
    }

    /// Frees the blocks of a chunk that is not needed any more.
    pub(super) fn free(self, blocks: &mut Blocks) {
        blocks.give_back(self.tail.first, usize::from(self.tail.words));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::XorAppender;
    use proptest::prelude::*;

    fn samples() -> impl Strategy<Value = Vec<(usize, i64, f64)>> {
        let delta = prop_oneof![Just(15_000_i64), 14_990..15_010_i64, any::<i64>()];
        let value = prop_oneof![Just(1.0), (0..1000).prop_map(f64::from), any::<f64>()];
        prop::collection::vec((0..4_usize, delta, value), 0..300)
    }

    proptest! {
        #[test]
        fn its_bytes_are_those_of_a_chunk_on_its_own(samples in samples(), resumes in prop::collection::vec(any::<bool>(), 300)) {
            let mut blocks = Blocks::default();
            let mut chunks: Vec<_> = (0..4).map(|_| (OpenFloats::new(), XorAppender::new(), 0_i64)).collect();
            for ((chunk, delta, value), resume) in samples.into_iter().zip(resumes) {
                let (open, model, t) = &mut chunks[chunk];
                let before = *t;
                *t = t.wrapping_add(delta);
                open.append(&mut blocks, before, *t, value).unwrap();
                model.append(*t, value).unwrap();
                prop_assert_eq!(open.len_bytes(), model.len_bytes());
                prop_assert_eq!(open.sample_count(), model.sample_count());
                prop_assert_eq!(open.last_value().map(f64::to_bits), Some(value.to_bits()));
                if resume && model.len_bytes() <= MAX_RESUMED {
                    let chunk = open.to_chunk(&blocks);
                    prop_assert_eq!(&chunk, &model.to_chunk());
                    *model = XorAppender::resume(&chunk.data).unwrap();
                    let (resumed, last) = OpenFloats::resume(&chunk.data, &mut blocks).unwrap();
                    std::mem::replace(open, resumed).free(&mut blocks);
                    prop_assert_eq!(last, *t);
                }
            }
            for (open, mut model, _) in chunks {
                prop_assert_eq!(open.take(&mut blocks), model.take());
            }
            prop_assert_eq!(blocks.heap_bytes(), 0);
        }
    }
}
