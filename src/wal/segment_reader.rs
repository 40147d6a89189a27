//! Reading one segment: fragments put together to records, and what to do where they do not fit.
//!
//! Damage costs the records that it touches and the rest of their page: a page's end is the next place where a fragment
//! can begin. Whether damage is a torn end, as a crash leaves it, or a hole, shows only afterwards: an end has no whole
//! record behind it.

use std::io;

use bytes::Bytes;

use crate::codec::{Reader, crc32c};
use crate::fs::ReadAt;

use super::Compression;
use super::segment::{HEADER_SIZE, PAGE_SIZE, SNAPPY_FLAG};

/// What is read from the file at a time. A longer record is put together.
const WINDOW: usize = 1 << 20;

/// A record as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Where its first fragment begins.
    pub(super) offset: u64,
    pub(super) compression: Compression,
    pub(super) data: Bytes,
}

/// Something that is not part of any record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hole {
    /// Where it begins.
    pub(super) offset: u64,
    /// Where the last whole record before it ends.
    pub(super) whole_until: u64,
    pub(super) reason: String,
}

/// Which part of a record a fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fragment {
    /// No fragment: the rest of the page is zeros.
    PageEnd,
    Full,
    First,
    Middle,
    Last,
}

impl Fragment {
    fn of_header(byte: u8) -> Option<Self> {
        Some(match byte & (SNAPPY_FLAG - 1) {
            0 => Self::PageEnd,
            1 => Self::Full,
            2 => Self::First,
            3 => Self::Middle,
            4 => Self::Last,
            _ => return None,
        })
    }
}

/// A record of which the last fragment is still to come.
struct Partial {
    offset: u64,
    data: Vec<u8>,
}

/// What stands at the reader's place.
enum Step {
    Fragment(Fragment, Compression, Bytes),
    /// Nothing up to the page's end.
    Padding,
    /// The file ends here, or before what begins here does.
    End,
    Damage(String),
}

/// Gives the records of one segment. Holes are noted on the way.
pub(super) struct SegmentReader {
    file: Box<dyn ReadAt>,
    /// A part of the file, and where it begins.
    window: Bytes,
    window_at: u64,
    /// Whether the window goes up to the file's end.
    window_is_last: bool,
    place: u64,
    partial: Option<Partial>,
    whole_until: u64,
    /// Behind damage, until a record begins: fragments of the one that was lost are no news.
    resyncing: bool,
    holes: Vec<Hole>,
    ended: bool,
}

impl SegmentReader {
    pub(super) fn new(file: Box<dyn ReadAt>) -> Self {
        Self::from(file, 0)
    }

    /// Begins at `place`, where a page begins; a file that ends before that has no records.
    pub(super) fn from(file: Box<dyn ReadAt>, place: u64) -> Self {
        Self {
            file,
            window: Bytes::new(),
            window_at: place,
            window_is_last: false,
            place,
            partial: None,
            whole_until: place,
            resyncing: false,
            holes: Vec::new(),
            ended: false,
        }
    }

    /// The next whole record.
    pub(super) fn next(&mut self) -> io::Result<Option<Stored>> {
        while !self.ended {
            match self.step()? {
                Step::Padding => self.place = page_end(self.place),
                Step::Fragment(kind, compression, data) => {
                    let offset = self.place;
                    self.place += (HEADER_SIZE + data.len()) as u64;
                    if let Some(stored) = self.take(kind, offset, compression, data) {
                        self.whole_until = self.place;
                        return Ok(Some(stored));
                    }
                }
                Step::Damage(reason) => {
                    let offset = self.partial.take().map_or(self.place, |partial| partial.offset);
                    self.note(offset, reason);
                    self.resyncing = true;
                    self.place = page_end(self.place);
                }
                Step::End => {
                    self.ended = true;
                    let torn = self.partial.take().map(|partial| partial.offset);
                    if torn.is_some() || self.place < self.window_end() {
                        self.note(torn.unwrap_or(self.place), "the file ends inside a record".to_owned());
                    }
                }
            }
        }
        Ok(None)
    }

