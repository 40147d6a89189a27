//! Where the open chunks of a page's series have their bytes: blocks of a few words, in sheets that all of them share.
//!
//! ```text
//! sheet     30 blocks of 4 words, and for each which one comes behind it
//! chunk     first block -> next -> ... -> the last one, which is written to
//! ```
//!
//! A chunk that grows takes another block, and nothing is moved. With a buffer of its own it would leave one behind each
//! time it needs a larger one; a million series do so at about the same time, and what an allocator keeps of a size that
//! all have left is lost. And neighbours, who get their samples together, write side by side.
//!
//! A sheet of which no block is used goes.

/// Words in a block.
pub(super) const WORDS: usize = 4;
/// Blocks in a sheet, which takes 1 KiB with them.
const BLOCKS: usize = 30;
/// Bits of a block's number that are its place in its sheet.
const SHIFT: u32 = 5;

const _: () = assert!(size_of::<Sheet>() == 1024 && BLOCKS <= 1 << SHIFT);

/// A block of a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Block(u16);

impl Block {
    /// No block: what is put there is nowhere.
    pub(super) const NONE: Self = Self(u16::MAX);
}

/// The blocks of a page.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    sheets: Vec<Option<Box<Sheet>>>,
    /// Sheets before this one have no free block.
    full: usize,
}

#[derive(Debug)]
struct Sheet {
    words: [u64; WORDS * BLOCKS],
    next: [Block; BLOCKS],
    /// A bit for each block that is free.
    free: u32,
}

impl Sheet {
    const ALL_FREE: u32 = (1 << BLOCKS) - 1;

    fn new() -> Box<Self> {
        Box::new(Self { words: [0; WORDS * BLOCKS], next: [Block(0); BLOCKS], free: Self::ALL_FREE })
    }
}

impl Block {
    #[inline]
    fn place(self) -> (usize, usize) {
        (usize::from(self.0 >> SHIFT), usize::from(self.0) & ((1 << SHIFT) - 1))
    }
}

impl Blocks {
    /// A block to use, behind `behind` if that is one. `None`: there are two megabytes of them.
    pub(super) fn take(&mut self, behind: Option<Block>) -> Option<Block> {
        let used = |sheet: &&Option<Box<Sheet>>| sheet.as_ref().is_some_and(|sheet| sheet.free == 0);
        self.full += self.sheets.iter().skip(self.full).take_while(used).count();
        if self.full >= 1 << (u16::BITS - SHIFT) {
            return None;
        }
        if self.full == self.sheets.len() {
            self.sheets.push(None);
        }
        let sheet = self.sheets.get_mut(self.full)?.get_or_insert_with(Sheet::new);
        let place = sheet.free.trailing_zeros();
        sheet.free &= !(1 << place);
        let block = Block((self.full as u16) << SHIFT | place as u16);
        if let Some((sheet, place)) = behind.map(Block::place)
            && let Some(Some(sheet)) = self.sheets.get_mut(sheet)
            && let Some(next) = sheet.next.get_mut(place)
        {
            *next = block;
        }
        Some(block)
    }

    /// Writes the word at `index` in a block.
    #[inline]
    pub(super) fn put(&mut self, block: Block, index: usize, word: u64) {
        let (sheet, place) = block.place();
        if let Some(Some(sheet)) = self.sheets.get_mut(sheet)
            && let Some(to) = sheet.words.get_mut(place * WORDS + index)
        {
            *to = word;
        }
    }

    /// The first `words` words of the chunk that begins with `first`, a block's after the other's.
    pub(super) fn words(&self, first: Block, words: usize) -> impl Iterator<Item = &[u64]> {
        let mut block = first;
        (0..words).step_by(WORDS).map_while(move |at| {
            let (sheet, place) = block.place();
            let sheet = self.sheets.get(sheet)?.as_deref()?;
            block = *sheet.next.get(place)?;
            sheet.words.get(place * WORDS..)?.get(..WORDS.min(words - at))
        })
    }

    /// Frees the blocks of a chunk of `words` words that begins with `first`.
    pub(super) fn give_back(&mut self, first: Block, words: usize) {
        let mut block = first;
        for _ in 0..words.div_ceil(WORDS) {
            let (index, place) = block.place();
            let Some(entry) = self.sheets.get_mut(index) else { return };
            let Some(sheet) = entry else { return };
            block = sheet.next.get(place).copied().unwrap_or_default();
            sheet.free |= 1 << place;
            if sheet.free == Sheet::ALL_FREE {
                *entry = None;
            }
            self.full = self.full.min(index);
        }
        if self.sheets.last().is_some_and(Option::is_none) {
            let used = self.sheets.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            self.sheets.truncate(used);
            self.full = self.full.min(used);
            if used == 0 {
                self.sheets = Vec::new();
            }
        }
    }

    /// Bytes beside the value itself.
    pub(super) fn heap_bytes(&self) -> usize {
        let sheets = self.sheets.iter().flatten().count();
        sheets * size_of::<Sheet>() + self.sheets.capacity() * size_of::<Option<Box<Sheet>>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_that_come_grow_and_go_have_their_own_words(
            steps in prop::collection::vec((0..8_usize, 0..40_u8), 0..200)) {
            let mut blocks = Blocks::default();
            let mut chunks: Vec<(Block, Block, Vec<u64>)> = vec![Default::default(); 8];
            let mut word = 0;
            for (chunk, grow) in steps {
                let (first, last, words) = &mut chunks[chunk];
                if grow == 0 {
                    blocks.give_back(*first, words.len());
                    words.clear();
                }
                for _ in 0..grow {
                    word += 1;
                    if words.len() % WORDS == 0 {
                        let block = blocks.take((!words.is_empty()).then_some(*last)).unwrap();
                        *first = if words.is_empty() { block } else { *first };
                        *last = block;
                    }
                    blocks.put(*last, words.len() % WORDS, word);
                    words.push(word);
                }
                for (first, _, words) in &chunks {
                    prop_assert_eq!(&blocks.words(*first, words.len()).collect::<Vec<_>>().concat(), words);
                }
            }
            for (first, _, words) in chunks {
                blocks.give_back(first, words.len());
            }
            prop_assert_eq!(blocks.heap_bytes(), 0);
        }
    }

    #[test]
    fn there_are_as_many_as_a_number_can_tell_apart() {
        let mut blocks = Blocks::default();
        let taken = std::iter::from_fn(|| blocks.take(None)).count();
        assert_eq!(taken, BLOCKS << (u16::BITS - SHIFT));
    }
}
