//! Start timestamps inside a chunk of encodings 4 to 6: one header byte, and for each sample what changed.
//!
//! ```text
//! header   bit 7: the first sample has one; bits 6-0: the sample from which on each has one, 0 for none
//! sample 0         varint t - st, if bit 7 is set
//! sample n = from  varbit t of the sample before - st
//! samples > from   varbit by how much that difference changed
//! ```
//!
//! A counter that starts once costs nothing after its first sample. The header counts to 127 only, so sample 127 writes a
//! difference even if nothing changed.

use super::varbit;
use crate::codec::{BitReader, BitWriter};

/// The last sample that the header can name.
const LAST_FROM: u8 = 0x7f;

/// What a writer or a reader knows between two samples.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StartTime {
    /// The last sample's, in milliseconds; 0 if unknown.
    pub(super) st: i64,
    difference: i64,
    from: u8,
    first_known: bool,
}

impl StartTime {
    /// The state before the first sample of a chunk with this header byte.
    pub(super) fn from_header(byte: u8) -> Self {
        Self { from: byte & LAST_FROM, first_known: byte > LAST_FROM, ..Self::default() }
    }

    /// The header byte for what was written so far.
    pub(super) fn header(self) -> u8 {
        u8::from(self.first_known) << 7 | self.from
    }

    /// Whether any sample has one.
    pub(super) fn is_used(self) -> bool {
        self.first_known || self.from > 0
    }

    /// Appends that of sample `index`, whose time is `t`, behind the sample at `t_before`.
    #[inline]
    pub(super) fn write(&mut self, writer: &mut BitWriter, index: usize, t_before: i64, t: i64, st: i64) {
        if index == 0 {
            if st != 0 {
                writer.varint(t.wrapping_sub(st));
                self.first_known = true;
            }
        } else if self.from > 0 {
            let difference = t_before.wrapping_sub(st);
            varbit::write_int(writer, difference.wrapping_sub(self.difference));
            self.difference = difference;
        } else if st != self.st || index == usize::from(LAST_FROM) {
            // Past LAST_FROM this is never reached: that sample has set `from`.
            self.difference = t_before.wrapping_sub(st);
            self.from = index.min(usize::from(LAST_FROM)) as u8;
            varbit::write_int(writer, self.difference);
        }
        self.st = st;
    }

    /// Reads that of sample `index` into `st`. `None` is a varint of more than 64 bits.
    #[inline]
    pub(super) fn read(&mut self, reader: &mut BitReader<'_>, index: usize, t_before: i64, t: i64) -> Option<()> {
        if index == 0 {
            if self.first_known {
                self.st = t.wrapping_sub(reader.varint()?);
            }
        } else if self.from > 0 && index >= usize::from(self.from) {
            let read = varbit::read_int(reader);
            self.difference = if index == usize::from(self.from) { read } else { self.difference.wrapping_add(read) };
            self.st = t_before.wrapping_sub(self.difference);
        }
        Some(())
    }
}