    /// What is wrong with the segment, once [`next`](Self::next) gave its last record; and where to cut it, if the last
    /// hole has no record behind it.
    pub(super) fn finish(self) -> (Vec<Hole>, Option<Hole>) {
        let (mut holes, whole_until) = (self.holes, self.whole_until);
        let tail = holes.iter().position(|hole| hole.whole_until == whole_until);
        // All holes behind the last whole record are one torn end.
        let tail = tail.map(|first| holes.drain(first..).next());
        (holes, tail.flatten())
    }

    fn note(&mut self, offset: u64, reason: String) {
        self.holes.push(Hole { offset, whole_until: self.whole_until, reason });
    }

    /// Takes in a fragment; gives the record that it completes.
    fn take(&mut self, kind: Fragment, offset: u64, compression: Compression, data: Bytes) -> Option<Stored> {
        let begins = matches!(kind, Fragment::Full | Fragment::First);
        if begins {
            if let Some(partial) = self.partial.take() {
                self.note(partial.offset, "a record without an end".to_owned());
            }
            self.resyncing = false;
        } else if self.partial.is_none() {
            if !self.resyncing {
                self.note(offset, "a record without a beginning".to_owned());
                self.resyncing = true;
            }
            return None;
        }
        match kind {
            Fragment::Full => return Some(Stored { offset, compression, data }),
            Fragment::First => self.partial = Some(Partial { offset, data: data.to_vec() }),
            Fragment::Middle | Fragment::Last | Fragment::PageEnd => {
                if let Some(partial) = &mut self.partial {
                    partial.data.extend_from_slice(&data);
                }
            }
        }
        if kind != Fragment::Last {
            return None;
        }
        let Partial { offset, data } = self.partial.take()?;
        Some(Stored { offset, compression, data: data.into() })
    }

    /// Looks at what stands at the place, without going on.
    fn step(&mut self) -> io::Result<Step> {
        // The window holds a fragment of any length, or all there is.
        if !self.window_is_last && self.place + PAGE_SIZE as u64 > self.window_end() {
            self.fill()?;
        }
        let start = usize::try_from(self.place - self.window_at).unwrap_or(usize::MAX);
        let Some(rest) = self.window.get(start..).filter(|rest| !rest.is_empty()) else { return Ok(Step::End) };
        let mut reader = Reader::new(rest);
        let Ok(flags) = reader.u8() else { return Ok(Step::End) };
        let Some(kind) = Fragment::of_header(flags) else {
            return Ok(Step::Damage(format!("unknown kind of fragment in {flags:#04x}")));
        };
        if kind == Fragment::PageEnd {
            let padding = (page_end(self.place) - self.place) as usize;
            let padding = rest.get(..padding).unwrap_or(rest);
            return Ok(match padding.iter().position(|byte| *byte != 0) {
                None => Step::Padding,
                Some(index) => Step::Damage(format!("byte {index} of the page's padding is not zero")),
            });
        }
        let (Ok(len), Ok(sum)) = (reader.be_u16(), reader.be_u32()) else { return Ok(self.cut_off()) };
        let len = usize::from(len);
        // Old versions of Prometheus have let fragments span pages, so that alone is no damage.
        if len > PAGE_SIZE - HEADER_SIZE {
            return Ok(Step::Damage(format!("fragment of {len} bytes")));
        }
        let Ok(data) = reader.bytes("fragment", len) else { return Ok(self.cut_off()) };
        let found = crc32c(data);
        if found != sum {
            return Ok(Step::Damage(format!("checksum {found:08x} of a fragment where {sum:08x} was expected")));
        }
        Ok(Step::Fragment(kind, Compression::of_header(flags), self.window.slice_ref(data)))
    }

    /// The file has no room for the fragment that begins here: its end was torn off, unless pages follow.
    fn cut_off(&self) -> Step {
        if page_end(self.place) < self.window_end() {
            return Step::Damage("a fragment longer than what is left".to_owned());
        }
        Step::End
    }

    fn window_end(&self) -> u64 {
        self.window_at + self.window.len() as u64
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; WINDOW];
        let read = self.file.read_at(self.place, &mut buffer)?;
        buffer.truncate(read);
        self.window = buffer.into();
        self.window_at = self.place;
        self.window_is_last = read < WINDOW;
        Ok(())
    }
}

/// The offset where the next page begins.
fn page_end(offset: u64) -> u64 {
    (offset / PAGE_SIZE as u64 + 1) * PAGE_SIZE as u64
}
